"""What opening a bundle of six artifacts takes: every hash checked, the manifest read.

    python benchmarks/bundle_open.py [--out benchmarks/results/MACHINE-bundle-open.jsonl]

The bundle is the export of SPLite Hand to fp32, fp16 and int8 for ONNX Runtime, and the same three files once more as
if they were TFLite's: opening looks at bytes alone, so that no TensorFlow is needed. Prints median and minimum of the
whole and of its parts; with --out appends one JSON line.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.bundle.add import Addition, add_artifacts
from splite_deploy.bundle.manifest import read_manifest
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.files import sha256_of
from splite_deploy.spec.plain import to_plain

CHECKPOINT = Path(__file__).parents[1] / "models" / "splite_hand" / "splite_hand.safetensors"
MAX_SHIFT_PX = 2.5  # rendered images alone calibrate int8 badly, and how well it works does not matter here


def six_artifacts(checkpoint: Path, folder: Path, progress: Callable[[str], None]) -> Bundle:
    """A bundle with fp32, fp16 and int8, each twice."""
    options = ExportOptions(precisions=("fp32", "fp16", "int8"), max_shift_px=MAX_SHIFT_PX)
    bundle = export_bundle(checkpoint, folder / "six.splite", options=options, progress=progress)
    return doubled(bundle, folder)


def doubled(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with each artifact once more, as a TFLite file by its name and format."""
    layers, additions = bundle.report().layers, []
    for artifact in bundle.manifest.artifacts:
        file = artifact.file.replace(".onnx", ".tflite")
        copied = Path(shutil.copyfile(bundle.path / artifact.file, folder / file))
        made = replace(artifact, format="tflite", backend="tflite", file=file, sha256=sha256_of(copied))
        additions.append(Addition(made, copied, layers.get(artifact.label, ())))
    return add_artifacts(bundle, additions)


def timed(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median and minimum in milliseconds."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    return {"median_ms": float(np.median(taken)), "min_ms": min(taken)}


def measure(bundle: Bundle, repeats: int) -> dict[str, Any]:
    """Opening as a whole, and its two parts."""
    files = [bundle.path / name for name in {held.file for held in bundle.manifest.files}]
    return {
        "artifacts": len(bundle.manifest.artifacts),
        "manifest_bytes": (bundle.path / MANIFEST).stat().st_size,
        "hashed_bytes": sum(file.stat().st_size for file in files),
        "open": timed(lambda: Bundle.open(bundle.path), repeats),
        "manifest": timed(lambda: read_manifest(bundle.path), repeats),
        "hashes": timed(lambda: [sha256_of(file) for file in files], repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--out", type=Path, help="a .jsonl file to append the record to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(six_artifacts(arguments.checkpoint, Path(folder), say), arguments.repeats)
    for name, value in found.items():
        print(
            f"{name}: {value}"
            if isinstance(value, int)
            else f"{name}: {value['median_ms']:.2f} ms at the median, {value['min_ms']:.2f} ms at least"
        )
    if arguments.out is not None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        head = {"kind": "bundle-open", "record_version": 1, "date_utc": now, "checkpoint": arguments.checkpoint.name}
        append_record(arguments.out, {**head, **found, "environment": to_plain(read_environment())})


def say(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
