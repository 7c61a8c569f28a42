"""Ways to read keypoints off the same heatmaps: our decoders, and the largest entry of each axis as in SimCC.

    python benchmarks/decoders.py --data HAND_DIGITS --out benchmarks/results/decoders.jsonl

The network was trained with a soft-argmax. Decoders of other trainings read the softmax of its maps, and the cost of
each is that of its formula alone, with its score: a softmax before is not timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.evaluation import KeypointErrors
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle import Bundle
from splite_deploy.decoders import Argmax, Dark, Expectation, HeatmapDecoder, SoftArgmax, SoftArgmaxWindow, Udp
from splite_deploy.decoders.heatmap import softmax
from splite_deploy.errors import SpliteError
from splite_deploy.metrics.accuracy import box_side, keypoint_error
from splite_deploy.metrics.labels import LabelledImage, read_labels
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import invert, transform_points
from splite_deploy.spec import InputSpec
from splite_deploy.spec.plain import to_plain

ROOT = Path(__file__).parents[1]
HAND = ROOT / "models" / "splite_hand"
KIND = "decoders"
OURS = "soft-argmax (ours)"
Maps = NDArray[np.float32]
Points = NDArray[np.floating[Any]]
Decode = Callable[[Maps], Points]
"""(1, K, H, W) logits, or their softmax, to (1, K, 2) input pixels."""


@dataclass(frozen=True)
class Way:
    """A way to decode.

    Attributes:
        decode: It.
        reads_shares: Whether it reads the softmax of the logits.
    """

    decode: Decode
    reads_shares: bool = True

    def maps(self, logits: Maps, beta: float) -> Maps:
        """What it reads."""
        return softmax(logits, beta) if self.reads_shares else logits


def marginals(maps: Maps, stride: float) -> Points:
    """The largest entry of each axis by itself (SimCC, Li et al. 2022, arXiv 2107.03332), of marginals."""
    return (np.stack([maps.sum(axis=2).argmax(axis=2), maps.sum(axis=3).argmax(axis=2)], -1) + 0.5) * stride


def by(decoder: HeatmapDecoder) -> Decode:
    """One of our decoders, which ask for nothing but the maps."""
    size = InputSpec(1, 1, "rgb", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, 0)
    return lambda maps: decoder.decode({"heatmap": maps}, size).keypoints


def decoders(spec: SoftArgmax) -> dict[str, Way]:
    """All of them."""
    stride, where = spec.stride, spec.alignment
    return {
        OURS: Way(by(SoftArgmax(stride, where, spec.beta, spec.score_window)), reads_shares=False),
        "softargmax-window, 9 cells": Way(by(SoftArgmaxWindow(stride, where, spec.beta, 9)), reads_shares=False),
        "argmax": Way(by(Argmax(stride, where, "none"))),
        "argmax, cells read as pixels (centre)": Way(by(Argmax(stride, "centre", "none"))),
        "argmax and a quarter": Way(by(Argmax(stride, where, "quarter"))),
        "dark, smoothed by 11 cells": Way(by(Dark(stride, where, 11))),
        "dark, not smoothed": Way(by(Dark(stride, where, 1))),
        "udp, smoothed by 11 cells (cells read as of udp)": Way(by(Udp(stride, "udp", "gaussian", 11))),
        "expectation": Way(by(Expectation(stride, where))),
        "argmax of the marginals (SimCC)": Way(lambda maps: marginals(maps, stride)),
    }


def compare(bundle: Bundle, labels: list[LabelledImage], frames: int) -> dict[str, Any]:
    """The record of one run."""
    spec = bundle.model.decoder
    assert isinstance(spec, SoftArgmax) and spec.alignment == "corner"
    chosen = decoders(spec)
    environment, date_utc = read_environment(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    maps: list[Maps] = []
    found: dict[str, list[Points]] = {name: [] for name in chosen}
    with PoseEstimator.open(bundle.path, "ort", "fp32", threads=1) as estimator:
        role = next(tensor.name for tensor in estimator.session.outputs if tensor.role == "heatmap")
        name = estimator.session.inputs[0].name
        for labelled in labels:
            tensor, ((_, matrix),) = estimator.prepare(read_image(labelled.path), [labelled.box])
            maps.append(estimator.session.run({name: tensor})[role].copy())
            for label, way in chosen.items():
                points = np.asarray(way.decode(way.maps(maps[-1], spec.beta))[0], np.float64)
                found[label].append(transform_points(points, invert(matrix)))
    truth = np.stack([labelled.keypoints for labelled in labels])
    side = box_side(truth)[:, None]
    samples = interleave({label: run_of(way, maps, spec.beta) for label, way in chosen.items()}, frames)
    return {
        "kind": KIND,
        "record_version": 1,
        "date_utc": date_utc,
        "checkpoint": bundle.manifest.source.checkpoint,
        "checkpoint_sha256": bundle.manifest.source.checkpoint_sha256,
        "heatmap": list(maps[0].shape),
        "latency": {label: to_plain(LatencyStats.from_samples(taken)) for label, taken in samples.items()},
        "accuracy": {
            label: to_plain(KeypointErrors(keypoint_error(np.stack(points), truth) / side, None).summary())
            for label, points in found.items()
        },
        "environment": to_plain(environment),
    }


def run_of(way: Way, logits: list[Maps], beta: float) -> Run:
    """Reads one map after the other."""
    maps = [way.maps(one, beta) for one in logits]
    return lambda index: way.decode(maps[index % len(maps)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=HAND / "splite_hand.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    parser.add_argument("--frames", type=int, default=2000, help="timed decodings of each (default: 2000)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    try:
        from splite_deploy.export import export_bundle

        with tempfile.TemporaryDirectory() as folder:
            bundle = export_bundle(options.checkpoint, Path(folder) / "hand.splite", model=HAND / "model.toml")
            record = compare(bundle, read_labels(options.data, split="val"), options.frames)
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    for label, accuracy in record["accuracy"].items():
        p50_us = 1e3 * record["latency"][label]["p50_ms"]
        print(f"{label:50s} {p50_us:7.0f} us {accuracy['mean_error_box_pct']:6.2f} %  PCK {accuracy['pck_05']:.3f}")


if __name__ == "__main__":
    main()
