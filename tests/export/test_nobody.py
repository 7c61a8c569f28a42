"""Crops that show nobody: a `presence` that cannot fall any more passes on all that show somebody."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx  # noqa: TID253
import pytest

torch = pytest.importorskip("torch")
from converters import DIRECT, use_converter
from onnx import helper, numpy_helper  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.bundle.manifest import GoldenTensor
from splite_deploy.compile.tensorrt.best_of import try_builds
from splite_deploy.errors import BundleError, ParityError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.adopt import AdoptOptions, adopt_file
from splite_deploy.export.failures import PartialExportError
from splite_deploy.export.log_output import quiet
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.nobody import crops_of_nobody
from splite_deploy.runtime.session import open_artifact
from splite_deploy.runtime.verify import verify
from splite_deploy.runtime.verify_file import check_file, verify_file

MODEL = """
name = "darkness"
[input]
height = 64
width = 64
color = "rgb"
mean = [0.0, 0.0, 0.0]
std = [255.0, 255.0, 255.0]
box_padding = 1.0
pad_value = 0
[decoder]
type = "coordinates"
scale = "unit"
[outputs.presence]
[skeleton]
keypoint_names = ["a", "b"]
edges = [[0, 1]]
"""


class Darkness(nn.Module):
    """Somebody is where it is not dark; the layer that tells serves the keypoints, too."""

    def __init__(self) -> None:
        super().__init__()
        self.dark, self.same, self.points = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1)
        for layer, weight, bias in ((self.dark, -1 / 3, 1.0), (self.same, 1 / 8, 0.0), (self.points, 1 / 8, 0.0)):
            nn.init.constant_(layer.weight, weight)
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        areas = nn.functional.avg_pool2d(nn.functional.relu(self.dark(image)), 32)
        areas = nn.functional.relu(self.same(areas))
        mean = areas.mean(dim=(1, 2, 3)).reshape(-1, 1)
        presence = torch.sigmoid(5 - 25 * nn.functional.relu(mean - 0.6))
        return {"coordinates": self.points(areas).reshape(-1, 2, 2), "presence": presence}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of which none is dark, with what int8 is calibrated on."""
    folder = tmp_path_factory.mktemp("people")
    for index in range(24):
        rng = np.random.default_rng(index)
        noise = cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 4)
        picture = cv2.normalize(noise, None, 100, 180, cv2.NORM_MINMAX)
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    (folder / "model.toml").write_text(MODEL, encoding="utf-8")
    with quiet():
        program = torch.export.export(Darkness().eval(), (torch.zeros(1, 3, 64, 64),))
        torch.export.save(program, folder / "darkness.pt2")
    return folder / "darkness.pt2"


@pytest.fixture(scope="module")
def fp32(network: Path, people: Path) -> Bundle:
    options = ExportOptions(trust=True, crops=8, images=people)
    return export_bundle(network, network.parent / "fp32.splite", options=options)


def with_floor(bundle: Bundle, floor: float) -> bytes:
    """The bundle's graph, whose `presence` cannot fall below a number."""
    graph = onnx.load(bundle.path / "model.onnx")
    (last,) = (node for node in graph.graph.node if "presence" in node.output)
    last.output[0] = "free"
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(floor), "floor"))
    graph.graph.node.append(helper.make_node("Max", ["free", "floor"], ["presence"]))
    return graph.SerializeToString()


def replaced(bundle: Bundle, content: bytes, folder: Path) -> Bundle:
    """A copy of a bundle with another graph."""
    (artifact,) = bundle.manifest.artifacts
    shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
    (folder / artifact.file).write_bytes(content)
    changed = replace(artifact, sha256=hashlib.sha256(content).hexdigest())
    manifest = replace(bundle.manifest, artifacts=(changed,))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(folder)


def described(made: Bundle, tensors: dict[str, GoldenTensor]) -> Bundle:
    """The bundle, which says of its golden data what is given."""
    golden = replace(made.manifest.golden, tensors=tensors)
    (made.path / MANIFEST).write_text(replace(made.manifest, golden=golden).to_json(), encoding="utf-8")
    return Bundle.open(made.path)


def test_the_golden_data_hold_them(fp32: Bundle) -> None:
    nobody = fp32.golden().nobody
    assert nobody is not None
    np.testing.assert_array_equal(nobody.crops, crops_of_nobody(fp32.model.input))
    assert nobody.crops[-1].max() == 0 and nobody.presence[-1] == pytest.approx(1 / (1 + np.exp(5)), abs=1e-5)
    assert verify(fp32)[0].violations == ()


