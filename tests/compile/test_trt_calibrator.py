"""INT8 by TensorRT's own calibrator: what it is given, what becomes of what goes wrong, and what the manifest says;
other options of the build.

The builder is a stand-in, which calls the calibrator by the rules of the real one; CUDA is numpy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx  # noqa: TID253
import pytest
from click.testing import Result
from numpy.typing import NDArray
from numpy_cuda import NumpyCuda
from trt_graphs import needs_rtx, with_graphs
from weak_trt import XAVIER, BuilderFlag, DataType, IBuilderConfig, PreviewFeature, TacticSource, WeakTensorRt, written

from splite_deploy.bundle import MANIFEST, Artifact, Bundle
from splite_deploy.compile.tensorrt import build as trt_build
from splite_deploy.compile.tensorrt import calibrator as trt_calibrator
from splite_deploy.compile.tensorrt import engines as compile_module
from splite_deploy.compile.tensorrt.calibration import LEAST, MOST, float_graph, write_inputs
from splite_deploy.compile.tensorrt.engines import EngineOptions, compile_trt
from splite_deploy.compile.tensorrt.job import TABLE, CalibrationInputs, Calibrator, Job
from splite_deploy.compile.tensorrt.typing_mode import CALIBRATORS
from splite_deploy.errors import BackendError, CalibrationError, CompileError, MissingDependencyError, UsageError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.quant.calibration_lint import MIN_CROPS
from splite_deploy.metrics.parity import limits_of
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.io.images import boxed_images, read_image

IMAGES = 12
NAMES = json.loads((Path(__file__).parent / "trt_names.json").read_text(encoding="utf-8"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return written(tmp_path / "photos", IMAGES)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """With one float graph, and none of int8."""
    return with_graphs(tiny_bundle, tmp_path / "tiny.splite", [("fp16", ["weak"], tiny_bundle / "model.onnx")])


@pytest.fixture(scope="module")
def fused_bundle(tiny_checkpoint: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a dynamic batch, and with normalisation and decoding in the graph. Read only."""
    options = ExportOptions(
        backends=("trt",),
        precisions=("fp16", "int8"),
        crops=8,
        dynamic_batch=True,
        fuse_input=True,
        fuse_decode=True,
        max_shift_px=3.0,
    )
    path = tmp_path_factory.mktemp("fused") / "fused.splite"
    return export_bundle(tiny_checkpoint, path, model=tiny_model, options=options).path


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeakTensorRt]:
    """TensorRT 8.5 on a Xavier, whose builds run in this process; nothing of its memory may be left."""
    cuda = NumpyCuda()
    module = WeakTensorRt(cuda)
    monkeypatch.setattr(trt_build, "gpu", lambda: XAVIER)
    monkeypatch.setattr(trt_build, "load_tensorrt", module.loaded)

    def opened() -> NumpyCuda:
        cuda.closed = False
        return cuda

    monkeypatch.setattr(trt_calibrator, "open_cuda", opened)

    def run(folder: Path, *_: Any) -> None:
        trt_build.build(Job.read(folder), folder, lambda step, share: None).write(folder)

    monkeypatch.setattr(compile_module, "_run", run)
    yield module
    assert cuda.live == [] and cuda.users == 0 and (cuda.closed or not cuda.calls)


def prepared(path: Path, images: Path) -> list[NDArray[Any]]:
    """Network inputs as the estimator makes them for an inference."""
    with PoseEstimator.open(path, backend="ort") as estimator:
        items, _ = boxed_images(images)
        return [estimator.prepare(read_image(file), [box])[0] for file, box in items]


def table(largest: float, title: str) -> bytes:
    scale = int(np.float32(largest / 127).view(np.uint32))
    return f"TRT-8502-{title}\nimage: {scale:08x}\n".encode()


# --- what the calibrator is given ---


