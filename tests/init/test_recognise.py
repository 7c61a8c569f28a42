"""What outputs are taken for, by their shapes and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.init.recognise import Given, Hints, Reading, recognise, value_range
from splite_deploy.spec.view import OutputView

RNG = np.random.default_rng(3)
SIZE = (256, 192)


def between(low: float, high: float, *shape: int) -> NDArray[np.float32]:
    return RNG.uniform(low, high, (4, *shape)).astype(np.float32)


def read(size: tuple[int, int] = SIZE, hints: Hints = Hints(), **outputs: NDArray[np.float32]) -> Reading:  # noqa: B008
    found = recognise([Given(name, values) for name, values in outputs.items()], size, hints)
    assert found is not None
    return found


def gaussians(*shape: int) -> NDArray[np.float32]:
    maps = between(-0.02, 0.02, *shape)
    maps[..., 5, 5] = 0.9
    return maps


@pytest.mark.parametrize(
    ("maps", "held"),
    [
        (gaussians(17, 64, 48), "peaks"),
        (between(-4, 6, 17, 64, 48), "logits"),
        (between(0.01, 0.9, 17, 64, 48), "sigmoid"),
        (np.full((2, 3, 8, 8), 1 / 64, np.float32), "distribution"),
    ],
)
def test_what_cells_hold(maps: NDArray[np.float32], held: str) -> None:
    assert value_range(maps) == held


@pytest.mark.parametrize(
    ("outputs", "kind", "keypoints", "views", "fields"),
    [
        ({"out": (17, 64, 48)}, "heatmap", 17, {"heatmap": OutputView("out")}, {"stride": 4.0}),
        ({"out": (64, 48, 17)}, "heatmap", 17, {"heatmap": OutputView("out", "NHWC")}, {"stride": 4.0}),
        ({"a": (17, 64, 48), "b": (17, 64, 48)}, "heatmap", 17, {"heatmap": OutputView("b")}, {"stride": 4.0}),
        ({"a": (17, 64, 48), "b": (17, 32, 24)}, "heatmap", 17, {"heatmap": OutputView("a")}, {"stride": 4.0}),
        (
            {"heat": (17, 16, 12), "short": (34, 16, 12), "middle": (64, 16, 12)},
            "offset",
            17,
            {"heatmap": OutputView("heat"), "offset": OutputView("short")},
            {"stride": 16.0},
        ),
        (
            {"depth_maps": (21, 64, 48), "maps": (21, 64, 48)},
            "depth",
            21,
            {"heatmap": OutputView("maps"), "depth": OutputView("depth_maps")},
            {"stride": 4.0},
        ),
        ({"out": (51, 64, 48)}, "combined", 17, {"combined": OutputView("out")}, {"stride": 4.0}),
        ({"out": (21 * 64, 64, 48)}, "volume", 21, {"volume": OutputView("out")}, {"stride": 4.0, "bins": 64}),
        (
            {"out": (18, 16, 64, 48)},
            "volume",
            18,
            {"volume": OutputView("out", "NKDHW")},
            {"stride": 4.0, "bins": 16},
        ),
        (
            {"x": (17, 384), "y": (17, 512)},
            "simcc",
            17,
            {"simcc_x": OutputView("x"), "simcc_y": OutputView("y")},
            {"split_ratio": 2.0},
        ),
        (
            {"first": (17, 512), "second": (17, 384)},
            "simcc",
            17,
            {"simcc_x": OutputView("second"), "simcc_y": OutputView("first")},
            {"split_ratio": 2.0},
        ),
    ],
)
def test_maps_and_bins(
    outputs: dict[str, tuple[int, ...]],
    kind: str,
    keypoints: int,
    views: dict[str, OutputView],
    fields: dict[str, Any],
) -> None:
    found = read(**{name: between(-3, 3, *shape) for name, shape in outputs.items()})
    assert (found.kind, found.keypoints, dict(found.outputs), dict(found.fields)) == (kind, keypoints, views, fields)
    assert len(found.unused) == len(outputs) - len(views)
    assert found.because


def test_bins_of_a_square_input_go_by_their_names() -> None:
    assert read((256, 256), simcc_y=between(-1, 1, 17, 512), simcc_x=between(-1, 1, 17, 512)).outputs == {
        "simcc_x": OutputView("simcc_x"),
        "simcc_y": OutputView("simcc_y"),
    }
    unnamed = read((256, 256), a=between(-1, 1, 17, 512), b=between(-1, 1, 17, 512))
    assert unnamed.choices == {"simcc_x": ("'a'", "'b'"), "simcc_y": ("'a'", "'b'")}
    assert "the names do not tell which of the two is along x" in " ".join(unnamed.because)


@pytest.mark.parametrize(
    ("x", "y"),
    [("out_w", "out_h"), ("width", "height"), ("predX", "predY"), ("simccx", "simccy"), ("x_bins_1", "y_bins_1")],
)
def test_names_of_bins(x: str, y: str) -> None:
    for names in ((x, y), (y, x)):
        found = read((256, 256), **{name: between(-1, 1, 17, 512) for name in names})
        assert [view.source for view in found.outputs.values()] == [x, y] and not found.choices


@pytest.mark.parametrize("names", [("1554", "1556"), ("max_1", "max_2"), ("out_w", "out_w2"), ("w_h_1", "w_h_2")])
def test_names_that_tell_no_axis(names: tuple[str, str]) -> None:
    found = read((256, 256), **{name: between(-1, 1, 17, 512) for name in names})
    assert set(found.choices) == {"simcc_x", "simcc_y"}


@pytest.mark.parametrize("ratio", [1.25, 1.5, 1.75, 3, 3.125])
def test_any_ratio_that_makes_whole_bins(ratio: float) -> None:
    found = read(x=between(-1, 1, 17, int(192 * ratio)), y=between(-1, 1, 17, int(256 * ratio)))
    assert (found.kind, found.fields) == ("simcc", {"split_ratio": ratio})


@pytest.mark.parametrize(
    ("counts", "hints", "source", "keypoints"),
    [
        ((19, 38), Hints(), "m19", 18),  # OpenPose on COCO: the last map is the background
        ((38, 19), Hints(17), "m19", 17),
        ((18, 34), Hints(17), "m18", 17),
        ((18, 34), Hints(), "m18", 18),
        ((26, 52), Hints(25), "m26", 25),
        ((17, 34), Hints(kind="heatmap"), "m17", 17),
    ],
)
def test_fields_of_limbs_are_no_later_stage(counts: tuple[int, ...], hints: Hints, source: str, keypoints: int) -> None:
    outputs = {f"m{count}": between(-2, 2, count, 64, 48) for count in counts}
    found = read(hints=hints, **outputs)
    assert (found.kind, found.outputs["heatmap"].source, found.keypoints) == ("heatmap", source, keypoints)
    assert "stages" not in " ".join(found.because) and "are not read" in " ".join(found.because)
    assert len(found.unused) == len(counts) - 1


def test_offsets_are_not_called_fields() -> None:
    found = read(paf=between(-2, 2, 34, 64, 48), out=between(-2, 2, 17, 64, 48))
    assert (found.kind, found.outputs["heatmap"].source) == ("heatmap", "out")


def test_values_tell_heatmaps_from_fields() -> None:
    for names in (("a", "b"), ("b", "a")):
        maps = {"a": gaussians(7, 64, 48), "b": between(-1, 1, 12, 64, 48)}
        found = read(**{name: maps[name] for name in names})
        assert found.outputs["heatmap"].source == "a" and not found.choices


def test_a_finer_mask_is_not_taken_for_the_heatmaps() -> None:
    found = read(mask=between(0, 1, 2, 256, 192), out=between(-1, 1, 17, 64, 48))
    assert found.outputs["heatmap"].source == "out" and found.keypoints == 17


def test_two_outputs_that_may_be_heatmaps_are_left_to_the_user() -> None:
    found = read(a=between(-2, 2, 7, 64, 48), b=between(-2, 2, 12, 64, 48))
    assert found.choices == {"heatmap": ("'a' (7 maps)", "'b' (12 maps)")}
    assert "--skeleton may" in " ".join(found.because)


def test_one_keypoint_has_to_be_named() -> None:
    maps = {"out": between(-0.2, 0.9, 1, 64, 48)}
    assert recognise([Given("out", maps["out"])], SIZE) is None
    found = read(hints=Hints(kind="heatmap"), **maps)
    assert (found.kind, found.keypoints) == ("heatmap", 1)
    point = read(hints=Hints(kind="coordinates"), out=between(0, 1, 2))
    assert (point.kind, point.keypoints, point.outputs["coordinates"].layout) == ("coordinates", 1, "N(KC)")


def test_what_is_the_same_for_every_picture_is_nothing() -> None:
    still = Given("out", np.repeat(between(-3, 3, 17, 64, 48)[:1], 4, axis=0))
    assert recognise([still], SIZE) is None and "nothing can be learnt from it" in str(still)
    live = Given("points", between(0, 150, 17, 2))
    found = recognise([live, Given("scores", np.ones((4, 17), np.float32))], SIZE)
    assert found is not None and "scores" in found.outputs  # of saturated scores points are as good


@pytest.mark.parametrize(
    ("shape", "layout", "keypoints", "columns"),
    [
        ((17, 2), None, 17, ("x", "y")),
        ((17, 3), None, 17, ("x", "y", "score")),
        ((2, 17), "NCK", 17, ("x", "y")),
        ((1, 17, 3), "N1KC", 17, ("y", "x", "score")),  # MoveNet
        ((17, 1, 3), "NK1C", 17, ("x", "y", "score")),
        ((63,), "N(KC)", 21, ("x", "y", "score")),
        ((1, 42), "N1(KC)", 21, ("x", "y")),
        ((63, 1, 1), "N(KC)11", 21, ("x", "y", "score")),
        ((195,), "N(KC)", 33, ("x", "y", "_", "score", "_")),
    ],
)
def test_coordinates(shape: tuple[int, ...], layout: str | None, keypoints: int, columns: tuple[str, ...]) -> None:
    found = read(out=between(0, 1, *shape), presence=between(0, 1, 1), rest=between(0, 1, 1))
    assert found.kind == "coordinates" and found.keypoints == keypoints
    view = found.outputs["coordinates"]
    assert (view.layout, view.columns, found.fields) == (layout, columns, {"scale": "unit"})
    assert view.slice == ({"K": (0, 33)} if shape == (195,) else {})
    assert found.outputs["presence"].source == "presence" and found.unused == ("'rest'",)


def test_cells_on_the_first_and_the_last_pixel() -> None:
    maps = {"heatmap": between(-6, 2, 9, 9, 17), "short": between(-20, 20, 9, 9, 34)}  # PoseNet: stride 32 of 257
    found = read((257, 257), **maps)
    assert found.kind == "offset" and found.fields == {"stride": 257 / 9, "alignment": "udp"}
    assert "alignment" not in read((256, 256), out=between(-6, 2, 17, 64, 64)).fields


def test_coordinates_around_0_have_no_scale() -> None:
    found = read(out=between(-0.5, 0.5, 17, 2))
    assert found.fields == {"scale": "signed"} and "which no decoder reads" in " ".join(found.because)
    assert read(out=between(-0.9, 0.9, 17, 2)).fields == {"scale": "symmetric"}


@pytest.mark.parametrize(("shape", "layout"), [((17,), None), ((17, 1), "NK1"), ((1, 17), "N1K")])
def test_scores_of_an_output_of_their_own(shape: tuple[int, ...], layout: str | None) -> None:
    found = read(points=between(0, 150, 17, 2), classes=between(0, 1, 5), scores=between(0, 1, *shape))
    assert found.outputs["scores"] == OutputView("scores", layout) and found.fields == {
        "scale": "pixel",
        "scores": True,
    }
    assert "scores" not in read(points=between(0, 150, 17, 2), logits=between(-3, 3, 17)).outputs
    assert "scores" not in read(points=between(0, 1, 17, 3), scores=between(0, 1, 17)).outputs


def test_a_third_column_outside_of_0_to_1_is_no_score() -> None:
    found = read((224, 224), points=between(-30, 200, 63))
    assert found.outputs["coordinates"].columns == ("x", "y", "_") and found.fields == {"scale": "pixel"}
    assert "which is no score" in " ".join(found.because)
    assert found.outputs["coordinates"].activation == "none"


def test_logits_of_a_visibility_get_a_sigmoid() -> None:
    view = read((256, 256), ld_3d=between(-30, 200, 195), maps=between(-1, 1, 64, 64, 39)).outputs["coordinates"]
    assert view.activation == "sigmoid" and view.source == "ld_3d"


def test_flat_numbers_that_fit_twice_are_said() -> None:
    found = read(out=between(0, 1, 42))
    assert found.keypoints == 21 and "may be 14 keypoints of 3" in " ".join(found.because)
    assert read(hints=Hints(14), out=between(0, 1, 42)).keypoints == 14


CANDIDATES = 84 * 16  # of 8, 16 and 32 pixels on 256 x 256


def people(columns: int, count: int = CANDIDATES, *, scores: tuple[float, float] = (0, 1)) -> NDArray[np.float32]:
    values = between(-20, 200, columns, count)
    values[:, 4:6] = RNG.uniform(*scores, values[:, 4:6].shape)
    return values


@pytest.mark.parametrize(
    ("values", "layout", "fields"),
    [
        (people(56), None, {"form": "decoded", "boxes": "xywh", "scale": "pixel", "objectness": False}),
        (people(56).swapaxes(1, 2), "NAC", {"form": "decoded", "boxes": "xywh", "scale": "pixel", "objectness": False}),
        (
            people(57, 3 * CANDIDATES).swapaxes(1, 2),
            "NAC",
            {"form": "decoded", "boxes": "xywh", "scale": "pixel", "objectness": True},
        ),
        (
            people(56, scores=(-9, 3)),
            None,
            {"form": "anchor-free", "strides": (8.0, 16.0, 32.0), "heads": "one", "bins": 1},
        ),
        (
            between(-9, 3, 116, CANDIDATES),
            None,
            {"form": "anchor-free", "strides": (8.0, 16.0, 32.0), "heads": "one", "bins": 16},
        ),
        (people(57, 300).swapaxes(1, 2), None, {"form": "final", "boxes": "xyxy", "scale": "pixel"}),
    ],
)
def test_candidates_of_single_stage_networks(
    values: NDArray[np.float32], layout: str | None, fields: dict[str, Any]
) -> None:
    found = read((256, 256), output0=values)
    assert (found.kind, found.keypoints) == ("yolo-pose", 17)
    assert found.outputs == {"people": OutputView("output0", layout)}
    assert found.fields == {"visibility": True, **fields}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("heads", ["levels", "parts"])
def test_maps_of_each_level(heads: str, layout: str) -> None:
    outputs = {}
    for level, cells in enumerate((32, 16, 8)):
        parts = {"level": 116} if heads == "levels" else {"box": 64, "score": 1, "keypoints": 51}
        for part, channels in parts.items():
            maps = between(-9, 3, channels, cells, cells)
            outputs[f"{part}_{level}"] = maps if layout == "NCHW" else np.moveaxis(maps, 1, -1)
    found = read((256, 256), **outputs)
    own = None if layout == "NCHW" else "NHWC"
    assert (found.kind, found.keypoints, found.unused) == ("yolo-pose", 17, ())
    assert found.outputs == {role: OutputView(role, own) for role in outputs}
    strides = (8.0, 16.0, 32.0)
    known = {"form": "anchor-free", "strides": strides, "heads": heads, "bins": 16, "visibility": True}
    assert found.fields == known


@pytest.mark.parametrize(
    ("side", "count", "columns", "keypoints", "strides", "ratio"),
    [
        (192, 2016, 18, 7, (8, 16, 16, 16), 1.0),  # MediaPipe's palms
        (128, 896, 16, 6, (8, 16, 16, 16), 1.0),  # its short-range faces
        (192, 2304, 16, 6, (4,), 0.0),  # its full-range faces
        (224, 2254, 12, 4, (8, 16, 32, 32, 32), 1.0),  # its people
    ],
)
def test_anchors(side: int, count: int, columns: int, keypoints: int, strides: tuple[int, ...], ratio: float) -> None:
    found = read((side, side), regressors=between(-9, 9, count, columns), classificators=between(-9, 9, count, 1))
    assert (found.kind, found.keypoints) == ("anchors", keypoints)
    assert found.outputs == {"boxes": OutputView("regressors"), "logits": OutputView("classificators")}
    assert found.fields == {
        "strides": strides,
        "interpolated_scale_aspect_ratio": ratio,
        "scale": float(side),
    }


def test_a_skeleton_of_fewer_keypoints_takes_the_first_of_more() -> None:
    found = read(hints=Hints(17), out=between(-3, 3, 20, 64, 48))
    assert found.keypoints == 17 and found.outputs["heatmap"].slice == {"C": (0, 17)}
    assert "of 20 the first 17 are the keypoints" in found.because


def test_an_output_without_a_batch_is_not_read() -> None:
    one = Given("boxes", between(0, 1, 17, 3), batched=False)
    assert recognise([one], SIZE) is None
    assert str(one).startswith("'boxes': (17, 3), without an axis for the batch")


def test_what_is_like_nothing_known_is_nothing() -> None:
    assert recognise([Given("classes", between(0, 1, 1000))], SIZE) is None
    assert recognise([Given("mask", between(0, 1, 1, 256, 192))], SIZE) is None


@pytest.mark.parametrize(
    ("shape", "low", "layout", "activation"),
    [((1,), 0.1, None, "none"), ((), 0.1, "N", "none"), ((1, 1), -4.0, "NC1", "sigmoid")],
)
def test_heads_are_known_by_their_names(
    shape: tuple[int, ...], low: float, layout: str | None, activation: str
) -> None:
    rng = np.random.default_rng(0)
    one = rng.uniform(low, 0.9, (4, *shape)).astype(np.float32)
    one.flat[0] = low
    points = rng.uniform(0.1, 0.9, (4, 21, 2)).astype(np.float32)
    given = [Given("out_handedness", one), Given("points", points), Given("hand_Presence", one), Given("other", one)]
    found = recognise(given, (64, 64))
    assert found is not None and list(found.outputs) == ["coordinates", "presence", "handedness"]
    assert found.outputs["presence"] == OutputView("hand_Presence", layout, activation=activation)  # type: ignore[arg-type]
    assert found.unused == ("'other'",)
    assert "'out_handedness': handedness, by its name" in found.because


def test_what_is_larger_than_one_number_is_no_head() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0.1, 0.9, (4, 21, 2)).astype(np.float32)
    found = recognise([Given("points", points), Given("presence", points[:, :7, 0])], (64, 64))
    assert found is not None and list(found.outputs) == ["coordinates"]


def test_boxes_without_keypoints() -> None:
    cells = 32 * 24 + 16 * 12 + 8 * 6
    one = between(0, 1, 84, cells)
    one[:, :4] *= 200
    found = read(output0=one)
    assert (found.kind, found.keypoints) == ("boxes", 0)
    assert found.outputs == {
        "boxes": OutputView("output0", "NCA", {"C": (0, 4)}),
        "scores": OutputView("output0", "NCA", {"C": (4, 84)}),
    }
    assert found.fields == {"boxes": "xywh", "scale": "pixel", "scores": "probabilities", "nms": "greedy"}
    corners = between(0, 90, 500, 4)
    corners[..., 2:] += corners[..., :2]
    for scores, layout in ((between(-3, 3, 500, 80), None), (between(-3, 3, 500), "NA")):
        found = read(scores=scores, dets=corners)
        assert (found.kind, found.fields["boxes"], found.fields["scores"]) == ("boxes", "xyxy", "logits")
        assert found.outputs == {"boxes": OutputView("dets"), "scores": OutputView("scores", layout)}


def test_boxes_with_objectness_are_those_of_the_older_yolos() -> None:
    rows = between(0, 1, 3 * (32 * 24 + 16 * 12 + 8 * 6), 85)
    rows[..., :4] *= 200
    found = read(output0=rows)
    assert (found.kind, found.keypoints, found.outputs) == ("yolo-pose", 0, {"people": OutputView("output0", "NAC")})
    assert found.fields["objectness"] and found.fields["classes"] == 80 and not found.fields["visibility"]


def test_boxes_after_suppression() -> None:
    rows = np.concatenate([between(0, 90, 100, 2), between(90, 190, 100, 2), between(0, 1, 100, 1)], axis=2)
    labels = np.round(between(0, 79, 100))
    found = read(dets=rows, labels=labels)
    assert found.outputs["labels"] == OutputView("labels", "NA") and found.fields["nms"] == "none"
    joined = read(output0=np.concatenate([rows, labels[..., None]], axis=2))
    cuts = {role: view.slice["C"] for role, view in joined.outputs.items()}
    assert (joined.kind, cuts) == ("boxes", {"boxes": (0, 4), "scores": (4, 5), "labels": (5, 6)})
    assert joined.fields["label"] == 0 and joined.fields["scale"] == "pixel"


@pytest.mark.parametrize(
    ("outputs", "roles", "fields"),
    [
        (
            {"hm": 1, "wh": 2, "hps": 34, "reg": 2},
            {"heatmap": "hm", "boxes": "wh", "offsets": "reg", "keypoints": "hps"},
            {"boxes": "sizes", "offsets": True, "keypoints": True},
        ),
        (
            {"a": 1, "b": 4},
            {"heatmap": "a", "boxes": "b"},
            {"boxes": "distances", "offsets": False, "keypoints": False},
        ),
        (
            {"heatmap": 1, "keypoints": 4, "boxes": 4},
            {"heatmap": "heatmap", "boxes": "boxes", "keypoints": "keypoints"},
            {"boxes": "distances", "offsets": False, "keypoints": True},
        ),
    ],
)
def test_maps_of_middles(outputs: dict[str, int], roles: dict[str, str], fields: dict[str, Any]) -> None:
    maps = {name: between(-3, 3, channels, 32, 24) for name, channels in outputs.items()}
    found = read(**maps)
    assert found.kind == "centernet" and {role: view.source for role, view in found.outputs.items()} == roles
    assert found.fields == {"stride": 8.0, "heatmap": "logits", **fields}
    assert found.keypoints == (outputs[roles["keypoints"]] // 2 if "keypoints" in roles else 0)
