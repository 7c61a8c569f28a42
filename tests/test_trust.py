"""What can run code, and what never does: Python files beside a checkpoint, pickles in every place, names of members.

Each promise of SECURITY.md names a test, here or elsewhere.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result

torch = pytest.importorskip("torch")
from pickle_bomb import Bomb
from safetensors.torch import load_file

from splite_deploy.bundle import Bundle
from splite_deploy.files import sha256_of

MARK = "code-was-run"
PLANTED = """from pathlib import Path
(Path(__file__).parent / "code-was-run").touch()

"""
VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture
def stranger(
    tiny_checkpoint: Path, tiny_model: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder of somebody else in every form, whose Python files leave a mark when they are run. It is current."""
    folder = tmp_path / "stranger"
    shutil.copytree(tiny_model.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in folder.glob("*.py"):
        file.write_text(f"{file.read_text(encoding='utf-8')}\n{PLANTED}", encoding="utf-8")
    for name in ("setup", "conftest", "sitecustomize", "__init__", "samples_of", "decoder"):
        (folder / f"{name}.py").write_text(PLANTED, encoding="utf-8")
    shutil.copy(tiny_checkpoint, folder / "net.safetensors")
    for name in ("net.pt", "net.pth", "net.ckpt", "net.bin"):
        torch.save({"state_dict": load_file(tiny_checkpoint)}, folder / name)
    shutil.copytree(tiny_bundle, folder / "net.splite")
    graph = Bundle.open(tiny_bundle).find("ort", "fp32").file
    shutil.copy(tiny_bundle / graph, folder / "net.onnx")
    shutil.copy(VECTORS / "tiny.fp32.tflite", folder / "net.tflite")
    cv2.imwrite(str(folder / "picture.png"), np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("line", "status"),
    [
        *((f"inspect {name}", 0) for name in ("net.pt", "net.pth", "net.ckpt", "net.bin", "net.safetensors")),
        ("inspect net.safetensors --json -", 0),
        ("inspect net.safetensors --model model.toml", 1),
        ("inspect net.pt --measure", 1),
        ("inspect net.onnx", 0),
        ("inspect net.tflite", 0),
        ("inspect net.splite", 0),
        ("inspect net.splite --measure", 0),
        ("inspect .", 1),
        ("inspect model.toml", 1),
        ("inspect arch.py", 1),
        ("init net.pt -o new.toml", 0),
        ("init net.safetensors --overwrite", 0),
        ("init net.onnx -o new.toml", 0),
        ("init net.tflite -o new.toml", 0),
        ("init model.toml -o new.toml", 1),
        ("init . -o new.toml", 1),
        ("init arch.py -o new.toml", 1),
        ("run net.onnx picture.png --model model.toml", 0),
        ("run net.splite picture.png", 0),
        ("run net.splite .", 0),
        ("verify net.onnx", 0),
        ("verify net.splite", 0),
        ("bench net.onnx --frames 10", 0),
        ("bench net.splite --frames 10", 0),
        ("export net.tflite -o new.splite --crops 4 --images .", None),
    ],
)
def test_a_python_file_beside_a_source_is_not_run(
    stranger: Path, splite: Callable[..., Result], line: str, status: int | None
) -> None:
    done = splite(*line.split())
    assert not (stranger / MARK).exists()
    if status is not None:
        assert done.exit_code == status, done.output
    assert done.exit_code in (0, 1, 3)


@pytest.mark.parametrize(
    "line",
    [
        "inspect net.safetensors --trust",
        "inspect net.pt --model model.toml --trust --measure",
        "inspect net.pt --arch arch.py:build --arch-arg channels=8 --arch-arg keypoints=5 --input 64x48",
        "init net.pt -o new.toml --arch arch.py:build --arch-arg channels=8 --arch-arg keypoints=5 --input 64x48",
        "export net.safetensors -o new.splite --crops 2",
        "compact net.safetensors --speed-up 1.2 --crops 2 -o small.safetensors",
        "calibrate net.safetensors --images . -o ranges.json",
    ],
)
def test_it_is_run_where_it_was_asked_for_and_help_says_so(
    stranger: Path, splite: Callable[..., Result], line: str
) -> None:
    splite(*line.split())
    assert (stranger / MARK).exists()
    command = line.split()[0]
    told = " ".join(splite(command, "--help").output.split())
    assert re.search(r"Python files? that .{,80}(model\.toml|you name|model spec)", told), told
    assert "code" in told


def test_what_was_not_run_is_told(stranger: Path, splite: Callable[..., Result]) -> None:
    shown = " ".join(splite("inspect", "net.pt").stdout.split())
    assert "read from the tensors alone" in shown and "--trust builds the network by the Python file" in shown
    refused = splite("inspect", "net.pt", "--model", "model.toml")
    assert "that is code, and inspect does not run it by itself." in " ".join(refused.stderr.split())
    assert "If you know who wrote it add --trust" in refused.stderr


@pytest.mark.parametrize("line", ["verify net.splite", "run net.onnx picture.png", "bench net.splite --frames 10"])
def test_modules_in_the_current_folder_are_not_imported(stranger: Path, line: str) -> None:
    """Those that the program and its children import have names that anybody can give a file."""
    for name in ("numpy", "cv2", "onnxruntime", "json", "click", "rich", "splite_deploy", "onnx"):
        (stranger / f"{name}.py").write_text(PLANTED, encoding="utf-8")
    program = "import sys; sys.path[:] = sys.argv.pop(1).split('|'); from splite_deploy.cli import main; main()"
    paths = "|".join(path for path in map(os.path.abspath, filter(None, sys.path)) if path != str(stranger))
    command = [sys.executable, "-c", program, paths, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=_environment())
    assert done.returncode == 0, done.stderr
    assert not (stranger / MARK).exists()


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


# --- nothing is unpickled ---


def bombs(mark: Path) -> dict[str, bytes]:
    """The forms in which a pickle can come: by their names."""
    bomb = Bomb(mark)
    zipped, legacy, numpys, array = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(2)}, "more": bomb}, zipped)
    torch.save({"a": torch.ones(2), "more": bomb}, legacy, _use_new_zipfile_serialization=False)
    objects = np.array([bomb], object)
    np.savez(numpys, crops=objects, color=np.array("rgb"))
    np.save(array, objects, allow_pickle=True)
    forms = {"zip": zipped, "legacy": legacy, "npz": numpys, "npy": array}
    plain = {f"protocol {number}": pickle.dumps({"a": bomb}, number) for number in (0, 2, 4)}
    return {name: stream.getvalue() for name, stream in forms.items()} | plain


