"""The benchmark of a real, tiny bundle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bench import BenchResult, Extras, golden_inputs, run_bench, run_file
from splite_deploy.bench.loop import STAGES
from splite_deploy.bench.run import FRAMES, MIN_S
from splite_deploy.bundle import (
    FORMAT_VERSION,
    GOLDEN,
    MANIFEST,
    Artifact,
    Bundle,
    Golden,
    GoldenImage,
    Manifest,
    Source,
    TensorSpec,
    new_bundle,
    write_golden,
)
from splite_deploy.decoders import SoftArgmaxDepth, decode
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.files import sha256_of
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import InputSpec, LimitSpec, ModelSpec, SkeletonSpec

LATENCY_ONLY = Extras(cold_start=False, layers=False)
SIZE, STRIDE, KEYPOINTS, CROPS = 128, 4, 21, 3
CELLS = SIZE // STRIDE
OPSET = 17
SPEC = ModelSpec(
    name="tiny",
    input=InputSpec(SIZE, SIZE, "rgb", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4), 1.25, 128),
    decoder=SoftArgmaxDepth(
        stride=STRIDE, beta=1.0, alignment="corner", score_window=5, root_keypoint=0, unit="palm", scale_bones=((0, 9),)
    ),
    skeleton=SkeletonSpec(tuple(f"k{i}" for i in range(KEYPOINTS)), ((0, 1),)),
)


def _graph(batch: int | str, path: Path) -> None:
    """A 1 x 1 convolution of stride 4 from 3 channels to heatmaps and depths."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weights = np.random.default_rng(1).normal(size=(2 * KEYPOINTS, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["maps"], strides=[STRIDE, STRIDE]),
        helper.make_node("Split", ["maps"], ["heatmap", "depth"], axis=1),
    ]
    maps = [batch, KEYPOINTS, CELLS, CELLS]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, maps) for name in ("heatmap", "depth")],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _tensors(batch: int | None) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    maps = (batch, KEYPOINTS, CELLS, CELLS)
    outputs = tuple(TensorSpec(role, maps, "float32", "NCHW", role) for role in ("heatmap", "depth"))
    return (TensorSpec("image", (batch, 3, SIZE, SIZE), "float32", "NCHW", "image"),), outputs


def _bundle(path: Path, batch: int | None) -> Bundle:
    crops = np.random.default_rng(0).integers(0, 256, (CROPS, SIZE, SIZE, 3), np.uint8)
    with new_bundle(path) as folder:
        _graph("N" if batch is None else batch, folder / "model.onnx")
        inputs, outputs = _tensors(batch)
        sha256 = sha256_of(folder / "model.onnx")
        artifact = Artifact("onnx", "ort", "fp32", "model.onnx", sha256, inputs, outputs, LimitSpec(), {})
        outputs = _run(folder / "model.onnx", crops)
        decoded = decode(outputs, SPEC)
        box = np.array([0.0, 0.0, SIZE, SIZE])
        image = GoldenImage(crops[0], "rgb", box, crops[0], decoded.keypoints[0], decoded.scores[0], cv2.__version__)
        described = write_golden(folder / GOLDEN, Golden(crops, outputs, decoded, image))
        manifest = Manifest(FORMAT_VERSION, SPEC, Source("none", "0" * 64, "0"), (artifact,), described)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(path)


def _run(file: Path, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])
    tensors = Preprocessor(SPEC.input, "rgb").normalise(crops)
    results = [session.run(["heatmap", "depth"], {"image": tensor[None]}) for tensor in tensors]
    return {role: np.concatenate([r[i] for r in results]) for i, role in enumerate(("heatmap", "depth"))}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _bundle(tmp_path_factory.mktemp("bundle") / "tiny.splite", batch=1)


@pytest.fixture(scope="module")
def dynamic_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _bundle(tmp_path_factory.mktemp("bundle") / "dynamic.splite", batch=None)


