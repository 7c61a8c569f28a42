"""Volumes: properties, drawn targets read back, and every way in which a network may give one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decode_vectors import FOLDER, VOLUME_GENERATOR
from numpy.typing import NDArray

from splite_deploy.decoders import Decoded, Volume, decode
from splite_deploy.errors import BackendError, ExportError, SpecError
from splite_deploy.runtime.view import apply_view
from splite_deploy.spec import InputSpec, ModelSpec, OutputView, SkeletonSpec, View
from splite_deploy.spec.view import Steps

Array = NDArray[np.float32]
BINS, KEYPOINTS = 6, 3
DECODER = Volume(
    4.0,
    "centre",
    1.0,
    score_window=3,
    bins=BINS,
    depth_extent=12.0,
    root_keypoint=1,
    unit="palm",
    scale_bones=((0, 1),),
)
CHANNELS = KEYPOINTS * BINS


def model(decoder: Volume = DECODER, keypoints: int = KEYPOINTS, width: int = 48, height: int = 64) -> ModelSpec:
    grey = (127.5, 127.5, 127.5)
    names = tuple(f"k{i}" for i in range(keypoints))
    image = InputSpec(height, width, "rgb", grey, grey, 1.25, 127)
    return ModelSpec("test", image, decoder, SkeletonSpec(names, ()), palm_mm=88.0)


def volume(seed: int = 0, crops: int = 1) -> Array:
    """(N, K * bins, 16, 12) random logits."""
    return np.random.default_rng(seed).normal(size=(crops, CHANNELS, 16, 12)).astype(np.float32) * 3


def read(values: Array, spec: ModelSpec | None = None) -> Decoded:
    found = decode({"volume": values}, spec or model())
    assert found.depth is not None
    return found


def test_vectors_are_what_the_generator_writes() -> None:
    assert (FOLDER / "volume.json").read_text(encoding="utf-8") == VOLUME_GENERATOR["text"]()


def test_depth_ignores_where_z_begins_and_is_zero_at_the_root() -> None:
    apart = volume().reshape(1, KEYPOINTS, BINS, 16, 12)
    apart[:, :, -2:] = -1e4  # nothing in the last two bins, so that all of it may move there
    plain, moved = read(apart.reshape(1, CHANNELS, 16, 12)), read(np.roll(apart, 2, 2).reshape(1, CHANNELS, 16, 12))
    assert plain.depth is not None and moved.depth is not None
    np.testing.assert_array_equal(plain.depth[:, 1], 0)
    np.testing.assert_allclose(moved.depth, plain.depth, rtol=0, atol=1e-5)
    np.testing.assert_allclose(moved.keypoints, plain.keypoints, rtol=0, atol=1e-4)


def test_a_bin_is_the_extent_over_their_number() -> None:
    values = np.full((1, CHANNELS, 16, 12), -1e4, np.float32)
    for keypoint, place in enumerate((0, 2, 5)):
        values[0, keypoint * BINS + place, 7, 4] = 0
    found = read(values)
    assert found.depth is not None
    np.testing.assert_allclose(found.depth, [[-4.0, 0.0, 6.0]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.keypoints, np.broadcast_to([16.5, 28.5], (1, 3, 2)), rtol=0, atol=1e-5)


def test_without_depth_it_is_a_soft_argmax_of_the_plane() -> None:
    """Where every bin holds the same, x, y and score are those of one map."""
    from splite_deploy.decoders import SoftArgmax

    maps = volume()[:, :KEYPOINTS]
    flat = model()
    plain = decode({"heatmap": maps}, replace(flat, decoder=SoftArgmax(4.0, "centre", 1.0, score_window=3)))
    found = read(np.repeat(maps, BINS, axis=1))
    np.testing.assert_allclose(found.keypoints, plain.keypoints, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.scores, plain.scores, rtol=0, atol=1e-5)
    assert found.depth is not None
    np.testing.assert_allclose(found.depth, 0, rtol=0, atol=1e-5)


def test_peaks_are_bin_row_and_column() -> None:
    values = volume(crops=2)
    values[1, 2 * BINS + 5, 3, 7] = 99
    values[0, 0, 15, 11] = 99
    peaks = DECODER.peaks({"volume": values})
    assert peaks.shape == (2, KEYPOINTS, 3)
    assert peaks[1, 2].tolist() == [5, 3, 7] and peaks[0, 0].tolist() == [0, 15, 11]


def test_a_batch_decodes_like_its_members() -> None:
    values = volume(crops=3)
    whole = read(values)
    for index in range(3):
        single = read(values[index : index + 1])
        for role, found in whole.by_role().items():
            np.testing.assert_allclose(single.by_role()[role][0], found[index], rtol=0, atol=1e-4)


# --- what the published training draws ------------------------------------------------------------------------------


def drawn(points: NDArray[np.float64], sigma: float) -> Array:
    """Log-Gaussians around (..., 3) places x, y, z in cells of 48 x 64 x 64: their softmax is the Gaussian volume.

    Sun et al. 2018 train the expectation alone, whatever the volume; 3D Gaussians are those of Pavlakos et al. 2017,
    arXiv 1611.07828.
    """
    axes = [np.arange(cells) for cells in (48, 64, 64)]
    x, y, z = ((axis - points[..., place, None]) ** 2 for place, axis in enumerate(axes))
    squared = x[..., None, None, :] + y[..., None, :, None] + z[..., :, None, None]
    return (-squared / (2 * sigma**2)).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.8, 2.0])
def test_drawn_volumes_are_read_within_a_twentieth_of_a_pixel(sigma: float) -> None:
    """64 bins of 2 m over 192 x 256 pixels, joints in pixel indices."""
    rng = np.random.default_rng(3)
    joints = rng.uniform((40, 40), (152, 216), (1, 4, 2))
    z_mm = rng.uniform(-600, 600, (1, 4))
    bins, extent = 64, 2000.0
    cells = np.concatenate([joints / 4, ((z_mm / extent + 0.5) * bins - 0.5)[..., None]], -1)
    decoder = replace(DECODER, bins=bins, depth_extent=extent, unit="mm")
    found = read(drawn(cells, sigma).reshape(1, 4 * bins, 64, 48), model(decoder, 4, 192, 256))
    assert np.abs(found.keypoints - (joints + 0.5)).max() < 0.05
    assert found.depth is not None
    assert np.abs(found.depth - (z_mm - z_mm[:, 1:2])).max() < 0.5  # of bins that measure 31 mm


# --- how it lies in the network's outputs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "given"),
    [
        (None, volume()),
        ("NHWC", volume().transpose(0, 2, 3, 1)),
        ("NKDHW", volume().reshape(1, KEYPOINTS, BINS, 16, 12)),
        ("N(KD)HW", volume()),
        ("NHWKD", volume().transpose(0, 2, 3, 1).reshape(1, 16, 12, KEYPOINTS, BINS)),
        ("N(KDHW)", volume().reshape(1, -1)),
        ("NKD(HW)", volume().reshape(1, KEYPOINTS, BINS, -1)),
        ("N1KDHW", volume().reshape(1, 1, KEYPOINTS, BINS, 16, 12)),
    ],
)
def test_a_view_brings_it_into_four_axes(layout: str | None, given: Array) -> None:
    view = View(outputs={"volume": OutputView(0, layout)})
    view.check(DECODER, 3)
    found = apply_view(view, {"anything": np.ascontiguousarray(given)}, model())
    np.testing.assert_array_equal(found["volume"], volume())


def test_five_axes_are_four_after_the_first_reshape() -> None:
    steps = OutputView(layout="NKDHW").steps(
        "volume", DECODER, KEYPOINTS, model().input, (KEYPOINTS, BINS, 16, 12), ExportError
    )
    assert steps == Steps((CHANNELS, 16, 12), (0, 1, 2, 3))


def test_more_keypoints_than_are_read_are_cut() -> None:
    more = volume().reshape(1, KEYPOINTS, BINS, 16, 12).repeat(2, axis=1)
    view = View(outputs={"volume": OutputView(0, "NKDHW", {"C": (0, CHANNELS)})})
    found = apply_view(view, {"anything": more}, model())
    np.testing.assert_array_equal(found["volume"], more.reshape(1, -1, 16, 12)[:, :CHANNELS])


@pytest.mark.parametrize("layout", ["NDKHW", "NKHWD", "NDHWK", "N(DK)HW", "NKCHW", "NKHW", "NK1DHW", "NK(DHW)"])
def test_other_orders_are_refused(layout: str) -> None:
    with pytest.raises(SpecError) as caught:
        OutputView(layout=layout).check("volume", DECODER)
    assert f"outputs.volume.layout is '{layout}', where D does not follow K" in caught.value.message
    assert 'write "NKDHW" if the network gives them so' in caught.value.hint


@pytest.mark.parametrize(
    ("shape", "cut"),
    [((BINS, KEYPOINTS, 16, 12), {}), ((1, CHANNELS, 16, 12), {}), ((9, 12, 16, 12), {"C": (0, CHANNELS)})],
)
def test_wrong_sizes_are_told(shape: tuple[int, ...], cut: Mapping[str, tuple[int, int]]) -> None:
    """The product may be right, and every channel another one."""
    with pytest.raises(BackendError) as caught:
        OutputView(layout="NKDHW", slice=cut).steps("volume", DECODER, KEYPOINTS, model().input, shape, BackendError)
    assert f"has shape (N, {', '.join(map(str, shape))}), which is not NKDHW" in caught.value.message
    assert f"D = {BINS}" in caught.value.message and ("K = 3" in caught.value.message) == (not cut)


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bins": 1}, "decoder.bins must be 2 or more"),
        ({"depth_extent": 0.0}, "decoder.depth_extent must be positive"),
        ({"depth_extent": float("inf")}, "decoder.depth_extent must be positive"),
        ({"score_window": 4}, "decoder.score_window must be odd"),
        ({"scale_bones": ()}, "decoder.scale_bones needs at least one pair"),
        ({"root_keypoint": 7}, "names no keypoint of the skeleton"),
    ],
)
def test_parameters_that_fit_no_volume(change: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        model(replace(DECODER, **change))


def test_a_model_survives_json() -> None:
    spec = model()
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_as_many_channels_as_bins_of_all_keypoints() -> None:
    with pytest.raises(BackendError, match=r"has shape \(1, 17, 16, 12\); the spec says \(1, 18, 16, 12\)"):
        read(volume()[:, :-1])
