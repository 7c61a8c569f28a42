"""Network outputs to keypoints in input pixels: the only code that does it. Pure numpy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from operator import contains

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.anchors import Anchors
from splite_deploy.decoders.argmax import Argmax
from splite_deploy.decoders.base import Decoded, Decoder, InputSize, Model, People, Sizes
from splite_deploy.decoders.boxes import Boxes
from splite_deploy.decoders.centernet import CenterNet
from splite_deploy.decoders.coordinates import Coordinates
from splite_deploy.decoders.dark import Dark
from splite_deploy.decoders.depth import Depth, DepthUnit, Unit
from splite_deploy.decoders.expectation import Expectation
from splite_deploy.decoders.heads import (
    HEADS,
    decoded_by_role,
    layouts_of,
    mean_heads,
    read_heads,
    roles_of,
    shapes_of,
    sizes_of,
)
from splite_deploy.decoders.heatmap import HeatmapDecoder, SoftHeatmapDecoder
from splite_deploy.decoders.offset import Offset
from splite_deploy.decoders.people import PeopleDecoder
from splite_deploy.decoders.simcc import SimCC
from splite_deploy.decoders.softargmax import SoftArgmax
from splite_deploy.decoders.softargmax_depth import SoftArgmaxDepth
from splite_deploy.decoders.softargmax_window import SoftArgmaxWindow
from splite_deploy.decoders.udp import Udp
from splite_deploy.decoders.volume import Volume
from splite_deploy.decoders.yolo_pose import YoloPose
from splite_deploy.errors import BackendError, SpliteError

DECODERS: Mapping[str, type[Decoder]] = {
    cls.type: cls
    for cls in (
        SoftArgmax,
        SoftArgmaxWindow,
        SoftArgmaxDepth,
        Argmax,
        Dark,
        Udp,
        Expectation,
        Offset,
        SimCC,
        Volume,
        Coordinates,
        YoloPose,
        Anchors,
        CenterNet,
        Boxes,
    )
}

_FEW = 4096
# What overflows in a decoder is refused by `_check_decoded`, with a message; np.errstate would take 4 us of each frame.
warnings.filterwarnings("ignore", "(overflow|invalid value) encountered", RuntimeWarning, r"splite_deploy\.decoders")

__all__ = [
    "DECODERS",
    "HEADS",
    "Anchors",
    "Argmax",
    "Boxes",
    "CenterNet",
    "Coordinates",
    "Dark",
    "Decoded",
    "Decoder",
    "Decoding",
    "Depth",
    "DepthUnit",
    "Expectation",
    "HeatmapDecoder",
    "InputSize",
    "Model",
    "Offset",
    "People",
    "PeopleDecoder",
    "SimCC",
    "Sizes",
    "SoftArgmax",
    "SoftArgmaxDepth",
    "SoftArgmaxWindow",
    "SoftHeatmapDecoder",
    "Udp",
    "Unit",
    "Volume",
    "YoloPose",
    "check_shapes",
    "decode",
    "decoded_by_role",
    "layouts_of",
    "mean_heads",
    "roles_of",
    "shapes_of",
    "sizes_of",
]


def decode(outputs: Mapping[str, FloatArray], model: Model) -> Decoded:
    """Decodes the outputs of a network, or takes them as they are where its graph has decoded them.

    Args:
        outputs: Arrays by role, N first: what the decoder reads (`Decoder.shapes`), or what a graph that decodes gives
            (`Decoder.decoded_shapes`).
        model: Its decoder says which roles are read and how.

    Raises:
        BackendError: An output is missing, has another shape, or holds NaN or infinity; or what it decodes to does.
    """
    return Decoding(model)(outputs)


class Decoding:
    """`decode` for one model again and again: shapes that are those of the last time are not checked anew.

    Args:
        model: See `decode`.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._roles: tuple[str, ...] = ()
        self._decodes = False
        self._heads = model.heads

    def __call__(self, outputs: Mapping[str, FloatArray]) -> Decoded:
        """See `decode`."""
        return self._read(outputs, best=False)

    def best(self, outputs: Mapping[str, FloatArray]) -> Decoded:
        """The same with one person for each crop, the best one, where a crop may show several."""
        return self._read(outputs, best=True)

    def _read(self, outputs: Mapping[str, FloatArray], *, best: bool) -> Decoded:
        decoder = self._model.decoder
        shapes = {role: array.shape for role, array in outputs.items()}
        if shapes != self._shapes:
            check_shapes(shapes, self._model)
            self._shapes, self._decodes = shapes, decoder.decodes(outputs)
            self._roles = roles_of(self._model, decoded=self._decodes)
        for role in self._roles:
            _check_finite(f"network's output '{role}' is", outputs[role])
        if self._decodes:
            decoded = decoder.read(outputs, self._model.input, best=best)
            if decoded.people is None:  # these are the outputs themselves
                return self._with_heads(decoded, outputs) if self._heads else decoded
        else:
            decoded = (decoder.best if best else decoder.decode)(outputs, self._model.input)
        _check_decoded(decoded)
        return self._with_heads(decoded, outputs) if self._heads else decoded

    def _with_heads(self, decoded: Decoded, outputs: Mapping[str, FloatArray]) -> Decoded:
        return replace(decoded, heads=read_heads(outputs, self._heads))


