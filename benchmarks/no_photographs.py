"""int8 of a checkpoint whose maker measured its ranges, exported by somebody without photographs, then judged on some.

    python benchmarks/no_photographs.py --data HAND_DIGITS [-b ort] [-b tflite]

exports SPLite Hand without --calibration, --images and --max-shift-*: all comes from its folder. It prints
for each int8 file whether the first try succeeded, how far its keypoints lie from those of fp32 on the photographs of
the split 'val', and what they cost there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from splite_deploy.bench.evaluation import estimate_of, keypoint_errors
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.failures import PartialExportError
from splite_deploy.metrics.labels import LabelledImage, read_labels
from splite_deploy.metrics.parity import Outputs, compare
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.crops import cut
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import open_session
from splite_deploy.runtime.verify import run_each
from splite_deploy.spec import Precision

HAND = Path(__file__).parents[1] / "models" / "splite_hand"
P95_PCT, MAX_PCT = 0.4, 2.0
"""How far int8 may move keypoints on photographs, % of the input's longer side."""
ERROR_PCT, PA_MM = 0.03, 0.05
"""What it may cost: mean error in % of the box, PA-MPJPE in mm."""
LARGEST_MB = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=HAND / "splite_hand.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    parser.add_argument("-b", dest="backends", action="append", choices=["ort", "tflite"], help="default: both")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for line in report(options.checkpoint, options.data, options.backends or ["ort", "tflite"], Path(folder)):
                print(line)
    except SpliteError as err:
        sys.exit(f"error: {err}")


def report(checkpoint: Path, data: Path, backends: list[str], folder: Path) -> list[str]:
    """What is printed."""
    wanted = ExportOptions(backends=tuple(backends), precisions=("fp32", "int8"))
    try:
        bundle, failures = export_bundle(checkpoint, folder / "hand.splite", options=wanted), []
    except PartialExportError as err:
        bundle, failures = err.bundle, [f"{one.artifact} failed: {one.message}" for one in err.failures]
    calibration = bundle.report().calibration
    lines = [f"calibration: {'none' if calibration is None else calibration.origin}", *failures]
    labels = read_labels(data, split="val")
    for artifact in bundle.manifest.artifacts:
        if artifact.precision == "int8":
            lines += judged(bundle, artifact.backend, labels, (bundle.path / artifact.file).stat().st_size)
    return lines


def judged(bundle: Bundle, backend: str, labels: list[LabelledImage], size_bytes: int) -> list[str]:
    """An int8 file beside fp32 of the same backend on photographs."""
    spec = bundle.model
    before, after = (outputs(bundle, backend, precision, labels) for precision in ("fp32", "int8"))
    moved = compare("int8", before, after, spec, "").deviation_px
    p95, largest = (100 * px / max(spec.input.height, spec.input.width) for px in (moved.p95, moved.max))
    (error_0, pa_0), (error_1, pa_1) = (accuracy(bundle, backend, p, labels) for p in ("fp32", "int8"))
    rows = [
        ("deviation p95, %", p95, P95_PCT),
        ("deviation max, %", largest, MAX_PCT),
        ("error lost, % of box", error_1 - error_0, ERROR_PCT),
        ("PA-MPJPE lost, mm", pa_1 - pa_0, PA_MM),
        ("size, MB", size_bytes / 1e6, LARGEST_MB),
    ]
    return [
        f"{backend} int8 at the first try; on {len(labels)} photographs:",
        *(f"  {name:22}{value:8.4f}  {'<=' if value <= most else '>'} {most:g}" for name, value, most in rows),
    ]


def outputs(bundle: Bundle, backend: str, precision: Precision, labels: list[LabelledImage]) -> Outputs:
    """By role, N first, on the crops of the labels' boxes."""
    crops = cut(((read_image(one.path), one.box) for one in labels), "bgr", bundle.model.input)
    with open_session(bundle, backend, precision, threads=1) as session:
        preprocessor = Preprocessor(bundle.model.input, bundle.model.input.color)
        return run_each(session, preprocessor.feed(crops, session.inputs[0]), bundle.model)


def accuracy(bundle: Bundle, backend: str, precision: Precision, labels: list[LabelledImage]) -> tuple[float, float]:
    """Mean error in % of the box, and PA-MPJPE in mm, which is NaN without labels in 3D."""
    with PoseEstimator.open(bundle.path, backend, precision, color="rgb") as estimator:
        found = keypoint_errors(labels, estimate_of(estimator)).summary()
    return found.mean_error_box_pct, np.nan if found.pa_mpjpe_mm is None else found.pa_mpjpe_mm


if __name__ == "__main__":
    main()
