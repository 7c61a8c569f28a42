"""What eight hands in one inference cost beside eight calls, in ONNX Runtime and LiteRT.

    python benchmarks/batch.py --data HAND_DIGITS --out benchmarks/results/batch.jsonl

Exports SPLite Hand with an open batch, or takes ``--bundle``. Eight boxes lie in one frame. Timed in turn, in one run
on one thread: eight calls of the estimator and one of its `batch`, and the same of the session alone; what a call takes
beyond its session cuts crops, normalises and decodes. A session is used for one batch alone, since LiteRT prepares anew
when the number of crops changes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from hands_in_frame import frame_and_boxes

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.runtime import PoseEstimator
from splite_deploy.spec.plain import to_plain

HAND = Path(__file__).parents[1] / "models" / "splite_hand"
KIND = "batch"
CROPS = 8
PARTS = "estimator", "session"


def export(checkpoint: Path, data: Path, folder: Path) -> Bundle:
    """The bundle that is timed."""
    options = ExportOptions(
        backends=("ort", "tflite"), precisions=("fp32", "int8"), images=data, crops=32, dynamic_batch=True
    )
    tell = lambda message: print(message, file=sys.stderr)  # noqa: E731
    return export_bundle(checkpoint, folder / "hand.splite", model=HAND / "model.toml", options=options, progress=tell)


def measure(bundle: Bundle, crops: int, frames: int) -> dict[str, dict[str, Any]]:
    """By artifact and part, milliseconds of so many crops: minimum and median of single ones and of a batch."""
    frame, boxes = frame_and_boxes(crops)
    runs: dict[str, Run] = {}
    with ExitStack() as stack:
        for artifact in bundle.manifest.artifacts:
            where = bundle.path, artifact.backend, artifact.precision
            alone, together = (stack.enter_context(PoseEstimator.open(*where, threads=1)) for _ in range(2))
            timed = _ways(alone, together, frame, boxes)
            runs.update({f"{artifact.label} {part}": run for part, run in timed.items()})
        found = interleave(runs, frames, warmup_frames=20)

    def figures(name: str) -> dict[str, float]:
        return {"minimum_ms": float(found[name].min()), "median_ms": float(np.median(found[name]))}

    return {
        artifact.label: {
            part: {way: figures(f"{artifact.label} {part} {way}") for way in ("single", "batch")} for part in PARTS
        }
        for artifact in bundle.manifest.artifacts
    }


def _ways(alone: PoseEstimator, together: PoseEstimator, frame: Any, boxes: list[Any]) -> dict[str, Run]:
    """The runs of one artifact, which is opened twice."""
    name = alone.session.inputs[0].name
    feed = together.prepare(frame, boxes)[0]
    rows = [np.ascontiguousarray(feed[i : i + 1]) for i in range(len(boxes))]
    return {
        "estimator single": lambda index: [alone(frame, box) for box in boxes],
        "estimator batch": lambda index: together.batch(frame, boxes),
        "session single": lambda index: [alone.session.run({name: row}) for row in rows],
        "session batch": lambda index: together.session.run({name: feed}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=HAND / "splite_hand.safetensors")
    parser.add_argument("--data", type=Path, help="folder of hand-digits (labels.json)")
    parser.add_argument("--bundle", type=Path, help="a bundle with an open batch, instead of an export")
    parser.add_argument("--crops", type=int, default=CROPS)
    parser.add_argument("--frames", type=int, default=500, help="timed runs of each (default: 500)")
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    options = parser.parse_args()
    if (options.data is None) == (options.bundle is None):
        parser.error("name --data or --bundle")
    try:
        with tempfile.TemporaryDirectory() as folder:
            bundle = (
                Bundle.open(options.bundle)
                if options.bundle
                else export(options.checkpoint, options.data, Path(folder))
            )
            artifacts = measure(bundle, options.crops, options.frames)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    for label, parts in artifacts.items():
        for part, ways in parts.items():
            single, batch = (ways[way] for way in ("single", "batch"))
            ratios = (batch[key] / single[key] for key in ("minimum_ms", "median_ms"))
            shown = "  ".join(f"{way} {one['minimum_ms']:.3f} {one['median_ms']:.3f}" for way, one in ways.items())
            print(f"{label:12s} {part:10s} {shown}  batch / single {' '.join(f'{ratio:.2f}' for ratio in ratios)}")
    if options.out:
        record = {
            "kind": KIND,
            "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "bundle": bundle.manifest.source.checkpoint,
            "crops": options.crops,
            "frames": options.frames,
            "artifacts": artifacts,
            "environment": to_plain(read_environment()),
        }
        append_record(options.out, record)


if __name__ == "__main__":
    main()
