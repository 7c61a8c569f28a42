"""Looks for leaks in the C++ runtime: a process runs many frames, and another one does under the sanitizers.

    python benchmarks/cpp_frames.py [--bundle BUNDLE] [--frames 100000] [--sanitized-frames 100000] [--out FILE]

Each frame, the picture of the package moved by some pixels, is cropped, run and decoded in a box, and followed by a
tracker besides. In both processes every pose has to be that of the first round, to the last bit, and the memory that
they hold may not grow by more than 1 MiB from the second quarter of the frames to the last. In the second one the
sanitizers of addresses, undefined behaviour and leaks may find nothing; memory that it frees is kept apart for a while,
so that a later use is found: 8 MiB of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/shared"))

from cpp_driver import DRIVER, SANITIZERS, ask, compile_cpp  # noqa: E402

from splite_deploy.bench import append_record, read_environment  # noqa: E402
from splite_deploy.bundle import Bundle  # noqa: E402
from splite_deploy.bundle.packaged import HAND, PICTURE, packaged  # noqa: E402
from splite_deploy.spec.plain import to_plain  # noqa: E402

KIND = "cpp-frames"
PICTURES, STEP_PX = 16, 3
BOX = (140.0, 60.0, 430.0, 520.0)
MOST_GROWTH_BYTES = 1 << 20
SANITIZED = {"ASAN_OPTIONS": "detect_leaks=1:quarantine_size_mb=8:thread_local_quarantine_size_kb=64"}


def frames_case(bundle: Path, precision: str, count: int) -> dict[str, Any]:
    """The picture, moved to and fro, and boxes around its first hand, of which some leave the picture."""
    picture = cv2.imread(str(packaged(PICTURE)))
    assert picture is not None
    moved = [STEP_PX * min(index, PICTURES - index) for index in range(PICTURES)]
    rng = np.random.default_rng(0)
    boxes = np.array(BOX) + rng.uniform(-60, 60, (PICTURES, 4))
    boxes[PICTURES // 2 :, 1] -= 120
    return {
        "do": "frames",
        "bundle": str(bundle.resolve()),
        "precision": precision,
        "color": "bgr",
        "images": [np.ascontiguousarray(np.roll(picture, px, axis=1)) for px in moved],
        "boxes": boxes.tolist(),
        "count": count,
    }


def growth_bytes(resident: list[float]) -> float:
    """By how much memory grows from the second quarter of the frames to the last."""
    quarter = len(resident) // 4
    return max(resident[-quarter:]) - max(resident[quarter : 2 * quarter])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=packaged(HAND))
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--frames", type=int, default=100_000, help="0 leaves this process out")
    parser.add_argument("--sanitized-frames", type=int, default=100_000, help="0 leaves this process out")
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    given = parser.parse_args()
    runs: dict[str, Any] = {}
    failed = []
    for name, flags, variables, count in (
        ("plain", ("-O2",), {}, given.frames),
        ("sanitized", SANITIZERS, SANITIZED, given.sanitized_frames),
    ):
        if not count:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            compile_cpp(DRIVER, folder / name, *flags)
            began = time.monotonic()
            case = frames_case(given.bundle, given.precision, count)
            (found,) = ask(folder / name, folder, [case], variables)  # fails where a sanitizer ends it
        run = {
            "frames": count,
            "seconds": round(time.monotonic() - began, 1),
            "growth_bytes": growth_bytes(found["resident_bytes"]),
            **found,
        }
        runs[name] = run
        print(
            f"{name}: {count} frames in {run['seconds']:.0f} s, {run['growth_bytes'] / 1024:.0f} KiB more at the end "
            f"of {run['resident_bytes'][-1] / 2**20:.1f} MiB, {run['changed']} other poses, followed {run['followed']}",
            flush=True,
        )
        if run["changed"]:
            failed.append(f"{name}: {run['changed']} poses are not those of the first round.")
        if run["growth_bytes"] > MOST_GROWTH_BYTES:
            failed.append(f"{name}: memory grows by {run['growth_bytes'] / 1024:.0f} KiB.")
    if given.out is not None:
        record = {
            "kind": KIND,
            "record_version": 1,
            "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "network": Bundle.open(given.bundle).model.name,
            "precision": given.precision,
            "runs": runs,
            "environment": to_plain(read_environment()),
        }
        append_record(given.out, record)
    if failed:
        sys.exit("error: " + " ".join(failed))


if __name__ == "__main__":
    main()
