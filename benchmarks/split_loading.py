"""What a network in parts saves in memory and costs in time, against the same network in one file.

    splite-deploy export net.onnx --model model.toml -o one.splite
    splite-deploy export net.onnx --model model.toml -o eight.splite --parts 8
    python benchmarks/split_loading.py one.splite eight.splite --out benchmarks/results/split-loading.jsonl

`benchmarks/networks/zoo.py FOLDER resnet152` writes a network for which it matters. Each bundle is opened in a process
of its own, which runs crops of noise. The peak is the kernel's (VmHWM), less what the process had before it opened
the bundle; the outputs of all are compared bit by bit. Files come from the page cache, if they are in it: a slow disk
adds its time to every frame. Appends one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import open_session
from splite_deploy.spec.plain import to_plain

KIND = "split-loading"


def memory_mb(field: str) -> float:
    """Of this process: VmRSS is what it has, VmHWM the most that it had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def child(path: Path, frames: int) -> dict[str, Any]:
    """Opens a bundle and runs crops of noise, the same ones of every bundle."""
    import onnxruntime  # noqa: F401 - what it takes belongs to every variant

    bundle = Bundle.open(path)
    spec = bundle.model
    size = (frames, spec.input.height, spec.input.width, spec.input.channels)
    crops = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)  # golden crops differ in number
    before_mb, began_s = memory_mb("VmRSS"), time.perf_counter()
    with open_session(bundle, "ort", threads=1) as session:
        open_s = time.perf_counter() - began_s
        feed = Preprocessor(spec.input, spec.input.color).feed(crops, session.inputs[0])
        taken, digest = [], hashlib.sha256()
        for index in range(frames):
            batch = feed[index][None]
            began_s = time.perf_counter()
            outputs = session.run({session.inputs[0].name: batch})
            taken.append(time.perf_counter() - began_s)
            for name in sorted(outputs):
                digest.update(outputs[name].tobytes())
    artifact = bundle.find("ort")
    return {
        "bundle": path.name,
        "model": spec.name,
        "parts": len(artifact.files),
        "model_bytes": bundle.size_of(artifact),
        "largest_part_bytes": max((path / one.file).stat().st_size for one in artifact.files),
        "before_mb": before_mb,
        "peak_mb": memory_mb("VmHWM"),
        "after_mb": memory_mb("VmRSS"),
        "open_s": open_s,
        "frame_p50_s": float(np.median(taken)),
        "frame_max_s": max(taken),
        "outputs_sha256": digest.hexdigest(),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """What a person reads of it."""
    made = Table(title=f"{rows[0]['model']}: {rows[0]['model_bytes'] / 1e6:.0f} MB of weights")
    for heading in ("parts", "peak MB over the process", "largest part MB", "open s", "frame p50 s", "same bits"):
        made.add_column(heading, justify="right")
    for row in rows:
        peak, same = row["peak_mb"] - row["before_mb"], row["outputs_sha256"] == rows[0]["outputs_sha256"]
        part, taken = row["largest_part_bytes"] / 1e6, f"{row['frame_p50_s']:.2f}"
        made.add_row(
            str(row["parts"]), f"{peak:.0f}", f"{part:.0f}", f"{row['open_s']:.2f}", taken, "yes" if same else "NO"
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, help="of one network, the one in one file first")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON lines file to append a record to")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.bundles[0], options.frames)))
        return
    rows = []
    for path in options.bundles:
        command = [sys.executable, __file__, path, "--child", "--frames", str(options.frames)]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    Console().print(table(rows))
    if options.out is not None:
        record = {
            "kind": KIND,
            "record_version": 1,
            "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "frames": options.frames,
            "rows": rows,
            "environment": to_plain(read_environment()),
        }
        try:
            append_record(options.out, record)
        except SpliteError as err:
            sys.exit(f"error: {err}")
    if len({row["outputs_sha256"] for row in rows}) > 1:
        sys.exit("error: the bundles do not give the same to the bit.")


if __name__ == "__main__":
    main()
