"""Where heatmap cells lie: targets drawn by the published formulas, read back without a bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.decoders import HeatmapDecoder, SoftArgmax, SoftArgmaxDepth, SoftArgmaxWindow, decode
from splite_deploy.decoders.heatmap import Alignment, cells_of
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

Points = NDArray[np.float64]
Maps = NDArray[np.float32]
WIDTH, HEIGHT, STRIDE, SIGMA = 192, 256, 4, 2.0
COLUMNS, ROWS = WIDTH // STRIDE, HEIGHT // STRIDE
CROPS, JOINTS = 16, 32


def model(decoder: HeatmapDecoder) -> ModelSpec:
    grey = (127.5, 127.5, 127.5)
    names = tuple(f"k{i}" for i in range(JOINTS))
    return ModelSpec("test", InputSpec(HEIGHT, WIDTH, "rgb", grey, grey, 1.25, 127), decoder, SkeletonSpec(names, ()))


def joints() -> Points:
    """(CROPS, JOINTS, 2) pixel indices in the manner of labels, six cells and more from the border.

    Their places within a cell are spread evenly, so that a codec which rounds them is off by nothing on average.
    """
    rng = np.random.default_rng(7)
    count = CROPS * JOINTS
    within = [rng.permutation((np.arange(count) + 0.5) / count) for _ in "xy"]
    cells = [rng.integers(6, size - 7, count) for size in (COLUMNS, ROWS)]
    return np.stack([STRIDE * (a + b) for a, b in zip(cells, within, strict=True)], -1).reshape(CROPS, JOINTS, 2)


def gaussians(mu: Points) -> Maps:
    """(..., ROWS, COLUMNS) unit-peak Gaussians around mu (..., 2), in indices of cells, as all codecs draw them."""
    x, y = np.arange(COLUMNS), np.arange(ROWS)[:, None]
    squared = (x - mu[..., 0, None, None]) ** 2 + (y - mu[..., 1, None, None]) ** 2
    return np.exp(-squared / (2 * SIGMA**2)).astype(np.float32)


def half_pixel(joint: Points) -> Points:
    """Cell i spans the pixels from i * stride to (i + 1) * stride, as resizing without aligned corners has it."""
    return (joint + 0.5) / STRIDE - 0.5


def msra(joint: Points) -> Points:
    """mmpose's MSRAHeatmap without rounding (``unbiased``): mu = keypoints / scale_factor, scale_factor = W / w."""
    return joint / STRIDE


def msra_rounded(joint: Points) -> Points:
    """Simple Baseline's generate_target: mu_x = int(joints[0] / feat_stride[0] + 0.5)."""
    return np.floor(joint / STRIDE + 0.5)


def udp(joint: Points) -> Points:
    """mmpose's UDPHeatmap: mu = keypoints / scale_factor, scale_factor = (input_size - 1) / (heatmap_size - 1)."""
    return joint / (np.array([WIDTH - 1, HEIGHT - 1]) / np.array([COLUMNS - 1, ROWS - 1]))


CODECS = {"half pixel": half_pixel, "msra": msra, "msra rounded": msra_rounded, "udp": udp}
TRAINED_BY: dict[str, Alignment] = {
    "half pixel": "corner",
    "msra": "centre",
    "msra rounded": "centre",
    "udp": "udp",
}


def by_numpy(maps: Maps, spec: ModelSpec) -> dict[str, Maps]:
    return decode({"heatmap": maps}, spec).by_role()


def by_torch(maps: Maps, spec: ModelSpec) -> dict[str, Maps]:
    """The module that losses use."""
    torch = pytest.importorskip("torch")
    from splite_deploy.decoders.torch import make_module

    values = make_module(spec.decoder, spec.keypoint_count, spec.input)(torch.from_numpy(maps))
    return {role: value.numpy() for role, value in zip(spec.decoder.decoded_roles, values, strict=True)}


def by_graph(maps: Maps, spec: ModelSpec) -> dict[str, Maps]:
    """The graph that ``--fuse-decode`` makes, run by ONNX Runtime."""
    pytest.importorskip("onnx")
    from through import run_through, through

    from splite_deploy.export.graph.fuse import fuse_decode

    return run_through(fuse_decode(through({"heatmap": maps.shape}), spec), {"heatmap": maps})


IMPLEMENTATIONS = pytest.mark.parametrize("run", [by_numpy, by_torch, by_graph], ids=["numpy", "torch", "graph"])
Run = Callable[[Maps, ModelSpec], dict[str, Maps]]


def window(alignment: Alignment) -> HeatmapDecoder:
    return SoftArgmaxWindow(STRIDE, alignment, 10.0, window=13)


def plain(alignment: Alignment) -> HeatmapDecoder:
    return SoftArgmax(STRIDE, alignment, 1.0, score_window=5)


