r"""How fast networks of SPLite Hand 2's kind are before they are trained, beside MediaPipe's lite landmark network.

    python benchmarks/hand_widths.py --mediapipe mediapipe-0.10.14-*.whl --out benchmarks/results/hand-widths.jsonl

Weights are seeded and the limits on deviations open, so that every layer is int8: what is exported says nothing about
accuracy. All run in turn on one thread. Appends one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from landmark_net import SIDE_PX, LandmarkNet, read_tflite
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from tradeoff import size_of

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.bootstrap import Samples, ratio_of_medians
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.export import ExportOptions, PartialExportError, export_bundle
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.runtime.session import Session, open_session
from splite_deploy.spec.plain import to_plain

ROOT = Path(__file__).parents[1]
HAND2 = ROOT / "models" / "splite_hand2"
sys.path.insert(0, str(ROOT / "models" / "common"))
from seeded_weights import normalise

KIND, LITE = "hand-widths", "hand_landmark_lite"
DENSE = "dense parent"


def _candidate(channels: Sequence[int], blocks: Sequence[int], head: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"channels": channels, "blocks": blocks, "head": head, "smooth": [3, 1], **more}


CANDIDATES: Mapping[str, dict[str, Any]] = {
    "16 32 64": _candidate([16, 32, 64], [1, 2, 2], [32, 16]),
    "16 32 64, head 32": _candidate([16, 32, 64], [1, 2, 3], [32, 32]),
    "16 32 96, head 32": _candidate([16, 32, 96], [1, 2, 3], [32, 32]),
    "16 48 96, head 32": _candidate([16, 48, 96], [1, 2, 2], [48, 32]),
    "24 48 96, head 32": _candidate([24, 48, 96], [1, 2, 2], [48, 32]),
    "partial 24 48 96": _candidate([24, 48, 96], [2, 3, 4], [48, 24], partial=True),
    DENSE: _candidate([32, 64, 128], [1, 2, 3], [64, 64]),
}
WIDTH = 140
WAYS = ("ort fp32", "ort int8", "tflite fp32", "tflite int8")


def write_candidate(folder: Path, arguments: Mapping[str, Any]) -> Path:
    """Writes seeded weights and a model.toml whose limits every conversion keeps; returns the weights."""
    folder.mkdir()
    text = (HAND2 / "model.toml").read_text(encoding="utf-8")
    head, rest = text.split("[arch_args]")
    head = head.replace('"hand2_', f'"{HAND2.as_posix()}/hand2_')
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in arguments.items())
    limits = "\n[limits]\nshift_p95_px = 100\ndepth_p95 = 10\nhead_p95 = 0.16\n"
    model = f"{head}[arch_args]\n{lines}\n[input]{rest.split('[input]')[1]}{limits}"
    (folder / "model.toml").write_text(model, encoding="utf-8")
    torch.manual_seed(0)
    network = load_symbol("hand2_arch.py:build", HAND2)(**arguments)
    crops = load_symbol("hand2_renders.py:samples", HAND2)(16, 0)
    pixels = np.stack([cv2.resize(image, (128, 128)) for image, _ in crops]).astype(np.float32)
    tensors = torch.from_numpy(((pixels - 127.5) / 64).transpose(0, 3, 1, 2).copy())
    normalise(network, tensors, {})
    file = folder / "hand2.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    return file


def measure(source: Path, frames: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The record of one run."""
    lite = LandmarkNet(read_tflite(source, f"{LITE}.tflite"))
    runs: dict[str, Run] = {LITE: lambda _: lite.run(blank)}
    blank = np.random.default_rng(0).random((1, SIDE_PX, SIDE_PX, 3), np.float32)
    tensor = np.random.default_rng(1).normal(0, 1, (1, 3, 128, 128)).astype(np.float32)
    networks: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        for index, (name, arguments) in enumerate(CANDIDATES.items()):
            say(f"exporting {name}")
            checkpoint = write_candidate(Path(scratch) / str(index), arguments)
            options = ExportOptions(
                backends=("ort", "tflite"), precisions=("fp32", "int8"), crops=8, max_shift_px=100, max_shift_mm=1000
            )
            path = Path(scratch) / f"{index}.splite"
            with suppress(PartialExportError):  # what a converter does not take is missing in the record
                export_bundle(checkpoint, path, options=options)
            bundle = Bundle.open(path)
            made = {(one.backend, one.precision): one.file for one in bundle.manifest.artifacts}
            size = size_of(checkpoint, checkpoint.with_name("model.toml"), bundle)
            networks[name] = {"arguments": arguments, "parameters": size.parameters, "macs": size.macs}
            for backend, precision in made:
                session = stack.enter_context(open_session(bundle, backend, precision, threads=1))
                runs[f"{name}, {backend} {precision}"] = _run(session, tensor)
                size_bytes = (path / made[backend, precision]).stat().st_size
                networks[name][f"{backend} {precision}"] = {"bytes": size_bytes}
        say(f"timing {frames} runs of each in turn")
        samples = interleave(runs, frames)
    for name, network in networks.items():
        for way in set(network) & set(WAYS):
            stats = to_plain(LatencyStats.from_samples(samples[f"{name}, {way}"]))
            network[way] |= {"latency": stats, **_ratios(samples, name, way)}
    return {
        "kind": KIND,
        "record_version": 1,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "threads": 1,
        LITE: to_plain(LatencyStats.from_samples(samples[LITE])),
        "networks": networks,
        "environment": to_plain(read_environment()),
    }


def _run(session: Session, tensor: np.ndarray[Any, Any]) -> Run:
    name = session.inputs[0].name
    return lambda _: session.run({name: tensor})


def _ratios(samples: Mapping[str, Samples], name: str, way: str) -> dict[str, Any]:
    """Medians of MediaPipe's network and of the dense parent over that of a network."""
    own = samples[f"{name}, {way}"]
    return {
        "over_lite": asdict(ratio_of_medians(samples[LITE], own)),
        "over_dense": asdict(ratio_of_medians(samples[f"{DENSE}, {way}"], own)),
    }


def table(record: Mapping[str, Any]) -> Table:
    """The record for people."""
    grid = Table(title=f"One thread, least of all runs, ms; {LITE}: {record[LITE]['min_ms']:.3f}")
    grid.add_column("Network", no_wrap=True)
    for header in ("params", "MACs", *WAYS, "MB", "lite over it", "dense over it"):
        grid.add_column(header, justify="right", no_wrap=True)
    for name, network in record["networks"].items():
        best = network.get("tflite int8")
        grid.add_row(
            name,
            f"{network['parameters'] / 1e3:.0f} k",
            f"{network['macs'] / 1e6:.1f} M",
            *(f"{network[way]['latency']['min_ms']:.3f}" if way in network else "-" for way in WAYS),
            f"{best['bytes'] / 1e6:.2f}" if best else "-",
            f"{best['over_lite']['value']:.1f}" if best else "-",
            f"{network['ort fp32']['over_dense']['value']:.2f}",
        )
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mediapipe", type=Path, required=True, help="mediapipe's wheel, site-packages, or folder")
    parser.add_argument("--frames", type=int, default=1000, help="timed inferences of each (default: 1000)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    log = Console(stderr=True)
    cv2.setNumThreads(1)
    try:
        with log.status("reading") as status:
            record = measure(options.mediapipe, options.frames, status.update)
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    Console(width=WIDTH).print(table(record))


if __name__ == "__main__":
    main()
