"""Network outputs to keypoints in input pixels: the only code that does it. Pure numpy.

Shapes: N crops, K keypoints, H, W heatmap size. Cell i of a heatmap of stride s is centred at (i + .5) * s input
pixels, so that a decoded keypoint lies in the input's continuous pixel coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import TensorSpec
from splite_deploy.errors import BackendError
from splite_deploy.spec import (
    Coordinates,
    Decoder,
    HeatmapDecoder,
    ModelSpec,
    SoftArgmax,
    SoftArgmaxDepth,
    SoftArgmaxWindow,
)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Decoded:
    """Keypoints of N crops.

    Attributes:
        keypoints: (N, K, 2) float32, (x, y) in input pixels.
        scores: (N, K) float32 in [0, 1]; the rule is the decoder's.
        depth: (N, K) float32 relative to the root keypoint, in the decoder's unit, or None.
    """

    keypoints: Array
    scores: Array
    depth: Array | None

    def by_role(self) -> dict[str, Array]:
        """The arrays by role, as a graph that decodes gives them."""
        arrays = {"keypoints": self.keypoints, "scores": self.scores}
        return arrays if self.depth is None else {**arrays, "depth": self.depth}


def decoded_roles(decoder: Decoder) -> tuple[str, ...]:
    """The outputs of a graph that decodes."""
    return ("keypoints", "scores", "depth") if isinstance(decoder, SoftArgmaxDepth) else ("keypoints", "scores")


def decode(outputs: Mapping[str, Array], spec: ModelSpec) -> Decoded:
    """Decodes the outputs of a network, or takes them as they are where its graph has decoded them.

    Args:
        outputs: Arrays by role: ``heatmap`` (N, K, H, W) logits, ``depth`` (N, K, H, W), or ``coordinates``
            (N, K, 2 or 3). Of a graph that decodes: ``keypoints`` (N, K, 2), ``scores`` (N, K) and ``depth`` (N, K).
        spec: The model; its decoder says which roles are read and how.

    Raises:
        BackendError: An output has an impossible shape or holds NaN or infinity.
    """
    decoder = spec.decoder
    if "keypoints" in outputs:
        return _take(outputs, spec)
    for role in decoder.roles:
        shape = outputs[role].shape
        fits = shape[2:] in ((2,), (3,)) if role == "coordinates" else len(shape) == 4
        if not fits or shape[1] != spec.keypoint_count or shape != outputs[decoder.roles[0]].shape:
            raise BackendError(
                f"The output '{role}' has shape {shape}, which does not fit {spec.keypoint_count} keypoints.",
                hint="Check the order of the network's outputs and the keypoint_names of model.toml.",
            )
        _check_finite(role, outputs[role])
    return _decode(outputs, decoder, spec)


def _take(outputs: Mapping[str, Array], spec: ModelSpec) -> Decoded:
    """Checks what a graph has decoded."""
    crops, count = len(outputs["keypoints"]), spec.keypoint_count
    for role in decoded_roles(spec.decoder):
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


def check_shapes(tensors: Sequence[TensorSpec], spec: ModelSpec) -> None:
    """Compares the outputs of an artifact with what the decoder reads, once, before anything is run.

    Raises:
        BackendError: An output is missing, or a heatmap's size times the stride is not the input's size.
    """
    shapes = {tensor.role: tensor.shape for tensor in tensors}
    decoder = spec.decoder
    for role in decoded_roles(decoder) if "keypoints" in shapes else decoder.roles:
        if role not in shapes:
            raise BackendError(
                f"The artifact has no output '{role}', which the decoder '{decoder.type}' reads.",
                hint=f"Its outputs are: {', '.join(shapes)}. Export it again.",
            )
        if isinstance(decoder, HeatmapDecoder) and len(shapes[role]) == 4:
            covered = tuple((size or 0) * decoder.stride for size in shapes[role][2:])
            if covered != (spec.input.height, spec.input.width):
                raise BackendError(
                    f"The output '{role}' covers {covered} px at stride {decoder.stride:g}, not the input's "
                    f"{(spec.input.height, spec.input.width)}.",
                    hint="Correct decoder.stride in model.toml and export again.",
                )


def _decode(outputs: Mapping[str, Array], decoder: Decoder, spec: ModelSpec) -> Decoded:
    if isinstance(decoder, Coordinates):
        return _coordinates(outputs["coordinates"], decoder, spec)
    heatmap = outputs["heatmap"]
    if isinstance(decoder, SoftArgmaxWindow):
        scores = np.clip(heatmap.max(axis=(2, 3)), 0.0, 1.0)
        return Decoded(softargmax_window(heatmap, decoder), scores, None)
    keypoints, weights = softargmax(heatmap, decoder)
    scores = window_mass(weights, keypoints, decoder)
    depth = None
    if isinstance(decoder, SoftArgmaxDepth):
        maps = outputs["depth"].reshape(weights.shape[0], weights.shape[1], -1)
        absolute = np.einsum("nkc,nkc->nk", weights.reshape(maps.shape), maps)
        depth = absolute - absolute[:, decoder.root_keypoint, None]
    return Decoded(keypoints, scores, depth)


@lru_cache(maxsize=8)
def cell_centres(height: int, width: int, stride: float) -> Array:
    """(H * W, 2) centres (x, y) of the cells in input pixels."""
    ys, xs = np.mgrid[0:height, 0:width]
    centres: Array = ((np.stack([xs, ys], -1).reshape(-1, 2) + 0.5) * stride).astype(np.float32)
    return centres


def softmax(heatmap: Array, beta: float) -> Array:
    """Spatial softmax of ``beta * heatmap``: the same shape, summing to one over the cells of each map."""
    logits = heatmap.reshape(*heatmap.shape[:2], -1) * np.float32(beta)
    logits -= logits.max(axis=2, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=2, keepdims=True)
    weights: Array = logits.reshape(heatmap.shape)
    return weights


def softargmax(heatmap: Array, decoder: HeatmapDecoder) -> tuple[Array, Array]:
    """Expected cell centre under softmax(beta * heatmap), over the whole map (Sun et al. 2018, arXiv 1711.08229).

    Args:
        heatmap: (N, K, H, W) logits.
        decoder: Stride and beta.

    Returns:
        Keypoints (N, K, 2) in input pixels and the softmax weights (N, K, H, W).
    """
    weights = softmax(heatmap, decoder.beta)
    n, k, height, width = heatmap.shape
    keypoints = weights.reshape(n, k, -1) @ cell_centres(height, width, decoder.stride)
    return keypoints, weights


def softargmax_window(heatmap: Array, decoder: SoftArgmaxWindow) -> Array:
    """Soft-argmax restricted to a square window around the largest cell, clipped at the border of the map.

    Args:
        heatmap: (N, K, H, W), for example unit-peak Gaussians trained with a mean squared error.
        decoder: Stride, beta and window.

    Returns:
        Keypoints (N, K, 2) in input pixels.
    """
    n, k, height, width = heatmap.shape
    peak = heatmap.reshape(n, k, -1).argmax(axis=2)
    rows, columns = np.divmod(peak, width)
    inside = _window(rows, height, decoder.window)[..., :, None] & _window(columns, width, decoder.window)[..., None, :]
    masked = np.where(inside, heatmap, -np.inf).astype(np.float32)
    return softargmax(masked, decoder)[0]


def _window(centre: NDArray[np.integer[Any]], size: int, window: int) -> NDArray[np.bool_]:
    """(N, K, size): which of ``size`` cells lie within ``window // 2`` of ``centre`` (N, K)."""
    near: NDArray[np.bool_] = np.abs(np.arange(size) - centre[..., None]) <= window // 2
    return near


def window_mass(weights: Array, keypoints: Array, decoder: SoftArgmax) -> Array:
    """Softmax mass within ``score_window`` cells squared around each keypoint, (N, K) in [0, 1]."""
    height, width = weights.shape[2:]
    cells = np.floor(keypoints / decoder.stride).astype(np.int64)
    columns = _window(cells[..., 0], width, decoder.score_window).astype(np.float32)
    rows = _window(cells[..., 1], height, decoder.score_window).astype(np.float32)
    mass = (rows[..., None, :] @ (weights @ columns[..., None]))[..., 0, 0]
    return np.clip(mass, 0.0, 1.0)


def _coordinates(values: Array, decoder: Coordinates, spec: ModelSpec) -> Decoded:
    """(N, K, 2) coordinates, or (N, K, 3) with a score; without one the score is 1, since none was given."""
    size = np.array([spec.input.width, spec.input.height] if decoder.scale == "unit" else [1, 1], np.float32)
    keypoints = values[..., :2] * size
    scores = np.clip(values[..., 2], 0.0, 1.0) if values.shape[2] == 3 else np.ones(values.shape[:2], np.float32)
    return Decoded(keypoints, scores, None)
