"""Networks that take and give what no decoder reads as it is, each with the view that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

KEYPOINTS = 5


class Trunk(nn.Module):
    """Heatmaps (N, channels, 16, 12) of an image of 64 x 48, or ``columns`` numbers for each keypoint."""

    def __init__(self, channels: int = KEYPOINTS, columns: int = 0, image: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(image, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, channels, 3, stride=2, padding=1)
        self.head = nn.Linear(channels * 4 * 3, KEYPOINTS * columns) if columns else None
        self.columns = columns

    def forward(self, image: Tensor) -> Tensor:
        """Canonical outputs."""
        maps: Tensor = self.second(self.first(image).relu())
        if self.head is None:
            return maps * 4
        pooled = nn.functional.avg_pool2d(maps, 4).flatten(1)
        points: Tensor = self.head(pooled).reshape(-1, KEYPOINTS, self.columns)
        return torch.cat([points[..., :2].sigmoid(), points[..., 2:] * 4], dim=2)


@dataclass(frozen=True)
class Kind:
    """A network and how model.toml says what it is.

    Attributes:
        trunk: Arguments of `Trunk`.
        takes: From what the network takes to what the trunk takes.
        gives: From what the trunk gives to what the network gives.
        view: Tables of model.toml.
        reads: From what the trunk gives to what the decoder reads.
        dtype: Of the input.
        layout: Of the input.
        color: Of the input.
        raw: Whether pixels go in as they are.
        decoder: Its type.
    """

    trunk: Mapping[str, int]
    gives: Callable[[Tensor], Any]
    view: str
    takes: Callable[[Tensor], Tensor] = lambda image: image
    reads: Callable[[Tensor], Tensor] = lambda values: values
    dtype: torch.dtype = torch.float32
    layout: str = "NCHW"
    color: str = "rgb"
    raw: bool = False
    decoder: str = "softargmax"


def _first(image: Tensor) -> Tensor:
    return image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


POINTS = {"columns": 3}
KINDS: dict[str, Kind] = {
    "a dictionary": Kind(
        {}, lambda y: {"other": y * 2, "preds": y, "heatmap": y}, '[outputs.heatmap]\nsource = "preds"'
    ),
    "the last of the stages": Kind({}, lambda y: [y * 3, y * 2, y], "[outputs.heatmap]\nsource = -1"),
    "an object with attributes": Kind(
        {}, lambda y: SimpleNamespace(loss=y.sum(), stages=(y * 2, y)), '[outputs.heatmap]\nsource = ["stages", 1]'
    ),
    "pixels, channels last": Kind(
        {},
        lambda y: y,
        '[inputs.image]\nlayout = "NHWC"\ndtype = "uint8"',
        _first,
        dtype=torch.uint8,
        layout="NHWC",
        raw=True,
    ),
    "maps, channels last": Kind({}, lambda y: y.permute(0, 2, 3, 1), '[outputs.heatmap]\nlayout = "NHWC"'),
    "flat triples with a visibility": Kind(
        POINTS,
        lambda y: y.flatten(1),
        '[outputs.coordinates]\nlayout = "N(KC)"\ncolumns = ["x", "y", "visibility"]',
        reads=lambda y: y[..., :2],
        decoder="coordinates",
    ),
    "y, x and a score behind an axis of one": Kind(
        POINTS,
        lambda y: torch.cat([y[..., [1, 0]], y[..., 2:].sigmoid()], 2)[:, None],
        '[inputs.image]\nlayout = "NHWC"\ndtype = "int32"\n'
        '[outputs.coordinates]\nlayout = "N1KC"\ncolumns = ["y", "x", "score"]',
        _first,
        reads=lambda y: torch.cat([y[..., :2], y[..., 2:].sigmoid()], 2),
        dtype=torch.int32,
        layout="NHWC",
        raw=True,
        decoder="coordinates",
    ),
    "a score as a logit": Kind(
        POINTS,
        lambda y: y,
        '[outputs.coordinates]\ncolumns = ["x", "y", "score"]\nactivation = "sigmoid"',
        reads=lambda y: torch.cat([y[..., :2], y[..., 2:].sigmoid()], 2),
        decoder="coordinates",
    ),
    "maps as logits": Kind({}, lambda y: y, '[outputs.heatmap]\nactivation = "sigmoid"', reads=torch.sigmoid),
    "the first channels of three times as many": Kind(
        {"channels": 3 * KEYPOINTS},
        lambda y: y,
        f"[outputs.heatmap]\nslice = {{ C = [0, {KEYPOINTS}] }}",
        reads=lambda y: y[:, :KEYPOINTS],
    ),
    "transposed pairs": Kind(
        {"columns": 2}, lambda y: y.transpose(1, 2), '[outputs.coordinates]\nlayout = "NCK"', decoder="coordinates"
    ),
    "a grey image without channels": Kind(
        {"image": 1},
        lambda y: y,
        '[inputs.image]\nlayout = "NHW"',
        lambda image: image[:, None],
        layout="NHW",
        color="gray",
    ),
}
DECODERS = {
    "softargmax": 'type = "softargmax"\nstride = 4.0\nbeta = 1.0\nalignment = "centre"\nscore_window = 5',
    "coordinates": 'type = "coordinates"\nscale = "unit"',
}


class Network(nn.Module):
    """A kind of network, with weights that are the same each time."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.kind = KINDS[name]
        torch.manual_seed(len(name))
        self.trunk = Trunk(**self.kind.trunk)

    def forward(self, image: Tensor) -> Any:
        """What the network gives."""
        return self.kind.gives(self.trunk(self.kind.takes(image)))

    def example(self) -> Tensor:
        """A blank image as it takes it."""
        sizes = {"NCHW": (1, 3, 64, 48), "NHWC": (1, 64, 48, 3), "NHW": (1, 64, 48)}
        return torch.zeros(sizes[self.kind.layout], dtype=self.kind.dtype)

    def canonical(self, image: Tensor) -> Tensor:
        """What the decoder reads for a normalised image (N, C, 64, 48)."""
        given = image / 127.5 - 1 if self.kind.raw else image
        return self.kind.reads(self.trunk(given))


def model_toml(name: str, first: str = "") -> str:
    """The model.toml of a kind."""
    kind = KINDS[name]
    channels = 1 if kind.color == "gray" else 3
    mean, std = (0, 1) if kind.raw else (127.5, 127.5)
    names = [f"k{index}" for index in range(KEYPOINTS)]
    return f"""name = "net"
{first}
[input]
height = 64
width = 48
color = "{kind.color}"
mean = {[mean] * channels}
std = {[std] * channels}
box_padding = 1.0
pad_value = 0
{kind.view}
[decoder]
{DECODERS[kind.decoder]}
[skeleton]
keypoint_names = {names}
edges = []
"""