@pytest.mark.parametrize(
    ("calibrator", "title"),
    [(None, "EntropyCalibration2"), ("entropy", "EntropyCalibration2"), ("minmax", "MinMaxCalibration")],
)
def test_every_image_as_the_runtime_prepares_it(
    bundle: Bundle, photos: Path, trt: WeakTensorRt, calibrator: Calibrator | None, title: str
) -> None:
    expected = prepared(bundle.path, photos)
    options = EngineOptions(calibration=photos, calibrator=calibrator)
    (engine,) = compile_trt(bundle, ["int8"], options)
    found = {batch.tobytes() for batch in trt.batches}
    assert len(trt.batches) == IMAGES and found == {tensor.tobytes() for tensor in expected}
    assert [batch.tobytes() for batch in trt.batches] != [tensor.tobytes() for tensor in expected]  # they are shuffled
    assert engine.label == "trt int8" and engine.target["calibrator"] == (calibrator or "entropy")
    assert engine.target["calibration"] == f"{IMAGES} images of photos"
    largest = max(float(np.abs(tensor).max()) for tensor in expected)
    assert engine.target["calibration_table_sha256"] == hashlib.sha256(table(largest, title)).hexdigest()
    assert engine.target["flags"] == "FP16, INT8, PREFER_PRECISION_CONSTRAINTS"
    assert trt.configs[0].calibration_profile is None


def test_the_boxes_and_the_training_split_of_labels(bundle: Bundle, photos: Path, trt: WeakTensorRt) -> None:
    boxes = {f"{index:03}.png": [index, 5, 30 + index, 50] for index in range(IMAGES)}
    samples = [
        {"image": name, "keypoints": [[1, 1]], "box": box, "split": "train" if index < 9 else "val"}
        for index, (name, box) in enumerate(boxes.items())
    ]
    (photos / "labels.json").write_text(json.dumps({"samples": samples}))
    (engine,) = compile_trt(bundle, ["int8"], EngineOptions(calibration=photos))
    with PoseEstimator.open(bundle.path, backend="ort") as estimator:
        expected = {
            estimator.prepare(read_image(photos / s["image"]), [s["box"]])[0].tobytes()  # type: ignore[call-overload]
            for s in samples[:9]
        }
    assert {batch.tobytes() for batch in trt.batches} == expected
    assert engine.target["calibration"] == "9 labelled images of photos, split 'train'"


def compiled_copy(path: Path, folder: Path, **options: Any) -> Artifact:
    """The int8 engine of a copy of a bundle."""
    copy = shutil.copytree(path, folder / "copy.splite")
    (engine,) = compile_trt(Bundle.open(copy), ["int8"], EngineOptions(**options))
    return engine


def test_a_dynamic_batch_is_calibrated_in_the_largest(fused_bundle: Path, photos: Path, trt: WeakTensorRt) -> None:
    """12 images in batches of 8: the second is filled up with those of the first."""
    engine = compiled_copy(fused_bundle, photos.parent, calibration=photos, batch=(1, 2, 8))
    first, second = trt.batches
    assert first.shape == second.shape == (8, 64, 48, 3) and first.dtype == np.uint8
    assert (second[4:] == first[:4]).all()
    found = {crop.tobytes() for crop in (*first, *second[:4])}
    assert found == {tensor.tobytes() for tensor in prepared(fused_bundle, photos)}
    config = trt.configs[0]
    assert config.profile is not None and [s[0] for s in config.profile.shapes["image"]] == [1, 2, 8]
    assert engine.target["batch"] == "1,2,8" and engine.inputs[0].shape[0] is None


def test_no_batch_is_larger_than_the_images(fused_bundle: Path, photos: Path, trt: WeakTensorRt) -> None:
    compiled_copy(fused_bundle, photos.parent, calibration=photos, batch=(1, 1, 64))
    assert [batch.shape[0] for batch in trt.batches] == [IMAGES]


# --- options of the build ---


def test_with_low_memory_no_other_library_is_loaded(bundle: Bundle, trt: WeakTensorRt) -> None:
    (engine,) = compile_trt(bundle, ["fp16"], EngineOptions(low_memory=True))
    (config,) = trt.configs
    assert config.tactics == 0 and config.limits == {"workspace": 128 << 20}
    assert config.previews == {PreviewFeature.DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805}
    assert engine.target["low_memory"] == "yes"


def test_version_8_5_has_no_levels(bundle: Bundle, trt: WeakTensorRt) -> None:
    message = r"TensorRT 8\.5\.2\.2 has no optimization levels; 8\.6 and later have\."
    with pytest.raises(UsageError, match=message) as caught:
        compile_trt(bundle, ["fp16"], EngineOptions(optimization_level=0))
    assert caught.value.hint is not None and caught.value.hint.startswith(
        "Leave --optimization-level out; kept timings "
    )


# --- what is built ---