@pytest.mark.parametrize(
    ("backend", "threads", "ran"), [("auto", None, "ort"), ("ort", 1, "ort"), ("replay", None, "replay")]
)
def test_result(bundle: Bundle, backend: str, threads: int | None, ran: str) -> None:
    result = run_bench(
        bundle, backend=backend, threads=threads, frames=12, warmup=2, warmup_min_s=0, extras=LATENCY_ONLY
    )
    assert (result.backend, result.precision, result.threads) == (ran, "fp32", threads)
    assert (result.bundle, result.model, result.artifact_file) == ("tiny.splite", "tiny", "model.onnx")
    assert result.artifact_sha256 == bundle.manifest.artifacts[0].sha256
    assert (result.inputs_from, result.inputs_count) == ("golden crops of the bundle", CROPS)
    assert (result.image_width_px, result.image_height_px) == (SIZE, SIZE)
    assert (result.startup, result.memory, result.layers) == (None, None, ())
    windows = result.windows
    assert windows is not None and windows.frames == 4 and result.batch == 1
    kept = 3 if windows.stable else len(windows.p50_ms)
    assert (result.frames, result.warmup_frames) == (4 * kept, 2 + 4 * (len(windows.p50_ms) - kept))
    assert tuple(result.stages) == tuple(result.samples_ms) == STAGES
    assert all(0 < stats.min_ms <= stats.max_ms for stats in result.stages.values())
    assert {stats.count for stats in result.stages.values()} == {result.frames}
    assert {len(samples) for samples in result.samples_ms.values()} == {result.frames} and result.samples_every == 1
    assert result.model_bytes == (bundle.path / "model.onnx").stat().st_size
    parts = sum(result.stages[name].mean_ms for name in ("preprocess", "inference", "decode"))
    assert parts == pytest.approx(result.stages["end_to_end"].mean_ms, rel=1e-9)
    assert result.date_utc.endswith("+00:00")
    assert result.run is None  # it was timed alone


def test_how_far_it_moves_keypoints_is_measured_where_no_report_recorded_it(bundle: Bundle) -> None:
    result = run_bench(bundle, frames=3, warmup=0, warmup_min_s=0, extras=Extras(cold_start=False, layers=False))
    found = result.deviation
    assert found is not None and (found.origin, found.crops, found.violations) == ("measured", CROPS, ())
    assert found.deviation_px.max < 1e-3 and found.depth is not None and found.depth_unit == "palm"
    assert found.deviation_pct.max == found.deviation_px.max * 100 / SIZE
    replayed = run_bench(bundle, backend="replay", frames=3, warmup=0, warmup_min_s=0, extras=LATENCY_ONLY)
    assert replayed.deviation is None
    assert BenchResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_bundle_by_path_with_warm_up_time(bundle: Bundle) -> None:
    result = run_bench(bundle.path, frames=1, warmup=0, warmup_min_s=0.05, extras=LATENCY_ONLY)
    assert result.warmup_s >= 0.05
    assert result.warmup_frames > 0


