"""Bundles of ready TFLite files: nothing is converted, nothing of a training framework is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

pytest.importorskip("ai_edge_litert")

from foreign_tflite import COORDINATES, READ_HEATMAP, READ_POINTS, foreign, with_model

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.errors import BackendError, ExportError, ParityError, UsageError
from splite_deploy.export.adopt import AdoptOptions, adopt_file, is_ready_file
from splite_deploy.export.failures import PartialExportError
from splite_deploy.files import sha256_of
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.crops import random_pictures
from splite_deploy.runtime.verify import check, verify
from splite_deploy.spec import load_model_toml

Splite = Callable[..., Result]
BOX = (20, 10, 120, 100)
BLOCKED = ("torch", "onnx", "onnx_ir", "onnxsim", "onnxscript", "onnxruntime", "tensorflow", "safetensors")
BLOCKER = f"""
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}' (blocked)", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index, picture in enumerate(random_pictures(10, 90)):
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


@pytest.mark.parametrize(
    ("name", "decoder", "view", "precision"),
    [
        ("float32", None, READ_HEATMAP, "fp32"),
        ("float32", COORDINATES, READ_POINTS, "fp32"),
        ("float16", None, READ_HEATMAP, "fp16"),
        ("uint8", None, READ_HEATMAP, "int8"),
        ("dynamic-range", None, READ_HEATMAP, "int8"),
        ("half-input", None, READ_HEATMAP, "fp32"),
        ("open", None, READ_HEATMAP, "fp32"),
        ("signed", None, READ_HEATMAP.replace("Identity", "heatmap"), "fp32"),
    ],
)
def test_the_bundle_holds_the_file_and_runs_like_it(
    tmp_path: Path, image: NDArray[np.uint8], name: str, decoder: str | None, view: str, precision: str
) -> None:
    file = with_model(tmp_path / "net", name, view=view, **({"decoder": decoder} if decoder else {}))
    bundle = adopt_file(file, tmp_path / "net.splite")
    (artifact,) = Bundle.open(bundle.path).manifest.artifacts
    assert (artifact.format, artifact.backend, artifact.precision) == ("tflite", "tflite", precision)
    assert (bundle.path / artifact.file).read_bytes() == file.read_bytes()
    assert bundle.manifest.source.checkpoint_sha256 == artifact.sha256 == sha256_of(file)
    assert artifact.view == load_model_toml(file.with_name("model.toml"))[1].view
    assert {tensor.role for tensor in (*artifact.inputs, *artifact.outputs)} == {""}
    assert bundle.golden().reference == "tflite" and bundle.report().opset is None
    check(verify(bundle))
    with PoseEstimator.open_file(file, threads=1) as alone, PoseEstimator.open(bundle.path, threads=1) as bundled:
        np.testing.assert_array_equal(alone(image, BOX).keypoints, bundled(image, BOX).keypoints)
        assert bundled.session.inputs[0].shape[0] == (None if name == "open" else 1)
        if name == "open":
            assert len(bundled.batch(image, [BOX, BOX])) == 2


def test_the_manifest_says_what_the_file_has(tmp_path: Path) -> None:
    bundle = adopt_file(with_model(tmp_path / "net", "uint8"), tmp_path / "net.splite")
    (artifact,) = bundle.manifest.artifacts
    (image,) = artifact.inputs
    assert (image.name, image.shape, image.dtype) == ("input_1", (1, 64, 48, 3), "uint8")
    assert [(one.name, one.shape, one.dtype) for one in artifact.outputs][1] == ("Identity_1", (1, 15), "uint8")
    notes = bundle.report().notes
    assert "uint8.tflite is in the bundle as it is: int8, int8 weights, int8 activations" in notes
    assert any("no other file was given" in note for note in notes)
    assert any("random pictures" in note for note in notes)


def test_golden_outputs_are_those_of_the_reference_kernels(tmp_path: Path) -> None:
    bundle = adopt_file(with_model(tmp_path / "net", "float32"), tmp_path / "net.splite")
    (result,) = verify(bundle)
    assert 0 < result.parity.deviation_px.max < 1e-3, "other kernels, of the same file"
    assert result.parity.label == "tflite -> tflite fp32"


def test_an_int8_file_is_proved_with_the_float_one(tmp_path: Path, pictures: Path) -> None:
    file = with_model(tmp_path / "net", "uint8")
    options = AdoptOptions(images=pictures, reference=foreign("float32"))
    bundle = adopt_file(file, tmp_path / "net.splite", options=options)
    (parity,) = bundle.report().parity
    assert 0.02 < parity.deviation_px.p95 < 0.26
    assert parity.crops_from == f"10 images of {pictures.name}"
    assert any("foreign.float32.tflite by LiteRT's reference kernels" in note for note in bundle.report().notes)
    check(verify(bundle))
    with pytest.raises(UsageError, match="How far uint8") as caught:
        adopt_file(file, tmp_path / "other.splite", options=AdoptOptions(reference=foreign("float32")))
    assert "--images" in caught.value.hint
    assert not (tmp_path / "other.splite").exists()


