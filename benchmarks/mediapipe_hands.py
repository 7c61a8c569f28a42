r"""A hand network of ours beside MediaPipe's hand landmark networks: latency and accuracy, in one run on one thread.

    pip download --no-deps mediapipe==0.10.14
    python benchmarks/mediapipe_hands.py --mediapipe mediapipe-0.10.14-*.whl --data HAND_DIGITS \
        --strangers HANDS_VARIED --out benchmarks/results/mediapipe-hands.jsonl

HAND_DIGITS is the kind of photograph that SPLite Hand was trained on, HANDS_VARIED shows other people in other rooms.
``--checkpoint models/splite_hand2/splite_hand2_dense.safetensors --out benchmarks/results/mediapipe-hands-2.jsonl``
compares the network that was trained for these. Only the .tflite files of mediapipe are used; LiteRT (ai-edge-litert)
runs them. Appends one JSON line. Then `python benchmarks/make_tables.py` writes the tables anew.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from landmark_net import LandmarkNet, crop, read_tflite, roi_of_landmarks
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.bootstrap import Ratio, Samples, ratio_of_medians
from splite_deploy.bench.evaluation import estimate_of, keypoint_errors
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.metrics.labels import LabelledImage, read_labels
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import Image
from splite_deploy.runtime.session import Session, open_session
from splite_deploy.spec.plain import to_plain

ROOT = Path(__file__).parents[1]
HAND = ROOT / "models" / "splite_hand"

KIND = "mediapipe-hands"
NETS = ("hand_landmark_lite", "hand_landmark_full")
INPUTS = 64
WIDTH = 120
CAVEAT = (
    "The labels are pseudo labels of MediaPipe's own full landmark network: its error says how far two of its looks at "
    "a hand lie apart, and the lite one is its sibling. None of these figures is accuracy against a human's labels."
)


def accuracy_of_ours(bundle: Path, artifact: Artifact, labels: list[LabelledImage]) -> dict[str, Any]:
    """Figures of an artifact in the boxes of the labels."""
    with PoseEstimator.open(bundle, artifact.backend, artifact.precision, threads=1, color="rgb") as estimator:
        return asdict(keypoint_errors(labels, estimate_of(estimator.at_any_angle)).summary())


def accuracy_of_landmarks(net: LandmarkNet, labels: list[LabelledImage], padding: float) -> dict[str, Any]:
    """The same of a landmark network, looking as often as ours; and how many hands MediaPipe would discard."""
    missed = 0

    def estimate(image: Image, box: NDArray[np.float64]) -> tuple[Any, Any]:
        nonlocal missed
        found = net.find(image, box, padding)
        missed += found.presence < 0.5
        return found.keypoints, found.world_mm

    return {**asdict(keypoint_errors(labels, estimate).summary()), "below_presence_threshold": missed}


def ours(bundle: Bundle) -> dict[str, Artifact]:
    """What of ours is compared: ONNX Runtime in fp32 and, where the bundle holds it, full-integer LiteRT."""
    artifacts = {artifact.label: artifact for artifact in bundle.manifest.artifacts}
    found = {bundle.model.name: bundle.find("ort", "fp32")}
    int8 = artifacts.get("tflite int8")
    return {**found, f"{bundle.model.name}, LiteRT int8": int8} if int8 else found


def timed_runs(
    estimator: PoseEstimator, others: dict[str, Session], nets: dict[str, LandmarkNet], labels: list[LabelledImage]
) -> tuple[dict[str, Run], int]:
    """What is timed, by name, and the number of inputs: photographs, evenly picked, which every one takes in turn."""
    picked = [labels[i] for i in np.linspace(0, len(labels) - 1, min(INPUTS, len(labels))).round().astype(int)]
    images = [cv2.cvtColor(read_image(item.path), cv2.COLOR_BGR2RGB) for item in picked]
    boxes = [item.box for item in picked]
    tensors = [estimator.prepare(image, [box])[0] for image, box in zip(images, boxes, strict=True)]  # type: ignore[arg-type]
    crops = [crop(image, roi_of_landmarks(item.keypoints)) for image, item in zip(images, picked, strict=True)]  # type: ignore[arg-type]
    name, model, count = estimator.session.inputs[0].name, estimator.spec.name, len(picked)

    def landmarks(net: LandmarkNet) -> Run:
        return lambda index: net.run(crops[index % count])

    def network(session: Session) -> Run:
        return lambda index: session.run({name: tensors[index % count]})

    return {
        **{key: network(session) for key, session in {model: estimator.session, **others}.items()},
        f"{model}, estimator": lambda index: estimator(images[index % count], boxes[index % count]),  # type: ignore[arg-type]
        **{net_name: landmarks(net) for net_name, net in nets.items()},
    }, count


def accuracy_of_all(bundle: Bundle, nets: dict[str, LandmarkNet], labels: list[LabelledImage]) -> dict[str, Any]:
    """Figures of ours and of MediaPipe's networks on the same photographs, by name."""
    padding = bundle.model.input.box_padding
    return {
        **{name: accuracy_of_ours(bundle.path, artifact, labels) for name, artifact in ours(bundle).items()},
        **{name: accuracy_of_landmarks(net, labels, padding) for name, net in nets.items()},
    }