def test_without_a_number_of_frames_a_run_takes_seconds(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MIN_S == 2.5
    monkeypatch.setattr("splite_deploy.bench.run.MIN_S", 0.5)
    result = run_bench(bundle, warmup=1, warmup_min_s=0.1, extras=LATENCY_ONLY)
    assert result.frames >= FRAMES
    assert result.stages["end_to_end"].mean_ms * result.frames > 0.3 * 1e3 * 0.5  # the warm-up only tells roughly


def test_golden_crops_are_cut_out_pixel_by_pixel(bundle: Bundle) -> None:
    golden = bundle.golden()
    with PoseEstimator.open(bundle.path, backend="replay", color="rgb") as estimator:
        for crop, (image, box) in zip(golden.crops, golden_inputs(bundle), strict=True):
            tensor, _ = estimator.prepare(image, [box])
            np.testing.assert_array_equal(tensor, estimator.preprocessor.normalise([crop]))


def test_batch(dynamic_bundle: Bundle) -> None:
    result = run_bench(dynamic_bundle, batch=2, frames=3, warmup=1, warmup_min_s=0)
    assert result.batch == 2
    assert result.startup is not None


def test_batch_of_a_fixed_artifact(bundle: Bundle) -> None:
    with pytest.raises(BackendError) as caught:
        run_bench(bundle, batch=2, frames=3, warmup=0, warmup_min_s=0)
    assert "--dynamic-batch" in caught.value.hint


def test_own_images(bundle: Bundle) -> None:
    small, large = np.zeros((50, 60, 3), np.uint8), np.zeros((100, 300, 3), np.uint8)
    told: list[int] = []
    result = run_bench(
        bundle,
        frames=2,
        warmup=0,
        warmup_min_s=0,
        inputs=[(small, None), (large, (10, 10, 90, 90))],
        extras=LATENCY_ONLY,
        progress=lambda done, total: told.append(done),
    )
    assert result.inputs_from == "images given by the caller"
    assert (result.image_width_px, result.image_height_px) == (300, 100)
    assert told[:4] == [0, 1, 2, 3]
    assert told == sorted(told)


def test_no_images(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no images"):
        run_bench(bundle, inputs=[])


def test_unknown_precision_says_what_there_is(bundle: Bundle) -> None:
    with pytest.raises(UsageError) as caught:
        run_bench(bundle, precision="int8")
    assert "ort fp32" in caught.value.hint


def _labels(folder: Path, bundle: Bundle) -> Path:
    """The golden crops with the keypoints that the bundle itself finds, three pixels to the right."""
    samples = []
    with PoseEstimator.open(bundle.path, color="rgb") as estimator:
        for index, (image, box) in enumerate(golden_inputs(bundle)):
            cv2.imwrite(str(folder / f"{index}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            keypoints = estimator(image, box).keypoints + np.array([3.0, 0.0])
            samples.append({"image": f"{index}.png", "keypoints": keypoints.tolist(), "box": [float(v) for v in box]})
    (folder / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_everything_at_once(dynamic_bundle: Bundle, tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    told: list[tuple[int, int]] = []
    result = run_bench(
        dynamic_bundle,
        threads=1,
        affinity=[core],
        frames=9,
        warmup=1,
        warmup_min_s=0,
        extras=Extras(duration_s=2.2, streams=2, streams_s=0.3, labels=_labels(tmp_path, dynamic_bundle)),
        progress=lambda done, total: told.append((done, total)),
    )
    assert result.affinity == (core,)
    assert core in os.sched_getaffinity(0) and len(os.sched_getaffinity(0)) == result.environment.usable_cores
    assert result.startup is not None and result.startup.load_ms > 0
    assert result.memory is not None and result.memory.rss_peak_mib > 10
    sustained = result.sustained
    assert sustained is not None and sustained.state == "too short"
    assert 2.2 <= sustained.seconds < 4
    assert sum(point.frames for point in sustained.curve) == sustained.frames > 10
    assert told[-1] == (2, 2)
    assert result.streams is not None and result.streams.count == 2
    assert {"Conv", "Split"} <= {layer.kind for layer in result.layers}
    assert all(layer.time_us is not None for layer in result.layers)
    accuracy = result.accuracy
    assert accuracy is not None and accuracy.images == CROPS
    assert accuracy.epe_px == pytest.approx(3, abs=1e-3)
    assert accuracy.labels_from == f"{CROPS} labels of {tmp_path.name}"
    assert {image.image for image in accuracy.worst} == {"0.png", "1.png", "2.png"}
    assert BenchResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_labels_of_another_skeleton_fail_before_anything_is_timed(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"samples": [{"image": "a.png", "keypoints": [[1, 2], [3, 4]]}]}')
    told: list[int] = []
    with pytest.raises(UsageError, match="2 keypoints, the model 21"):
        run_bench(bundle, extras=Extras(labels=tmp_path), progress=lambda done, total: told.append(done))
    assert told == []


def test_samples_are_thinned_evenly(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splite_deploy.bench.run.SAMPLES", 4)
    result = run_bench(bundle, frames=9, warmup=0, warmup_min_s=0, extras=LATENCY_ONLY)
    assert result.samples_every == -(-result.frames // 4)
    assert {len(samples) for samples in result.samples_ms.values()} == {-(-result.frames // result.samples_every)}


def test_a_file_alone(dynamic_bundle: Bundle) -> None:
    file = dynamic_bundle.path / "model.onnx"
    result = run_file(file, threads=1, batch=2, frames=9, warmup=1, warmup_min_s=0, extras=Extras(duration_s=0.1))
    assert (result.bundle, result.model, result.artifact_file, result.precision) == ("", "model", "model.onnx", None)
    assert result.artifact_sha256 == sha256_of(file)
    assert (result.backend, result.batch, result.inputs_from, result.inputs_count) == ("ort", 2, "random numbers", 8)
    assert list(result.stages) == ["model_only"]
    assert result.startup is not None and result.sustained is not None
    assert BenchResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert [one.kind for one in result.layers].count("Conv") == 1 and all(one.time_us for one in result.layers)


def test_a_file_alone_on_given_tensors(bundle: Bundle, tmp_path: Path) -> None:
    np.savez(tmp_path / "given.npz", image=np.zeros((5, 1, 3, SIZE, SIZE), np.float32))
    result = run_file(
        bundle.path / "model.onnx",
        tensors=tmp_path / "given.npz",
        frames=3,
        warmup=0,
        warmup_min_s=0,
        extras=LATENCY_ONLY,
    )
    assert (result.inputs_from, result.inputs_count) == ("tensors of given.npz", 5)


@pytest.mark.parametrize("extras", [Extras(streams=2), Extras(labels=Path("labels.json"))])
def test_a_file_alone_has_no_model_to_decode_by(bundle: Bundle, extras: Extras) -> None:
    with pytest.raises(UsageError, match="without a bundle") as caught:
        run_file(bundle.path / "model.onnx", extras=extras)
    assert "Name the bundle" in caught.value.hint