def test_a_file_that_moves_keypoints_too_far_makes_no_bundle(tmp_path: Path, pictures: Path) -> None:
    file = with_model(tmp_path / "net", "uint8")
    other = with_model(tmp_path / "other", "float32")
    toml = other.with_name("model.toml")  # the same decoder and size: another normalisation
    toml.write_text(toml.read_text().replace("std = [255.0, 255.0, 255.0]", "std = [60.0, 60.0, 60.0]"))
    options = AdoptOptions(images=pictures, reference=other, reference_model=toml)
    with pytest.raises(ParityError, match=r"tflite -> tflite int8 changed the result on 10 crops") as caught:
        adopt_file(file, tmp_path / "net.splite", options=options)
    assert "calibration images" in caught.value.hint
    assert not (tmp_path / "net.splite").exists()


def test_files_in_other_precisions_go_along(tmp_path: Path, pictures: Path) -> None:
    file = with_model(tmp_path / "net", "uint8")
    also = foreign("float16"), foreign("float32")
    bundle = adopt_file(file, tmp_path / "net.splite", options=AdoptOptions(images=pictures, also=also))
    assert [one.precision for one in bundle.manifest.artifacts] == ["int8", "fp16", "fp32"]
    assert len({one.file for one in bundle.manifest.artifacts}) == 3
    assert any("golden outputs are those of foreign.float32.tflite" in note for note in bundle.report().notes)
    check(verify(bundle))
    with pytest.raises(UsageError, match=r"are both fp32: float32") as caught:
        adopt_file(with_model(tmp_path / "f", "float32"), tmp_path / "a.splite", options=AdoptOptions(also=also[1:]))
    assert "one file of each precision" in caught.value.hint


def test_what_fails_beside_what_passes_is_told(tmp_path: Path, pictures: Path) -> None:
    file = with_model(tmp_path / "net", "float32", view=READ_HEATMAP)
    toml = file.with_name("model.toml")
    toml.write_text(toml.read_text() + "[limits]\nshift_p95_px = 1e-6\nshift_max_px = 1e-6\n", encoding="utf-8")
    options = AdoptOptions(images=pictures, also=(foreign("uint8"),))
    with pytest.raises(PartialExportError, match="tflite fp32") as caught:
        adopt_file(file, tmp_path / "net.splite", options=options)
    assert [one.precision for one in Bundle.open(tmp_path / "net.splite").manifest.artifacts] == ["int8"]
    assert [one.artifact for one in caught.value.failures] == ["tflite fp32"]


def test_a_view_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"model\.toml says float32 Nx3x64x48"):
        adopt_file(with_model(tmp_path / "net", "float32", view=""), tmp_path / "net.splite")
    assert not (tmp_path / "net.splite").exists()
    with pytest.raises(BackendError, match="operators of its maker's own"):
        adopt_file(with_model(tmp_path / "custom", "custom"), tmp_path / "net.splite")
    assert not (tmp_path / "net.splite").exists()


def test_a_column_that_is_no_score_is_not_taken_for_one(tmp_path: Path) -> None:
    view = READ_POINTS.replace('activation = "sigmoid"\n', "").replace('"x", "y", "score"', '"score", "y", "x"')
    file = with_model(tmp_path / "net", "float32", decoder=COORDINATES, view=view)  # the score is x, in pixels
    with pytest.raises(ExportError, match=r"Column 3 of 'coordinates' is read as the score, and lies ") as caught:
        adopt_file(file, tmp_path / "net.splite")
    assert 'activation = "sigmoid"' in caught.value.hint
    assert not (tmp_path / "net.splite").exists()


def test_a_recording_replays_what_the_decoder_reads(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    bundle = adopt_file(with_model(tmp_path / "net", "uint8"), tmp_path / "net.splite")
    with PoseEstimator.open(bundle.path, backend="replay") as estimator:
        assert estimator(image, BOX).keypoints.shape == (5, 2)


def test_a_tflite_file_is_known_by_its_content(tmp_path: Path) -> None:
    assert is_ready_file(Path("absent.tflite"))
    assert is_ready_file(Path(shutil.copy(foreign("float32"), tmp_path / "net.bin")))
    (tmp_path / "net.pt").write_bytes(b"PK\x03\x04 a zip archive")
    assert not is_ready_file(tmp_path / "net.pt")
    assert not is_ready_file(tmp_path)


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        (("-b", "ort"), "which LiteRT alone runs: nothing is made of it for ort", "tf2onnx.convert --tflite"),
        (("-b", "trt"), "nothing is made of it for trt", "with -b trt"),
        (("-p", "fp16"), "is fp32 and stays as it is: no fp16 is made of it", "--also"),
        (("--opset", "17"), "stays as it is, and --opset is for what export converts", "Leave --opset out"),
        (("--calibration", "x"), "--calibration is for what export converts", "Leave --calibration out"),
        (("--eval", "x"), "--eval is for what export converts", "splite-deploy bench"),
        (("--dynamic-batch",), "--dynamic-batch is for what export converts", "Leave --dynamic-batch out"),
    ],
)
def test_what_would_convert_it_is_refused(
    tmp_path: Path, splite: Splite, options: tuple[str, ...], said: str, hint: str
) -> None:
    file = with_model(tmp_path / "net", "float32")
    done = splite("export", file, "-o", tmp_path / "net.splite", *options)
    assert done.exit_code == 1
    assert said in done.stderr and hint in done.stderr
    assert not (tmp_path / "net.splite").exists()


