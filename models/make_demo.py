"""Makes what the package brings along for `splite-deploy demo`: two bundles of checkpoints in this folder, a picture.

    python models/make_demo.py
    python models/make_demo.py --only palm.splite

All of it is rendered: golden crops and golden images, the picture, and, where a model has no ranges of its own, what
int8 is calibrated on. The files are small, since every installation downloads them: few golden crops, ONNX Runtime
alone. int8 has weights of 7 bits, since the sums of others saturate on the x86 CPUs of many laptops.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
from rich.console import Console

from splite_deploy.bundle.packaged import HAND, PACKAGED, PALM, PICTURE
from splite_deploy.errors import SpliteError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.files import write_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "splite_palm"))
from palm_renders import EXAMPLE_QUALITY, example

CHECKPOINTS = {
    HAND: HERE / "splite_hand2" / "splite_hand2.safetensors",
    PALM: HERE / "splite_palm" / "splite_palm.safetensors",
}
"""What the packaged bundles are made of."""
GOLDEN_CROPS = 3
MAX_SHIFT_PX = {HAND: 2.0, PALM: 1.92}
"""How far int8 may move keypoints; those of the detector, which say where to look, by a percent of the picture."""


def make_bundle(name: str, checkpoint: Path, folder: Path, console: Console) -> None:
    """Exports a checkpoint to a bundle of this name in a folder, in the place of the one before."""
    options = ExportOptions(
        precisions=("fp32", "int8"),
        golden_crops=GOLDEN_CROPS,
        reduce_range=True,
        max_shift_px=MAX_SHIFT_PX[name],
        dynamic_batch=name == HAND,  # all hands of a picture are one inference
        all_or_nothing=True,
    )
    with tempfile.TemporaryDirectory() as temporary, console.status(name) as status:
        made = export_bundle(
            checkpoint, Path(temporary) / name, options=options, progress=lambda step: status.update(f"{name}: {step}")
        )
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(made.path, folder / name)


def make_picture(folder: Path) -> None:
    """Renders the picture."""
    picture = cv2.cvtColor(example().image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, EXAMPLE_QUALITY])
    write_file(folder / PICTURE, data.tobytes())


def main() -> None:
    """Makes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PACKAGED, help="folder to write to (default: that of the package)")
    parser.add_argument("--only", choices=(HAND, PALM, PICTURE), help="make this alone; all three by default")
    parser.add_argument("--hand", type=Path, default=CHECKPOINTS[HAND], help="checkpoint beside its model.toml")
    parser.add_argument("--palm", type=Path, default=CHECKPOINTS[PALM], help="checkpoint beside its model.toml")
    options = parser.parse_args()
    console = Console(stderr=True)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        if options.only in (None, PICTURE):
            make_picture(options.out)
        for name, checkpoint in ((PALM, options.palm), (HAND, options.hand)):
            if options.only in (None, name):
                make_bundle(name, checkpoint, options.out, console)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    for path in sorted(options.out.rglob("*")):
        if path.is_file():
            print(f"{path.relative_to(options.out)}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
