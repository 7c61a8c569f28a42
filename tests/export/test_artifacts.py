"""Precisions and backends of an export: what was asked for is made, compared, judged and recorded, or it fails."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from int8_cpu import EXACT_INT8

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from converters import use_any_converter

from splite_deploy.bench.profile import float_layers
from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.compact.inspection import inspect_bundle
from splite_deploy.compile.tflite import environment
from splite_deploy.device.int8 import Int8Instructions
from splite_deploy.errors import ParityError, UsageError
from splite_deploy.export import ExportOptions, export_bundle, pipeline
from splite_deploy.export.graph.walk import constant, load
from splite_deploy.metrics.parity import limits_of
from splite_deploy.runtime.verify import verify

Run = Callable[..., Result]

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def cache_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(cache_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the user's own cache of rendered images out of the tests."""
    monkeypatch.setenv("SPLITE_CACHE", str(cache_place))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "tiny.splite"


@pytest.fixture
def export(splite: Run, tiny_bundle: Path, tiny_model: Path, output: Path) -> Run:
    """Exports the graph of the tiny network through the command line: a graph needs no torch export."""

    def run(*arguments: Any, graph: Path = tiny_bundle / "model.onnx") -> Result:
        return splite("export", graph, "--model", tiny_model, "-o", output, "--crops", 16, *arguments)

    return run