def test_what_changes_a_network_refuses_a_tflite_file(tmp_path: Path, splite: Splite) -> None:
    file = with_model(tmp_path / "net", "float32")
    for command in (
        ("calibrate", file, "--images", tmp_path, "-o", tmp_path / "a.ranges.json"),
        ("compact", file, "-o", tmp_path / "a.safetensors", "--method", "l1", "--speed-up", "2"),
    ):
        done = splite(*command)
        assert done.exit_code == 1
        assert "is a TFLite file, which stays as it is." in done.stderr, done.stderr
        assert "splite-deploy export" in done.stderr


def test_options_of_ready_files_are_refused_for_others(
    tmp_path: Path, tiny_checkpoint: Path, tiny_model: Path, splite: Splite
) -> None:
    for option in ("--reference", "--reference-model", "--also"):
        done = splite("export", tiny_checkpoint, "--model", tiny_model, "-o", tmp_path / "a.splite", option, "x.tflite")
        assert done.exit_code == 1
        assert f"{option} is for a .tflite file" in done.stderr


def test_the_command_makes_and_shows_the_bundle(tmp_path: Path, pictures: Path, splite: Splite) -> None:
    file, bundle = with_model(tmp_path / "net", "uint8"), tmp_path / "net.splite"
    done = splite("export", file, "-o", bundle, "--images", pictures, "--also", foreign("float32"), "-b", "litert")
    assert done.exit_code == 0, done.stderr
    assert "difference to the imported TFLite file on 10 crops" in " ".join(done.stdout.split())
    assert "note: uint8.tflite is in the bundle as it is" in done.stderr
    shown = splite("inspect", bundle)
    assert shown.exit_code == 0, shown.stderr
    assert "model.int8.tflite" in shown.stdout and "opset" not in shown.stdout
    done = splite("export", file, "-o", bundle, "--json", "-")
    assert done.exit_code == 1
    assert "exists already" in done.stderr
    done = splite("export", file, "-o", bundle, "--overwrite", "--json", "-")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["parity"][0]["stage"] == "tflite int8"


def all_commands(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Everything that a file without a bundle is for, and then with the bundle that is made of it."""
    net = with_model(folder / "net", "uint8")
    photographs = folder / "photographs"
    photographs.mkdir()
    for index, picture in enumerate(random_pictures(4, 100)):
        cv2.imwrite(str(photographs / f"{index}.png"), picture)
    photograph, quick = photographs / "0.png", ["--frames", "12", "--warmup", "1", "--threads", "1"]
    proof = ["--images", photographs, "--reference", foreign("float32")]
    for arguments in (
        ["inspect", net],
        ["init", net, "-o", folder / "written.toml"],
        ["run", net, photograph],
        ["verify", net, *proof],
        ["bench", net, *quick],
        ["export", net, "-o", folder / "net.splite", *proof],
        ["verify", folder / "net.splite"],
        ["run", folder / "net.splite", photograph],
        ["bench", folder / "net.splite", *quick],
        ["inspect", folder / "net.splite"],
    ):
        line = [*command, *map(os.fspath, arguments)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, env=environment)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    assert (folder / "net.splite" / MANIFEST).is_file() and (folder / "written.toml").is_file()


@pytest.mark.slow
def test_every_command_works_without_training_frameworks(tmp_path: Path, root: Path) -> None:
    """In an environment of numpy, OpenCV, click, rich and LiteRT; where no index has them, imports of others fail."""
    venv.create(tmp_path / "bare", with_pip=False)
    python, blocker = tmp_path / "bare" / "bin" / "python", tmp_path / "blocker"
    packages = ["numpy", "opencv-python-headless", "click", "rich", "ai-edge-litert"]
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile", *packages]
    blocker.mkdir()
    said = b"No module named"
    if subprocess.run(command, capture_output=True, check=False, timeout=300).returncode:
        (blocker / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")  # also for the processes that bench starts
        python, said = Path(sys.executable), b"(blocked)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(blocker), str(root)])}
    for name in BLOCKED:
        found = subprocess.run([python, "-c", f"import {name}"], env=environment, capture_output=True, check=False)
        assert said in found.stderr, f"{name} is there"
    all_commands([str(python), "-m", "splite_deploy"], tmp_path, environment)
