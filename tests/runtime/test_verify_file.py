"""Files without a bundle, compared with reference kernels and with another file of the same network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from click.testing import Result

pytest.importorskip("ai_edge_litert")

from foreign_tflite import COORDINATES, READ_POINTS, with_model

from splite_deploy.errors import ParityError, UsageError
from splite_deploy.runtime import verify_file as verify_module
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.crops import random_pictures
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.verify_file import check_file, verify_file

Splite = Callable[..., Result]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, picture in enumerate(random_pictures(6, 90)):
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        name: with_model(tmp_path / name, name) for name in ("float32", "float16", "uint8", "dynamic-range", "open")
    }


@pytest.mark.parametrize("name", ["float32", "float16", "uint8", "dynamic-range", "open"])
def test_kernels_of_this_machine_keep_the_limits_of_the_precision(files: dict[str, Path], name: str) -> None:
    (result,) = verify_file(NetworkFile.read(files[name]))
    check_file([result])
    assert result.parity.reference == "LiteRT's reference kernels"
    assert result.parity.crops_from == "24 random pictures"
    limit_px = {"float16": 0.0256, "uint8": 0.256, "dynamic-range": 0.256}.get(name, 0.01)
    assert result.limits.shift_p95_px == pytest.approx(limit_px)
    assert (result.parity.deviation_px.max > 0) and (result.parity.deviation_px.p95 < 0.02)


def test_an_int8_file_is_proved_with_the_float_one(files: dict[str, Path], pictures: Path) -> None:
    int8, floating = NetworkFile.read(files["uint8"]), NetworkFile.read(files["float32"])
    kernels, proof = verify_file(int8, images=pictures, reference=floating)
    check_file([kernels, proof])
    assert proof.parity.label == "float32.tflite -> tflite int8"
    assert proof.parity.crops_from == "6 images of " + pictures.name
    assert proof.limits.shift_p95_px == pytest.approx(0.005 * 64 / 1.25)
    assert 0.02 < proof.parity.deviation_px.p95 < 0.26, "it is quantised, and within a half percent of the box"
    half = verify_file(NetworkFile.read(files["float16"]), images=pictures, reference=floating)[1]
    assert 0 < half.parity.deviation_px.p95 < proof.parity.deviation_px.p95 / 10


def test_another_network_is_told_from_the_same(files: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    other = with_model(tmp_path / "points", "float32", decoder=COORDINATES, view=READ_POINTS)
    (_, same) = verify_file(NetworkFile.read(files["float32"]), images=pictures, reference=NetworkFile.read(other))
    check_file([same])  # decoded by the file and by the host
    shifted = other.with_name("model.toml")
    shifted.write_text(shifted.read_text().replace('["x", "y", "score"]', '["y", "x", "score"]'), encoding="utf-8")
    results = verify_file(NetworkFile.read(files["float32"]), images=pictures, reference=NetworkFile.read(other))
    with pytest.raises(
        ParityError, match=r"^float32\.tflite differs from float32\.tflite on 6 images of .* px"
    ) as caught:
        check_file(results)
    assert "calibration images" in caught.value.hint and "[limits]" in caught.value.hint


def test_a_graph_and_its_tflite_file(tiny_bundle: Path, tiny_model: Path, tmp_path: Path, splite: Splite) -> None:
    """The files of tests/vectors were converted from the network of tests/tiny."""
    toml = tmp_path / "tflite.toml"
    view = '[inputs.image]\nlayout = "NHWC"\n[outputs.heatmap]\nlayout = "NHWC"\nsource = "heatmap"\n'
    view += '[outputs.depth]\nlayout = "NHWC"\nsource = "depth"\n'
    toml.write_text(tiny_model.read_text(encoding="utf-8") + view, encoding="utf-8")
    file = Path(__file__).parents[1] / "vectors" / "tiny.fp32.tflite"
    graph = tiny_bundle / "model.onnx"
    done = splite("verify", file, "--model", toml, "--reference", graph, "--reference-model", tiny_model, "--json", "-")
    assert done.exit_code == 0, done.stderr
    kernels, proof = json.loads(done.stdout)
    assert (proof["parity"]["reference"], proof["parity"]["stage"]) == ("model.onnx", "tflite fp32")
    assert proof["parity"]["deviation_px"]["max"] < 0.01
    assert proof["parity"]["depth_unit"] and kernels["backend"] == "tflite"
    done = splite("verify", file, "--model", toml, "--reference", graph)
    assert done.exit_code == 1
    assert "model.onnx: The network's input 'image' is float32 1x3x64x48" in done.stderr
    assert "--reference-model" in done.stderr
    done = splite("verify", graph, "--model", tiny_model)
    assert done.exit_code == 0, done.stderr
    assert "ONNX Runtime, unoptimised -> ort fp32" in done.stdout


def test_what_says_nothing_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    int8, floating = NetworkFile.read(files["uint8"]), NetworkFile.read(files["float32"])
    with pytest.raises(UsageError, match="How far uint8") as caught:
        verify_file(int8, reference=floating)
    assert "--images" in caught.value.hint
    toml = files["float16"].with_name("model.toml")
    toml.write_text(toml.read_text().replace("box_padding = 1.25", "box_padding = 1.0"), encoding="utf-8")
    with pytest.raises(UsageError, match="are no two forms of one network"):
        verify_file(floating, reference=NetworkFile.read(files["float16"]))


def test_the_command_tells_what_was_compared_and_on_what(
    files: dict[str, Path], pictures: Path, tiny_bundle: Path, splite: Splite
) -> None:
    done = splite("verify", files["uint8"], "--images", pictures, "--reference", files["float32"])
    assert done.exit_code == 0, done.stderr
    assert "difference to LiteRT's reference kernels on 6 crops (6 images of" in done.stdout.replace("\n", " ")
    assert "uint8.tflite is int8: int8 weights, int8 activations." in done.stdout
    for options, said in (
        (("-p", "int8"), "--precision is for bundles"),
        (("--reference-model", "a.toml"), "--reference-model is the model spec of --reference"),
    ):
        done = splite("verify", files["uint8"], *options)
        assert done.exit_code == 1
        assert said in done.stderr
    for name in ("--images", "--reference", "--reference-model", "--model"):
        done = splite("verify", tiny_bundle, name, pictures)
        assert done.exit_code == 1
        assert f"{name} is for a file without a bundle" in done.stderr


def test_a_backend_without_plain_kernels_needs_another_file(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TensorRT is, which is not installed here."""
    without = dataclasses.replace(find_backend("tflite"), reference="")
    monkeypatch.setattr(verify_module, "backend_of", lambda path, backend="auto": without)
    file = NetworkFile.read(files["float32"])
    with pytest.raises(UsageError, match=r"LiteRT has no reference kernels with which float32\.tflite") as caught:
        verify_file(file)
    assert "--reference" in caught.value.hint
    (result,) = verify_file(file, reference=NetworkFile.read(files["open"]))
    check_file([result])
    assert result.parity.reference == "open.tflite"