@pytest.fixture(scope="module")
def hostile(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with one feature a thousand times as large: 8 bits over its range leave the others nothing.

    The heads take the factor back, so in float nothing changes.
    """
    model = onnx.load(str(tiny_bundle / "model.onnx"))
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name == "backbone.3.bias":
            values[0] += 1.0  # active on every crop
        if tensor.name in ("backbone.3.weight", "backbone.3.bias"):
            values[0] *= 1000
        elif tensor.name in ("heatmap.weight", "depth.weight"):
            values[:, 0] /= 1000
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path = tmp_path_factory.mktemp("hostile") / "hostile.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def wide(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with 24 instead of 8 channels, of which it uses 8; its heads have 5."""
    model = onnx.load(str(tiny_bundle / "model.onnx"))
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        wider = [24 if size == 8 else size for size in values.shape]
        padded = np.pad(values, [(0, new - old) for new, old in zip(wider, values.shape, strict=True)])
        tensor.CopyFrom(onnx.numpy_helper.from_array(padded, tensor.name))
    path = tmp_path_factory.mktemp("wide") / "wide.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Four labelled photographs, two of them of the split 'val'; no third dimension."""
    folder, rng = tmp_path / "labelled", np.random.default_rng(3)
    folder.mkdir()
    samples = []
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (60, 60, 3), np.uint8))
        keypoints = rng.uniform(10, 50, (5, 2)).tolist()
        samples.append({"image": f"{index}.png", "keypoints": keypoints, "split": "val" if index < 2 else "train"})
    (folder / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return folder


# --- all of ONNX Runtime's ---


def test_three_precisions_end_to_end(export: Run, splite: Run, output: Path, labels: Path) -> None:
    result = export("-p", "fp32", "-p", "fp16", "-p", "int8", "--eval", labels, "--json", "-")
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(output)
    manifest, report, spec = bundle.manifest, bundle.report(), bundle.model
    assert [(a.label, a.file) for a in manifest.artifacts] == [
        ("ort fp32", "model.onnx"),
        ("ort fp16", "model.fp16.onnx"),
        ("ort int8", "model.int8.onnx"),
    ]
    assert [a.limits for a in manifest.artifacts] == [limits_of(a.precision, spec) for a in manifest.artifacts]
    assert [hop.label for hop in report.parity] == ["onnx -> simplified", "onnx -> ort fp16", "onnx -> ort int8"]
    assert all(hop.crops == 16 and "samples.py" in hop.crops_from for hop in report.parity)
    assert report.parity[0].deviation_px.max < report.parity[1].deviation_px.max < report.parity[2].deviation_px.max

    calibration = report.calibration
    assert calibration is not None and calibration.crops == 128 and len(calibration.sha256) == 64
    assert calibration.origin == "rendered by samples.py (128)"
    assert calibration.methods == {"ort fp16": "extremes", "ort int8": "mse"}
    notes = report.notes
    assert "calibrated on rendered images; give real ones with --calibration" in notes
    assert any(note.startswith("model.fp16.onnx: ") and "nodes in float16" in note for note in notes)
    assert any(note.endswith("float for want of a kernel: none") for note in notes)

    recommendation = report.recommendation
    assert recommendation is not None and report.searches == ()
    assert [row.label for row in recommendation.rows] == [artifact.label for artifact in manifest.artifacts]
    assert (
        recommendation.ship in ("ort fp32", "ort fp16", "ort int8")
        and f"Ship {recommendation.ship}" in recommendation.reason
    )
    assert "evaluated on 2 labelled images" in recommendation.measured  # of the split 'val'
    for row, artifact in zip(recommendation.rows, manifest.artifacts, strict=True):
        assert row.size_bytes == (output / artifact.file).stat().st_size
        assert row.p50_ms > 0 and row.within_limits and row.speed_up is not None
        assert row.accuracy is not None and row.accuracy.images == 2 and row.accuracy.pa_mpjpe_mm is None
    assert [row.deviation_px for row in recommendation.rows] == [hop.deviation_px for hop in report.parity]

    # the layers as they run: of the convolutions of int8 the two heads alone are in float
    assert list(report.layers) == [artifact.label for artifact in manifest.artifacts]
    layers = report.layers["ort int8"]
    assert Counter(layer.kind for layer in layers)["QLinearConv"] == 2
    assert Counter(layer.kind for layer in float_layers(layers))["Conv"] == 2
    assert all(layer.time_us is not None for held in report.layers.values() for layer in held)

    printed = json.loads(result.stdout)
    assert set(printed) == {"parity", "calibration", "searches", "recommendation", "failures"}
    assert printed["failures"] == []
    assert printed["recommendation"]["ship"] == recommendation.ship and len(printed["parity"]) == 3
    assert [r.violations for r in verify(bundle)] == [(), (), ()]
    shown = splite("inspect", output)
    assert shown.exit_code == 0 and recommendation.reason.split(":")[0] in shown.stdout
    assert "side by side" in shown.stdout and "PCK@0.05" in shown.stdout


def test_the_table_and_the_line_are_printed(export: Run, output: Path) -> None:
    result = export("-p", "int8")
    assert result.exit_code == 0, result.stderr
    for expected in ("onnx -> ort int8", "side by side", "min ms", "switches", "Ship ort ", "this machine's CPU alone"):
        assert expected in " ".join(result.stdout.split())
    layers = Bundle.open(output).report().layers["ort int8"]
    islands = f"ort int8: {len(float_layers(layers))} of {len(layers)} layers work in float, "
    assert "types of the layers" in result.stdout and islands in result.stdout
    assert "note: model.int8.onnx: 4 nodes in int8" in result.stderr
    # what was asked for comes first, so it is what runs; the graph it was made from stays
    assert [artifact.label for artifact in Bundle.open(output).manifest.artifacts] == ["ort int8", "ort fp32"]


def test_fp32_alone_is_written_as_before(export: Run, output: Path) -> None:
    result = export()
    assert result.exit_code == 0 and "side by side" not in result.stdout and "layers work in" not in result.stdout
    report = Bundle.open(output).report()
    assert (report.calibration, report.searches, report.recommendation) == (None, (), None)


def test_inspect_reads_the_widths_of_the_fp32_graph_whatever_comes_first(
    export: Run, output: Path, tiny_bundle: Path
) -> None:
    assert export("-p", "int8").exit_code == 0
    bundle = Bundle.open(output)
    assert [artifact.label for artifact in bundle.manifest.artifacts] == ["ort int8", "ort fp32"]
    layers = inspect_bundle(bundle).layers
    assert layers
    assert layers == inspect_bundle(Bundle.open(tiny_bundle)).layers


def test_photographs_with_labels_calibrate(export: Run, output: Path, hand_digits: Path) -> None:
    result = export("-p", "int8", "--calibration", hand_digits, "--max-shift-px", 5)
    assert result.exit_code == 0, result.stderr
    report = Bundle.open(output).report()
    assert report.calibration is not None and "split 'train'" in report.calibration.origin
    # int8 that saw photographs is compared on photographs, on others than it saw
    assert {hop.crops_from for hop in report.parity} == {f"16 images of {hand_digits.name}, split 'val'"}


def test_a_part_of_a_folder_is_held_out(export: Run, output: Path, tmp_path: Path) -> None:
    folder, rng = tmp_path / "photos", np.random.default_rng(5)
    folder.mkdir()
    for index in range(40):
        cv2.imwrite(str(folder / f"{index:02}.png"), rng.integers(0, 256, (64, 48, 3), np.uint8))
    assert export("-p", "int8", "--calibration", folder, "--max-shift-px", 50).exit_code == 0
    report = Bundle.open(output).report()
    assert report.calibration is not None and report.calibration.origin == "photos of photos (30 images)"
    assert {hop.crops_from for hop in report.parity} == {"10 images of photos, held out"}
    # Where the user says what to compare on nothing is held out, and the report says that both are the same
    result = export("-p", "int8", "--calibration", folder, "--images", folder, "--max-shift-px", 50, "--overwrite")
    assert result.exit_code == 0, result.stderr
    notes = Bundle.open(output).report().notes
    assert any("all 40 calibration images are among those that" in note for note in notes)


# --- int8 that ruins the keypoints ---


def test_layers_that_int8_ruins_go_back_to_float_by_themselves(export: Run, hostile: Path, output: Path) -> None:
    result = export("-p", "fp32", "-p", "int8", graph=hostile)
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(output)
    (search,) = bundle.report().searches
    assert search.artifact == "ort int8" and search.limits == limits_of("int8", bundle.model)
    assert search.plain.deviation_px.p95 > 0.256 >= search.mixed.deviation_px.p95
    assert search.layers == 2 and len(search.excluded) == 1
    assert bundle.report().parity[-1].deviation_px.p95 == pytest.approx(search.mixed.deviation_px.p95, rel=1e-3)
    words = " ".join(result.stdout.split())
    assert "ort int8: layers in float, so that it keeps its limits" in words and search.excluded[0].layer in words
    told = (
        f"ort int8: 1 of 2 layers went back to float, so that keypoints move by {search.mixed.deviation_px.p95:.3g} px"
    )
    assert told in words and "limit 0.256)" in words
    searched = "ort int8 breaks its limits: looking for the layers that have to stay in float"
    assert " ".join(result.stderr.split()).count(searched) == 1  # the search in one line
    assert [r.violations for r in verify(bundle, precision="int8")] == [()]


def test_a_budget_is_another_limit(export: Run, hostile: Path, output: Path) -> None:
    result = export("-p", "int8", "--max-shift-px", 0.2, "--max-shift-mm", 9, graph=hostile)
    assert result.exit_code == 0, result.stderr
    artifact, report = Bundle.open(output).manifest.artifacts[0], Bundle.open(output).report()
    (search,) = report.searches
    assert (artifact.limits.shift_p95_px, artifact.limits.shift_max_px) == pytest.approx((0.2, 1.2))
    assert artifact.limits.depth_p95 == pytest.approx(9 / 90)
    assert search.limits == artifact.limits and search.plain.deviation_px.p95 > 0.2 >= search.mixed.deviation_px.p95
    assert [r.violations for r in verify(Bundle.open(output), precision="int8")] == [()]
    # and a wide one is kept without
    assert (
        export("-p", "int8", "--max-shift-px", 1000, "--max-shift-mm", 90, "--overwrite", graph=hostile).exit_code == 0
    )
    assert Bundle.open(output).report().searches == ()


def test_weights_get_7_bits_where_sums_of_8_saturate_too_much(
    export: Run, hostile: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bits() -> int:
        values = [constant(value) for value in load(output / "model.int8.onnx").graph.initializers.values()]
        largest = max(np.abs(value.astype(int)).max() for value in values if value.dtype == np.int8 and value.ndim)
        return int(largest).bit_length() + 1

    for names, expected in (((), 7), (("avx_vnni",), 8)):  # as a CPU of either kind says
        monkeypatch.setattr(pipeline, "read_int8_instructions", lambda names=names: Int8Instructions(True, True, names))
        result = export("-p", "fp32", "-p", "int8", "--overwrite", graph=hostile)
        assert result.exit_code == 0, result.stderr
        told = " ".join(result.stderr.split())
        assert ("breaks its limits on this CPU, where sums of 8 bits saturate: weights of 7 bits" in told) == (
            not names
        )
        notes = Bundle.open(output).report().notes
        assert any("weights of 7 bits" in note for note in notes) == (not names)
        assert bits() == expected


def test_an_onnxruntime_that_is_wrong_on_this_cpu_proves_nothing(
    export: Run, wide: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    amx = Int8Instructions(True, True, ("amx_int8",))
    monkeypatch.setattr(pipeline, "read_int8_instructions", lambda: amx)
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.0")
    result = export("-p", "fp32", "-p", "int8", graph=wide)
    told = " ".join(result.stderr.split())
    assert result.exit_code == 3 and [one.label for one in Bundle.open(output).manifest.artifacts] == ["ort fp32"]
    assert (
        "ort int8 failed: ONNX Runtime 1.23.0 computes int8 layers of 24 channels wrongly on this CPU, which has AMX: "
        "its results prove nothing." in told
    )
    assert "pip install 'onnxruntime>=1.25' (on Python 3.10, which has none, take fp32), and export again." in told
    assert export("-p", "int8", "--overwrite").exit_code == 0  # 8 channels are right
    monkeypatch.setattr(onnxruntime, "__version__", "1.25.0")
    assert export("-p", "int8", "--overwrite", graph=wide).exit_code == 0


@EXACT_INT8
def test_engine_graphs_are_searched_on_their_own(export: Run, output: Path) -> None:
    result = export("-b", "ort", "-b", "trt", "-p", "int8", "--max-shift-px", 0.01)
    assert result.exit_code == 0, result.stderr
    report = Bundle.open(output).report()
    # ONNX Runtime's ranges need no symmetry: its graph keeps this without
    assert [one.artifact for one in report.searches] == ["trt int8 graph (weakly typed)"]
    hops = {hop.stage: hop.deviation_px.p95 for hop in report.parity}
    for label in ("ort int8", "trt int8 graph (weakly typed)", "trt int8 graph (strongly typed)"):
        assert hops[label] <= 0.01


def test_limits_that_no_mixture_keeps(export: Run, output: Path) -> None:
    result = export("-p", "int8", "--max-shift-px", "1e-7", "--all-or-nothing")
    assert result.exit_code == 1 and result.stdout == ""
    expected = "error: ort int8 breaks its limits on 16 crops with only one of 2 layers in int8: keypoint deviation"
    assert expected in result.stderr and "px (limit 6e-07)" in result.stderr
    assert "The maximum may be 6 times the limit of p95." in result.stderr
    hint = result.stderr.partition("hint:  ")[2]
    assert hint.startswith(
        "Nothing was written. It was calibrated on rendered pictures: name photographs of what the network will see "
        "with --calibration. Or allow a larger shift with --max-shift-px"
    )
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "largest"), [((), 127), (("--reduce-range",), 63), (("--reduce-range", "--max-shift-px", 20), 63)]
)
def test_weights_of_seven_bits_are_for_onnx_runtime_alone(
    export: Run, output: Path, arguments: tuple[Any, ...], largest: int
) -> None:
    """TensorRT adds up in 32 bits."""
    result = export("-b", "ort", "-b", "trt", "-p", "fp32", "-p", "int8", *arguments)
    assert result.exit_code == 0, result.stderr
    for file, expected in (("model.int8.onnx", largest), ("model.int8.trt.onnx", 127)):
        constants = map(constant, load(output / file).graph.initializers.values())
        weights = [array for array in constants if array is not None and array.dtype == np.int8 and array.ndim == 4]
        assert max(np.abs(array.astype(int)).max() for array in weights) == expected
    report = Bundle.open(output).report()
    notes = [note.partition(":")[0] for note in report.notes if note.endswith("weights of 7 bits")]
    assert notes == (["model.int8.onnx"] if arguments else [])
    assert report.recommendation is not None
    assert ("--reduce-range" in report.recommendation.reason) == (not arguments)


# --- what does not fit together ---


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("--max-shift-px", 1), "An error budget is for int8", "Add -p int8"),
        (("-p", "int8", "--max-shift-px", 0), "An error budget is a positive number up to 1,000.", "Give pixels"),
        (("-p", "int8", "--max-shift-mm", 1001), "An error budget is a positive number up to 1,000.", "Give pixels"),
        (("--reduce-range",), "Weights of 7 bits are for int8 in ONNX Runtime", "Add -b ort -p int8"),
        (("-b", "trt", "-p", "int8", "--reduce-range"), "Weights of 7 bits are for int8", "leave out --reduce-range"),
        (("-p", "int8", "--int8-recipe", "dynamic-range"), "one of TFLite's int8", "Add -b tflite -p int8"),
        (
            ("--calibration", "photos"),
            "Nothing that was requested needs calibration.",
            "Leave out --calibration",
        ),
        (("-p", "fp16", "-p", "fp16"), "The requested precisions are: fp16, fp16.", "each once"),
        (("--eval", "missing.json"), "Cannot read missing.json", "Name a labels.json"),
        (("-p", "int8", "--calibration", "missing"), "missing is not a folder of images", "--calibration"),
    ],
)
def test_options_that_do_not_fit(
    export: Run, output: Path, arguments: tuple[Any, ...], message: str, hint: str
) -> None:
    result = export(*arguments)
    status = 1 if "missing" in message else 2  # what is named could be there
    assert (result.exit_code, message in result.stderr, hint in result.stderr) == (status, True, True)
    assert list(output.parent.iterdir()) == []


