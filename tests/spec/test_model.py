"""The model spec: what is read back, and how every kind of mistake is told."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splite_deploy.bundle import Parity, Percentiles
from splite_deploy.decoders import Coordinates, SoftArgmax, SoftArgmaxDepth, SoftArgmaxWindow
from splite_deploy.errors import SpecError
from splite_deploy.metrics.parity import limits_of, violations
from splite_deploy.spec import LimitSpec, ModelSpec, load_model_toml

MODEL_TOML = Path(__file__).parents[2] / "models" / "splite_hand" / "model.toml"
EXAMPLE: dict[str, Any] = {
    "name": "toy_hand-2",
    "input": {
        "height": 128,
        "width": 96,
        "color": "rgb",
        "mean": [123.7, 116, 103.5],
        "std": [58.4, 57.1, 57.4],
        "box_padding": 1.25,
        "pad_value": 127,
    },
    "decoder": {
        "type": "softargmax-depth",
        "stride": 4,
        "beta": 1.5,
        "alignment": "udp",
        "score_window": 5,
        "root_keypoint": 1,
        "unit": "palm",
        "scale_bones": [[0, 1], [0, 2]],
    },
    "skeleton": {"keypoint_names": ["wrist", "middle", "index"], "edges": [[0, 1], [1, 2]]},
}
PLAIN = {"type": "softargmax", "stride": 4.0, "beta": 1.0, "alignment": "corner", "score_window": 5}
WINDOW = {"type": "softargmax-window", "stride": 4.0, "beta": 1.0, "alignment": "corner", "window": 7}
MISSING: Any = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """EXAMPLE with the field at a dotted path set, or left out."""
    data = copy.deepcopy(EXAMPLE)
    *tables, last = path.split(".")
    table = data
    for name in tables:
        table = table.setdefault(name, {})
    if value is MISSING:
        del table[last]
    else:
        table[last] = value
    return data


@pytest.mark.parametrize(
    ("decoder", "kind"),
    [
        (EXAMPLE["decoder"], SoftArgmaxDepth),
        (PLAIN, SoftArgmax),
        (WINDOW, SoftArgmaxWindow),
        ({"type": "coordinates", "scale": "unit"}, Coordinates),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_round_trip_through_json(decoder: dict[str, Any], kind: type) -> None:
    spec = ModelSpec.from_dict(changed("decoder", decoder))
    again = ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False)))
    assert again == spec
    assert type(again.decoder) is kind
    assert again.to_dict()["decoder"]["type"] == decoder["type"]


def test_optional_fields_survive_the_round_trip() -> None:
    data = changed("limits", {"shift_p95_px": 0.5})
    data["palm_mm"] = 91
    data["skeleton"]["flip_pairs"] = [[0, 2]]
    spec = ModelSpec.from_dict(data)
    assert spec.limits == LimitSpec(shift_p95_px=0.5, depth_p95=0.001)
    assert spec.skeleton.flip_pairs == ((0, 2),)
    assert spec.palm_mm == 91.0
    assert ModelSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("unit", "palm_mm", "given", "expected"),
    [
        ("palm", 88.0, None, 0.001),
        ("palm", None, None, 0.001),
        ("mm", 88.0, None, 0.088),
        ("palm", 88.0, 0.02, 0.02),
        ("mm", 88.0, 0.02, 0.02),
    ],
)
def test_the_limit_of_the_depth_is_one_length_in_every_unit(
    unit: str, palm_mm: float | None, given: float | None, expected: float
) -> None:
    """Where it is written it is in the decoder's unit."""
    data = {**changed("decoder.unit", unit), "palm_mm": palm_mm}
    if given is not None:
        data["limits"] = {"depth_p95": given}
    spec = ModelSpec.from_dict(data)
    assert spec.limits.depth_p95 == pytest.approx(expected) and spec.to_dict()["limits"]["depth_p95"] == expected
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    mm = spec.mm_per_unit()
    depth = Percentiles(0.0, (mm or 1.0) * expected, 1.0)
    parity = Parity("torch", "onnx", 1, "", {}, Percentiles(0.0, 0.0, 0.0), depth, "palm" if mm is None else "mm")
    assert violations(parity, spec.limits, spec) == []
    over = dataclasses.replace(parity, depth=dataclasses.replace(depth, p95=1.01 * depth.p95))
    assert violations(over, spec.limits, spec)[0].startswith("depth deviation p95")
    assert limits_of("int8", spec).depth_p95 == pytest.approx(0.05 * (88 if unit == "mm" else 1))


