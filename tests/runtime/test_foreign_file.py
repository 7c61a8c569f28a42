"""Files of other makers, with a model.toml beside them, from the image to the pose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert")

from foreign_tflite import COORDINATES, HEATMAP, NHWC, READ_HEATMAP, READ_POINTS, foreign, with_model

from splite_deploy.errors import BackendError, SpecError, UsageError
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.crops import crops_without_images, random_pictures
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.session import backend_of, open_file
from splite_deploy.spec import load_model_toml

BOX = (20, 10, 120, 100)


def test_a_heatmap_file_gives_poses(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    with PoseEstimator.open_file(with_model(tmp_path, "float32"), threads=1) as estimator:
        pose = estimator(image, BOX)
    assert pose.keypoints.shape == (5, 2)
    assert ((pose.keypoints > 0) & (pose.keypoints < 160)).all()


@pytest.mark.parametrize(
    ("name", "decoder", "view", "near_px"),
    [
        ("float32", COORDINATES, READ_POINTS, 1e-3),  # the file decodes by itself, in flat pixels with a logit each
        ("signed", HEATMAP, NHWC + '[outputs.heatmap]\nlayout = "NHWC"\nsource = "heatmap"\n', 1e-3),
        ("float16", HEATMAP, READ_HEATMAP, 0.1),
        ("half-input", HEATMAP, READ_HEATMAP, 0.1),
        ("dynamic-range", HEATMAP, READ_HEATMAP, 0.5),
        ("uint8", HEATMAP, READ_HEATMAP, 1.0),
        ("open", HEATMAP, READ_HEATMAP, 1e-3),
    ],
)
def test_every_form_finds_what_the_float_file_finds(
    tmp_path: Path, image: NDArray[np.uint8], name: str, decoder: str, view: str, near_px: float
) -> None:
    with PoseEstimator.open_file(with_model(tmp_path / "a", "float32"), threads=1) as estimator:
        expected = estimator(image, BOX)
    with PoseEstimator.open_file(with_model(tmp_path / "b", name, decoder=decoder, view=view), threads=1) as estimator:
        found = estimator(image, BOX)
    assert np.abs(found.keypoints - expected.keypoints).max() < near_px
    if decoder == COORDINATES:
        assert ((found.scores > 0) & (found.scores < 1)).all()


def test_pixels_of_a_quantised_input_are_numbers_or_levels(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    """Levels 0 to 255 of an input that stands for 0 to 1: by mean and std, or as they are."""
    by_scale = with_model(tmp_path / "a", "uint8")
    levels = with_model(tmp_path / "b", "uint8", view=READ_HEATMAP.replace('"NHWC"', '"NHWC"\ndtype = "uint8"', 1))
    toml = levels.with_name("model.toml")
    toml.write_text(toml.read_text().replace("std = [255.0, 255.0, 255.0]", "std = [1.0, 1.0, 1.0]"))
    poses = []
    for file in (by_scale, levels):
        with PoseEstimator.open_file(file, threads=1) as estimator:
            poses.append(estimator(image, BOX))
    np.testing.assert_allclose(poses[0].keypoints, poses[1].keypoints, atol=1e-5)


def test_open_sizes_take_the_models_and_a_batch(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    boxes = [BOX, (0, 0, 80, 80), (40, 40, 150, 110)]
    with PoseEstimator.open_file(with_model(tmp_path, "open"), threads=1) as estimator:
        assert estimator.session.inputs[0].shape == (None, 3, 64, 48)
        together = estimator.batch(image, boxes)
        for box, pose in zip(boxes, together, strict=True):
            np.testing.assert_allclose(estimator(image, box).keypoints, pose.keypoints, atol=1e-3)


def test_a_bare_graph_runs_like_its_bundle(tiny_bundle: Path, tiny_model: Path, image: NDArray[np.uint8]) -> None:
    with PoseEstimator.open(tiny_bundle, threads=1) as bundled:
        expected = bundled(image, BOX)
    with PoseEstimator.open_file(tiny_bundle / "model.onnx", tiny_model, threads=1) as alone:
        found = alone(image, BOX)
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    assert found.unit == expected.unit


def test_a_graph_in_half_precision_from_end_to_end(tiny_bundle: Path, tiny_model: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(tiny_bundle / "model.onnx"))
    half, graph = onnx.TensorProto.FLOAT16, model.graph
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = half
    del graph.value_info[:]
    file = tmp_path / "half.onnx"
    onnx.save(model, str(file))
    (tmp_path / "model.toml").write_text(
        tiny_model.read_text(encoding="utf-8") + '[inputs.image]\ndtype = "float16"\n', encoding="utf-8"
    )
    image = random_pictures(1, 100)[0]
    with PoseEstimator.open_file(file, threads=1) as estimator, PoseEstimator.open(tiny_bundle, threads=1) as whole:
        found, expected = estimator(image), whole(image)
    assert 0 < np.abs(found.keypoints - expected.keypoints).max() < 0.5
    with pytest.raises(BackendError, match=r"is float16 1x3x64x48; model\.toml says float32") as caught:
        PoseEstimator.open_file(file, tiny_model)
    assert "dtype" in caught.value.hint


def test_what_the_file_and_its_model_toml_lack(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"No model spec of foreign\.float32\.tflite: there is no .*model\.toml"
    ) as caught:
        PoseEstimator.open_file(foreign("float32"))
    assert "--model" in caught.value.hint
    with pytest.raises(UsageError, match="There is no file"):
        PoseEstimator.open_file(tmp_path / "absent.tflite")
    with pytest.raises(BackendError, match=r"is float32 1x64x48x3; model\.toml says float32 Nx3x64x48") as caught:
        PoseEstimator.open_file(with_model(tmp_path / "a", "float32", view=""))
    assert "[inputs.image]" in caught.value.hint and "NHWC" in caught.value.hint
    with pytest.raises(BackendError, match="the decoder 'softargmax' reads 1: heatmap") as caught:
        PoseEstimator.open_file(with_model(tmp_path / "b", "float32", view=NHWC))
    assert "[outputs.heatmap]" in caught.value.hint


def test_random_pictures_are_many_coloured_and_always_the_same(tmp_path: Path) -> None:
    spec, _ = load_model_toml(with_model(tmp_path, "float32").with_name("model.toml"))
    crops = crops_without_images(3, spec.input)
    assert crops.pixels.shape == (3, 64, 48, 3)
    assert crops.origin == "3 random pictures"
    assert crops.pixels.std(axis=(1, 2)).min() > 20
    for one, other in zip(random_pictures(3, 64), random_pictures(3, 64), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(crops.pixels[0], crops.pixels[1])


def test_a_session_of_a_view_is_that_of_the_decoder(tmp_path: Path) -> None:
    file = with_model(tmp_path, "float32")
    spec, host = load_model_toml(file.with_name("model.toml"))
    with open_file(file, view=host.view, model=spec) as session:
        (image,), (heatmap,) = session.inputs, session.outputs
        assert (image.name, image.shape, image.layout) == ("image", (1, 3, 64, 48), "NCHW")
        assert (heatmap.role, heatmap.shape) == ("heatmap", (1, 5, 16, 12))


def test_a_file_is_read_once(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    """What was described is what is run, whatever takes its place meanwhile."""
    path = with_model(tmp_path, "float32")
    file = NetworkFile.read(path)
    said = file.facts
    path.write_bytes(b"another file")
    backend = backend_of(path)
    with PoseEstimator(file.spec, file.open(backend, threads=1), compared=False) as estimator:
        assert estimator(image, BOX).keypoints.shape == (5, 2)
    assert file.content(backend).data == file.data and said.size_bytes == len(file.data)
