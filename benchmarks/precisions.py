"""Every precision and backend of SPLite Hand side by side, and what fused pre- and postprocessing gain.

    python benchmarks/precisions.py --data HAND_DIGITS --out benchmarks/results/MACHINE-precisions.jsonl

It calibrates on the split 'train', and compares and evaluates on 'val'; needs the extras 'export' and 'tflite'.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from splite_deploy.bench import append_record, read_environment, run_bench
from splite_deploy.bench.profile import histogram
from splite_deploy.errors import SpliteError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.metrics.labels import read_labels
from splite_deploy.runtime.io.images import read_image
from splite_deploy.spec.plain import to_plain

HAND = Path(__file__).parents[1] / "models" / "splite_hand"
FUSED: dict[str, dict[str, bool]] = {
    "none": {},
    "input": {"fuse_input": True},
    "decode": {"fuse_decode": True},
    "input and decode": {"fuse_input": True, "fuse_decode": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=HAND / "splite_hand.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    parser.add_argument(
        "--frames", type=int, default=2000, help="timed frames of the estimator, for each choice of what is fused"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            append_record(options.out, measured(options.checkpoint, options.data, options.frames, Path(folder)))
    except SpliteError as err:
        sys.exit(f"error: {err}")
    print(options.out)


def measured(checkpoint: Path, data: Path, frames: int, folder: Path) -> dict[str, Any]:
    """The record of this machine."""
    wanted = ExportOptions(
        backends=("ort", "tflite"),
        precisions=("fp32", "fp16", "int8"),
        calibration=data,
        evaluation=data,
        crops=len(read_labels(data, split="val")),
    )
    model = HAND / "model.toml"
    bundle = export_bundle(checkpoint, folder / "all.splite", model=model, options=wanted, progress=say)
    inputs = [(read_image(one.path), one.box) for one in read_labels(data, split="val")[:64]]
    fused = []
    for name, options in FUSED.items():
        say(f"estimator, fused into the graph: {name}")
        one = replace(wanted, backends=("ort",), precisions=("fp32",), calibration=None, evaluation=None, **options)
        made = export_bundle(checkpoint, folder / f"{len(fused)}.splite", model=model, options=one)
        result = run_bench(made, threads=1, frames=frames, inputs=inputs, inputs_from="split 'val'")
        p50_ms = {stage: stats.p50_ms for stage, stats in result.stages.items()}
        fused.append({"in_graph": name, "p50_ms": p50_ms, "overhead_ms": result.overhead_ms})
    manifest, report = bundle.manifest, bundle.report()
    assert report.recommendation is not None
    side = max(bundle.model.input.height, bundle.model.input.width) / bundle.model.input.box_padding
    return {
        "kind": "precisions",
        "record_version": 2,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": manifest.source.checkpoint_sha256,
        "box_side_px": side,
        "calibration": to_plain(report.calibration),
        "recommendation": to_plain(report.recommendation),
        "layers": {label: to_plain(histogram(layers)) for label, layers in report.layers.items()},
        "files": {artifact.label: artifact.sha256 for artifact in manifest.artifacts},
        "fused": fused,
        "environment": to_plain(read_environment()),
    }


def say(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
