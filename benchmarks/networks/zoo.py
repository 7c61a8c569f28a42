"""Twelve pose networks in the shape of the literature's, with seeded weights and normalised statistics.

    python benchmarks/networks/zoo.py FOLDER [NAME ...]

writes each as FOLDER/NAME: ``net.pt`` and ``model.toml``, which names its architecture here. What is exported of them
says nothing about accuracy: only whether a conversion computes what the network does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from splite_deploy.export.crops import crops_from_renderer
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import load_model_toml

sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "common"))
from seeded_weights import normalise

FOLDER = Path(__file__).parent
HAND = FOLDER.parents[1] / "models" / "splite_hand" / "arch.py"
SAMPLES = 24  # pictures that statistics are taken from


@dataclass(frozen=True)
class Topology:
    """One network.

    Attributes:
        name: As the tables write it.
        arch: File and class.
        keypoints: Their number.
        height: Of the input, pixels.
        width: Of the input, pixels.
        decoder: The lines of ``[decoder]``.
        heads: Layers whose outputs are scaled to this standard deviation, so that they have peaks as trained ones do.
        arguments: Of the class, besides.
        outputs: Further tables: ``[outputs.ROLE]`` where the decoder's outputs lie in another way, ``[limits]``.
    """

    name: str
    arch: str
    keypoints: int = 17
    height: int = 128
    width: int = 96
    decoder: str = 'type = "softargmax"\nstride = 4\nbeta = 1.0\nalignment = "centre"\nscore_window = 5'
    heads: Mapping[str, float] = field(default_factory=lambda: {"head": 1.5})
    arguments: Mapping[str, Any] = field(default_factory=dict)
    outputs: str = ""

    @property
    def keywords(self) -> dict[str, Any]:
        """All arguments of the class; networks with attention are built for one size."""
        size = {"height": self.height, "width": self.width} if self.arch.startswith("tokens.py") else {}
        return {"keypoints": self.keypoints, **size, **self.arguments}


_PIXELS, _UNIT = 'type = "coordinates"\nscale = "pixel"', 'type = "coordinates"\nscale = "unit"'
_LOOSE = "[limits]\nshift_p95_px = 0.1\nshift_max_px = 1.0"  # 150 layers of random weights amplify rounding
_HAND = """type = "softargmax-depth"
stride = 4.0
beta = 1.0
alignment = "corner"
score_window = 5
root_keypoint = 9
unit = "palm"
scale_bones = [[0, 5], [0, 9], [0, 13], [0, 17]]"""
_VOLUME = """type = "volume"
stride = 8.0
beta = 1.0
alignment = "centre"
score_window = 5
bins = 64
depth_extent = 4.0
root_keypoint = 9
unit = "palm"
scale_bones = [[0, 5], [0, 9], [0, 13], [0, 17]]"""
_MAPS = {"heatmap": 1.5, "depth": 0.3}
_BINS = {"head_x": 1.5, "head_y": 1.5}
_FULL_SIZE = 'type = "softargmax"\nstride = 1\nbeta = 1.0\nalignment = "centre"\nscore_window = 5'

TOPOLOGIES: Mapping[str, Topology] = {
    "simplebaseline": Topology("SimpleBaseline-R18", "heatmaps.py:SimpleBaseline"),
    "mobilenetv3": Topology("MobileNetV3 + deconvolution", "heatmaps.py:MobileNetV3"),
    "shufflenetv2": Topology("ShuffleNetV2", "heatmaps.py:ShuffleNetV2"),
    "litehrnet": Topology("Lite-HRNet", "heatmaps.py:LiteHRNet"),
    "rtmpose": Topology("RTMPose, decoding inside", "tokens.py:RTMPose", decoder=_PIXELS, heads=_BINS),
    "vitpose": Topology("ViTPose-tiny", "tokens.py:ViTPose"),
    "integral3d": Topology("Integral 3D, coordinates out", "landmarks.py:Integral3D", 21, 128, 128, _UNIT),
    "hourglass": Topology("Hourglass", "heatmaps.py:Hourglass", 16, 128, 128),
    "fastpose": Topology("FastPose", "heatmaps.py:FastPose"),
    "unet": Topology("U-Net", "heatmaps.py:UNet", 16, 128, 128, _FULL_SIZE),
    "blaze": Topology("BlazeBlock landmarks", "landmarks.py:BlazeLandmarks", 21, 128, 128, _PIXELS, {"points": 0.15}),
    "splite-hand": Topology(
        "SPLite Hand, seeded", f"{HAND}:build", 21, 128, 128, _HAND, {"heatmap": 1.5, "depth": 0.3}
    ),
}
VARIANTS: Mapping[str, Topology] = {
    "rtmpose-argmax": Topology(
        "RTMPose, argmax inside", "tokens.py:RTMPose", decoder=_PIXELS, heads=_BINS, arguments={"decode": "argmax"}
    ),
    "integral3d-volume": Topology(
        "Integral 3D, volume out",
        "landmarks.py:Integral3D",
        21,
        128,
        128,
        _VOLUME,
        {"head": 1.8},
        {"decode": False},
        '[outputs.volume]\nlayout = "NKDHW"',
    ),
    "vitpose-plain": Topology("ViTPose, attention written out", "tokens.py:ViTPose", arguments={"fused": False}),
}
"""Other ways to write some of them, which convert differently."""
LARGE: Mapping[str, Topology] = {
    "resnet152": Topology("Simple Baseline, ResNet-152", "heatmaps.py:DeepBaseline", 17, 256, 192, outputs=_LOOSE),
    "vitpose-base": Topology(
        "ViTPose-B",
        "tokens.py:ViTPose",
        17,
        256,
        192,
        arguments={"size": 768, "depth": 12, "heads": 12},
        outputs=_LOOSE,
    ),
}
"""Networks of the size that the literature publishes, hundreds of megabytes, where memory matters."""


def write(name: str, folder: Path) -> Path:
    """Writes ``net.pt`` and ``model.toml`` of one network.

    Args:
        name: A key of `TOPOLOGIES`, `VARIANTS` or `LARGE`.
        folder: Is made.

    Returns:
        The checkpoint.
    """
    topology = {**TOPOLOGIES, **VARIANTS, **LARGE}[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(_toml(name, topology), encoding="utf-8")
    spec, host = load_model_toml(folder / "model.toml")
    crops = crops_from_renderer(host, SAMPLES, spec.input)
    tensors = torch.from_numpy(Preprocessor(spec.input, spec.input.color).normalise(crops.pixels))
    file, _, symbol = topology.arch.rpartition(":")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_symbol(f"{FOLDER / file}:{symbol}", folder)(**topology.keywords)
        normalise(network, tensors, topology.heads)
    torch.save({"state_dict": network.state_dict()}, folder / "net.pt")
    return folder / "net.pt"


def _toml(name: str, topology: Topology) -> str:
    file, _, symbol = topology.arch.rpartition(":")
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in topology.keywords.items())
    return f"""name = "{name}"
arch = {json.dumps(f"{FOLDER / file}:{symbol}")}
samples = {json.dumps(f"{FOLDER}/samples.py:samples")}
palm_mm = 88.0
[arch_args]
{lines}
[input]
height = {topology.height}
width = {topology.width}
color = "rgb"
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
box_padding = 1.25
pad_value = 0
[decoder]
{topology.decoder}
{topology.outputs}
[skeleton]
keypoint_names = {json.dumps([f"point{index}" for index in range(topology.keypoints)])}
edges = [[0, 1]]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join({**TOPOLOGIES, **VARIANTS, **LARGE})}")
    options = parser.parse_args()
    for name in options.names or TOPOLOGIES:
        if name not in {**TOPOLOGIES, **VARIANTS, **LARGE}:
            sys.exit(f"error: no network is called {name}.")
        print(write(name, options.folder / name))


if __name__ == "__main__":
    main()