def test_values_have_the_declared_types() -> None:
    data = copy.deepcopy(EXAMPLE)
    spec = ModelSpec.from_dict(data)
    assert spec.input.mean == (123.7, 116.0, 103.5)
    assert all(type(value) is float for value in spec.input.mean)  # 116 was written as a whole number
    assert isinstance(spec.decoder, SoftArgmaxDepth)
    assert type(spec.decoder.stride) is float
    assert spec.decoder.scale_bones == ((0, 1), (0, 2))
    assert spec.keypoint_count == 3
    assert spec.palm_mm is None
    assert data == EXAMPLE, "from_dict changed its argument"
    hash(spec)


@pytest.mark.parametrize(
    ("unit", "palm_mm", "expected"),
    [("palm", None, None), ("palm", 88, 88.0), ("mm", 88, 1.0)],
)
def test_mm_per_unit(unit: str, palm_mm: float | None, expected: float | None) -> None:
    assert ModelSpec.from_dict({**changed("decoder.unit", unit), "palm_mm": palm_mm}).mm_per_unit() == expected


def test_mm_per_unit_without_depth() -> None:
    assert ModelSpec.from_dict({**changed("decoder", PLAIN), "palm_mm": 88}).mm_per_unit() is None


FIELDS = "box_padding"  # a hint that lists the fields of a table holds this one for the input
README = "models/README.md"


