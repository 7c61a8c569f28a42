"""Ways to read keypoints off the same heatmaps: ours, and the formulas that mmpose and rtmlib use.

    python benchmarks/decoders.py --data HAND_DIGITS --out benchmarks/results/decoders.jsonl

The formulas are derived anew from their papers: the largest cell and a quarter of a cell towards its larger neighbour
(Newell et al. 2016, arXiv 1603.06937), a Newton step on the logarithm of the smoothed map (DARK, Zhang et al. 2020,
arXiv 1910.06278), and the largest entry of each axis by itself (SimCC, Li et al. 2022, arXiv 2107.03332), here of the
marginals. All are plain numpy and vectorised over the keypoints.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.evaluation import KeypointErrors
from splite_deploy.bench.interleaved import interleave
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle import Bundle
from splite_deploy.decoders.heatmap import SoftHeatmapDecoder, softmax
from splite_deploy.decoders.softargmax import softargmax
from splite_deploy.errors import SpliteError
from splite_deploy.metrics.accuracy import box_side, keypoint_error
from splite_deploy.metrics.labels import LabelledImage, read_labels
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import invert, transform_points
from splite_deploy.spec.plain import to_plain

ROOT = Path(__file__).parents[1]
HAND = ROOT / "models" / "splite_hand"
KIND = "decoders"
OURS = "soft-argmax (ours)"
BLUR_CELLS = 11
Maps = NDArray[np.float32]
Points = NDArray[np.floating[Any]]
Decode = Callable[[Maps], Points]
"""(1, K, H, W) weights of a softmax, or logits, to (K, 2) cells, of which the first is centred at 0.5."""


def largest(maps: Maps) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(K,) columns and rows of the largest cells."""
    rows, columns = np.divmod(maps.reshape(maps.shape[1], -1).argmax(axis=1), maps.shape[3])
    return columns, rows


def argmax(maps: Maps) -> Points:
    """The centre of the largest cell."""
    return np.stack(largest(maps), -1) + 0.5


def argmax_corner(maps: Maps) -> Points:
    """The same with cell 0 centred at 0, as mmpose reads maps: right for networks that were trained so."""
    return np.stack(largest(maps), -1).astype(np.float64)


def quarter(maps: Maps) -> Points:
    """The largest cell, and a quarter of a cell towards the larger of its neighbours on each axis."""
    columns, rows = largest(maps)
    padded = np.pad(maps[0], ((0, 0), (1, 1), (1, 1)), mode="edge")
    k, x, y = np.arange(len(columns)), columns + 1, rows + 1
    slope = [padded[k, y, x + 1] - padded[k, y, x - 1], padded[k, y + 1, x] - padded[k, y - 1, x]]
    return np.stack([columns, rows], -1) + 0.5 + 0.25 * np.sign(np.stack(slope, -1))


def dark(maps: Maps) -> Points:
    """The largest cell and a Newton step -H^-1 g on the logarithm of the smoothed map."""
    columns, rows = largest(maps)
    peaks = maps[0].max(axis=(1, 2))
    smooth = np.stack([cv2.GaussianBlur(one, (BLUR_CELLS, BLUR_CELLS), 0) for one in maps[0]])
    smooth *= (peaks / smooth.max(axis=(1, 2)))[:, None, None]
    log = np.pad(np.log(np.maximum(smooth, 1e-10)), ((0, 0), (2, 2), (2, 2)), mode="edge")
    k, x, y = np.arange(len(columns)), columns + 2, rows + 2
    at = {(i, j): log[k, y + j, x + i] for i in range(-2, 3) for j in range(-2, 3)}
    gx, gy = (at[1, 0] - at[-1, 0]) / 2, (at[0, 1] - at[0, -1]) / 2
    hxx = (at[2, 0] - 2 * at[0, 0] + at[-2, 0]) / 4
    hyy = (at[0, 2] - 2 * at[0, 0] + at[0, -2]) / 4
    hxy = (at[1, 1] - at[-1, 1] - at[1, -1] + at[-1, -1]) / 4
    determinant = hxx * hyy - hxy**2
    safe = np.where(determinant > 1e-9, determinant, np.inf)
    step = np.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], -1) / safe[:, None]
    return np.stack([columns, rows], -1) + 0.5 + np.clip(step, -1, 1)


def marginals(maps: Maps) -> Points:
    """The largest entry of each axis by itself."""
    return np.stack([maps[0].sum(axis=1).argmax(axis=1), maps[0].sum(axis=2).argmax(axis=1)], -1) + 0.5


def decoders(spec: SoftHeatmapDecoder) -> dict[str, Decode]:
    """All of them, from logits; the softmax that most need is contained."""

    def of_weights(decode: Decode) -> Decode:
        return lambda logits: decode(softmax(logits, spec.beta))

    return {
        OURS: lambda logits: softargmax(logits, spec)[0][0] / spec.stride,
        "argmax, centre of the cell": argmax,
        "argmax, corner of the cell (mmpose, rtmlib)": argmax_corner,
        "argmax and a quarter (mmpose)": quarter,
        "DARK (mmpose)": of_weights(dark),
        "argmax of the marginals (SimCC; rtmlib)": of_weights(marginals),
    }


def compare(bundle: Bundle, labels: list[LabelledImage], frames: int) -> dict[str, Any]:
    """The record of one run."""
    spec = bundle.model.decoder
    assert isinstance(spec, SoftHeatmapDecoder) and spec.alignment == "corner"
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
            for label, decode in chosen.items():
                points = np.asarray(decode(maps[-1]), np.float64) * spec.stride
                found[label].append(transform_points(points, invert(matrix)))
    truth = np.stack([labelled.keypoints for labelled in labels])
    side = box_side(truth)[:, None]
    runs = {label: (lambda index, decode=decode: decode(maps[index % len(maps)])) for label, decode in chosen.items()}
    samples = interleave(runs, frames)
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
        print(f"{label:45s} {p50_us:7.0f} us {accuracy['mean_error_box_pct']:6.2f} %  PCK {accuracy['pck_05']:.3f}")


if __name__ == "__main__":
    main()