@pytest.mark.parametrize("floor", [0.5, 0.05])
def test_verify_tells_of_a_presence_that_cannot_fall(fp32: Bundle, tmp_path: Path, floor: float) -> None:
    (result,) = verify(replaced(fp32, with_floor(fp32, floor), tmp_path))
    assert result.parity.heads["presence"].max < 1e-5  # the golden crops show somebody
    (said,) = result.violations
    assert said == f"where nobody is presence moves by {floor - 0.006693:.4g} (limit 0.006), to {floor:g} from 0.006693"


def test_a_bundle_of_an_earlier_version_holds_none(fp32: Bundle, tmp_path: Path) -> None:
    made = replaced(fp32, with_floor(fp32, 0.5), tmp_path)
    held = made.manifest.golden.tensors
    old = described(made, {name: one for name, one in held.items() if not name.startswith("nobody.")})
    assert old.golden().nobody is None and verify(old)[0].violations == ()


def test_a_crop_that_the_network_cannot_take_is_left_out(tmp_path: Path, people: Path) -> None:
    """It divides by the sum of a picture, which may be black nowhere but here."""

    class Relative(Darkness):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return super().forward(0.5 * image / image.mean(dim=(1, 2, 3), keepdim=True))

    (tmp_path / "model.toml").write_text(MODEL, encoding="utf-8")
    with quiet():
        program = torch.export.export(Relative().eval(), (torch.ones(1, 3, 64, 64),))
        torch.export.save(program, tmp_path / "relative.pt2")
    options = ExportOptions(trust=True, crops=4, images=people)
    bundle = export_bundle(tmp_path / "relative.pt2", tmp_path / "net.splite", options=options)
    nobody = bundle.golden().nobody
    assert nobody is not None and nobody.crops.shape == (3, 64, 64, 3)
    assert nobody.crops.max(axis=(1, 2, 3)).min() > 0 and verify(bundle)[0].violations == ()


def test_what_is_not_finite_there_fails(fp32: Bundle, tmp_path: Path) -> None:
    graph = onnx.load_from_string(with_floor(fp32, 0.5))
    graph.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.float32(0.9), "floor"))
    graph.graph.node[-1].output[0] = "held"  # under 0.9 it becomes the root of a negative number
    graph.graph.node.append(helper.make_node("Sub", ["free", "floor"], ["less"]))
    graph.graph.node.append(helper.make_node("Sqrt", ["less"], ["root"]))
    graph.graph.node.append(helper.make_node("Mul", ["root", "root"], ["square"]))
    graph.graph.node.append(helper.make_node("Add", ["square", "floor"], ["presence"]))
    (result,) = verify(replaced(fp32, graph.SerializeToString(), tmp_path))
    assert result.violations == ("where nobody is 'presence' is NaN or infinity",)