def test_options_of_the_python_twin_are_checked_too() -> None:
    with pytest.raises(UsageError, match="The requested backends are: npu") as caught:
        ExportOptions(backends=("npu",))
    assert "ncnn, openvino, ort, tflite, trt" in caught.value.hint
    with pytest.raises(UsageError, match="The requested precisions are: none"):
        ExportOptions(precisions=())
    assert not ExportOptions(backends=("tflite",), precisions=("fp16",)).calibrates
    assert not ExportOptions(backends=("tflite",), precisions=("int8",), int8_recipe="dynamic-range").calibrates
    assert ExportOptions(precisions=("fp16",)).calibrates


def test_int8_without_any_images(
    splite: Run, tiny_bundle: Path, tiny_model: Path, tmp_path: Path, output: Path
) -> None:
    text = tiny_model.read_text(encoding="utf-8").replace('samples = "samples.py:samples"', "")
    model, photos = tmp_path / "model.toml", tmp_path / "photos"
    model.write_text(text.replace('arch = "arch.py:build"', ""), encoding="utf-8")
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        cv2.imwrite(str(photos / f"{index}.png"), rng.integers(0, 256, (64, 48, 3), np.uint8))
    arguments = ("export", tiny_bundle / "model.onnx", "--model", model, "-o", output, "--images", photos, "-p", "int8")
    result = splite(*arguments)
    assert result.exit_code == 1 and "There are no images for the calibration" in result.stderr
    assert "--calibration" in result.stderr and list(output.parent.iterdir()) == []
    steps: list[str] = []
    options = ExportOptions(precisions=("int8",), images=photos)
    with pytest.raises(UsageError, match="There are no images for the calibration"):
        export_bundle(tiny_bundle / "model.onnx", output, model=model, options=options, progress=steps.append)
    assert steps == ["reading the checkpoint"]  # minutes of work come after it
    result = splite(*arguments, "--allow-random-calibration", "--max-shift-px", 20)
    assert result.exit_code == 0, result.stderr
    assert "note: calibrated on random noise" in result.stderr
    calibration = Bundle.open(output).report().calibration
    assert calibration is not None and calibration.origin == "random noise (128)"