def test_what_lies_around_the_layers_with_weights_stays_float(
    fused_bundle: Path, photos: Path, trt: WeakTensorRt
) -> None:
    """Normalisation and decoding; the layers between the first and the last with weights are left to the builder."""
    compiled_copy(fused_bundle, photos.parent, calibration=photos, batch=(1, 1, 4))
    layers = trt.networks[0].layers
    kept = {layer.type.name for layer in layers if layer.precision is DataType.FLOAT}
    assert kept >= {"BATCHNORMALIZATION", "SOFTMAX", "MATMUL"}
    assert all(layer.precision is None for layer in layers if layer.type.name in ("CONVOLUTION", "RELU", "CONSTANT"))
    decoded = {name for layer in layers if layer.precision is DataType.FLOAT for name in tensor_names(layer.outputs)}
    assert {spec.name for spec in Bundle.open(fused_bundle).find("ort").outputs if spec.dtype == "float32"} <= decoded
    assert all(
        tensor.dtype is DataType.FLOAT
        for layer in layers
        if layer.precision is not None
        for tensor in (*layer.inputs, *layer.outputs)
    )
    assert BuilderFlag.PREFER_PRECISION_CONSTRAINTS in trt.configs[0].flags


def tensor_names(tensors: list[Any]) -> list[str]:
    return [tensor.name for tensor in tensors]


def test_the_limits_are_those_of_int8(bundle: Bundle, fused_bundle: Path) -> None:
    graph = float_graph(bundle)
    assert graph.precision == "int8" and graph.file == "model.onnx"
    assert graph.limits == limits_of("int8", bundle.model) != bundle.manifest.graphs[0].limits
    fused = Bundle.open(fused_bundle)
    budget = next(graph.limits for graph in fused.manifest.graphs if graph.precision == "int8")
    assert float_graph(fused).limits == budget != limits_of("int8", fused.model)
    assert float_graph(fused).file == "model.trt.onnx"


def test_some_layers_in_int8_are_enough_but_not_none(bundle: Bundle, photos: Path, trt: WeakTensorRt) -> None:
    names = [layer for layer in trt_layers(bundle) if "conv" in layer.lower()]
    trt.left = set(names[:-1])
    (engine,) = compile_trt(bundle, ["int8"], EngineOptions(calibration=photos))
    assert engine.precision == "int8"
    trt.left = set(names)
    with pytest.raises(
        CompileError, match=r"model\.int8\.engine was to be int8, but 4 of its 4 requested layers are not"
    ):
        compile_trt(bundle, ["int8"], EngineOptions(calibration=photos))


def trt_layers(bundle: Bundle) -> list[str]:
    nodes = onnx.load(bundle.path / "model.onnx").graph.node
    return [node.name for node in nodes if node.op_type == "Conv"]


def test_only_int8_is_calibrated(bundle: Bundle, photos: Path, trt: WeakTensorRt) -> None:
    fp16, int8 = compile_trt(bundle, ["fp16", "int8"], EngineOptions(calibration=photos))
    assert "calibrator" not in fp16.target and fp16.target["flags"] == "FP16"
    assert trt.configs[0].int8_calibrator is None and trt.configs[1].int8_calibrator is not None
    assert int8.limits != fp16.limits


def test_the_manifest_says_which_road_it_was(
    bundle: Bundle, photos: Path, trt: WeakTensorRt, splite: Callable[..., Result]
) -> None:
    result = splite("compile", bundle.path, "-p", "int8", "--calibration", photos, "--calibrator", "minmax")
    assert result.exit_code == 0, result.stderr
    assert "calibrator minmax" in result.stdout
    shown = " ".join(splite("inspect", bundle.path).stdout.replace("│", " ").split())
    assert "calibrator" in shown and "minmax" in shown and "photos" in shown
    (bundle.path / "model.int8.engine").write_bytes(b"damaged")
    refused = splite("inspect", bundle.path)
    command = f"splite-deploy compile {bundle.path} -b trt -p int8 --calibrator minmax --calibration IMAGES"
    assert refused.exit_code == 1 and command in " ".join(refused.stderr.split())


# --- what goes wrong ---