def check_shapes(
    shapes: Mapping[str, tuple[int | None, ...]],
    model: Model,
    *,
    crops: int | None = None,
    error: type[SpliteError] = BackendError,
) -> None:
    """Compares the outputs of a network, or of a graph that decodes, with what the decoder reads and gives.

    Args:
        shapes: By role, the batch first; None where a size is open, which only the batch may be.
        model: The model.
        crops: How many went in, where that is known.
        error: What to raise.

    Raises:
        error: An output is missing or has another shape, or the batch of two outputs differs.
    """
    decoder, count = model.decoder, model.keypoint_count
    decodes = decoder.decodes(shapes)
    wanted = shapes_of(model, decoded=decodes)
    if missing := [role for role in wanted if role not in shapes]:
        whose = "the model has" if missing[0] in HEADS else f"the decoder '{decoder.type}' reads"
        raise error(
            f"There is no output '{missing[0]}', which {whose}.",
            hint=f"The outputs are: {', '.join(shapes)}. Export again, with the outputs named by these roles.",
        )
    batch = shapes[decoder.decoded_roles[0] if decodes else decoder.roles[0]][:1] if crops is None else (crops,)
    for role, sizes in wanted.items():
        shape = shapes[role]
        choices = [batch, *_choices(sizes, shape[1:])]
        if len(shape) != len(choices) or not all(map(contains, choices, shape)):
            said = ", ".join(["N" if batch[0] is None else str(batch[0]), *map(_said, sizes)])
            hint = (
                "Check the order of the network's outputs and of their axes, which [outputs] in model.toml can tell, "
            )
            raise error(
                f"The output '{role}' has shape {shape}; the spec says ({said}), for {count} keypoints and an input of "
                f"{model.input.height} x {model.input.width}.",
                hint="Export the bundle again with --fuse-decode."
                if decodes
                else hint + "and keypoint_names, the input's size and the decoder's stride there.",
            )


def _choices(sizes: Sizes, shape: tuple[int | None, ...]) -> list[tuple[int | None, ...]]:
    """What each axis may measure; where any size will do, that which it has."""
    has: dict[int, int | None] = {axis: size for axis, size in enumerate(shape) if size is not None}
    each = ((has.get(axis),) if size is None else size for axis, size in enumerate(sizes))
    return [size if isinstance(size, tuple) else (size,) for size in each]


def _said(size: int | tuple[int, ...] | None) -> str:
    """What an axis may measure, for messages."""
    return "any number" if size is None else str(size) if isinstance(size, int) else " or ".join(map(str, size))


def _check_decoded(decoded: Decoded) -> None:
    """Refuses what finite outputs overflowed to: near the end of float32 sums and products of them do."""
    _check_finite("decoded keypoints are", decoded.keypoints)
    _check_finite("decoded scores are", decoded.scores)
    if decoded.depth is not None:
        _check_finite("decoded depth is", decoded.depth)
    if decoded.people is not None:
        _check_finite("decoded boxes of people are", decoded.people.boxes)
        _check_finite("decoded scores of people are", decoded.people.scores)


def _check_finite(what: str, values: FloatArray) -> None:
    # One pass without a copy: a sum is finite only if every value is, unless it overflows, and then all are looked at.
    # That of squares is sooner known, but begins threads for larger arrays.
    total = np.vdot(values, values) if values.size <= _FEW else np.add.reduce(values, axis=None)
    if not math.isfinite(total) and not np.isfinite(values).all():
        raise BackendError(
            f"The {what} not finite (NaN or infinity).",
            hint="In fp16 a layer may overflow: run the network in fp32, of a bundle with -p fp32. Where that is not "
            "finite either, its weights are wrong: export it from another checkpoint.",
        )