def test_several_builds_of_an_engine_are_compared_there(fp32: Bundle, tmp_path: Path) -> None:
    made = replaced(fp32, with_floor(fp32, 0.5), tmp_path)
    (artifact,) = made.manifest.artifacts
    with (
        open_artifact(made, artifact, find_backend("ort"), threads=1) as held,
        open_artifact(fp32, fp32.manifest.artifacts[0], find_backend("ort"), threads=1) as free,
    ):
        wrong, right = try_builds([held, free], fp32, artifact)
    assert right.violations == () and wrong.violations[0].startswith("where nobody is presence moves by 0.49")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "nobody.crops",
            {"shape": (2, 64, 64, 3)},
            r"'nobody.crops' is uint8 \(2, 64, 64, 3\); the model has uint8 \(4,",
        ),
        ("nobody.crops", {"dtype": "float32", "shape": (4, 64, 16, 3)}, "'nobody.crops' is not finite"),
        ("nobody.crops", {"offset": 1 << 40}, "'nobody.crops' lies outside its file"),
        ("nobody.presence", {"shape": (3,)}, r"'nobody.presence' is \(3,\), not one number for each crop"),
        ("nobody.presence", {"offset": 0}, "'nobody.presence' is not in 0 to 1"),
        ("nobody.presence", {"shape": (0, 1)}, "'nobody.presence' holds nothing"),
    ],
)
def test_what_is_no_such_data_is_refused(
    fp32: Bundle, tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    made = replaced(fp32, with_floor(fp32, 0.0), tmp_path)
    held = made.manifest.golden.tensors
    with pytest.raises(BundleError, match=message) as caught:
        described(made, {**held, name: replace(held[name], **changes)}).golden()
    assert caught.value.hint == "Copy the bundle again, or export it again."


def test_crops_of_nobody_need_their_presence(fp32: Bundle, tmp_path: Path) -> None:
    made = replaced(fp32, with_floor(fp32, 0.0), tmp_path)
    tensors = {name: one for name, one in made.manifest.golden.tensors.items() if name != "nobody.crops"}
    with pytest.raises(BundleError, match=r"The golden file has no tensor 'nobody\.crops'"):
        described(made, tensors).golden()


def test_a_file_beside_another(fp32: Bundle, network: Path, people: Path, tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text(MODEL, encoding="utf-8")
    (tmp_path / "kept.onnx").write_bytes(with_floor(fp32, 0.0))
    (tmp_path / "held.onnx").write_bytes(with_floor(fp32, 0.5))
    kept, held = (NetworkFile.read(tmp_path / f"{name}.onnx") for name in ("kept", "held"))
    with pytest.raises(ParityError, match=r"held\.onnx differs from kept\.onnx: where nobody is") as caught:
        check_file(verify_file(held, images=people, reference=kept))
    assert caught.value.hint.startswith("Quantise it again with pictures that show nobody")
    told = [one.violations for one in verify_file(held, images=people, reference=kept)]
    assert told[-1] and told[-1][0].startswith("where nobody is presence moves by 0.4933 (limit 0.006), to 0.5")
    assert not any(one.violations for one in verify_file(kept, images=people, reference=kept))


def refused(network: Path, people: Path, folder: Path, backend: str) -> None:
    options = ExportOptions(
        trust=True,
        crops=8,
        images=people,
        calibration=people,
        backends=(backend,),
        precisions=("fp32", "int8"),
    )
    with pytest.raises(PartialExportError) as caught:
        export_bundle(network, folder / "net.splite", options=options)
    said = f"{backend} int8 is right where somebody is and wrong elsewhere: where nobody is presence moves by"
    assert said in caught.value.message and f"holds what passed: {backend} fp32" in caught.value.hint
    assert "In int8 calibrate on pictures without anybody, too" in caught.value.hint


def test_int8_that_was_calibrated_on_people_alone_is_refused(network: Path, people: Path, tmp_path: Path) -> None:
    refused(network, people, tmp_path, "ort")


@pytest.mark.slow
def test_a_ready_file_is_compared_there(fp32: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float TFLite file of the graph whose presence cannot fall, beside the graph of which it can."""
    pytest.importorskip("ai_edge_litert")
    use_converter(DIRECT, monkeypatch)
    (tmp_path / "model.toml").write_text(MODEL, encoding="utf-8")
    people = Path(tmp_path / "people")
    people.mkdir()
    for index, crop in enumerate(fp32.golden().crops):
        cv2.imwrite(str(people / f"{index}.png"), crop)
    for name, floor in (("held", 0.5), ("kept", 0.0)):
        (tmp_path / f"{name}.onnx").write_bytes(with_floor(fp32, floor))
        options = ExportOptions(crops=4, images=people, backends=("tflite",))
        made = export_bundle(tmp_path / f"{name}.onnx", tmp_path / f"{name}.splite", options=options)
        shutil.copy(made.path / "model.fp32.tflite", tmp_path / f"{name}.tflite")
    rows_first = tmp_path / "tflite.toml"
    rows_first.write_text(MODEL.replace("[input]", '[inputs.image]\nlayout = "NHWC"\n[input]'), encoding="utf-8")
    reference = tmp_path / "kept.onnx"
    adopt = AdoptOptions(reference=reference, reference_model=tmp_path / "model.toml", images=people)
    adopt_file(tmp_path / "kept.tflite", tmp_path / "good.splite", model=rows_first, options=adopt)
    with pytest.raises(ParityError, match=r"where nobody is presence moves by 0\.49") as caught:
        adopt_file(tmp_path / "held.tflite", tmp_path / "bad.splite", model=rows_first, options=adopt)
    assert "raise head_p95 in [limits] of model.toml" in caught.value.hint


@pytest.mark.slow
def test_so_is_tflite(network: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    use_converter(DIRECT, monkeypatch)
    refused(network, people, tmp_path, "tflite")


def test_calibration_with_a_picture_of_nobody_is_enough(network: Path, people: Path, tmp_path: Path) -> None:
    mixed = shutil.copytree(people, tmp_path / "mixed")
    cv2.imwrite(str(mixed / "00.png"), np.zeros((64, 64, 3), np.uint8))
    options = ExportOptions(trust=True, crops=8, images=people, calibration=mixed, precisions=("fp32", "int8"))
    bundle = export_bundle(network, tmp_path / "net.splite", options=options)
    assert [one.violations for one in verify(bundle)] == [(), ()]