def test_labels_of_another_skeleton(export: Run, output: Path, labels: Path) -> None:
    file = labels / "labels.json"
    samples = json.loads(file.read_text(encoding="utf-8"))["samples"]
    for sample in samples:
        sample["keypoints"] = sample["keypoints"][:4]
    file.write_text(json.dumps({"samples": samples}), encoding="utf-8")
    result = export("--eval", file)
    assert result.exit_code == 1 and "have 4 keypoints, the model 5" in result.stderr
    assert list(output.parent.iterdir()) == []


def test_labels_in_three_dimensions_give_millimetres(export: Run, output: Path, labels: Path) -> None:
    file = labels / "labels.json"
    samples = json.loads(file.read_text(encoding="utf-8"))["samples"]
    for sample in samples:
        sample["world_mm"] = [[x, y, x - y] for x, y in sample["keypoints"]]
        del sample["split"]
    file.write_text(json.dumps({"samples": samples}), encoding="utf-8")
    result = export("--eval", file)
    assert result.exit_code == 0, result.stderr
    recommendation = Bundle.open(output).report().recommendation
    assert recommendation is not None
    (row,) = recommendation.rows
    assert row.accuracy is not None and row.accuracy.images == 4
    assert row.accuracy.pa_mpjpe_mm is not None and row.accuracy.pa_mpjpe_mm > 0