@pytest.mark.parametrize(
    ("path", "value", "message", "hint"),
    [
        # missing
        ("name", MISSING, "The field name is missing", README),
        ("decoder", MISSING, "The field decoder.type is missing", "softargmax-window"),
        ("input.std", MISSING, "The field input.std is missing", README),
        ("decoder.beta", MISSING, "The field decoder.beta is missing", README),
        ("decoder.alignment", MISSING, "The field decoder.alignment is missing", "i * stride + .5"),
        ("decoder.type", MISSING, "The field decoder.type is missing", "softargmax-window"),
        ("skeleton.keypoint_names", MISSING, "The field skeleton.keypoint_names is missing", README),
        # unknown
        ("nmae", "x", "Unknown field nmae", "The fields here are: name, input"),
        ("input.sdt", [1, 1, 1], "Unknown field input.sdt", FIELDS),
        ("input.palm_mm", 88.0, "Unknown field input.palm_mm", FIELDS),
        ("decoder.window", 5, "Unknown field decoder.window", "stride, alignment, beta, score_window"),
        ("limits.shift", 1.0, "Unknown field limits.shift", "shift_p95_px"),
        # wrong type
        ("name", 3, "name is 3", "a text in quotes"),
        ("input", [], "input is []", "a table"),
        ("decoder", "softargmax", "decoder is 'softargmax'", "a table"),
        ("input.height", 128.0, "input.height is 128.0", "a whole number"),
        ("input.height", "128", "input.height is '128'", "a whole number"),
        ("input.height", True, "input.height is True", "a whole number"),
        ("input.height", None, "input.height is None", "a whole number"),
        ("input.box_padding", "1.25", "input.box_padding is '1.25'", "a finite number"),
        ("input.box_padding", True, "input.box_padding is True", "a finite number"),
        ("input.box_padding", float("nan"), "input.box_padding is nan", "a finite number"),
        ("input.mean", [1, 2, float("inf")], "input.mean[2] is inf", "a finite number"),
        ("input.mean", [1, False, 3], "input.mean[1] is False", "a finite number"),
        ("input.mean", 127.5, "input.mean is 127.5", "a list, each entry a finite number"),
        ("input.std", "abc", "input.std is 'abc'", "a list, each entry a finite number"),
        ("palm_mm", "88", "palm_mm is '88'", "a finite number"),
        ("palm_mm", True, "palm_mm is True", "a finite number"),
        ("skeleton.keypoint_names", "wrist", "skeleton.keypoint_names is 'wrist'", "a list"),
        ("skeleton.keypoint_names", ["a", 1, "b"], "skeleton.keypoint_names[1] is 1", "a text in quotes"),
        ("decoder.root_keypoint", 1.0, "decoder.root_keypoint is 1.0", "a whole number"),
        # wrong length
        ("input.mean", [127.5], "input.mean is [127.5]; input.color 'rgb' takes 3 of them", README),
        ("input.std", [64.0] * 4, "input.std is [64.0, 64.0, 64.0, 64.0]", README),
        ("decoder.scale_bones", [[0, 1], [0, 1, 2]], "decoder.scale_bones[1] is [0, 1, 2]", "a list of 2 values"),
        ("decoder.scale_bones", [0, 1], "decoder.scale_bones[0] is 0", "a list of 2 values"),
        ("skeleton.edges", [[0]], "skeleton.edges[0] is [0]", "a list of 2 values"),
        # wrong word
        ("input.color", "RGB", "input.color is 'RGB'", "rgb, bgr"),
        ("input.color", 1, "input.color is 1", "rgb, bgr"),
        ("decoder.alignment", "center", "decoder.alignment is 'center'", "corner, centre, udp"),
        ("decoder.unit", "cm", "decoder.unit is 'cm'", "palm, mm"),
        ("decoder.type", "darkest", "decoder.type is 'darkest'", "softargmax, softargmax-window, softargmax-depth"),
        ("decoder.type", [], "decoder.type is []", "softargmax-window"),
        ("decoder.type", {}, "decoder.type is {}", "softargmax-window"),
        ("decoder", {"type": "coordinates", "scale": "norm"}, "decoder.scale is 'norm'", "unit, pixel"),
        # wrong value
        ("name", "", "name must be a word", README),
        ("name", "my hand", "name must be a word", README),
        ("name", "../up", "name must be a word", README),
        ("palm_mm", 0, "palm_mm must be positive", README),
        ("input.width", 0, "input.width must be positive", README),
        ("input.mean", [300, 0, 0], "input.mean is on the 0-255 scale", README),
        ("input.std", [0.229, 0.224, 0.225], "input.std looks like the 0-1 scale; multiply", README),
        ("input.color", "gray", "input.mean is [123.7, 116.0, 103.5]; input.color 'gray' takes 1 of them", README),
        ("input.std", [58, 0, 57], "input.std must be positive", README),
        ("input.box_padding", 0, "input.box_padding must be positive", README),
        ("input.pad_value", 256, "input.pad_value must lie in 0-255", README),
        ("decoder.stride", 0, "decoder.stride must be positive", README),
        ("decoder.beta", -1, "decoder.beta must be positive", README),
        ("decoder.score_window", 4, "decoder.score_window must be odd", README),
        ("decoder", {**WINDOW, "window": 6}, "decoder.window must be odd", README),
        ("decoder.root_keypoint", -1, "decoder.root_keypoint must not be negative", README),
        ("decoder.root_keypoint", 3, "decoder.root_keypoint", README),
        ("decoder.scale_bones", [], "decoder.scale_bones needs at least one pair", README),
        ("decoder.scale_bones", [[1, 1]], "decoder.scale_bones has a pair of one keypoint", README),
        ("decoder.scale_bones", [[0, 3]], "scale_bones names no keypoint", README),
        ("decoder.scale_bones", [[-1, 0]], "scale_bones names no keypoint", README),
        ("decoder.unit", "mm", "needs palm_mm", README),
        ("skeleton.keypoint_names", [], "skeleton.keypoint_names is empty", README),
        ("skeleton.keypoint_names", ["a", "b", "a"], "skeleton.keypoint_names has a name twice", README),
        ("skeleton.edges", [[0, 3]], "skeleton pair (0, 3) names no keypoint of 3", README),
        ("skeleton.flip_pairs", [[-1, 0]], "skeleton pair (-1, 0) names no keypoint of 3", README),
        ("limits", {"shift_max_px": 0}, "limits must be positive", README),
    ],
)
def test_a_wrong_field_is_named(path: str, value: Any, message: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_dict(changed(path, value))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.message.endswith(".") and caught.value.hint.endswith(".")


def test_a_missing_alignment_is_explained() -> None:
    """Three conventions, whose each is, and what the wrong one costs."""
    for decoder in (EXAMPLE["decoder"], PLAIN, WINDOW):
        without = {key: value for key, value in decoder.items() if key != "alignment"}
        with pytest.raises(SpecError) as caught:
            ModelSpec.from_dict(changed("decoder", without))
        for said in ("corner", "centre", "udp", "half-pixel", "MSRAHeatmap: most published", "UDPHeatmap", "1.5 px"):
            assert said in caught.value.hint
    ModelSpec.from_dict(changed("decoder", {"type": "coordinates", "scale": "unit"}))


def test_model_toml_of_the_hand_loads() -> None:
    spec, host = load_model_toml(MODEL_TOML)
    assert spec.name == "splite-hand"
    assert spec.keypoint_count == 21
    assert (spec.input.width, spec.input.height, spec.input.color) == (128, 128, "rgb")
    assert isinstance(spec.decoder, SoftArgmaxDepth)
    names = spec.skeleton.keypoint_names
    assert names[spec.decoder.root_keypoint] == "middle_mcp"
    assert all(names[a] == "wrist" and names[b].endswith("_mcp") for a, b in spec.decoder.scale_bones)
    assert len(spec.skeleton.edges) == 21
    assert host.folder == MODEL_TOML.parent
    assert host.arch == "arch.py:build"
    assert host.arch_args["keypoints"] == spec.keypoint_count
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def write(text: str) -> Callable[[Path], Path]:
    def at(folder: Path) -> Path:
        file = folder / "model.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return at


def write_latin1(folder: Path) -> Path:
    file = folder / "model.toml"
    file.write_bytes('name = "Hände"'.encode("latin-1"))
    return file


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda folder: folder / "none.toml", "No model spec at", "--model"),
        (lambda folder: folder, "Cannot read", "--model"),
        (write_latin1, "Cannot read", "--model"),
        (write('name = "x"\nheight = \n'), "not valid TOML", "Correct that line"),
        (write('name = "x"\nname = "y"\n'), "not valid TOML", "Correct that line"),
        (write("arch = 3"), "arch, arch_args, samples or calibration has the wrong type", '"file.py:symbol"'),
        (
            write('arch = "arch.py:build"\narch_args = 3'),
            "arch, arch_args, samples or calibration has the wrong type",
            "[arch_args]",
        ),
        (write('arch = "arch.py:build"'), "11 fields are missing or wrong: name is missing; ", README),
        (write('arch = "arch.py:build"\nname = "x"\ninput = {height = nan}'), "input.height is nan", "whole number"),
    ],
    ids=["missing", "folder", "encoding", "syntax", "twice", "arch type", "arch_args type", "empty", "nan"],
)
def test_load_model_toml_tells_what_is_wrong(
    make: Callable[[Path], Path], message: str, hint: str, tmp_path: Path
) -> None:
    file = make(tmp_path)
    with pytest.raises(SpecError) as caught:
        load_model_toml(file)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert str(caught.value) == f"{caught.value.message}\n{caught.value.hint}"


