"""Which environment of TFLite's converter is found, and how one is made."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from splite_deploy.compile.tflite import environment
from splite_deploy.compile.tflite.environment import SETTING, find_environment, make_environment
from splite_deploy.doctor.converter import check_converter
from splite_deploy.errors import CompileError, MissingDependencyError, UsageError

Splite = Callable[..., Result]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A product that has no converter."""
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    monkeypatch.setattr(environment, "_folders", lambda: (tmp_path / "beside", tmp_path / "of-user"))


def python_with(folder: Path, *packages: str) -> Path:
    """The Python of a new environment that has empty packages of these names, version 9.1."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in packages:
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").touch()
        name = package.partition("/")[0]
        (site / f"{name}-9.1.dist-info").mkdir(exist_ok=True)
        (site / f"{name}-9.1.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.1\n")
    return folder / "bin" / "python"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel of a package onnx2tf that writes TFLite itself."""
    files = {
        "onnx2tf/__init__.py": b"",
        "onnx2tf/onnx2tf.py": b"def convert(tflite_backend): ...\n",
        "onnx2tf/tflite_builder/__init__.py": b"",
        "onnx2tf-2.6.9.dist-info/METADATA": b"Metadata-Version: 2.1\nName: onnx2tf\nVersion: 2.6.9\n",
        "onnx2tf-2.6.9.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = tmp_path / "onnx2tf-2.6.9-py3-none-any.whl"
    lines = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(content)}")
        archive.writestr("onnx2tf-2.6.9.dist-info/RECORD", "\n".join([*lines, "onnx2tf-2.6.9.dist-info/RECORD,,"]))
    return path


# --- finding one ---


def test_the_setting_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = python_with(tmp_path / "named", "onnx2tf", "onnx2tf/tflite_builder")
    monkeypatch.setenv(SETTING, str(python))
    found = find_environment()
    assert (found.python, found.onnx2tf, found.tensorflow, found.direct) == (python, "9.1", "", True)
    assert found.label == f"onnx2tf 9.1 without TensorFlow, Python {found.version}"
    assert found.origin == f"named by {SETTING}"
    check = check_converter()
    assert check.status == "ok" and check.detail == f"{found.label}; named by {SETTING}: {python}"


def test_one_that_works_through_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, str(python_with(tmp_path / "named", "onnx2tf", "tensorflow")))
    assert find_environment().label.startswith("onnx2tf 9.1 through TensorFlow 9.1, Python 3.")


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ((), r"it is Python 3[\d.]+ without onnx2tf"),
        (("onnx2tf",), r"its onnx2tf 9\.1 needs TensorFlow, which it lacks"),
    ],
)
def test_a_setting_that_cannot_convert_is_an_error(
    packages: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING, str(python_with(tmp_path / "named", *packages)))
    with pytest.raises(CompileError, match=said) as caught:
        find_environment()
    assert "splite-deploy setup-tflite makes one" in caught.value.hint
    check = check_converter()
    assert (check.status, check.fix) == ("failed", caught.value.hint)


def test_a_setting_that_names_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, str(tmp_path / "python"))
    with pytest.raises(CompileError, match=r"SPLITE_TFLITE_PYTHON names .*: there is no such file"):
        find_environment()
    (tmp_path / "python").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(CompileError, match="it does not run as a Python"):
        find_environment()


def test_none_is_found(splite: Splite) -> None:
    with pytest.raises(MissingDependencyError, match="TFLite files are made with onnx2tf, which is not") as caught:
        find_environment()
    assert caught.value.hint.startswith("Make an environment for it: splite-deploy setup-tflite.")
    assert (check_converter().status, check_converter().fix) == ("missing", "splite-deploy setup-tflite")
    assert "--python" in splite("setup-tflite", "--help").output


# --- making one ---


@pytest.mark.slow
def test_it_is_made_once_and_found(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, splite: Splite
) -> None:
    monkeypatch.setattr(environment, "FIRST_DIRECT", sys.version_info[:2])
    monkeypatch.setattr(environment, "DIRECT", (str(wheel),))
    done = splite("setup-tflite")
    assert done.exit_code == 0, done.output
    assert "onnx2tf 2.6.9 without TensorFlow, Python 3." in done.output
    found = find_environment()
    assert (
        found.python == tmp_path / "beside" / "bin" / "python" and found.origin == "made by splite-deploy setup-tflite"
    )
    steps: list[str] = []
    assert make_environment(progress=steps.append) == found and steps == []

    record = tmp_path / "beside" / "splite-tflite.json"
    older = json.loads(record.read_text())
    record.write_text(json.dumps({**older, "packages": ["onnx2tf==2.4.0"]}))
    assert find_environment() == found, "an older one still converts"
    monkeypatch.setattr(environment, "DIRECT", (str(wheel.with_name("onnx2tf-2.7.0-py3-none-any.whl")),))
    with pytest.raises(CompileError, match=r"Installing .* failed: ERROR"):
        make_environment()
    with pytest.raises(MissingDependencyError):
        find_environment()  # a half-made one is none
    monkeypatch.setattr(environment, "DIRECT", (str(wheel),))
    assert make_environment(progress=steps.append).python == found.python and steps[-1] == "trying it"


def test_what_is_not_ours_stays(tmp_path: Path, splite: Splite) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear")
    done = splite("setup-tflite", "--folder", tmp_path / "mine", "--python", sys.executable)
    assert done.exit_code == 1 and "holds something else" in done.output and "--folder" in done.output
    assert [item.name for item in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_python_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    with pytest.raises(UsageError, match="cannot make environments") as caught:
        make_environment(tmp_path / "new", shim)
    assert caught.value.hint == "Name a Python 3.10 or later that has venv and pip."
    monkeypatch.setattr(environment, "FIRST_DIRECT", sys.version_info[:2])
    with pytest.raises(UsageError, match=r"is Python 3\.\d+") as caught:
        make_environment(tmp_path / "new", Path(sys.executable), tensorflow=True)
    assert caught.value.hint == "Name a Python 3.10 or 3.11."


def test_no_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_pythons", lambda: iter(["/no/such/python"]))
    with pytest.raises(MissingDependencyError, match=r"No Python 3\.10 or later that has venv and pip") as caught:
        make_environment(tmp_path / "new")
    assert caught.value.hint == "Install one, or name it: splite-deploy setup-tflite --python PATH."


def test_the_first_new_python_is_taken_else_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"broken": None, "old": (3, 9), "eleven": (3, 11), "thirteen": (3, 13), "twelve": (3, 12)}
    monkeypatch.setattr(environment, "_base_version", versions.get)
    monkeypatch.setattr(environment, "_pythons", lambda: iter(versions))
    assert environment._find_base(tensorflow=False) == (Path("thirteen"), (3, 13))
    assert environment._find_base(tensorflow=True) == (Path("eleven"), (3, 11))
    monkeypatch.setattr(environment, "_pythons", lambda: iter(["broken", "old", "eleven"]))
    assert environment._find_base(tensorflow=False) == (Path("eleven"), (3, 11))
