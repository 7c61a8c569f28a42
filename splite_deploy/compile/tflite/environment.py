"""The environment of TFLite's converter: where one is found, and how one is made.

onnx2tf pins numpy, onnx, protobuf and a dozen others exactly, to versions that meet neither torch's nor LiteRT's. It
runs by the Python of an environment of its own, which has nothing of splite-deploy. onnx2tf 2 writes TFLite itself and
needs Python 3.12 or later; for Python 3.10 and 3.11 there is onnx2tf 1, which works through TensorFlow.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from splite_deploy import children
from splite_deploy.errors import CompileError, MissingDependencyError, UsageError
from splite_deploy.files import locked, write_file, writing

SETTING = "SPLITE_TFLITE_PYTHON"
"""Environment variable: the Python of an environment that has onnx2tf."""
SETUP = "splite-deploy setup-tflite"
DIRECT = ("onnx2tf==2.6.9",)
"""The converter for Python 3.12 and later; it pins what it needs exactly. 0.7 GB."""
TENSORFLOW = ("onnx2tf==1.29.24", "keras==3.15.1")
"""The converter for Python 3.10 and 3.11, which pins TensorFlow 2.19 and what that needs. 2.6 GB."""
FIRST_DIRECT = (3, 12)
FIRST_PYTHON = (3, 10)

_RECORD = "splite-tflite.json"  # written last: an environment without it is not finished
_BEGUN = "splite-tflite.unfinished"
_PROBE_TIMEOUT_S = 60.0
_PROBE = """
import json, platform
from importlib import metadata, util
from pathlib import Path
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
found = util.find_spec("onnx2tf")
writes = bool(found and found.origin and (Path(found.origin).parent / "tflite_builder").is_dir())
print(json.dumps({
    "version": platform.python_version(),
    "onnx2tf": version("onnx2tf") if found else "",
    "tensorflow": version("tensorflow") if util.find_spec("tensorflow") else "",
    "direct": writes,
}))
"""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ConverterEnvironment:
    """An environment that has onnx2tf.

    Attributes:
        python: Its interpreter.
        version: Version of that Python.
        onnx2tf: Version of onnx2tf.
        tensorflow: Version of TensorFlow; empty without it.
        direct: Whether onnx2tf writes TFLite itself; otherwise it works through TensorFlow.
        origin: How it was found, as text.
    """

    python: Path
    version: str
    onnx2tf: str
    tensorflow: str
    direct: bool
    origin: str

    @property
    def label(self) -> str:
        """What it is, in words."""
        through = "without TensorFlow" if self.direct else f"through TensorFlow {self.tensorflow}"
        return f"onnx2tf {self.onnx2tf} {through}, Python {self.version}"


def find_environment() -> ConverterEnvironment:
    """Finds the environment that converts.

    In this order: the one that the environment variable `SETTING` names, this Python's own, one that `SETUP` made.

    Raises:
        MissingDependencyError: There is none.
        CompileError: The one that the variable names cannot convert.
    """
    if named := os.environ.get(SETTING):
        return _named(Path(named))
    if find_spec("onnx2tf") is not None:
        with suppress(CompileError):
            return look_at(Path(sys.executable), "this Python's own packages")
    for folder in _folders():
        if found := _read_record(folder):
            return found
    raise MissingDependencyError(
        "TFLite files are made with onnx2tf, which is not installed.",
        hint=f"Make an environment for it: {SETUP}. Or name the Python of one in {SETTING}.",
    )


def default_folder() -> Path:
    """Where `make_environment` puts it: beside this Python's packages, or in the user's folder where that is closed."""
    beside, of_user = _folders()
    return beside if os.access(sys.prefix, os.W_OK) else of_user


def make_environment(
    folder: Path | None = None,
    python: Path | None = None,
    *,
    tensorflow: bool = False,
    progress: Progress = lambda message: None,
) -> ConverterEnvironment:
    """Makes an environment with pinned versions, or finds that it is there; one of other versions is made anew.

    Args:
        folder: Where; None is `default_folder`.
        python: With which Python, 3.10 or later; None takes the first 3.12 or later that is found, else 3.10 or 3.11.
        tensorflow: Takes the converter that works through TensorFlow, and Python 3.10 or 3.11, in any case.
        progress: Called with each step as it begins.

    Raises:
        UsageError: The folder holds something else, or the Python does not fit.
        MissingDependencyError: There is no Python to make it with.
        CompileError: A step failed; its message ends with the last line that it printed.
        OutputError: The folder cannot be written.
    """
    folder = (folder or default_folder()).absolute()
    base, version = _check_base(python, tensorflow) if python else _find_base(tensorflow)
    direct = version >= FIRST_DIRECT
    packages = list(DIRECT if direct else TENSORFLOW)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        there = _read_record(folder, packages)
        if there is not None and there.version.startswith(".".join(map(str, version)) + "."):
            return there
        _clear(folder)
        progress(f"making an environment with Python {version[0]}.{version[1]} in {folder}")
        _run([str(base), "-I", "-m", "venv", str(folder)], "Making a virtual environment", progress)
        inside = _interpreter(folder)
        progress(f"installing {packages[0]} ({'0.7 GB' if direct else '2.6 GB, with TensorFlow'})")
        install = [str(inside), "-I", "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
        _run([*install, *packages], f"Installing {packages[0]}", progress)
        progress("trying it")
        tried = "from onnx2tf.onnx2tf import convert" + ("" if direct else "; import tensorflow")
        _run([str(inside), "-I", "-c", tried], "Loading onnx2tf", progress)
        found = look_at(inside, f"made by {SETUP}")
        record = {**asdict(found), "python": str(inside.relative_to(folder)), "packages": packages}
        del record["origin"]
        write_file(folder / _RECORD, json.dumps(record, indent=1).encode())
        (folder / _BEGUN).unlink()
    return found


def _clear(folder: Path) -> None:
    """Empties the place for an environment, and marks it as unfinished.

    Raises:
        UsageError: What lies there is not ours.
        OutputError: It cannot be written.
    """
    with writing(folder):
        ours = any((folder / name).exists() for name in (_RECORD, _BEGUN))
        if not ours and any(folder.iterdir()):
            raise UsageError(
                f"{folder} holds something else.", hint="Name a folder that does not exist yet, with --folder."
            )
        (folder / _BEGUN).touch()
        for item in [item for item in folder.iterdir() if item.name != _BEGUN]:
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()


def _folders() -> tuple[Path, Path]:
    """Where an environment of ours may be."""
    shared = Path(os.environ.get("XDG_DATA_HOME", ""))
    of_user = shared if shared.is_absolute() else Path("~/.local/share").expanduser()
    return Path(sys.prefix) / "splite-tflite", of_user / "splite-deploy" / "tflite"


def _named(python: Path) -> ConverterEnvironment:
    hint = f"Unset {SETTING}, or name the Python of an environment that has onnx2tf; {SETUP} makes one."
    try:
        return look_at(python.expanduser().absolute(), f"named by {SETTING}")
    except CompileError as err:
        raise CompileError(f"{SETTING} names {python}: {err.message}", hint=hint) from err


def look_at(python: Path, origin: str) -> ConverterEnvironment:
    """The environment that a Python belongs to.

    Args:
        python: Its path.
        origin: How it was found, as text.

    Raises:
        CompileError: It cannot convert.
    """
    hint = f"Make another environment: {SETUP}."
    try:
        done = children.run(
            [python, "-E", "-c", _PROBE],
            timeout_s=_PROBE_TIMEOUT_S,
            cwd=python.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        found = None
    if found is None:
        raise CompileError("it does not run as a Python." if python.exists() else "there is no such file.", hint=hint)
    if not found["onnx2tf"]:
        raise CompileError(f"it is Python {found['version']} without onnx2tf.", hint=hint)
    if not found["direct"] and not found["tensorflow"]:
        raise CompileError(f"its onnx2tf {found['onnx2tf']} needs TensorFlow, which it lacks.", hint=hint)
    return ConverterEnvironment(python, origin=origin, **found)


def _read_record(folder: Path, packages: list[str] | None = None) -> ConverterEnvironment | None:
    """The finished environment in a folder, if any; of these packages where they are given."""
    try:
        held = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        installed, python = held.pop("packages"), folder / held.pop("python")
        found = ConverterEnvironment(python, origin=f"made by {SETUP}", **held)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if python.is_file() and packages in (None, installed) else None


def _interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _check_base(python: Path, tensorflow: bool) -> tuple[Path, tuple[int, int]]:
    """The Python that was asked for, and its version.

    Raises:
        UsageError: It does not run, does not fit, or cannot make environments.
    """
    found = shutil.which(python) or str(python)
    version = _base_version(found)
    if version is None:
        raise UsageError(
            f"{python} cannot make environments.", hint="Name a Python 3.10 or later that has venv and pip."
        )
    if version < FIRST_PYTHON or (tensorflow and version >= FIRST_DIRECT):
        wanted = "Python 3.10 or 3.11" if tensorflow else "Python 3.10 or later"
        raise UsageError(f"{python} is Python {version[0]}.{version[1]}.", hint=f"Name a {wanted}.")
    return Path(found), version


def _find_base(tensorflow: bool) -> tuple[Path, tuple[int, int]]:
    """A Python that can make the environment: the first of 3.12 or later, else the first of 3.10 or 3.11.

    Raises:
        MissingDependencyError: There is none.
    """
    older = None
    for candidate in _pythons():
        version = _base_version(candidate)
        if version is None or version < FIRST_PYTHON:
            continue
        if version < FIRST_DIRECT:
            older = older or (Path(candidate), version)
        elif not tensorflow:
            return Path(candidate), version
        if tensorflow and older is not None:
            break
    if older is None:
        raise MissingDependencyError(
            f"No Python 3.10 or {'3.11' if tensorflow else 'later'} that has venv and pip was found.",
            hint=f"Install one, or name it: {SETUP} --python PATH.",
        )
    return older


def _pythons() -> Iterator[str]:
    """Interpreters, by path, that may or may not run: this one, those on the path, those of pyenv and of uv."""
    yield str(getattr(sys, "_base_executable", sys.executable))
    names = [f"python3.{minor}" for minor in (12, 13, 14, 11, 10)]
    yield from filter(None, map(shutil.which, names))
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    uv = Path("~/.local/share/uv/python").expanduser()
    for minor in (12, 13, 14, 11, 10):
        for folder in (*sorted(pyenv.glob(f"3.{minor}.*")), *sorted(uv.glob(f"cpython-3.{minor}.*"))):
            yield str(folder / "bin" / "python3")


def _base_version(python: str) -> tuple[int, int] | None:
    """The version of a Python that can make environments; None of one that does not run or cannot."""
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        done = children.run(
            [python, "-I", "-c", code],
            timeout_s=_PROBE_TIMEOUT_S,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        done.check_returncode()
        major, minor = map(int, done.stdout.split())
        return major, minor
    return None


def _run(command: list[str], doing: str, progress: Progress) -> None:
    """Runs a step; what pip fetches is progress.

    Raises:
        CompileError: It failed.
    """
    last = ""
    try:
        with children.Child(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child:
            assert child.process.stdout is not None
            for line in child.process.stdout:
                last = line.strip() or last
                if last.startswith("Collecting "):  # pip tells much more
                    progress(f"fetching {last.split()[1]}")
                elif last.startswith("Installing collected packages"):
                    progress("unpacking them")
            status = child.process.wait()
    except OSError as err:
        raise CompileError(f"{doing} failed: {err.strerror or err}.", hint="Try another --python.") from err
    if status != 0:
        raise CompileError(
            f"{doing} failed: {last[:300] or 'it printed nothing'}",
            hint="Check the connection to the package index and the space on the disk, or try another --python.",
        )
