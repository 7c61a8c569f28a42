"""Outputs are told apart by their values, in whatever order and layout they come."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.compile.tflite.match import Match, WrongConversionError, axes, match_outputs
from splite_deploy.errors import CompileError

Array = NDArray[np.float32]


def maps(seed: int, shape: tuple[int, ...] = (1, 5, 8, 6)) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nhwc(array: Array) -> Array:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


REFERENCE = {"heatmap": maps(0), "depth": maps(1), "coordinates": maps(2, (1, 5, 3))}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_order(order: tuple[int, ...]) -> None:
    given = [nhwc(REFERENCE["heatmap"]), nhwc(REFERENCE["depth"]) + 1e-5, REFERENCE["coordinates"].transpose(0, 2, 1)]
    found = match_outputs([given[index] for index in order], REFERENCE)
    layouts = {"heatmap": "NHWC", "depth": "NHWC", "coordinates": "NCK"}
    for place, role in enumerate(REFERENCE):
        assert found[role] == Match(order.index(place), layouts[role])


def test_layouts_that_the_shape_does_not_tell() -> None:
    cube = {"heatmap": maps(3, (1, 4, 4, 4)), "coordinates": maps(4, (1, 3, 3))}
    found = match_outputs([nhwc(cube["heatmap"]), cube["coordinates"]], cube)
    assert found == {"heatmap": Match(0, "NHWC"), "coordinates": Match(1, "NKC")}
    found = match_outputs([cube["heatmap"], cube["coordinates"].transpose(0, 2, 1)], cube)
    assert found == {"heatmap": Match(0, "NCHW"), "coordinates": Match(1, "NCK")}


def test_axes_turn_one_layout_into_the_other() -> None:
    array = maps(0)
    np.testing.assert_array_equal(nhwc(array).transpose(axes("NHWC", "NCHW")), array)


def test_two_outputs_that_are_the_same() -> None:
    with pytest.raises(CompileError, match=r"^2 of the converted network's outputs .* equal 'heatmap'") as caught:
        match_outputs([nhwc(REFERENCE["heatmap"])] * 2, {"heatmap": REFERENCE["heatmap"]})
    assert "return them separately" in caught.value.hint


def test_an_output_that_computes_something_else() -> None:
    given = [nhwc(REFERENCE["heatmap"] * 1.01), nhwc(REFERENCE["depth"])]
    with pytest.raises(
        CompileError, match=r"None of .*\(1, 8, 6, 5\), .* equals 'heatmap'.* the nearest is 0\.03"
    ) as caught:
        match_outputs(given, {"heatmap": REFERENCE["heatmap"], "depth": REFERENCE["depth"]})
    assert "changed what the network computes" in caught.value.hint


def test_an_output_of_another_shape() -> None:
    with pytest.raises(CompileError, match=r"\(1, 7, 6, 5\)\) equals 'heatmap', \(1, 5, 8, 6\)"):
        match_outputs([nhwc(REFERENCE["heatmap"])[:, :7]], {"heatmap": REFERENCE["heatmap"]})


def test_values_that_are_not_finite_match_nothing() -> None:
    given = nhwc(REFERENCE["heatmap"])
    given[0, 0, 0, 0] = np.nan
    with pytest.raises(CompileError, match="None of"):
        match_outputs([given], {"heatmap": REFERENCE["heatmap"]})


def test_of_equal_outputs_the_first_computed_is_that_of_the_first_role() -> None:
    rng = np.random.default_rng(0)
    points, scores = rng.random((1, 5, 2), np.float32), rng.random((1, 5), np.float32)
    roles = {"network/coordinates": points, "keypoints": points, "scores": scores}
    outputs = [points, scores, points + np.float32(1e-6)]
    with pytest.raises(WrongConversionError, match="2 of the converted network's outputs"):
        match_outputs(outputs, roles)
    for order, (network, keypoints) in {(9, 7, 4): (2, 0), (4, 7, 9): (0, 2)}.items():
        found = match_outputs(outputs, roles, order)
        places = {"network/coordinates": network, "keypoints": keypoints, "scores": 1}
        assert {role: match.index for role, match in found.items()} == places
    with pytest.raises(WrongConversionError, match=r"None of the converted network's outputs .* equals 'keypoints'"):
        match_outputs(outputs[:2], roles, (0, 1))
