"""Decoders: shared vectors, and properties that hold for any heatmap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from decode_vectors import CASES, FOLDER, GENERATOR, PEOPLE_CASES, POINT_CASES, assert_expected, outputs_of, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splite_deploy.decoders import (
    DECODERS,
    Argmax,
    Coordinates,
    Dark,
    Decoded,
    Decoder,
    Decoding,
    Expectation,
    HeatmapDecoder,
    Offset,
    SimCC,
    SoftArgmax,
    SoftArgmaxDepth,
    SoftArgmaxWindow,
    Udp,
    decode,
)
from splite_deploy.device.emulator import read_emulator
from splite_deploy.errors import BackendError, SpecError
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

Array = NDArray[np.float32]

GLOBAL = SoftArgmax(stride=4.0, beta=1.0, alignment="corner", score_window=5)
WINDOW = SoftArgmaxWindow(stride=4.0, beta=10.0, alignment="corner", window=5)
DEPTH = SoftArgmaxDepth(4.0, "corner", 1.0, score_window=5, root_keypoint=1, unit="palm", scale_bones=((0, 1),))
QUARTER = Argmax(4.0, "corner", offset="quarter")
DARK = Dark(4.0, "corner", blur_kernel=5)
MEAN = Expectation(4.0, "corner")
GAUSSIAN = Udp(4.0, "udp", target="gaussian", blur_kernel=5)
COMBINED = Udp(4.0, "udp", target="combined", blur_kernel=5, radius_factor=0.1)
OFFSET = Offset(4.0, "corner", offset_order="yyxx", offset_unit="pixel")
UNIT = Coordinates("unit")
HEATMAP_DECODERS = pytest.mark.parametrize(
    "decoder", [GLOBAL, WINDOW, DEPTH, QUARTER, DARK, MEAN], ids=lambda d: str(d.type)
)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=8 if read_emulator() else 40, deadline=None)


def model(decoder: Decoder, keypoints: int, width: int = 128, height: int = 128) -> ModelSpec:
    grey = (127.5, 127.5, 127.5)
    return ModelSpec(
        name="test",
        input=InputSpec(height, width, "rgb", grey, grey, 1.25, 127),
        decoder=decoder,
        skeleton=SkeletonSpec(tuple(f"k{i}" for i in range(keypoints)), ()),
        palm_mm=88.0,
    )


def model_of(decoder: HeatmapDecoder, maps: Mapping[str, Array]) -> ModelSpec:
    """A model whose input the maps cover."""
    _, keypoints, rows, columns = maps["heatmap"].shape
    return model(decoder, keypoints, round(columns * decoder.stride), round(rows * decoder.stride))


def outputs(seed: int, shape: tuple[int, ...]) -> dict[str, Array]:
    """Random maps; no two cells of a heatmap are equal."""
    rng = np.random.default_rng(seed)
    cells = np.prod(shape[2:], dtype=int)
    ranks = rng.permuted(np.tile(np.arange(cells), (*shape[:2], 1)), axis=-1).reshape(shape)
    heatmap = ranks / cells + rng.uniform(0, 0.1 / cells, shape)
    return {"heatmap": heatmap.astype(np.float32), "depth": rng.normal(size=shape).astype(np.float32)}


def gaussian(x: float, y: float, sigma: float, size: int = 32, *, log: bool = False) -> Array:
    """(1, 1, size, size) map of a Gaussian at (x, y) in continuous cells."""
    centres = np.arange(size) + 0.5
    exponent = -((centres - x) ** 2 + (centres[:, None] - y) ** 2) / (2 * sigma**2)
    return (exponent if log else np.exp(exponent)).astype(np.float32)[None, None]


def assert_decoded_close(found: Decoded, expected: Decoded, atol: float = 1e-3) -> None:
    np.testing.assert_allclose(found.keypoints, expected.keypoints, rtol=0, atol=atol)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=atol)
    assert (found.depth is None) == (expected.depth is None)
    if found.depth is not None and expected.depth is not None:
        np.testing.assert_allclose(found.depth, expected.depth, rtol=0, atol=atol)


# --- shared vectors ---------------------------------------------------------------------------------------------


def test_vectors_are_what_the_generator_writes() -> None:
    assert (FOLDER / "decode.json").read_text(encoding="utf-8") == GENERATOR["text"]()


def test_vectors_cover_every_decoder() -> None:
    cases = [*CASES, *PEOPLE_CASES, *POINT_CASES]
    assert {case["decoder"]["type"] for case in cases} == set(DECODERS)
    names = [case["name"] for case in cases]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_vector(case: dict[str, Any]) -> None:
    found = decode(outputs_of(case), spec_of(case))
    assert (found.depth is None) == (case["expected"]["depth"] is None)
    assert_expected(found.by_role(), case)


# --- properties ---------------------------------------------------------------------------------------------------

inner = st.floats(9.0, 23.0)


@given(x=inner, y=inner, sigma=st.floats(0.8, 2.2), beta=st.floats(0.2, 5.0))
@quick
def test_global_finds_the_centre_of_log_gaussian_logits(x: float, y: float, sigma: float, beta: float) -> None:
    decoder = SoftArgmax(stride=4.0, beta=beta, alignment="corner", score_window=5)
    found = decode({"heatmap": gaussian(x, y, sigma, log=True) / np.float32(beta)}, model(decoder, 1))
    np.testing.assert_allclose(found.keypoints[0, 0], (4 * x, 4 * y), rtol=0, atol=0.1)


@given(x=inner, y=inner)
@quick
def test_window_finds_the_centre_of_unit_gaussian(x: float, y: float) -> None:
    decoder = SoftArgmaxWindow(stride=4.0, beta=10.0, alignment="corner", window=9)
    found = decode({"heatmap": gaussian(x, y, 2.0)}, model(decoder, 1))
    np.testing.assert_allclose(found.keypoints[0, 0], (4 * x, 4 * y), rtol=0, atol=0.1)


@given(seed=seeds, right=st.integers(-7, 7), down=st.integers(-7, 7))
@quick
def test_window_moves_with_the_map_by_whole_cells(seed: int, right: int, down: int) -> None:
    heatmap = np.zeros((1, 1, 24, 24), np.float32)
    heatmap[..., 10:14, 10:14] = outputs(seed, (1, 1, 4, 4))["heatmap"] + 0.1
    spec = model_of(WINDOW, {"heatmap": heatmap})
    before = decode({"heatmap": heatmap}, spec)
    after = decode({"heatmap": np.roll(heatmap, (down, right), (2, 3))}, spec)
    moved = Decoded(before.keypoints + np.array([4 * right, 4 * down], np.float32), before.scores, None)
    assert_decoded_close(after, moved)


@HEATMAP_DECODERS
@given(seed=seeds)
@quick
def test_a_mirrored_map_gives_mirrored_keypoints(decoder: HeatmapDecoder, seed: int) -> None:
    maps = outputs(seed, (1, 2, 8, 11))
    spec = model_of(decoder, maps)
    plain = decode(maps, spec)
    mirrored = decode({role: values[..., ::-1] for role, values in maps.items()}, spec)
    keypoints = plain.keypoints.copy()
    keypoints[..., 0] = 11 * 4.0 - keypoints[..., 0]
    np.testing.assert_allclose(mirrored.keypoints, keypoints, rtol=0, atol=1e-3)
    if plain.depth is not None and mirrored.depth is not None:
        np.testing.assert_allclose(mirrored.depth, plain.depth, rtol=0, atol=1e-4)


@HEATMAP_DECODERS
@given(seed=seeds, gain=st.floats(0, 100))
@quick
def test_scores_lie_in_0_1_and_keypoints_in_the_map(decoder: HeatmapDecoder, seed: int, gain: float) -> None:
    maps = outputs(seed, (2, 2, 6, 9))
    maps["heatmap"] *= np.float32(gain)
    found = decode(maps, model_of(decoder, maps))
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert ((found.keypoints > 0) & (found.keypoints < (9 * 4, 6 * 4))).all()


@HEATMAP_DECODERS
@given(seed=seeds, count=st.integers(1, 4))
@quick
def test_a_batch_decodes_like_its_members(decoder: HeatmapDecoder, seed: int, count: int) -> None:
    maps = outputs(seed, (count, 3, 9, 6))
    spec = model_of(decoder, maps)
    whole = decode(maps, spec)
    for n in range(count):
        single = decode({role: values[n : n + 1] for role, values in maps.items()}, spec)
        np.testing.assert_allclose(single.keypoints[0], whole.keypoints[n], rtol=0, atol=1e-4)
        cells = whole.keypoints[n] / decoder.stride
        clear = (abs(cells - cells.round()) > 1e-3).all(axis=1)  # at the edge of a cell rounding decides the score
        np.testing.assert_allclose(single.scores[0, clear], whole.scores[n, clear], rtol=0, atol=1e-5)
        if single.depth is not None and whole.depth is not None:
            np.testing.assert_allclose(single.depth[0], whole.depth[n], rtol=0, atol=1e-5)


@HEATMAP_DECODERS
def test_inputs_are_left_alone(decoder: HeatmapDecoder) -> None:
    maps = outputs(0, (1, 2, 5, 5))
    before = {role: values.copy() for role, values in maps.items()}
    decode(maps, model_of(decoder, maps))
    for role, values in maps.items():
        np.testing.assert_array_equal(values, before[role])


def test_a_concentrated_map_scores_higher_than_a_spread_one() -> None:
    spec = model(GLOBAL, 2)
    sharp, spread = gaussian(16.5, 16.5, 0.8, log=True), gaussian(16.5, 16.5, 8.0, log=True)
    scores = decode({"heatmap": np.concatenate([sharp, spread], 1)}, spec).scores[0]
    assert scores[0] > 0.99
    assert scores[1] < 0.2


def test_depth_of_the_root_is_zero_and_ignores_an_offset() -> None:
    maps = outputs(3, (2, 3, 6, 6))
    spec = model_of(DEPTH, maps)
    plain = decode(maps, spec)
    lifted = decode({**maps, "depth": maps["depth"] + 5}, spec)
    assert plain.depth is not None and lifted.depth is not None
    np.testing.assert_array_equal(plain.depth[:, DEPTH.root_keypoint], 0)
    np.testing.assert_allclose(lifted.depth, plain.depth, rtol=0, atol=1e-5)


# --- the largest cell -----------------------------------------------------------------------------------------------

PEAKS = pytest.mark.parametrize("decoder", [QUARTER, DARK, GAUSSIAN], ids=lambda d: str(d.type))


@PEAKS
@given(seed=seeds, gain=st.floats(1e-3, 1e3))
@quick
def test_none_is_further_than_a_cell_from_the_largest(decoder: HeatmapDecoder, seed: int, gain: float) -> None:
    """However the map looks: the step of a Taylor expansion knows no bound by itself."""
    maps = {"heatmap": outputs(seed, (2, 3, 9, 7))["heatmap"] * np.float32(gain)}
    spec = model_of(decoder, maps)
    found = decode(maps, spec)
    largest = decode(maps, model_of(Argmax(decoder.stride, decoder.alignment, "none"), maps))
    step = (7 * 4 - 1) / 6 if decoder.alignment == "udp" else 4.0
    assert np.abs(found.keypoints - largest.keypoints).max() <= step * 1.07  # udp: columns and rows differ a little
    np.testing.assert_array_equal(found.scores, largest.scores)


@PEAKS
@given(x=st.floats(4.0, 12.0), y=st.floats(4.0, 12.0), height=st.floats(0.1, 1.0))
@quick
def test_a_factor_changes_nothing_but_the_score(decoder: HeatmapDecoder, x: float, y: float, height: float) -> None:
    """A timid network's peak lies where a bold one's does."""
    unit = gaussian(x, y, 2.0, 16)
    spec = model_of(decoder, {"heatmap": unit})
    bold, timid = decode({"heatmap": unit}, spec), decode({"heatmap": unit * np.float32(height)}, spec)
    np.testing.assert_allclose(timid.keypoints, bold.keypoints, rtol=0, atol=0.02)
    np.testing.assert_allclose(timid.scores, bold.scores * height, rtol=1e-5)


def test_peaks_are_those_of_what_tells_the_keypoint() -> None:
    """Parity counts by them who jumped to another mode."""
    maps = np.zeros((1, 6, 8, 8), np.float32)
    maps[0, 0, 3, 5] = maps[0, 3, 6, 2] = 1  # two disks
    maps[0, 1] = maps[0, 5] = 9  # offsets do not count
    np.testing.assert_array_equal(COMBINED.peaks({"combined": maps}), [[[3, 5], [6, 2]]])
    pair = {"heatmap": maps[:, ::3], "offset": maps[:, 1:5]}
    np.testing.assert_array_equal(OFFSET.peaks(pair), [[[3, 5], [6, 2]]])
    assert UNIT.peaks({"coordinates": np.zeros((1, 2, 2), np.float32)}) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dark(4.0, "centre", blur_kernel=4), "decoder.blur_kernel must be odd"),
        (lambda: Dark(4.0, "centre", blur_kernel=-1), "decoder.blur_kernel must be odd"),
        (lambda: Udp(4.0, "centre", "gaussian", 11), 'decoder.alignment is "udp"'),
        (lambda: Udp(4.0, "udp", "gaussian", 0), "decoder.blur_kernel must be odd"),
        (lambda: Udp(4.0, "udp", "combined", 11), "decoder.radius_factor belongs to"),
        (lambda: Udp(4.0, "udp", "combined", 11, 0.0), "decoder.radius_factor must be positive"),
        (lambda: Udp(4.0, "udp", "gaussian", 11, 0.05), 'is for decoder.target = "combined" alone'),
        (lambda: Dark(4.0, "centre", blur_kernel=200000001), "decoder.blur_kernel is 200000001, and at most 1023"),
        (lambda: Argmax(1e-300, "centre", "none"), "decoder.stride is 1e-300, and at least 0.01 pixels"),
        (lambda: SimCC(1e300, "none"), "decoder.split_ratio is 1e+300, and at most 100"),
        (lambda: Argmax(0.0, "centre", "none"), "decoder.stride must be positive"),
    ],
)
def test_parameters_that_fit_no_formula(make: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        make()
    assert message in caught.value.message
    assert "models/README.md" in caught.value.hint


# --- refusals -------------------------------------------------------------------------------------------------------


def ones(**shapes: tuple[int, ...]) -> dict[str, Array]:
    return {role: np.ones(shape, np.float32) for role, shape in shapes.items()}


@pytest.mark.parametrize(
    ("decoder", "maps", "role"),
    [
        (GLOBAL, ones(heatmap=(1, 3, 8, 8)), "heatmap"),
        (GLOBAL, ones(heatmap=(2, 8, 8)), "heatmap"),
        (GLOBAL, ones(heatmap=(1, 8, 8, 2)), "heatmap"),
        (GLOBAL, ones(heatmap=(1, 2, 8, 9)), "heatmap"),
        (WINDOW, ones(heatmap=(1, 2, 64)), "heatmap"),
        (DEPTH, ones(heatmap=(1, 2, 8, 8), depth=(1, 3, 8, 8)), "depth"),
        (DEPTH, ones(heatmap=(1, 2, 8, 8), depth=(1, 2, 4, 4)), "depth"),
        (DEPTH, ones(heatmap=(2, 2, 8, 8), depth=(1, 2, 8, 8)), "depth"),
        (QUARTER, ones(heatmap=(1, 2, 8, 9)), "heatmap"),
        (COMBINED, ones(combined=(1, 2, 8, 8)), "combined"),
        (COMBINED, ones(combined=(1, 6, 8, 9)), "combined"),
        (OFFSET, ones(heatmap=(1, 2, 8, 8), offset=(1, 2, 8, 8)), "offset"),
        (OFFSET, ones(heatmap=(1, 2, 8, 8), offset=(1, 4, 8, 4)), "offset"),
        (UNIT, ones(coordinates=(1, 3, 2)), "coordinates"),
        (UNIT, ones(coordinates=(1, 2)), "coordinates"),
        (UNIT, ones(coordinates=(1, 2, 1)), "coordinates"),
        (UNIT, ones(coordinates=(1, 2, 4)), "coordinates"),
        (UNIT, ones(coordinates=(1, 2, 2, 2)), "coordinates"),
    ],
)
def test_refuses_a_wrong_shape(decoder: Decoder, maps: Mapping[str, Array], role: str) -> None:
    with pytest.raises(BackendError) as caught:
        decode(maps, model(decoder, 2, 32, 32))
    shape = maps[role].shape
    assert f"output '{role}' has shape {shape}" in caught.value.message
    assert "2 keypoints" in caught.value.message
    assert "in model.toml" in caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("decoder", "role", "where"),
    [
        (GLOBAL, "heatmap", (0, 1, 2, 3)),
        (WINDOW, "heatmap", (0, 1, 2, 3)),
        (DEPTH, "heatmap", (0, 1, 2, 3)),
        (DEPTH, "depth", (0, 0, 7, 7)),
        (QUARTER, "heatmap", (0, 1, 2, 3)),
        (COMBINED, "combined", (0, 5, 2, 3)),
        (OFFSET, "offset", (0, 3, 0, 0)),
        (UNIT, "coordinates", (0, 1, 0)),
        (UNIT, "coordinates", (0, 1, 2)),
    ],
)
def test_refuses_what_is_not_finite(decoder: Decoder, role: str, where: tuple[int, ...], value: float) -> None:
    maps = ones(
        heatmap=(1, 2, 8, 8), depth=(1, 2, 8, 8), combined=(1, 6, 8, 8), offset=(1, 4, 8, 8), coordinates=(1, 2, 3)
    )
    maps[role][where] = value
    with pytest.raises(BackendError, match="not finite") as caught:
        decode(maps, model(decoder, 2, 32, 32))
    assert "-p fp32" in caught.value.hint


@pytest.mark.parametrize("side", [8, 64], ids=["few values", "many"])
def test_large_numbers_are_finite_whatever_their_squares(side: int) -> None:
    maps = ones(heatmap=(1, 2, side, side), depth=(1, 2, side, side))
    maps["depth"][:] = 1e30  # whose squares are not
    maps["heatmap"][0, :, 0, 0] = 1e3  # so that one depth counts, and not their sum
    found = decode(maps, model(DEPTH, 2, 4 * side, 4 * side))
    assert found.depth is not None and np.isfinite(found.depth).all()
    maps["depth"][0, 1, -1, -1] = np.nan
    with pytest.raises(BackendError, match="'depth' is not finite"):
        decode(maps, model(DEPTH, 2, 4 * side, 4 * side))


def test_one_that_decodes_again_checks_every_result() -> None:
    spec = model(DEPTH, 2, 32, 32)
    again, maps = Decoding(spec), ones(heatmap=(1, 2, 8, 8), depth=(1, 2, 8, 8))
    for _ in range(2):
        assert_decoded_close(again(maps), decode(maps, spec), atol=0)
    with pytest.raises(BackendError, match=r"The output 'depth' has shape \(1, 2, 4, 4\)"):
        again({**maps, "depth": maps["depth"][..., :4, :4]})
    with pytest.raises(BackendError, match="There is no output 'depth'"):
        again({"heatmap": maps["heatmap"]})
    decoded = decode(maps, spec).by_role()
    assert_decoded_close(again(decoded), decode(maps, spec), atol=0)
    maps["heatmap"][0, 0, 0, 0] = np.inf
    with pytest.raises(BackendError, match="'heatmap' is not finite"):
        again(maps)
