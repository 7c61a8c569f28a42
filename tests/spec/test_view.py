"""The view of a network in ``model.toml``: what it says, how it is planned, and how every mistake is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splite_deploy.decoders import Coordinates, Decoder, SoftArgmax, SoftArgmaxDepth, YoloPose
from splite_deploy.errors import ExportError, SpecError
from splite_deploy.spec import InputView, ModelSpec, OutputView, View, load_model_toml
from splite_deploy.spec.view import Steps

SIZE = SimpleNamespace(height=64, width=48)
HEATMAP = SoftArgmax(stride=4.0, beta=1.0, alignment="centre", score_window=5)
DEPTH = SoftArgmaxDepth(
    stride=4.0, beta=1.0, alignment="corner", score_window=5, root_keypoint=0, unit="palm", scale_bones=((0, 1),)
)
POINTS = Coordinates("unit")
SOLID = Coordinates("pixel", ("x", "y", "z", "score"), False, 0, "palm", ((0, 1),))
MODEL = """
name = "net"
[input]
height = 64
width = 48
color = "rgb"
mean = [0, 0, 0]
std = [255, 255, 255]
box_padding = 1.25
pad_value = 0
[decoder]
type = "coordinates"
scale = "unit"
[skeleton]
keypoint_names = ["a", "b", "c"]
edges = []
"""


def read(tmp_path: Path, tables: str, model: str = MODEL) -> View:
    file = tmp_path / "model.toml"
    file.write_text(model + tables, encoding="utf-8")
    return load_model_toml(file)[1].view


def test_every_field_is_read_and_survives_json(tmp_path: Path) -> None:
    view = read(
        tmp_path,
        '[inputs.image]\nsource = "input_1"\nlayout = "NHWC"\ndtype = "uint8"\n'
        '[outputs.coordinates]\nsource = ["preds", -1]\nlayout = "N1(KC)"\nactivation = "sigmoid"\n'
        'slice = { K = [0, -2] }\ncolumns = ["y", "x", "score", "_"]\n',
    )
    output = OutputView(("preds", -1), "N1(KC)", {"K": (0, -2)}, ("y", "x", "score", "_"), "sigmoid")
    assert view == View(InputView("input_1", "NHWC", "uint8"), {"coordinates": output})
    assert View.from_dict(json.loads(json.dumps(view.to_dict()))) == view


@pytest.mark.parametrize(("text", "source"), [('"out"', "out"), ("2", 2), ("-1", -1), ('["a", 0]', ("a", 0))])
def test_a_source_is_a_name_an_index_or_a_path(tmp_path: Path, text: str, source: object) -> None:
    assert read(tmp_path, f"[outputs.coordinates]\nsource = {text}\n").output("coordinates").source == source


def test_without_tables_the_view_is_canonical(tmp_path: Path) -> None:
    assert read(tmp_path, "").is_canonical
    assert not read(tmp_path, "[outputs.coordinates]\nsource = 1\n").is_canonical


@pytest.mark.parametrize(
    ("tables", "message", "hint"),
    [
        ('[inputs.image]\nlayout = "HWC"', "inputs.image.layout is 'HWC'", "Write N first, then the letters of NCHW"),
        ('[inputs.image]\nlayout = "NHW"', "inputs.image.layout is 'NHW'", "each once"),
        ('[inputs.image]\ndtype = "int64"', "inputs.image.dtype is 'int64'", "float32, float16, uint8, int8, int32"),
        ('[inputs.picture]\nlayout = "NHWC"', "Unknown field inputs.picture", "The fields here are: image"),
        ("[outputs.heatmap]\nsource = 0", "[outputs.heatmap] is no output", "It reads: coordinates."),
        ('[outputs.coordinates]\nlayout = "NKD"', "outputs.coordinates.layout is 'NKD'", "the letters of NKC"),
        ('[outputs.coordinates]\nlayout = "KNC"', "outputs.coordinates.layout is 'KNC'", "N first"),
        ('[outputs.coordinates]\nlayout = "NKKC"', "outputs.coordinates.layout is 'NKKC'", "each once"),
        ('[outputs.coordinates]\nlayout = "N(K)C"', "outputs.coordinates.layout is 'N(K)C'", "brackets"),
        ("[outputs.coordinates]\nslice = { H = [0, 2] }", "slice cuts 'H'; the axes are K, C", "Correct the value"),
        ("[outputs.coordinates]\nslice = { K = [3, 3] }", "slice of K from 3 to 3 holds nothing", "Correct"),
        ("[outputs.coordinates]\nslice = { K = [1, 0] }", "slice of K from 1 to 0 holds nothing", "Correct"),
        (
            '[outputs.coordinates]\nlayout = "N(KC)"\nslice = { K = [0, 3], C = [0, 2] }',
            "layout joins C and K, and slice cuts both",
            "Correct",
        ),
        ('[outputs.coordinates]\ncolumns = ["x", "x", "y"]', "outputs.coordinates.columns has a name twice", "Correct"),
        ('[outputs.coordinates]\ncolumns = ["x", "score"]', "the decoder 'coordinates' reads x, y, score", "'y' among"),
        ('[outputs.coordinates]\ncolumns = ["x", "visibility"]', "reads x, y.", "called 'score'"),
        ('[outputs.coordinates]\ncolumns = ["x", "w"]', "outputs.coordinates.columns[1] is 'w'", "visibility"),
        ('[outputs.coordinates]\nactivation = "tanh"', "outputs.coordinates.activation is 'tanh'", "none, sigmoid"),
        (
            '[outputs.coordinates]\nactivation = "sigmoid"',
            "goes to the score alone, and no column is said to be one",
            'columns = ["x", "y", "score"]',
        ),
        (
            '[outputs.coordinates]\nactivation = "sigmoid"\ncolumns = ["x", "y", "_"]',
            "goes to the score alone, and no column is said to be one",
            "or leave activation out",
        ),
        ("[outputs.coordinates]\nsource = []", "outputs.coordinates.source is empty", "Correct the value"),
        ("[outputs.coordinates]\nsource = 1.5", "outputs.coordinates.source is 1.5", "a text in quotes"),
    ],
)
def test_a_mistake_is_told_with_its_field(tmp_path: Path, tables: str, message: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, tables)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_an_activation_goes_to_the_score_of_the_decoders_columns() -> None:
    view = OutputView(activation="sigmoid")
    view.check("coordinates", SOLID)
    steps = view.steps("coordinates", SOLID, 3, SIZE, (3, 4), ExportError)
    assert (steps.columns, steps.activated) == (None, (3,))


@pytest.mark.parametrize(
    ("decoder", "role"),
    [
        (YoloPose(0.25, 0.7, 20, "decoded", True, boxes="xywh", scale="pixel", objectness=False), "people"),
        (YoloPose(0.25, 0.7, 20, "anchor-free", True, strides=(8.0,), heads="parts", bins=1), "score_0"),
    ],
)
def test_people_take_no_activation(decoder: YoloPose, role: str) -> None:
    with pytest.raises(SpecError, match=r"it would reach boxes and keypoints, or what the decoder") as caught:
        OutputView(activation="sigmoid").check(role, decoder)
    assert "with the sigmoid of the scores inside" in caught.value.hint


@pytest.mark.parametrize("layout", ["N(KC)", "N(CK)"])
def test_joined_axes_that_both_are_unknown_are_told(layout: str) -> None:
    view = OutputView(layout=layout, slice={"K": (0, 21)})
    view.check("coordinates", POINTS)
    with pytest.raises(
        ExportError, match=r"How many of the 63 numbers of 'coordinates' along .* cannot be told"
    ) as err:
        view.steps("coordinates", POINTS, 21, SIZE, (63,), ExportError)
    assert "Write columns into [outputs.coordinates]" in err.value.hint
    named = OutputView(layout=layout, slice={"K": (0, 21)}, columns=("x", "y", "_"))
    assert sorted(named.steps("coordinates", POINTS, 21, SIZE, (78,), ExportError).reshape) == [3, 26]


def test_columns_are_for_coordinates_alone() -> None:
    with pytest.raises(SpecError, match=r"columns is for coordinates; the decoder reads NCHW"):
        OutputView(columns=("x", "y")).check("heatmap", HEATMAP)


def test_all_sources_are_named_or_none() -> None:
    with pytest.raises(SpecError, match=r"\[outputs.heatmap\] names its source, and \[outputs.depth\] does not"):
        View(outputs={"heatmap": OutputView(0)}).check(DEPTH, 3)


def test_a_gray_image_needs_no_axis_of_channels() -> None:
    View(InputView(layout="NHW")).check(HEATMAP, 1)
    assert InputView(layout="NHW").steps((1, 64, 48)) == Steps((64, 48), (0, 2, 3, 1))


@pytest.mark.parametrize(
    ("view", "decoder", "role", "shape", "steps"),
    [
        (OutputView(), HEATMAP, "heatmap", (17, 16, 12), Steps((17, 16, 12), (0, 1, 2, 3))),
        (OutputView(layout="NHWC"), HEATMAP, "heatmap", (16, 12, 17), Steps((16, 12, 17), (0, 3, 1, 2))),
        (OutputView(layout="NC(HW)"), HEATMAP, "heatmap", (17, 192), Steps((17, 16, 12), (0, 1, 2, 3))),
        (
            OutputView(layout="N(CHW)", slice={"C": (0, 17)}),
            HEATMAP,
            "heatmap",
            (51 * 192,),
            Steps((51, 16, 12), (0, 1, 2, 3), ((1, 0, 17),)),
        ),
        (OutputView(layout="NCK"), POINTS, "coordinates", (2, 17), Steps((2, 17), (0, 2, 1), activated=())),
        (OutputView(layout="N(KC)"), POINTS, "coordinates", (51,), Steps((17, 3), (0, 1, 2), activated=())),
        (OutputView(layout="N(CK)"), POINTS, "coordinates", (34,), Steps((2, 17), (0, 2, 1), activated=())),
        (
            OutputView(layout="N1KC", columns=("y", "x", "score"), activation="sigmoid"),
            POINTS,
            "coordinates",
            (1, 17, 3),
            Steps((17, 3), (0, 1, 2), (), (1, 0, 2), "sigmoid", (2,)),
        ),
        (
            OutputView(layout="N(KC)", columns=("x", "y", "visibility"), slice={"K": (0, 17)}),
            POINTS,
            "coordinates",
            (99,),
            Steps((33, 3), (0, 1, 2), ((1, 0, 17),), (0, 1), "none", ()),
        ),
        (
            OutputView(
                layout="N(KC)", columns=("x", "y", "z", "score", "presence"), slice={"K": (0, 17)}, activation="sigmoid"
            ),
            SOLID,
            "coordinates",
            (195,),
            Steps((39, 5), (0, 1, 2), ((1, 0, 17),), (0, 1, 2, 3), "sigmoid", (3,)),
        ),
    ],
)
def test_steps(view: OutputView, decoder: Decoder, role: str, shape: tuple[int, ...], steps: Steps) -> None:
    view.check(role, decoder)
    assert view.steps(role, decoder, 17, SIZE, shape, ExportError) == steps


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"layout": "N(KC)"}, (50,), "shape (N, 50), which is not N(KC) with K = 17"),
        ({}, (1, 17, 3), "shape (N, 1, 17, 3), which is not NKC with K = 17"),
        ({"slice": {"K": (0, -17)}}, (17, 2), "has 17 along K; its slice is from 0 to -17"),
        ({"slice": {"K": (3, 20)}}, (17, 2), "has 17 along K; its slice is from 3 to 20"),
        ({"columns": ("x", "y", "_")}, (17, 4), "shape (N, 17, 4), which is not NKC with K = 17, C = 3"),
    ],
)
def test_a_shape_that_does_not_fit_is_told(fields: Mapping[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ExportError) as caught:
        OutputView(**fields).steps("coordinates", POINTS, 17, SIZE, shape, ExportError)
    assert message in caught.value.message
    assert "[outputs.coordinates]" in caught.value.hint and "model.toml" in caught.value.hint


def test_a_byte_order_mark_is_no_part_of_the_model(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_bytes(b"\xef\xbb\xbf" + MODEL.encode())
    assert load_model_toml(file)[0].name == "net"


def test_heads_are_known_by_their_tables(tmp_path: Path) -> None:
    read(tmp_path, '[outputs.handedness]\nactivation = "sigmoid"\n[outputs.presence]\n')
    spec, host = load_model_toml(tmp_path / "model.toml")
    assert spec.heads == ("presence", "handedness")
    assert host.view.output("handedness").activation == "sigmoid"
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_model_without_heads_is_written_as_before(tmp_path: Path) -> None:
    read(tmp_path, "")
    written = load_model_toml(tmp_path / "model.toml")[0].to_dict()
    assert list(written) == ["name", "input", "decoder", "skeleton", "limits", "palm_mm"]
    assert list(written["limits"]) == ["shift_p95_px", "shift_max_px", "depth_p95", "score_max"]


@pytest.mark.parametrize(
    ("tables", "message", "hint"),
    [
        ('heads = ["presence"]', "Unknown field heads.", "as in [outputs.presence]"),
        (
            "[outputs.presence]\nsource = 1",
            "[outputs.presence] names its source, and [outputs.coordinates] does",
            "or of",
        ),
        ("[outputs.presence]\nlayout = 'NK'", "outputs.presence.layout is 'NK'", "then the letters of NC"),
        ("[outputs.presence]\ncolumns = ['x']", "outputs.presence.columns is for coordinates", "Correct"),
        ("[limits]\nhead_p95 = 2.0", "limits.head_p95 is 2, and must lie between 0 and 1", "Correct"),
    ],
)
def test_a_mistake_of_a_head_is_told(tmp_path: Path, tables: str, message: str, hint: str) -> None:
    model = MODEL.replace('name = "net"', f'name = "net"\n{tables}') if tables.startswith("heads") else MODEL + tables
    with pytest.raises(SpecError) as caught:
        read(tmp_path, "", model)
    assert message in caught.value.message and hint in caught.value.hint


def test_heads_are_of_one_person_in_a_crop(tmp_path: Path) -> None:
    people = 'type = "yolo-pose"\nform = "final"\nvisibility = true\nboxes = "xyxy"\nscale = "pixel"\n'
    people += "min_score = 0.5\noverlap = 0.5\nmax_people = 3\n"
    model = MODEL.replace('type = "coordinates"\nscale = "unit"\n', people)
    model = model.replace("pad_value = 0", 'pad_value = 0\nletterbox = "centre"')
    with pytest.raises(SpecError, match=r"outputs\.presence is of one hand or person in a crop") as caught:
        read(tmp_path, "[outputs.presence]\n", model)
    assert "Leave out [outputs.presence]" in caught.value.hint
