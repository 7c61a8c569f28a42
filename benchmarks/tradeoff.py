r"""Size, latency and accuracy of a dense checkpoint and its compacted ones, in one run.

    python benchmarks/tradeoff.py --model models/splite_hand/model.toml --data HAND_DIGITS \
        --out benchmarks/results/tradeoff.jsonl dense.safetensors a.safetensors b.safetensors ...

Speed-ups refer to the first checkpoint. All are timed in turn through ONNX Runtime, fp32, on one thread, without pre-
and postprocessing. Appends one JSON line per checkpoint; lines of one run have one date. Then
`python benchmarks/make_tables.py` writes the table and `python benchmarks/plot_tradeoff.py` draws the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.bootstrap import ratio_of_medians
from splite_deploy.bench.evaluation import estimate_of, keypoint_errors
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.metrics.labels import read_labels
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.io.images import boxed_images, read_image
from splite_deploy.runtime.session import pick_artifact
from splite_deploy.spec.plain import to_plain

ROOT = Path(__file__).parents[1]
HAND = ROOT / "models" / "splite_hand"

KIND = "trade-off"
INPUTS = 64
WIDTH = 120


@dataclass(frozen=True)
class Size:
    """What a network is made of.

    Attributes:
        parameters: Their number.
        macs: Multiply-accumulates of convolutions and linear layers for one input.
        checkpoint_bytes: Size of the checkpoint.
        graph_bytes: Size of the exported graph.
    """

    parameters: int
    macs: int
    checkpoint_bytes: int
    graph_bytes: int


def size_of(checkpoint: Path, model: Path, bundle: Bundle) -> Size:
    """Counts parameters and multiply-accumulates as `splite-deploy compact` does."""
    import torch

    from splite_deploy.compact.groups import Groups
    from splite_deploy.compact.trace import trace
    from splite_deploy.export.source.load import load_model

    network, spec = (loaded := load_model(checkpoint, model, None)).network, loaded.spec
    groups = Groups(trace(network, torch.zeros(1, 3, spec.input.height, spec.input.width)))
    graph = bundle.path / pick_artifact(bundle, "ort", "fp32")[1].file
    return Size(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs=round(groups.macs(np.zeros(groups.count, bool))),
        checkpoint_bytes=checkpoint.stat().st_size,
        graph_bytes=graph.stat().st_size,
    )


def recipe_of(checkpoint: Path) -> Any:
    """What the file says of its training: the entry ``recipe`` of a safetensors header, or None."""
    if checkpoint.suffix != ".safetensors":
        return None
    with safe_open(checkpoint, framework="numpy") as stored:
        text = (stored.metadata() or {}).get("recipe")
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError:
        return text


def accuracy_of(estimator: PoseEstimator, data: Path) -> dict[str, Any]:
    """Figures on the validation split, through the public runtime."""
    return asdict(keypoint_errors(read_labels(data, split="val"), estimate_of(estimator.at_any_angle)).summary())


def timed_runs(estimators: dict[str, PoseEstimator], data: Path) -> tuple[dict[str, Run], int]:
    """One inference of each network by name, on crops of photographs in turn, and the number of those."""
    boxed, _ = boxed_images(data, INPUTS)
    first = next(iter(estimators.values()))
    tensors = [
        first.prepare(cv2.cvtColor(read_image(file), cv2.COLOR_BGR2RGB), [box])[0]  # type: ignore[arg-type]
        for file, box in boxed
    ]
    name = first.session.inputs[0].name

    def inference(estimator: PoseEstimator) -> Run:
        return lambda index: estimator.session.run({name: tensors[index % len(tensors)]})

    return {key: inference(estimator) for key, estimator in estimators.items()}, len(tensors)


def tradeoff(
    checkpoints: Sequence[Path], model: Path, data: Path, frames: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One record per checkpoint, in their order.

    Raises:
        UsageError: Two checkpoints have one name.
        SpliteError: One cannot be exported, or the data cannot be read.
    """
    names = [checkpoint.stem for checkpoint in checkpoints]
    if len(set(names)) < len(names):
        raise UsageError(f"Two checkpoints have the same name: {', '.join(names)}.", hint="Rename one of the files.")
    environment = read_environment()
    date_utc = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundles, estimators = {}, {}
        for name, checkpoint in zip(names, checkpoints, strict=True):
            say(f"exporting {name}")
            options = ExportOptions(images=data)
            bundles[name] = export_bundle(checkpoint, Path(folder) / f"{name}.splite", model=model, options=options)
            opened = PoseEstimator.open(bundles[name].path, "ort", "fp32", threads=1, color="rgb")
            estimators[name] = stack.enter_context(opened)
        runs, inputs = timed_runs(estimators, data)
        say(f"timing {len(names)} networks in turn")
        samples = interleave(runs, frames)
        records = []
        for name, checkpoint in zip(names, checkpoints, strict=True):
            say(f"accuracy and size of {name}")
            records.append(
                {
                    "kind": KIND,
                    "record_version": 1,
                    "date_utc": date_utc,
                    "name": name,
                    "checkpoint_sha256": bundles[name].manifest.source.checkpoint_sha256,
                    "graph_sha256": pick_artifact(bundles[name], "ort", "fp32")[1].sha256,
                    "recipe": recipe_of(checkpoint),
                    "size": asdict(size_of(checkpoint, model, bundles[name])),
                    "threads": 1,
                    "inputs_count": inputs,
                    "latency": to_plain(LatencyStats.from_samples(samples[name])),
                    "reference": names[0],
                    "speed_up": asdict(ratio_of_medians(samples[names[0]], samples[name])),
                    "accuracy": accuracy_of(estimators[name], data),
                    "environment": to_plain(environment),
                }
            )
    return records


def table(records: Sequence[dict[str, Any]]) -> Table:
    """The records for people."""
    grid = Table(title="Trade-off: ONNX Runtime, fp32, batch 1, one thread, model only")
    grid.add_column("Checkpoint", no_wrap=True)
    for header in ("params", "MACs", "size", "p50 ms", "p99 ms", "speed-up", "error, %", "PCK@0.05", "PA, mm"):
        grid.add_column(header, justify="right", no_wrap=True)
    for record in records:
        size, latency, accuracy = record["size"], record["latency"], record["accuracy"]
        grid.add_row(
            record["name"],
            f"{size['parameters'] / 1e3:.0f} k",
            f"{size['macs'] / 1e6:.1f} M",
            f"{size['checkpoint_bytes'] / 1e6:.2f} MB",
            f"{latency['p50_ms']:.3f}",
            f"{latency['p99_ms']:.3f}",
            f"{record['speed_up']['value']:.2f}",
            f"{accuracy['mean_error_box_pct']:.2f}",
            f"{accuracy['pck_05']:.3f}",
            f"{accuracy['pa_mpjpe_mm']:.2f}",
        )
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="the dense one first")
    parser.add_argument("--model", type=Path, default=HAND / "model.toml", help="model.toml of all of them")
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    parser.add_argument("--frames", type=int, default=2000, help="timed inferences of each (default: 2000)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    log = Console(stderr=True)
    cv2.setNumThreads(1)
    try:
        with log.status("reading") as status:
            records = tradeoff(options.checkpoints, options.model, options.data, options.frames, status.update)
        for record in records:
            append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    Console(width=WIDTH).print(table(records))
    log.print(f"appended to {options.out}")


if __name__ == "__main__":
    main()
