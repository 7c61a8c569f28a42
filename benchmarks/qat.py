"""What int8 costs a network that was trained for it, on every backend with its trained scales.

    python benchmarks/qat.py --data HAND_DIGITS [--checkpoint CHECKPOINT]

The checkpoint has fake quantisers, as `models/splite_hand/train.py --qat` writes it; beside it lies its model.toml.
Losses are those against the network with its quantisers switched off.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from splite_deploy.bench.evaluation import estimate_of, keypoint_errors
from splite_deploy.bundle.report import Accuracy
from splite_deploy.errors import SpliteError
from splite_deploy.export import ExportOptions, PartialExportError, export_bundle
from splite_deploy.export.quant.trained import without_quantisers
from splite_deploy.export.source.load import load_model
from splite_deploy.metrics.labels import LabelledImage, read_labels
from splite_deploy.runtime import PoseEstimator

HAND = Path(__file__).parents[1] / "models" / "splite_hand"
sys.path.insert(0, str(HAND))
BACKENDS = ("ort", "tflite")


def torch_accuracy(checkpoint: Path, labels: list[LabelledImage]) -> dict[str, Accuracy]:
    """Accuracy of the network in torch, without and with its quantisers."""
    import torch
    from train import TorchEstimator

    loaded = load_model(checkpoint, None, None)
    estimator = TorchEstimator(loaded.network, loaded.spec, torch.device("cpu"))
    with without_quantisers(loaded.network):
        floats = keypoint_errors(labels, estimator).summary()
    return {"torch, float": floats, "torch, fake-quantised": keypoint_errors(labels, estimator).summary()}


def bundle_accuracy(bundle: Path, backend: str, labels: list[LabelledImage]) -> Accuracy:
    """Accuracy of an int8 artifact through the runtime."""
    with PoseEstimator.open(bundle, backend, "int8", color="rgb") as estimator:
        return keypoint_errors(labels, estimate_of(estimator.at_any_angle)).summary()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    parser.add_argument("--checkpoint", type=Path, default=HAND / "int8" / "splite_hand.safetensors")
    parser.add_argument("-b", "--backend", action="append", choices=BACKENDS, help="default: all of them")
    options = parser.parse_args()
    backends = tuple(options.backend or BACKENDS)
    failed = []
    try:
        labels = read_labels(options.data, split="val")
        found = torch_accuracy(options.checkpoint, labels)
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "int8.splite"
            request = ExportOptions(backends=backends, precisions=("int8",), images=options.data)
            try:
                export_bundle(options.checkpoint, bundle, options=request)
            except PartialExportError as err:
                failed = [failure.artifact for failure in err.failures]
                print(f"{err.message} {err.hint}")
            for backend in backends:
                if f"{backend} int8" not in failed:
                    found[f"{backend} int8"] = bundle_accuracy(bundle, backend, labels)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    floats = next(iter(found.values()))
    print(f"{len(labels)} photographs        error, % of box   PA-MPJPE, mm   lost, mm")
    for name, one in found.items():
        lost = one.pa_mpjpe_mm - floats.pa_mpjpe_mm
        print(f"{name:22} {one.mean_error_box_pct:16.3f} {one.pa_mpjpe_mm:14.3f} {lost:+10.3f}")


if __name__ == "__main__":
    main()