def test_what_the_calibrator_cannot_do_is_told_after_the_build(
    bundle: Bundle, photos: Path, trt: WeakTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's own code knows no exceptions: one that it saw would end the process."""
    copies = iter([None, None])
    copy = trt.cuda.copy_to_device

    def fail_at_the_third(*given: Any) -> None:
        if next(copies, "no more") is not None:
            raise BackendError("CUDA failed: cudaMemcpyAsync returned cudaErrorUnknown.", hint="Look at nvidia-smi.")
        copy(*given)

    monkeypatch.setattr(trt.cuda, "copy_to_device", fail_at_the_third)
    before = (bundle.path / MANIFEST).read_bytes()
    with pytest.raises(BackendError, match="CUDA failed: cudaMemcpyAsync"):
        compile_trt(bundle, ["int8"], EngineOptions(calibration=photos))
    assert len(trt.batches) == 2 and (bundle.path / MANIFEST).read_bytes() == before


def test_a_full_device_is_told(bundle: Bundle, photos: Path, trt: WeakTensorRt) -> None:
    trt.cuda.memory_bytes = 1000
    with pytest.raises(BackendError, match="The GPU's memory is full"):
        compile_trt(bundle, ["int8"], EngineOptions(calibration=photos))


def test_nothing_that_handles_memory(
    bundle: Bundle, photos: Path, trt: WeakTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> NumpyCuda:
        raise MissingDependencyError("TensorRT needs cuda-python or pycuda; neither is installed.", hint="Install it.")

    monkeypatch.setattr(trt_calibrator, "open_cuda", missing)
    with pytest.raises(MissingDependencyError, match="neither is installed"):
        compile_trt(bundle, ["int8"], EngineOptions(calibration=photos))


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("calibration", "TensorRT built the engine without calibrating it"),
        ("build_serialized_network", r"TensorRT built no engine of model\.onnx"),
    ],
)
def test_tensorrt_does_not_do_it(bundle: Bundle, photos: Path, trt: WeakTensorRt, fails: str, message: str) -> None:
    trt.fails.add(fails)
    with pytest.raises(CompileError, match=message):
        compile_trt(bundle, ["int8"], EngineOptions(calibration=photos))


def test_a_calibration_profile_that_is_refused(fused_bundle: Path, photos: Path, trt: WeakTensorRt) -> None:
    """TensorRT would take that of the engine then, and read beyond the batch."""
    trt.fails.add("set_calibration_profile")
    with pytest.raises(CompileError, match="TensorRT does not accept batches of 4 for calibration"):
        compiled_copy(fused_bundle, photos.parent, calibration=photos, batch=(1, 1, 4))


@needs_rtx
@pytest.mark.parametrize("options", [[], ["--calibrator", "minmax"]])
def test_a_tensorrt_without_calibrators(
    bundle: Bundle, photos: Path, splite: Callable[..., Result], options: list[str]
) -> None:
    real = importlib.import_module("tensorrt_rtx_bindings")
    result = splite("compile", bundle.path, "-p", "int8", "--calibration", photos, *options)
    text = " ".join(result.stderr.split())
    assert result.exit_code == 1
    assert f"TensorRT-RTX {real.__version__} has no {options[1] if options else 'entropy'} calibrator" in text
    assert (
        "the Q/DQ pairs of the int8 graph hold the scales" in text
        and "Leave --calibrator and --calibration out" in text
    )
    assert not list(bundle.path.glob("*.engine"))


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["-p", "int8", "--calibrator", "minmax"], "The minmax calibrator has no images", "--calibration (a folder"),
        (["-p", "fp16", "--calibration", "{photos}"], "Calibration is for int8; the precisions are: fp16.", "-p int8"),
        (["-p", "int8", "--calibration", "{photos}/000.png"], "is neither a folder of images", "--calibration."),
        (["-p", "int8", "--calibration", "{bundle}"], "holds no image", "Images end in"),
        (["-p", "int8", "--calibration", "{photos}", "--batch", "1,1,8"], "fixed batch of 1", "Leave --batch out"),
    ],
)
def test_a_combination_that_is_not_to_be_had(
    bundle: Bundle,
    photos: Path,
    trt: WeakTensorRt,
    splite: Callable[..., Result],
    options: list[str],
    message: str,
    hint: str,
) -> None:
    filled = [option.format(photos=photos, bundle=bundle.path) for option in options]
    result = splite("compile", bundle.path, *filled)
    text = " ".join(result.stderr.split())
    assert result.exit_code == 1
    assert message in text and hint in text


def test_a_dla_is_calibrated_too(bundle: Bundle, photos: Path, trt: WeakTensorRt) -> None:
    """Up to version 10 it takes int8 from a calibrator alone, and what stays float runs on the GPU."""
    (engine,) = compile_trt(bundle, ["int8"], EngineOptions(calibration=photos, dla=1))
    assert engine.target["flags"] == "FP16, INT8, PREFER_PRECISION_CONSTRAINTS, GPU_FALLBACK"
    assert engine.target["dla"] == "1" and len(trt.batches) == IMAGES and trt.configs[0].DLA_core == 1
    with pytest.raises(UsageError, match="offers no DLA core 2 here"):
        compile_trt(bundle, ["int8"], EngineOptions(calibration=photos, dla=2))


