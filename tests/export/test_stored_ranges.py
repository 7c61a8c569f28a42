"""Ranges that travel with a checkpoint: for these weights behind this preprocessing, whatever graph they become."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx  # noqa: TID253
import onnx_ir as ir  # noqa: TID253
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253

torch = pytest.importorskip("torch")

from splite_deploy.bundle import Bundle
from splite_deploy.errors import CalibrationError, SpecError, SpliteError, UsageError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.artifacts import likely_cause
from splite_deploy.export.calibrate import Calibrated, calibrate_checkpoint
from splite_deploy.export.failures import PartialExportError
from splite_deploy.export.graph.walk import from_proto, load, to_proto
from splite_deploy.export.quant.calibration import CalibrationSet
from splite_deploy.export.quant.ranges import Ranges, calibrate
from splite_deploy.export.quant.stored_ranges import (
    StoredRanges,
    is_ranges_file,
    probes,
    read_ranges,
    restore,
    store,
)
from splite_deploy.export.source.load import load_model, load_source
from splite_deploy.export.source.weights import weights_key
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import InputSpec, load_model_toml

Run = Callable[..., Result]
AGAIN = "Make them again."


def photos(folder: Path, count: int, seed: int) -> Path:
    """Images that are in no way like those of the renderer of the tiny network."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for index in range(count):
        image = cv2.resize(rng.integers(0, 256, (6, 5, 3), np.uint8), (60, 80), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index}.png"), image)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("somebodys") / "holiday", 32, 5)


@pytest.fixture(scope="module")
def other_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("somebodys") / "work", 4, 6)