def compare(
    bundle: Bundle, source: Path, data: Path, strangers: Path, frames: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """The record of one run."""
    nets = {name: LandmarkNet(read_tflite(source, f"{name}.tflite")) for name in NETS}
    labels, others_labels = (read_labels(folder, split="val") for folder in (data, strangers))
    environment = read_environment()
    date_utc = datetime.now(timezone.utc).isoformat(timespec="seconds")
    # Latency first: what accuracy leaves behind in caches and memory is nobody's advantage then
    with ExitStack() as stack:
        estimator = stack.enter_context(PoseEstimator.open(bundle.path, "ort", "fp32", threads=1, color="rgb"))
        others = {
            key: stack.enter_context(open_session(bundle, a.backend, a.precision, threads=1))
            for key, a in ours(bundle).items()
            if key != bundle.model.name
        }
        runs, inputs = timed_runs(estimator, others, nets, labels)
        say(f"latency: {frames} inferences of each")
        samples = interleave(runs, frames)
    say(f"accuracy on {len(labels)} images, and on {len(others_labels)} of strangers")
    best = list(ours(bundle))[-1]
    return {
        "kind": KIND,
        "record_version": 2,
        "date_utc": date_utc,
        "checkpoint": bundle.manifest.source.checkpoint,
        "checkpoint_sha256": bundle.manifest.source.checkpoint_sha256,
        "ours": best,
        "files": {
            **{
                name: {"name": a.file, "sha256": a.sha256, "bytes": (bundle.path / a.file).stat().st_size}
                for name, a in ours(bundle).items()
            },
            **{name: {"name": f"{name}.tflite", "sha256": n.sha256, "bytes": n.bytes} for name, n in nets.items()},
        },
        "threads": 1,
        "opencv_threads": cv2.getNumThreads(),
        "inputs_count": inputs,
        "latency": {name: to_plain(LatencyStats.from_samples(taken)) for name, taken in samples.items()},
        "ratios": ratios(samples),
        "accuracy": accuracy_of_all(bundle, nets, labels),
        "strangers": accuracy_of_all(bundle, nets, others_labels),
        "caveat": CAVEAT,
        "environment": to_plain(environment),
    }


def ratios(samples: dict[str, Samples]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians of each landmark network over those of ours, model only and end to end."""
    return {
        name: {one: asdict(ratio_of_medians(samples[name], samples[one])) for one in samples if one not in NETS}
        for name in NETS
    }


def table(record: dict[str, Any]) -> Table:
    """The record for people."""
    grid = Table(title="Hand networks, batch 1, one thread", caption=record["caveat"], caption_justify="left")
    grid.add_column("Network", no_wrap=True)
    for header in ("p50 ms", "p90 ms", "p99 ms", "over ours (95 %)", "error, %", "PCK@0.05", "PA, mm", "strangers, %"):
        grid.add_column(header, justify="right", no_wrap=True)
    for name, stats in record["latency"].items():
        times = [f"{stats[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")]
        ratio = record["ratios"].get(name, {}).get(record["ours"])
        found = record["accuracy"].get(name)
        figures = ["-"] * 4
        if found is not None:
            figures = [f"{found['mean_error_box_pct']:.2f}", f"{found['pck_05']:.3f}", f"{found['pa_mpjpe_mm']:.2f}"]
            figures.append(f"{record['strangers'][name]['mean_error_box_pct']:.2f}")
        grid.add_row(name, *times, str(Ratio(**ratio)) if ratio else "-", *figures)
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--bundle", type=Path, help="NAME.splite that was exported before; with -b tflite -p int8 too")
    which.add_argument("--checkpoint", type=Path, default=HAND / "splite_hand.safetensors", help="exported otherwise")
    parser.add_argument("--mediapipe", type=Path, required=True, help="mediapipe's wheel, site-packages, or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    parser.add_argument("--strangers", type=Path, required=True, help="folder of hands-varied (labels.json)")
    parser.add_argument("--frames", type=int, default=2000, help="timed inferences of each (default: 2000)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    log = Console(stderr=True)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, log.status("reading") as status:
            if options.bundle is not None:
                bundle = Bundle.open(options.bundle)
            else:
                from splite_deploy.export import ExportOptions, export_bundle

                bundle = export_bundle(
                    options.checkpoint,
                    Path(folder) / "hand.splite",
                    options=ExportOptions(images=options.data),
                    progress=status.update,
                )
            record = compare(bundle, options.mediapipe, options.data, options.strangers, options.frames, status.update)
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    Console(width=WIDTH).print(table(record))
    log.print(f"appended to {options.out}")


if __name__ == "__main__":
    main()