def test_a_bundle_without_a_float_graph(bundle: Bundle, photos: Path) -> None:
    (graph,) = bundle.manifest.graphs
    for graphs in ((), (dataclasses.replace(graph, typing="strong"),), (dataclasses.replace(graph, precision="int8"),)):
        other = Bundle(bundle.path, dataclasses.replace(bundle.manifest, graphs=graphs))
        with pytest.raises(UsageError, match="holds no float graph for a calibrator") as caught:
            compile_trt(other, ["int8"], EngineOptions(calibration=photos))
        assert "Export it with: -b trt -p fp16." in caught.value.hint


def test_too_few_images(bundle: Bundle, tmp_path: Path) -> None:
    assert LEAST == MIN_CROPS  # the same line as that of export
    few = written(tmp_path / "few", LEAST - 1)
    with pytest.raises(CalibrationError, match="There are 7 images of few to calibrate on; at least 8 are needed") as e:
        compile_trt(bundle, ["int8"], EngineOptions(calibration=few))
    assert "--calibration" in e.value.hint


def test_a_box_outside_of_its_image_is_named(bundle: Bundle, photos: Path) -> None:
    samples = [{"image": f"{i:03}.png", "keypoints": [[1, 1]], "box": [500, 5, 600, 50]} for i in range(IMAGES)]
    (photos / "labels.json").write_text(json.dumps({"samples": samples}))
    with pytest.raises(UsageError, match=r"photos/0\d\d\.png: The box .* lies outside the 80 x 60 image"):
        compile_trt(bundle, ["int8"], EngineOptions(calibration=photos))


def test_the_inputs_are_one_file(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    graph = float_graph(bundle)
    told: list[float] = []
    found = write_inputs(bundle, graph, photos, "minmax", tmp_path, lambda step, share: told.append(share))
    arrays = np.load(found.file)
    assert arrays.shape == (IMAGES, 3, 64, 48) and arrays.dtype == np.float32
    assert (found.calibrator, found.origin) == ("minmax", f"{IMAGES} images of photos")
    assert told == sorted(told) and len(told) == IMAGES
    again = write_inputs(bundle, graph, photos, "minmax", written(tmp_path / "again", 0), lambda step, share: None)
    assert Path(again.file).read_bytes() == Path(found.file).read_bytes()


def test_more_images_than_are_needed(bundle: Bundle, tmp_path: Path) -> None:
    (image,) = written(tmp_path / "one", 1).iterdir()
    for index in range(MOST + 20):
        (tmp_path / "one" / f"copy-{index:03}.png").symlink_to(image)
    found = write_inputs(bundle, float_graph(bundle), tmp_path / "one", "entropy", tmp_path, lambda step, share: None)
    assert len(np.load(found.file, mmap_mode="r")) == MOST and found.origin == f"{MOST} images of one"


def test_the_table_stays_in_the_folder_of_the_job(bundle: Bundle, trt: WeakTensorRt, tmp_path: Path) -> None:
    np.save(tmp_path / "inputs.npy", np.full((9, 3, 64, 48), -2.54, np.float32))
    inputs = CalibrationInputs("minmax", str(tmp_path / "inputs.npy"), "9 images")
    graph = {"weak": str(bundle.path / "model.onnx")}
    built = trt_build.build(
        Job("int8", graph, None, None, False, None, None, "off", inputs), tmp_path, lambda step, share: None
    )
    assert (tmp_path / TABLE).read_bytes() == table(float(np.float32(2.54)), "MinMaxCalibration")
    assert set(built.requested.values()) == {"int8"} and len(built.requested) == 4


# --- the names ---


@pytest.mark.parametrize("version", ["8.5", "8.6", "10.3", "10.16"])
def test_the_stand_in_has_no_names_of_its_own(version: str) -> None:
    names = NAMES[version]
    assert set(CALIBRATORS.values()) <= set(names["module"])
    assert {"int8_calibrator", "set_calibration_profile"} <= set(names["IBuilderConfig"])
    assert set(BuilderFlag.__members__) <= set(names["BuilderFlag"])
    assert set(TacticSource.__members__) <= set(names["TacticSource"])
    assert {"set_preview_feature", "set_tactic_sources"} <= set(names["IBuilderConfig"])
    assert hasattr(IBuilderConfig, "int8_calibrator") and hasattr(IBuilderConfig, "set_calibration_profile")
