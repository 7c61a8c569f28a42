"""How int8 dies silently elsewhere, one case after the other, with the network of this repository: here it is told."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: TID253

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.export.crops import crops_from_renderer
from splite_deploy.export.graph.torch_to_onnx import simplified_graph
from splite_deploy.export.graph.walk import save
from splite_deploy.export.source.load import load_model
from splite_deploy.files import sha256_of
from splite_deploy.spec import load_model_toml

Run = Callable[..., Result]
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SPLite Hand without its stored ranges, which are not for the weights that are changed here."""
    folder = tmp_path_factory.mktemp("models") / "splite_hand"
    for name in ("splite_hand", "common"):
        unwanted = shutil.ignore_patterns("__pycache__", "*_dense*")
        shutil.copytree(root / "models" / name, folder.with_name(name), ignore=unwanted)
    spec = folder / "model.toml"
    lines = spec.read_text(encoding="utf-8").splitlines(keepends=True)
    spec.write_text("".join(line for line in lines if not line.startswith("calibration")), encoding="utf-8")
    return spec


@pytest.fixture(scope="module")
def graph(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SPLite Hand as ONNX: a graph needs no torch export in every test."""
    loaded = load_model(model.with_name("splite_hand.safetensors"), None, None)
    path = tmp_path_factory.mktemp("hand") / "hand.onnx"
    save(simplified_graph(loaded.network, loaded.spec), path)
    return path


@pytest.fixture(scope="module")
def crops(model: Path) -> Pixels:
    spec, host = load_model_toml(model)
    return crops_from_renderer(host, 32, spec.input).pixels


@pytest.fixture
def export(splite: Run, graph: Path, model: Path, tmp_path: Path) -> Run:
    def run(*arguments: Any, of: Path = graph) -> Result:
        output = tmp_path / "hand.splite"
        return splite("export", of, "--model", model, "-o", output, "-p", "int8", "--crops", 24, *arguments)

    return run


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda c: c / np.float32(255), "holds float32 from 0 to 1, which is not", "crops * 255"),
        (lambda c: np.zeros_like(c), "below 4 of 255 grey levels", "photographs of what the network will see"),
        (lambda c: c[:3], "holds 3 images; at least 8 are needed", "32 or more"),
        (lambda c: c[..., ::-1], "in the order bgr, not rgb", "color='bgr'"),
    ],
    ids=["0 to 1", "black", "three", "channels swapped"],
)
def test_calibration_images_that_would_ruin_it(
    export: Run, crops: Pixels, tmp_path: Path, change: Callable[[Pixels], Any], message: str, hint: str
) -> None:
    np.savez(tmp_path / "crops.npz", crops=change(crops))
    result = export("--calibration", tmp_path / "crops.npz")
    assert result.exit_code == 1 and message in result.stderr and hint in result.stderr
    assert not (tmp_path / "hand.splite").exists()


def test_three_photographs(export: Run, crops: Pixels, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for index, crop in enumerate(crops[:3]):
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), crop)
    result = export("--calibration", tmp_path / "photos")
    assert result.exit_code == 1 and "holds 3 images; at least 8 are needed" in result.stderr


@pytest.fixture(scope="module")
def hostile(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SPLite Hand with a sigmoid over huge logits behind its heatmaps.

    One map is raised by 20000, which is taken back before the sigmoid: in float next to nothing changes, but of 255
    steps over that range none is left for the other maps.
    """
    model = onnx.load(str(graph))
    next(node for node in model.graph.node if "heatmap" in node.output).output[0] = "plain"
    maps = next(v for v in model.graph.output if v.name == "heatmap").type.tensor_type.shape.dim[1].dim_value
    eye, raised = np.eye(maps, dtype=np.float32)[:, :, None, None], np.zeros(maps, np.float32)
    raised[0] = 20000
    constants = {
        "huge": eye,
        "huge_bias": raised,
        "small": eye / np.float32(64),
        "small_bias": -raised / np.float32(64),
        "back": eye * np.float32(256),
        "back_bias": np.full(maps, -128, np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Conv", ["plain", "huge", "huge_bias"], ["logits"], "logits"),
            helper.make_node("Conv", ["logits", "small", "small_bias"], ["scaled"], "scaled"),
            helper.make_node("Sigmoid", ["scaled"], ["squashed"], "sigmoid"),
            helper.make_node("Conv", ["squashed", "back", "back_bias"], ["heatmap"], "back"),
        ]
    )
    path = tmp_path_factory.mktemp("hostile") / "hostile.onnx"
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


@pytest.mark.slow
def test_a_hostile_head_goes_back_to_float(export: Run, hostile: Path, crops: Pixels, tmp_path: Path) -> None:
    np.savez(tmp_path / "crops.npz", crops=crops, color="rgb")  # the network's own ranges are of its weights alone
    result = export("--calibration", tmp_path / "crops.npz", "--max-shift-px", 1.5, of=hostile)
    assert result.exit_code == 0, result.stderr
    (search,) = Bundle.open(tmp_path / "hand.splite").report().searches
    assert search.plain.deviation_px.p95 > 5
    assert search.excluded[0].layer in ("logits", "scaled") and len(search.excluded) < 5  # of some fifty
    assert search.mixed.deviation_px.p95 <= 1.5


@pytest.mark.slow
def test_a_graph_whose_keypoints_collapse_fails_verify(export: Run, splite: Run, tmp_path: Path) -> None:
    """A converter that lost a range: the last activation before the heads has steps fifty times as large."""
    assert export("--max-shift-px", 3).exit_code == 0
    path = tmp_path / "collapsed.splite"
    shutil.copytree(tmp_path / "hand.splite", path)
    bundle = Bundle.open(path)
    broken = onnx.load(str(path / "model.int8.onnx"))
    scales = {tensor.name: tensor for tensor in broken.graph.initializer}
    last = [node for node in broken.graph.node if node.op_type == "QuantizeLinear"][-1]
    step = scales[last.input[1]]
    step.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(step) * np.float32(50), step.name))
    onnx.save(broken, str(path / "model.int8.onnx"))
    digest = sha256_of(path / "model.int8.onnx")
    artifacts = tuple(
        dataclasses.replace(a, sha256=digest) if a.precision == "int8" else a for a in bundle.manifest.artifacts
    )
    (path / MANIFEST).write_text(dataclasses.replace(bundle.manifest, artifacts=artifacts).to_json(), encoding="utf-8")

    result = splite("verify", path)
    assert result.exit_code == 1 and "error: ort int8 differs on this machine: keypoint deviation p95" in result.stderr
    assert "Do not ship it from here" in result.stderr
    assert splite("verify", path, "-p", "fp32").exit_code == 0
