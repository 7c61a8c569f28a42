"""Network outputs to keypoints in input pixels: the only code that does it. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from splite_deploy.decoders.base import Array, Decoded, Decoder, InputSize, Model
from splite_deploy.decoders.coordinates import Coordinates
from splite_deploy.decoders.heatmap import HeatmapDecoder
from splite_deploy.decoders.softargmax import SoftArgmax
from splite_deploy.decoders.softargmax_depth import SoftArgmaxDepth, Unit
from splite_deploy.decoders.softargmax_window import SoftArgmaxWindow
from splite_deploy.errors import BackendError

DECODERS: Mapping[str, type[Decoder]] = {
    cls.type: cls for cls in (SoftArgmax, SoftArgmaxWindow, SoftArgmaxDepth, Coordinates)
}

__all__ = [
    "DECODERS",
    "Coordinates",
    "Decoded",
    "Decoder",
    "HeatmapDecoder",
    "InputSize",
    "Model",
    "SoftArgmax",
    "SoftArgmaxDepth",
    "SoftArgmaxWindow",
    "Unit",
    "check_shapes",
    "decode",
]


def decode(outputs: Mapping[str, Array], model: Model) -> Decoded:
    """Decodes the outputs of a network, or takes them as they are where its graph has decoded them.

    Args:
        outputs: Arrays by role: ``heatmap`` (N, K, H, W) logits, ``depth`` (N, K, H, W), or ``coordinates``
            (N, K, 2 or 3). Of a graph that decodes: ``keypoints`` (N, K, 2), ``scores`` (N, K) and ``depth`` (N, K).
        model: Its decoder says which roles are read and how.

    Raises:
        BackendError: An output has an impossible shape or holds NaN or infinity.
    """
    decoder = model.decoder
    if "keypoints" in outputs:
        return _take(outputs, model)
    for role in decoder.roles:
        shape = outputs[role].shape
        fits = shape[2:] in ((2,), (3,)) if role == "coordinates" else len(shape) == 4
        if not fits or shape[1] != model.keypoint_count or shape != outputs[decoder.roles[0]].shape:
            raise BackendError(
                f"The output '{role}' has shape {shape}, which does not fit {model.keypoint_count} keypoints.",
                hint="Check the order of the network's outputs and the keypoint_names of model.toml.",
            )
        _check_finite(role, outputs[role])
    return decoder.decode(outputs, model.input)


def _take(outputs: Mapping[str, Array], model: Model) -> Decoded:
    """Checks what a graph has decoded."""
    crops, count = len(outputs["keypoints"]), model.keypoint_count
    for role in model.decoder.decoded_roles:
        shape, wanted = outputs[role].shape, (crops, count, 2) if role == "keypoints" else (crops, count)
        if shape != wanted:
            raise BackendError(
                f"The output '{role}' has shape {shape}, not {wanted}.",
                hint="Export the bundle again with --fuse-decode.",
            )
        _check_finite(role, outputs[role])
    return Decoded(outputs["keypoints"], outputs["scores"], outputs.get("depth"))


def _check_finite(role: str, values: Array) -> None:
    # One pass without a copy: a sum is finite only if every value is, unless it overflows, and then all are looked at
    if not math.isfinite(np.add.reduce(values, axis=None)) and not np.isfinite(values).all():
        raise BackendError(
            f"The network's output '{role}' is not finite (NaN or infinity).",
            hint="Run 'splite-deploy verify' on this bundle; in fp16 a layer may overflow.",
        )


def check_shapes(shapes: Mapping[str, tuple[int | None, ...]], model: Model) -> None:
    """Compares the outputs of an artifact with what the decoder reads, once, before anything is run.

    Args:
        shapes: By role; None where a size is open.
        model: The model.

    Raises:
        BackendError: An output is missing, or a heatmap's size times the stride is not the input's size.
    """
    decoder = model.decoder
    for role in decoder.decoded_roles if "keypoints" in shapes else decoder.roles:
        if role not in shapes:
            raise BackendError(
                f"The artifact has no output '{role}', which the decoder '{decoder.type}' reads.",
                hint=f"Its outputs are: {', '.join(shapes)}. Export it again.",
            )
        if isinstance(decoder, HeatmapDecoder) and len(shapes[role]) == 4:
            covered = tuple((size or 0) * decoder.stride for size in shapes[role][2:])
            if covered != (model.input.height, model.input.width):
                raise BackendError(
                    f"The output '{role}' covers {covered} px at stride {decoder.stride:g}, not the input's "
                    f"{(model.input.height, model.input.width)}.",
                    hint="Correct decoder.stride in model.toml and export again.",
                )