# --- TFLite ---


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that converts to TFLite."""
    pytest.importorskip("ai_edge_quantizer")
    use_any_converter(monkeypatch)


def test_tflite_without_a_converter(export: Run, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.SETTING, raising=False)
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    monkeypatch.setattr(environment, "_folders", lambda: (tmp_path / "beside", tmp_path / "of-user"))
    result = export("-b", "tflite")
    assert result.exit_code == 1 and "TFLite files are made with onnx2tf" in result.stderr
    assert "splite-deploy setup-tflite" in result.stderr and list(output.parent.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("converter")
def test_both_backends_in_one_run(export: Run, output: Path) -> None:
    result = export("-b", "ort", "-b", "tflite", "-p", "fp32", "-p", "int8")
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(output)
    assert [a.label for a in bundle.manifest.artifacts] == ["ort fp32", "ort int8", "tflite fp32", "tflite int8"]
    recommendation, calibration = bundle.report().recommendation, bundle.report().calibration
    assert recommendation is not None and len(recommendation.rows) == 4
    assert calibration is not None and set(calibration.methods) == {"ort int8", "tflite int8"}
    assert {"onnx2tf", "ai-edge-litert", "ai-edge-quantizer"} <= set(bundle.report().versions)
    assert not any(result.violations for result in verify(bundle))


@pytest.mark.slow
@pytest.mark.usefixtures("converter")
def test_layers_of_tflite_return_to_float_within_a_budget(export: Run, hostile: Path, output: Path) -> None:
    result = export("-b", "tflite", "-p", "int8", "--max-shift-px", 0.2, graph=hostile)
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(output)
    assert [artifact.label for artifact in bundle.manifest.artifacts] == ["tflite int8", "ort fp32"]
    (search,) = bundle.report().searches
    assert search.artifact == "tflite int8" and search.excluded
    assert search.plain.deviation_px.p95 > 0.2 >= search.mixed.deviation_px.p95
    floats = {layer.name for layer in bundle.report().layers["tflite int8"] if layer.types == "float32"}
    assert {layer.layer for layer in search.excluded} <= floats


@pytest.mark.slow
@pytest.mark.usefixtures("converter")
def test_a_float_file_that_is_wrong_discards_what_is_made_from_it(
    export: Run, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = pipeline.measure_tflite

    def fail(path: Path, artifact: Artifact, *others: Any) -> Any:
        if artifact.precision == "fp32":
            raise ParityError("0.19 px off", hint="report it")
        return measure(path, artifact, *others)

    monkeypatch.setattr(pipeline, "measure_tflite", fail)
    result = export("-b", "tflite", "-p", "int8", "-p", "fp32")
    assert result.exit_code == 3, result.output
    bundle = Bundle.open(output)
    assert [one.label for one in bundle.manifest.artifacts] == ["ort fp32"]
    assert [(one.artifact, one.message) for one in bundle.report().failures] == [
        ("tflite fp32", "0.19 px off"),
        ("tflite int8", "It is made from tflite fp32, which failed."),
    ]
    assert not list(output.glob("*.tflite"))
