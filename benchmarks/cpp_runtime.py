"""The C++ runtime beside the Python runtime on real photographs: keypoints, time from image to pose, start-up, size.

    python benchmarks/cpp_runtime.py BUNDLE HAND_DIGITS [--out benchmarks/results/cpp-runtime.jsonl]

HAND_DIGITS is the folder of the hand-digits set; its 289 photographs of people whom no training saw are looked at, each
in the box of its label. Both runtimes run the same artifact by the same library of ONNX Runtime on one thread, in turn.
Start-up is a process that opens the bundle and finds one pose, from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
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

from cpp_driver import ask, compile_cpp, onnxruntime_library  # noqa: E402

from splite_deploy.bench import append_record, read_environment  # noqa: E402
from splite_deploy.bundle import Bundle  # noqa: E402
from splite_deploy.runtime.estimator import PoseEstimator  # noqa: E402
from splite_deploy.spec.plain import to_plain  # noqa: E402

KIND = "cpp-runtime"
ROUNDS, STARTS = 5, 9
ONE_POSE = """
import sys, cv2
from splite_deploy.bundle import Bundle  # noqa: E402
from splite_deploy.runtime.estimator import PoseEstimator
with PoseEstimator.open(sys.argv[1], "ort", sys.argv[2], threads=1) as estimate:
    estimate(cv2.imread(sys.argv[3]))
"""


def photographs(folder: Path) -> tuple[list[Any], list[list[float]], list[str]]:
    """The photographs of the split ``val``, a box around the keypoints of each, and their files."""
    images, boxes, files = [], [], []
    for sample in json.loads((folder / "labels.json").read_text(encoding="utf-8"))["samples"]:
        if sample["split"] != "val":
            continue
        file = folder / "images" / Path(sample["image"]).name
        file = file if file.exists() else folder / sample["image"]
        image = cv2.imread(str(file))
        assert image is not None, file
        points = np.array(sample["keypoints"])[:, :2]
        images.append(image)
        boxes.append([*points.min(axis=0).tolist(), *points.max(axis=0).tolist()])
        files.append(str(file))
    return images, boxes, files


def p50_of_starts(command: list[str], environment: dict[str, str]) -> float:
    """Median milliseconds of a process from its start to its end, after one that warms the disk's cache."""
    taken = []
    for _ in range(STARTS + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, env=environment, capture_output=True)
        taken.append(1000 * (time.perf_counter() - began))
    return float(np.median(taken[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("digits", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--driver", type=Path, help="tests/cpp/driver.cpp, compiled with -O3")
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    given = parser.parse_args()
    images, boxes, files = photographs(given.digits)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        driver = given.driver
        if driver is None:
            driver = folder / "driver"
            compile_cpp(ROOT / "tests/cpp/driver.cpp", driver, "-O3")
        case = {"do": "time", "bundle": str(given.bundle.resolve()), "precision": given.precision, "color": "bgr"}
        case |= {"images": images, "boxes": boxes, "rounds": 1}
        cpp_ms: list[float] = []
        python_ms: list[float] = []
        with PoseEstimator.open(given.bundle, "ort", given.precision, threads=1) as estimate:
            for _ in range(ROUNDS):  # in turn, so that both meet the same neighbours
                (found,) = ask(driver, folder, [case])
                cpp_ms += found["ms"][5:]
                poses = []
                for index, (image, box) in enumerate(zip(images, boxes, strict=True)):
                    began = time.perf_counter()
                    poses.append(estimate(image, box))
                    if index >= 5:
                        python_ms.append(1000 * (time.perf_counter() - began))
        wanted = np.stack([pose.keypoints for pose in poses])
        off_px = np.linalg.norm(np.reshape(found["keypoints"], wanted.shape) - wanted, axis=-1)
        environment = {**os.environ, "SPLITE_ONNXRUNTIME": onnxruntime_library()}
        start = {"do": "time", **case, "images": images[:1], "boxes": boxes[:1]}
        ask(driver, folder, [start])  # writes the files of the case
        cases = [str(folder / "cases.json"), str(folder / "arrays.bin")]
        cpp_start = p50_of_starts([str(driver), *cases, onnxruntime_library()], environment)
        program = [sys.executable, "-c", ONE_POSE, str(given.bundle), given.precision, files[0]]
        python_start = p50_of_starts(program, environment)
        stripped = folder / "stripped"
        subprocess.run(["strip", "-o", str(stripped), str(driver)], check=True)
        size = stripped.stat().st_size
    record: dict[str, Any] = {
        "kind": KIND,
        "record_version": 1,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "network": Bundle.open(given.bundle).model.name,
        "precision": given.precision,
        "photographs": len(images),
        "off_px": {"p95": float(np.percentile(off_px, 95)), "max": float(off_px.max())},
        "p50_ms": {"cpp": float(np.median(cpp_ms)), "python": float(np.median(python_ms))},
        "start_ms": {"cpp": cpp_start, "python": python_start},
        "program_bytes": size,
        "load": os.getloadavg()[0],
        "environment": to_plain(read_environment()),
    }
    print(
        f"{len(images)} photographs, {given.precision}, one thread, {ROUNDS} rounds in turn, load {record['load']:.1f}"
    )
    print(f"keypoints: p95 {record['off_px']['p95']:.5f}, max {record['off_px']['max']:.5f} px of the image")
    for what, name in (("image to pose, p50", "p50_ms"), (f"start-up, p50 of {STARTS}", "start_ms")):
        c, p = record[name]["cpp"], record[name]["python"]
        print(f"{what}: C++ {c:.3f} ms, Python {p:.3f} ms, ratio {c / p:.2f}")
    print(f"size of the program, stripped: {size / 1024:.0f} KiB")
    if given.out is not None:
        append_record(given.out, record)


if __name__ == "__main__":
    main()