PLACES = {
    "inspect {}": (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors", ".onnx", ".tflite", ".pt2", ".ts"),
    "init {} -o new.toml": (".pt", ".safetensors", ".onnx", ".tflite", ".pt2"),
    "export {} --model model.toml -o new.splite": (".pt", ".safetensors", ".onnx", ".tflite", ".pt2", ".ts"),
    "compact {} --model model.toml -o small.safetensors": (".pt", ".safetensors"),
    "calibrate net.safetensors --images {} -o ranges.json": (".npz", ".npy", ".json"),
    "export net.safetensors -p int8 --calibration {} -o new.splite": (".npz", ".npy", ".json"),
    "export net.safetensors --images {} -o new.splite": (".npz", ".json", ".png"),
    "export net.tflite --reference {} -o new.splite": (".tflite", ".onnx", ".pt"),
    "bench net.onnx --inputs {}": (".npz", ".npy"),
    "bench net.splite --compare {}": (".jsonl", ".pkl"),
    "run net.splite {}": (".png", ".jpg", ".mp4", ".pkl"),
    "run {} picture.png": (".onnx", ".tflite"),
    "verify {}": (".onnx", ".tflite", ".engine"),
    "export net.safetensors --model {} -o new.splite": (".toml",),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_is_never_unpickled(stranger: Path, splite: Callable[..., Result], place: str) -> None:
    mark = stranger / "unpickled"
    for form, data in bombs(mark).items():
        for suffix in PLACES[place]:
            (stranger / f"given{suffix}").write_bytes(data)
            done = splite(*place.format(f"given{suffix}").split())
            assert not mark.exists(), (form, suffix)
            assert done.exit_code in (1, 2, 3), (form, suffix, done.output)
    pickle.loads(bombs(mark)["protocol 2"])
    assert mark.exists()


def test_a_pickle_as_any_file_of_a_bundle(stranger: Path, splite: Callable[..., Result], tiny_bundle: Path) -> None:
    """With the right hash in the manifest, as whoever made the bundle can write it."""
    mark = stranger / "unpickled"
    names = [file.name for file in tiny_bundle.iterdir() if file.is_file()]
    assert len(names) >= 4
    for data in (bombs(mark)["protocol 4"], bombs(mark)["npz"], bombs(mark)["zip"]):
        for name in names:
            path = stranger / "bad.splite"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(tiny_bundle, path)
            before = sha256_of(path / name)
            (path / name).write_bytes(data)
            manifest = path / "manifest.json"
            if name != manifest.name:
                text = manifest.read_text(encoding="utf-8").replace(before, sha256_of(path / name))
                manifest.write_text(text, encoding="utf-8")
            for line in ("verify bad.splite", "inspect bad.splite", "run bad.splite picture.png"):
                done = splite(*line.split())
                assert done.exit_code in (0, 1), (name, line, done.output)
            assert not mark.exists()


# --- names of members, and of files ---


@pytest.mark.parametrize("name", ["../outside", "/tmp/splite-outside", "..\\outside"])
def test_members_of_archives_are_not_unpacked(stranger: Path, splite: Callable[..., Result], name: str) -> None:
    for suffix, source in ((".pt", "net.pt"), (".npz", None)):
        given = stranger / f"given{suffix}"
        shutil.copy(stranger / source, given) if source else np.savez(given, crops=np.zeros((1, 64, 48, 3), np.uint8))
        with zipfile.ZipFile(given, "a") as archive:
            archive.writestr(name, b"x")
            archive.writestr(f"archive/{name}", b"x")
    before = sorted(stranger.parent.rglob("*"))
    for line in ("inspect given.pt", "export net.safetensors -p int8 --calibration given.npz -o new.splite --crops 1"):
        splite(*line.split())
    after = set(stranger.parent.rglob("*")) - set(before)
    assert {one.relative_to(stranger).parts[0] for one in after} <= {"new.splite", MARK, "__pycache__"}
    assert not Path("/tmp/splite-outside").exists()


@pytest.mark.parametrize("key", ["calibration", "arch"])
def test_a_name_in_a_model_spec_does_not_lead_runtimes_anywhere(
    stranger: Path, splite: Callable[..., Result], key: str
) -> None:
    """What runs a ready file reads neither."""
    text = (stranger / "model.toml").read_text(encoding="utf-8")
    text = re.sub(rf"(?m)^{key} = .*\n", "", text)
    named = "/dev/zero:x" if key == "arch" else "/dev/zero"
    (stranger / "model.toml").write_text(f'{key} = "{named}"\n{text}', encoding="utf-8")
    for line in ("run net.onnx picture.png", "verify net.onnx", "inspect net.safetensors"):
        assert splite(*line.split()).exit_code in (0, 1)
    assert not (stranger / MARK).exists()


# --- telemetry ---

LOADS = """
import os, sys
from splite_deploy import PoseEstimator
with PoseEstimator.open(sys.argv[1], backend="ort"):
    print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def test_onnx_runtime_reports_no_model(tiny_bundle: Path, tmp_path: Path) -> None:
    """From 1.29 on its reporter begins with files: the device's identifier below HOME, the session's in TMPDIR."""
    passed = ("PATH", "PYTHONPATH")  # without CI, where it reports nothing in any case
    variables = {name: os.environ[name] for name in passed if name in os.environ}
    variables |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", LOADS, str(tiny_bundle)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


def test_who_wants_to_report_can() -> None:
    variables = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    code = "import os, splite_deploy; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


# --- the page ---


def test_every_promise_names_a_test_that_is_there(root: Path) -> None:
    page = (root / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) >= 15
    for file, test in named:
        assert (root / file).is_file(), file
        assert not test or f"def {test}(" in (root / file).read_text(encoding="utf-8"), f"{file}::{test}"
    rows = [row for row in page.splitlines() if row.startswith("| ") and "---" not in row][1:]
    assert len(rows) >= 10
    for row in rows:
        assert re.search(r"`tests/", row), f"no test holds: {row}"