@pytest.mark.parametrize(
    ("mean", "std", "allowed"),
    [
        ([0, 0, 0], [1, 1, 1], True),  # pixels as they are
        ([104, 117, 123], [1, 1, 1], True),
        ([0, 0, 0], [255, 255, 255], True),  # 0 to 1
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], False),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], False),
        ([0.5, 0.5, 0.5], [1, 1, 1], False),
        ([0, 0, 0], [0.5, 0.5, 0.5], False),
    ],
)
def test_raw_pixels_are_no_mistake_and_the_unit_scale_is(mean: list[float], std: list[float], allowed: bool) -> None:
    data = changed("input.mean", mean)
    data["input"]["std"] = std
    if allowed:
        assert ModelSpec.from_dict(data).input.mean == tuple(map(float, mean))
        return
    with pytest.raises(SpecError, match=r"looks like the 0-1 scale; multiply mean and std by 255; mean 0 and std 1"):
        ModelSpec.from_dict(data)


def test_a_grey_image_has_one_channel() -> None:
    data = changed("input.color", "gray")
    data["input"] |= {"mean": [127.5], "std": [127.5]}
    spec = ModelSpec.from_dict(data).input
    assert (spec.channels, spec.planes, spec.picture_color) == (1, (1, 128, 96), "bgr")


def test_all_that_is_missing_or_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text(
        """palms = 88
[input]
height = 64
width = "48"
color = "RGB"
mean = [1, 2, 3]
std = [0.2, 0.2, 0.2]
[inputs.image]
layot = "NHWC"
[decoder]
type = "softargmax"
stride = 4.0
beta = "1"
[skeleton]
preset = "hand"
""",
        encoding="utf-8",
    )
    with pytest.raises(SpecError) as caught:
        load_model_toml(file)
    parts = [
        "Unknown field palms",
        "name is missing",
        "input.width is '48', which has the wrong type",
        "input.color is 'RGB'",
        "input.box_padding is missing",
        "input.pad_value is missing",
        "decoder.beta is '1', which has the wrong type",
        "decoder.alignment is missing",
        "decoder.score_window is missing",
        "skeleton.preset is 'hand', which is not a preset",
        "Unknown field inputs.image.layot",
    ]
    head, found = caught.value.message.split(" fields are missing or wrong: ")
    assert head == f"{file}: {len(parts)}"
    assert sorted(found.removesuffix(".").split("; ")) == sorted(parts)
    hints = dict(line.split(": ", 1) for line in caught.value.hint.splitlines())
    assert hints["input.width"] == "It must be a whole number."
    assert hints["name, input.box_padding, input.pad_value, decoder.score_window"] == (
        "Add it; see models/README.md for every field with an example."
    )
    assert 'alignment = "centre" for' in hints["decoder.alignment"]
    assert hints["inputs.image.layot"] == "The fields here are: source, layout, dtype."
    assert hints["skeleton"].startswith("Choose one of: ")


def test_each_field_of_a_missing_table_is_told() -> None:
    data = changed("input", MISSING)
    del data["skeleton"]["edges"]
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_dict(data)
    for name in ("height", "width", "color", "mean", "std", "box_padding", "pad_value"):
        assert f"input.{name} is missing; " in caught.value.message
    assert caught.value.message.endswith("skeleton.edges is missing.")


def test_what_a_program_wrote_is_damaged_and_one_field_says_so() -> None:
    with pytest.raises(SpecError, match=r"^The field name is missing\."):
        ModelSpec.from_dict({}, unknown="ignore")
