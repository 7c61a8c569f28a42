"""One network by several converters: whichever form comes in, the keypoints have to be the same.

    python benchmarks/one_network.py [--tf2onnx PYTHON] [--keep FOLDER]

It writes the network of `networks/converted.py` as weights, by torch's exporters (the old one in opsets 9, 11, 13 and
17, and the new one), and, where a Python with tensorflow and tf2onnx is named, from the same weights in Keras by
tf2onnx (channels last in opsets 9 and 18, channels first in 15). Every form is exported, and the keypoints of its
bundle are compared with those of the bundle of the weights, on pictures. It fails where one moves more than a
hundredth of a pixel. The files of tests/vectors are what `--keep` left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent / "networks"
LIMIT_PX = 0.01
NAME = "converted"
CROPS = 16
LAST = '[inputs.image]\nlayout = "NHWC"\n[outputs.heatmap]\nlayout = "NHWC"\n'
MODEL = f"""name = "{NAME}"
arch = "{HERE / "converted.py"}:build"
samples = "{HERE / "samples.py"}:samples"
[input]
height = 64
width = 64
color = "rgb"
mean = [127.5, 127.5, 127.5]
std = [64, 64, 64]
box_padding = 1.25
pad_value = 127
[decoder]
type = "softargmax"
stride = 4
alignment = "corner"
beta = 1
score_window = 5
[skeleton]
keypoint_names = ["a", "b", "c", "d"]
edges = [[0, 1]]
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tf2onnx", type=Path, metavar="PYTHON", help="A Python that has tensorflow and tf2onnx.")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="Keep the files there.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write_torch(folder)
        if options.tf2onnx is not None:
            write_keras(folder, options.tf2onnx)
        worst = 0.0
        print("| form | opset | keypoints move at most, px |\n|---|---|---|")
        for form, opset, moved in compare(folder):
            worst = max(worst, moved)
            print(f"| {form} | {opset} | {moved:.5f} |", flush=True)
    print(f"limit {LIMIT_PX:g} px: {'kept' if worst <= LIMIT_PX else 'broken'}")
    return int(worst > LIMIT_PX)


def write_torch(folder: Path) -> None:
    """The weights, and the graphs of torch's exporters."""
    import torch
    from safetensors.torch import save_file

    sys.path.insert(0, str(HERE))
    from converted import build  # type: ignore[import-not-found]

    network, image = build(), torch.zeros(1, 3, 64, 64)
    save_file(network.state_dict(), folder / f"{NAME}.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old exporter is deprecated, and most graphs out there come from it
        for opset in (9, 11, 13, 17):
            file = str(folder / f"{NAME}.torch{opset}.onnx")
            torch.onnx.export(network, (image,), file, dynamo=False, opset_version=opset, input_names=["x"])
        file = str(folder / f"{NAME}.dynamo18.onnx")
        torch.onnx.export(network, (image,), file, dynamo=True, opset_version=18, external_data=False, verbose=False)


def write_keras(folder: Path, python: Path) -> None:
    """The graphs of tf2onnx, from the same weights."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "weights.npz"
        np.savez(weights, **load_file(folder / f"{NAME}.safetensors"))
        subprocess.run([python, HERE / "converted_keras.py", weights, folder / NAME], check=True, capture_output=True)


def compare(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Of every form its name, the opset of its bundle, and how far keypoints move from those of the weights."""
    expected, opset = keypoints(folder / f"{NAME}.safetensors")
    yield "weights", opset, 0.0
    for file in sorted(folder.glob(f"{NAME}.*.onnx")):
        found, opset = keypoints(file)
        yield file.name.split(".")[1], opset, float(np.linalg.norm(found - expected, axis=-1).max())


def keypoints(source: Path) -> tuple[NDArray[np.float32], int]:
    """(crops, keypoints, 2) in pixels of the pictures, and the opset of the bundle."""
    from splite_deploy.export import ExportOptions, export_bundle
    from splite_deploy.runtime import PoseEstimator

    sys.path.insert(0, str(HERE))
    from samples import samples  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.toml"
        channels_last = ".tf" in source.name and "nchw" not in source.name
        model.write_text(MODEL + LAST * channels_last, encoding="utf-8")
        bundle = export_bundle(source, Path(scratch) / "net.splite", model=model, options=ExportOptions(crops=CROPS))
        with PoseEstimator.open(bundle.path, color="rgb") as estimator:
            found = [estimator(image, box).keypoints for image, box in samples(CROPS)]
        return np.stack(found), bundle.report().opset


if __name__ == "__main__":
    sys.exit(main())