@pytest.fixture
def place(tiny_model: Path, tiny_bundle: Path, tmp_path: Path) -> Path:
    """A folder with the tiny network as an ONNX graph, which needs no export by torch, and its model spec."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(tiny_bundle / "model.onnx", folder / "tiny.onnx")
    return folder


def name_it(place: Path, file: str = "tiny.ranges.json") -> None:
    model = place / "model.toml"
    model.write_text(f'calibration = "{file}"\n{model.read_text()}')


def export(place: Path, **options: Any) -> Bundle:
    made = ExportOptions(precisions=("int8", "fp16"), crops=4, **options)
    return export_bundle(place / "tiny.onnx", place / "t.splite", options=made)


# --- the command and the export ---


def test_a_stored_file_stands_for_the_photographs(
    splite: Run, place: Path, photographs: Path, other_photographs: Path
) -> None:
    file = place / "tiny.ranges.json"
    result = splite("calibrate", place / "tiny.onnx", "--images", photographs, "-o", file)
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "photos of holiday (32 images). Checked: number, flat images, repeats, brightness and spread" in said
    assert f"Write this into {place / 'model.toml'}, above its first [table]: calibration" in said
    assert 'calibration = "tiny.ranges.json"' in result.stdout
    text = file.read_text()
    assert "holiday" not in text and str(place) not in text and ".png" not in text
    name_it(place)

    bundle = export(place)
    calibration = bundle.report().calibration
    assert calibration is not None and calibration.crops == 32 and len(calibration.sha256) == 64
    assert calibration.origin == "ranges measured on 32 photographs, stored with the checkpoint"
    assert f"calibrated with {calibration.origin}" in bundle.report().notes
    stored = (bundle.path / "model.int8.onnx").read_bytes()
    assert "tiny.ranges.json" not in {path.name for path in bundle.path.iterdir()}

    (place / "elsewhere").mkdir()
    options = ExportOptions(precisions=("int8",), crops=4, calibration=photographs, images=other_photographs)
    direct = export_bundle(place / "tiny.onnx", place / "elsewhere" / "t.splite", options=options)
    assert_alike(load(direct.path / "model.int8.onnx"), from_proto(onnx.load_from_string(stored)))

    again = splite("calibrate", place / "tiny.onnx", "--images", photographs, "-o", file)
    assert again.exit_code == 1 and f"{file} exists" in again.stderr and "--overwrite" in again.stderr
    again = splite("calibrate", place / "tiny.onnx", "--images", photographs, "-o", file, "--overwrite", "--json", "-")
    assert again.exit_code == 0 and json.loads(again.stdout)["kind"] == "photographs"
    assert file.read_text() == text


def test_what_is_to_be_written_takes_the_place_of_the_ranges_before(
    splite: Run, place: Path, photographs: Path, other_photographs: Path
) -> None:
    calibrate_checkpoint(place / "tiny.onnx", place / "tiny.ranges.json", images=photographs)
    name_it(place)
    result = splite("calibrate", place / "tiny.onnx", "--images", photographs, "--count", "16", "-o", place / "my.json")
    assert result.exit_code == 0, result.stderr
    line = 'calibration = ["my.json", "tiny.ranges.json"]'
    assert line in result.stdout
    model = place / "model.toml"
    model.write_text(model.read_text().replace('calibration = "tiny.ranges.json"', line))
    calibration = export(place).report().calibration
    assert calibration is not None and calibration.crops == 16


def assert_alike(one: ir.Model, other: ir.Model) -> None:
    """The same scales and weights, but for the last digits."""
    left, right = one.graph.initializers, other.graph.initializers
    assert list(left) == list(right)
    for name, value in left.items():
        assert value.const_value is not None and right[name].const_value is not None
        a, b = value.const_value.numpy().astype(np.float64), right[name].const_value.numpy().astype(np.float64)  # type: ignore[union-attr]
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1.01 if a.dtype.kind != "f" else 1e-5, err_msg=name)


def test_ranges_may_be_named_on_the_command_line(place: Path, photographs: Path) -> None:
    file = place / "tiny.ranges.json"
    calibrate_checkpoint(place / "tiny.onnx", file, images=photographs)
    assert is_ranges_file(file) and not is_ranges_file(place / "tiny.onnx") and not is_ranges_file(place)
    bundle = export(place, calibration=file)
    assert bundle.report().calibration.origin.startswith("ranges measured on 32 photographs")  # type: ignore[union-attr]


def test_too_few_images_are_told_before_the_work(place: Path, photographs: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(photographs.glob("*.png"))[:5]:
        shutil.copy(file, few)
    told: list[str] = []
    with pytest.raises(CalibrationError, match="holds 5 images; at least 8 are needed") as caught:
        calibrate_checkpoint(place / "tiny.onnx", place / "a.ranges.json", images=few, progress=told.append)
    assert caught.value.hint.startswith("Give more with --images: ")
    assert "making the graph" not in told
    with pytest.raises(UsageError, match="is not a folder of images") as wrong:
        calibrate_checkpoint(place / "tiny.onnx", place / "a.ranges.json", images=tmp_path / "none")
    assert wrong.value.hint == "Name one, for example with --images."


@pytest.mark.parametrize("name", ["none.ranges.json", "bad.ranges.json", "none.npz", "few"])
def test_a_bad_calibration_is_told_before_the_work(place: Path, photographs: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "few").mkdir()
    shutil.copy(sorted(photographs.glob("*.png"))[0], tmp_path / "few")
    (tmp_path / "bad.ranges.json").write_text("{")
    told: list[str] = []
    options = ExportOptions(precisions=("int8",), crops=4, calibration=tmp_path / name, images=photographs)
    with pytest.raises(SpliteError):
        export_bundle(place / "tiny.onnx", place / "t.splite", options=options, progress=told.append)
    assert "cropping images for the comparison" not in told
    assert not (place / "t.splite").exists()


def test_a_bad_calibration_costs_fp32_nothing(place: Path, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.ranges.json").write_text("{")
    options = ExportOptions(
        precisions=("fp32", "int8"), crops=4, calibration=tmp_path / "bad.ranges.json", images=photographs
    )
    with pytest.raises(PartialExportError) as caught:
        export_bundle(place / "tiny.onnx", place / "t.splite", options=options)
    (failure,) = caught.value.bundle.report().failures
    assert "is not a whole file of ranges" in failure.message


def test_images_given_go_before_stored_ranges(place: Path, photographs: Path) -> None:
    name_it(place, "missing.json")
    assert export(place, calibration=photographs).report().calibration.origin.startswith("photos of holiday")  # type: ignore[union-attr]


def test_only_rendered_pictures_are_blamed_for_a_failure() -> None:
    _, ranges, _ = measured(gated_graph())
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    made = Calibrated(ranges, "rendered images", "rendered by samples.py (128)", 128, "", (), pixels)
    assert "It was calibrated on rendered pictures: name photographs" in likely_cause(made)
    assert "It was calibrated on random noise" in likely_cause(replace(made, kind="random noise"))
    assert likely_cause(replace(made, kind="photographs")) == likely_cause(replace(made, kind="crops")) == ""


def test_each_checkpoint_has_its_own(place: Path, photographs: Path, splite: Run) -> None:
    model = place / "model.toml"
    changed = onnx.load(str(place / "tiny.onnx"))
    change_bias(changed)
    onnx.save(changed, str(place / "other.onnx"))
    for name in ("other", "tiny"):
        arguments = ("--images", photographs, "-o", place / f"{name}.ranges.json", "--overwrite")
        result = splite("calibrate", place / f"{name}.onnx", *arguments)
        line = next(line.strip() for line in result.stdout.splitlines() if line.startswith("  calibration = "))
        text = model.read_text()
        model.write_text(f"{line}\n{text[text.index('name =') :]}")
    assert load_model_toml(model)[1].calibration == ("tiny.ranges.json", "other.ranges.json")
    assert export(place).report().calibration.origin.startswith("ranges measured on 32")  # type: ignore[union-attr]
    result = splite("calibrate", place / "tiny.onnx", *arguments)
    assert f"{model} names it already." in result.stdout


def change_bias(model: Any) -> None:
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "heatmap.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3), bias.name))


# --- what the ranges are not for ---


@pytest.fixture
def stale(place: Path, photographs: Path) -> Path:
    """The place, with stored ranges named."""
    calibrate_checkpoint(place / "tiny.onnx", place / "tiny.ranges.json", images=photographs)
    name_it(place)
    return place


def refused(place: Path, kind: type[SpliteError], message: str, hint: str = "splite-deploy calibrate") -> None:
    with pytest.raises(kind) as raised:
        export(place)
    assert message in raised.value.message, raised.value.message
    assert hint in raised.value.hint, raised.value.hint
    assert not (place / "t.splite").exists()


def test_other_weights_are_refused(stale: Path) -> None:
    model = onnx.load(str(stale / "tiny.onnx"))
    change_bias(model)
    onnx.save(model, str(stale / "tiny.onnx"))
    refused(stale, CalibrationError, "were measured for other weights than this checkpoint's")


def test_another_preprocessing_is_refused_and_named(stale: Path) -> None:
    model = stale / "model.toml"
    text = model.read_text()
    model.write_text(text.replace("mean = [120.0,", "mean = [121.0,").replace("pad_value = 127", "pad_value = 0"))
    refused(
        stale,
        CalibrationError,
        "behind another preprocessing: input.mean was (120.0, 115.0, 105.0) and is (121.0, 115.0, 105.0), "
        "input.pad_value was 127 and is 0.",
    )


def test_a_file_that_is_not_whole_is_refused(stale: Path) -> None:
    file = stale / "tiny.ranges.json"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    refused(stale, CalibrationError, "is not a whole file of ranges")
    value = json.loads(whole)["tensors"][2]["limits"][1]
    file.write_text(whole.replace(repr(value), repr(value + 0.5)))
    refused(stale, CalibrationError, "is damaged: its content is not that of its sha256")
    file.write_text(whole.replace('"limits"', '"limit"'))
    refused(stale, CalibrationError, "is damaged: Unknown field tensors[0].limit")
    file.write_text("[]")
    refused(stale, CalibrationError, "is not a file of ranges")
    file.unlink()
    refused(stale, SpecError, "There is no file of ranges at")


def test_a_later_version_asks_for_an_upgrade(stale: Path) -> None:
    file = stale / "tiny.ranges.json"
    file.write_text(file.read_text().replace('"splite_ranges": 1', '"splite_ranges": 2, "new": 3'))
    refused(stale, CalibrationError, "holds ranges of version 2; this version of splite-deploy reads 1", "Upgrade")


def test_weights_are_the_same_in_every_file(tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path) -> None:
    known = load_model(tiny_checkpoint, tiny_model, None)
    state = {name: tensor.clone() for name, tensor in known.network.state_dict().items()}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "tiny.pt")
    assert load_model(tmp_path / "tiny.pt", tiny_model, None).weights_sha256 == known.weights_sha256
    state["heatmap.bias"][0] += 1e-6
    torch.save(state, tmp_path / "tiny.pt")
    assert load_model(tmp_path / "tiny.pt", tiny_model, None).weights_sha256 != known.weights_sha256
    a, b = np.float32([1, 2]), np.float32([[3]])
    assert weights_key([a, b, np.int64([4])]) == weights_key([b, a]) != weights_key([a[:, None], b])


def test_a_graph_is_known_by_its_constants(place: Path) -> None:
    keys = set()
    for name in ("tiny.onnx", "renamed.onnx"):
        keys.add(load_source(place / name, None, ExportOptions()).weights_sha256)
        onnx.save(to_proto(renamed(load(place / "tiny.onnx"))), str(place / "renamed.onnx"))
    assert len(keys) == 1


# --- the graph may be another ---


def spec_of(size: int = 16) -> InputSpec:
    return InputSpec(size, size, "rgb", (120.0, 115.0, 105.0), (58.0, 57.0, 57.0), 1.25, 127)


def gated_graph(*, written_out: bool = False, batch: int | str = 1) -> ir.Model:
    """Two branches, a gate and a sum; ``written_out`` is what another exporter makes of the hard sigmoid."""
    rng = np.random.default_rng(2)
    weights = {
        "w0": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b0": rng.normal(0, 1, 8),
        "w1": rng.normal(0, 0.3, (8, 8, 1, 1)),
        "b1": rng.normal(0, 1, 8),
        "w2": rng.normal(0, 0.3, (8, 8, 1, 1)),
        "b2": rng.normal(0, 1, 8),
        "w3": rng.normal(0, 0.3, (4, 8, 1, 1)),
        "b3": rng.normal(0, 1, 4),
    }
    gate = [helper.make_node("HardSigmoid", ["right"], ["gate"], alpha=0.2, beta=0.5)]
    if written_out:
        weights |= {"a": np.array(0.2), "b": np.array(0.5), "zero": np.array(0.0), "one": np.array(1.0)}
        gate = [
            helper.make_node("Mul", ["right", "a"], ["scaled"]),
            helper.make_node("Add", ["scaled", "b"], ["shifted"]),
            helper.make_node("Clip", ["shifted", "zero", "one"], ["gate"]),
        ]
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["stem"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem"], ["positive"]),
        helper.make_node("Conv", ["positive", "w1", "b1"], ["left"]),
        helper.make_node("Conv", ["positive", "w2", "b2"], ["right"]),
        *gate,
        helper.make_node("Mul", ["left", "gate"], ["gated"]),
        helper.make_node("Add", ["gated", "positive"], ["sum"]),
        helper.make_node("Conv", ["sum", "w3", "b3"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gated",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 4, 16, 16])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def renamed(model: ir.Model) -> ir.Model:
    """Other names, and the branches in the other order; inputs and outputs stay."""
    made = model.clone()
    ends = {*made.graph.inputs, *made.graph.outputs}
    for index, node in enumerate(made.graph):
        node.name = f"node{index}"
        for value in node.outputs:
            if value not in ends:
                value.name = f"v{index}"
    for number, value in enumerate(list(made.graph.initializers.values())):
        del made.graph.initializers[value.name]  # type: ignore[arg-type]
        value.name = f"c{number}"
        made.graph.register_initializer(value)
    by_name = {node.name: node for node in made.graph}
    if "node3" in by_name and by_name["node2"] not in by_name["node3"].predecessors():
        made.graph.remove(by_name["node3"])
        made.graph.insert_before(by_name["node2"], by_name["node3"])
    return made


def measured(model: ir.Model) -> tuple[StoredRanges, Ranges, Any]:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 16, 3), np.uint8)
    tensors = Preprocessor(spec_of(), "rgb").normalise(pixels)
    ranges = calibrate(model, tensors, "mse")
    chosen = CalibrationSet(pixels, "crops", "crops", "f" * 64, (), ())
    return store(model, ranges, chosen, "w" * 64, spec_of()), ranges, tensors


def restored(stored: StoredRanges, model: ir.Model, tensors: Any) -> tuple[Ranges, tuple[str, ...]]:
    return restore(stored, model, spec_of(), tensors, Path("x.ranges.json"), AGAIN)


@pytest.mark.parametrize("change", ["nothing", "names and order", "opset", "open batch", "rounding"])
def test_every_tensor_is_found_again(change: str) -> None:
    graph = gated_graph()
    stored, ranges, tensors = measured(graph)
    other = gated_graph(batch="batch") if change == "open batch" else graph
    if change == "names and order":
        other = renamed(graph)
    elif change == "opset":
        other = from_proto(onnx.version_converter.convert_version(to_proto(graph), 21))
    elif change == "rounding":
        other = graph.clone()
        for value in other.graph.initializers.values():
            array = value.const_value.numpy()  # type: ignore[union-attr]
            value.const_value = ir.tensor(np.float32(array * (1 + 1e-6)), name=value.name)
    found, notes = restored(stored, other, tensors)
    assert notes == () and found.method == "mse" and found.crops == 16
    flowing = dict(zip(ranges.limits, ("image", *(node.outputs[0].name for node in graph.graph)), strict=True))
    assert list(flowing.values()) == list(ranges.limits)
    assert len(found.limits) == len(ranges.limits) == 9
    by_shape = {name: ranges.limits[name] for name in ranges.limits}
    others = dict(zip(found.limits, found.limits, strict=True))
    if change == "names and order":  # the right branch is made before the left
        others = dict(zip(["image", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "out"], list(ranges.limits), strict=True))
    for name, original in others.items():
        assert found.limits[name] == pytest.approx(by_shape[original], rel=1e-5), name
        assert found.extremes[name] == pytest.approx(ranges.extremes[original], rel=1e-5)
        assert found.magnitudes[name] == pytest.approx(ranges.magnitudes[original], rel=1e-5)
        assert found.shapes[name] == ranges.shapes[original]
        np.testing.assert_allclose(found.means[name], ranges.means[original], rtol=1e-4, atol=1e-6)


def test_what_is_written_otherwise_is_measured_and_said() -> None:
    stored, ranges, tensors = measured(gated_graph())
    found, (note,) = restored(stored, gated_graph(written_out=True), tensors)
    assert note == ("2 of 11 activations are not in x.ranges.json and were measured on 16 crops: scaled, shifted")
    assert found.limits["gate"] == pytest.approx(ranges.limits["gate"], rel=1e-5)
    assert found.extremes["shifted"] == pytest.approx(
        tuple(0.5 + 0.2 * value for value in ranges.extremes["right"]), rel=1e-4
    )


def test_another_network_is_refused() -> None:
    stored, _, tensors = measured(gated_graph())
    other = gated_graph().clone()
    for name in ("w0", "b0"):
        value = other.graph.initializers[name]
        value.const_value = ir.tensor(value.const_value.numpy()[::-1] * 2, name=name)  # type: ignore[union-attr]
    with pytest.raises(CalibrationError, match="8 of the graph's 9 activations are not among the ranges") as raised:
        restored(stored, other, tensors)
    assert raised.value.hint == AGAIN


def test_a_value_and_its_relu_are_told_apart() -> None:
    """On the probes nothing is negative; on images something is, and the two have other limits."""
    graph = gated_graph()
    stored, ranges, tensors = measured(graph)
    lifted = [
        replace(one, fingerprint=stored.tensors[2].fingerprint) if one.made_by == "Conv" and index == 1 else one
        for index, one in enumerate(stored.tensors)
    ]
    found, _ = restored(replace(stored, tensors=tuple(lifted)), graph, tensors)
    assert found.limits["positive"] == pytest.approx(ranges.limits["positive"], rel=1e-5)


def test_the_probes_never_change() -> None:
    """Files that were written before are read by them."""
    pixels = probes(spec_of()) * np.float32([58, 57, 57])[:, None, None] + np.float32([120, 115, 105])[:, None, None]
    assert pixels.round().astype(int)[:, :, 0, 0].tolist() == [[161, 43, 103], [30, 121, 198]]


def test_a_file_is_read_back_to_what_was_written(tmp_path: Path) -> None:
    stored, _, _ = measured(gated_graph())
    stored.write(tmp_path / "x.ranges.json")
    assert read_ranges(tmp_path / "x.ranges.json", AGAIN) == stored


# --- padding ---


@pytest.mark.parametrize("level", [-np.inf, float(np.finfo(np.float32).min), -50.0])
def test_the_padding_of_a_max_pool_enters_no_range(level: float) -> None:
    graph = pooled_graph(level)
    stored, ranges, tensors = measured(graph)
    assert ranges.extremes["padded"] == ranges.extremes["stem"] and ranges.shapes["padded"] == (8, 18, 18)
    assert ranges.limits["padded"] == pytest.approx(ranges.limits["stem"], rel=1e-6)
    assert ranges.extremes["pooled"][0] >= ranges.extremes["stem"][0]
    assert "padded" not in ranges.means and "stem" in ranges.means
    found, notes = restored(stored, graph, tensors)
    assert notes == () and found.limits["padded"] == pytest.approx(ranges.limits["padded"], rel=1e-5)


def test_the_padding_of_a_convolution_is_a_value() -> None:
    graph = pooled_graph(-50.0, reader="Relu")
    _, ranges, _ = measured(graph)
    assert ranges.extremes["padded"][0] == -50.0


def pooled_graph(level: float, reader: str = "MaxPool") -> ir.Model:
    rng = np.random.default_rng(2)
    attributes = {"kernel_shape": [3, 3], "strides": [1, 1]} if reader == "MaxPool" else {}
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["stem"], pads=[1, 1, 1, 1]),
        helper.make_node("Pad", ["stem", "pads", "level"], ["padded"]),
        helper.make_node(reader, ["padded"], ["pooled"], **attributes),
        helper.make_node("Conv", ["pooled", "v", "c"], ["out"]),
    ]
    constants = {
        "w": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "b": np.zeros(8, np.float32),
        "v": rng.normal(0, 0.3, (4, 8, 1, 1)).astype(np.float32),
        "c": np.zeros(4, np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "level": np.array(level, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "pooled",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


# --- the model that is shipped ---


@pytest.mark.parametrize("name", ["splite_hand", "splite_hand_dense"])
def test_the_shipped_ranges_fit_the_shipped_weights(root: Path, name: str) -> None:
    """Where the weights change: splite-deploy calibrate models/splite_hand/NAME.safetensors --images HAND_DIGITS."""
    folder = root / "models" / "splite_hand"
    spec, host = load_model_toml(folder / "model.toml")
    assert f"{name}.ranges.json" in host.calibration
    stored = read_ranges(folder / f"{name}.ranges.json", AGAIN)
    assert stored.weights == load_model(folder / f"{name}.safetensors", None, None).weights_sha256
    stored.check_input(spec.input, folder, AGAIN)
    assert stored.kind == "photographs" and stored.images == 128 and stored.method == "mse"