def logits(mu: Points) -> Maps:
    """(..., ROWS, COLUMNS) maps whose softmax is a Gaussian: what a network trained with an integral loss gives."""
    return np.log(np.maximum(gaussians(mu), 1e-30))


def errors(found: dict[str, Maps], joint: Points) -> Points:
    """(joints, 2) distances in input pixels; the centre of pixel p is at p + .5."""
    return (found["keypoints"] - (joint + 0.5)).reshape(-1, 2)


@IMPLEMENTATIONS
@pytest.mark.parametrize("codec", CODECS)
def test_no_bias_on_unit_gaussians(codec: str, run: Run) -> None:
    joint = joints()
    error = errors(run(gaussians(CODECS[codec](joint)), model(window(TRAINED_BY[codec]))), joint)
    assert np.abs(error.mean(axis=0)).max() <= 0.01
    assert np.abs(error).max() < (0.1 if codec != "msra rounded" else 0.5 * STRIDE + 0.1)


@IMPLEMENTATIONS
@pytest.mark.parametrize("codec", CODECS)
def test_no_bias_on_logits(codec: str, run: Run) -> None:
    joint = joints()
    error = errors(run(logits(CODECS[codec](joint)), model(plain(TRAINED_BY[codec]))), joint)
    assert np.abs(error.mean(axis=0)).max() <= 0.01


@IMPLEMENTATIONS
@pytest.mark.parametrize("decoder", [window, plain])
def test_a_centre_network_read_as_corner_is_off_by_a_pixel_and_a_half(
    decoder: Callable[[Alignment], HeatmapDecoder], run: Run
) -> None:
    joint = joints()
    maps = (gaussians if decoder is window else logits)(msra(joint))
    error = errors(run(maps, model(decoder("corner"))), joint)
    np.testing.assert_allclose(error.mean(axis=0), [1.5, 1.5], rtol=0, atol=0.01)


def test_each_alignment_fits_its_own_codec_alone() -> None:
    joint = joints()
    for codec in ("half pixel", "msra", "udp"):
        for alignment in ("corner", "centre", "udp"):
            error = errors(by_numpy(gaussians(CODECS[codec](joint)), model(window(alignment))), joint)  # type: ignore[arg-type]
            assert (np.abs(error).max() < 0.1) == (alignment == TRAINED_BY[codec]), (codec, alignment)


@pytest.mark.parametrize("alignment", ["corner", "centre", "udp"])
def test_a_cell_holds_what_is_nearest_to_its_centre(alignment: Alignment) -> None:
    decoder = plain(alignment)
    for row, column in ((0, 0), (5, 20), (ROWS - 1, COLUMNS - 1)):
        one = np.full((1, JOINTS, ROWS, COLUMNS), -1e4, np.float32)
        one[..., row, column] = 0
        found = decode({"heatmap": one}, model(decoder))
        np.testing.assert_allclose(found.scores, 1, atol=1e-6)
        for offset in (-0.49, 0.0, 0.49):
            cells = cells_of(found.keypoints + np.float32(offset * STRIDE), decoder, ROWS, COLUMNS)
            assert (cells == [column, row]).all()


def test_a_pixel_and_its_cell_have_one_centre() -> None:
    """``centre``: cell i is pixel i * stride; ``udp``: the outermost cells are the outermost pixels."""

    def read(alignment: Alignment, row: int, column: int) -> list[float]:
        maps = np.zeros((1, JOINTS, ROWS, COLUMNS), np.float32)
        maps[..., row, column] = 1
        decoder = SoftArgmaxWindow(STRIDE, alignment, 10.0, window=1)
        return [float(v) for v in decode({"heatmap": maps}, model(decoder)).keypoints[0, 0]]

    assert read("centre", 3, 7) == [7 * STRIDE + 0.5, 3 * STRIDE + 0.5]
    assert read("udp", 0, 0) == [0.5, 0.5]
    assert read("udp", ROWS - 1, COLUMNS - 1) == [WIDTH - 0.5, HEIGHT - 0.5]
    assert read("corner", 0, 0) == [STRIDE / 2, STRIDE / 2]


def test_depths_are_read_at_the_same_cells() -> None:
    """The alignment moves keypoints; weights, and with them depths, stay."""
    rng = np.random.default_rng(0)
    maps: dict[str, Any] = {role: rng.normal(size=(1, JOINTS, ROWS, COLUMNS)) for role in ("heatmap", "depth")}
    maps = {role: values.astype(np.float32) for role, values in maps.items()}
    depths = []
    for alignment in ("corner", "centre", "udp"):
        decoder = SoftArgmaxDepth(STRIDE, alignment, 2.0, 5, root_keypoint=0, unit="palm", scale_bones=((0, 1),))  # type: ignore[arg-type]
        depths.append(decode(maps, model(decoder)).depth)
    np.testing.assert_array_equal(depths[0], depths[1])
    np.testing.assert_array_equal(depths[0], depths[2])
