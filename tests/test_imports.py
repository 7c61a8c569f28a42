"""What may import what: proved in a process where the forbidden packages cannot be imported at all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HOST = (
    "splite_deploy.export",
    "splite_deploy.compact",
    "splite_deploy.fit",
    "splite_deploy.decoders.torch",
    "splite_deploy.compile.simplifier",
    "splite_deploy.compile.tflite",
    "splite_deploy.init.torch_network",
)
BLOCKED = ("torch", "onnx", "onnx_ir", "onnxsim", "onnxscript", "tensorflow", "safetensors")
BLOCKER = f"""
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    blocked = {BLOCKED!r}
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in self.blocked:
            raise ModuleNotFoundError(f"No module named '{{name}}' (blocked)", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKER + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def device_modules(root: Path) -> list[str]:
    """Every module of the package but those of the host's stages."""
    files = sorted((root / "splite_deploy").rglob("*.py"))
    names = [".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [name for name in names if not name.startswith(HOST) and not name.endswith("__main__")]


def test_every_device_module_loads_without_training_frameworks(root: Path) -> None:
    modules = device_modules(root)
    assert "splite_deploy.runtime.estimator" in modules
    assert "splite_deploy.runtime.backends.ort" in modules
    done = run_python("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *modules)
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = run_python("import splite_deploy.export.pipeline")
    assert done.returncode != 0
    assert "blocked" in done.stderr


def test_the_package_offers_its_names_and_loads_nothing_until_one_is_used() -> None:
    code = """
import splite_deploy
heavy = {'numpy', 'cv2', 'click', 'rich', 'importlib.metadata', 'splite_deploy.errors'}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert set(splite_deploy.__all__) <= set(dir(splite_deploy))
from splite_deploy import SpliteError, __version__
assert not {'numpy', 'cv2'} & set(sys.modules)
from splite_deploy import Bundle
assert 'cv2' not in sys.modules
from splite_deploy import *
from splite_deploy.runtime.estimator import PoseEstimator as there
assert PoseEstimator is there and verify.__name__ == 'verify' and open_camera and BoxTracker and Pose
try:
    splite_deploy.PoseEstimater
except AttributeError as err:
    assert str(err) == "module 'splite_deploy' has no attribute 'PoseEstimater'", err
else:
    raise AssertionError('a name that is not there')
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["ort", "replay"])
def test_the_estimator_runs_without_training_frameworks(tiny_bundle: Path, backend: str) -> None:
    code = """
import numpy as np
from splite_deploy.runtime import PoseEstimator
with PoseEstimator.open(sys.argv[1], backend=sys.argv[2]) as estimator:
    pose = estimator(np.zeros((60, 80, 3), np.uint8), (10, 10, 50, 50))
print(pose.keypoints.shape)
"""
    done = run_python(code, tiny_bundle, backend)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(5, 2)"


def test_replay_needs_no_backend_at_all(tiny_bundle: Path) -> None:
    code = """
Blocker.blocked += ('onnxruntime',)
import numpy as np
from splite_deploy.runtime import PoseEstimator
print(PoseEstimator.open(sys.argv[1], backend='replay')(np.zeros((60, 80, 3), np.uint8)).scores.shape)
"""
    done = run_python(code, tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(5,)"


@pytest.mark.parametrize("command", ["verify", "bench", "inspect", "doctor", "run", "export", "compact", "compile"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = f"""
import splite_deploy.cli
try:
    splite_deploy.cli.main(['{command}', '--help'])
except SystemExit as end:
    assert end.code == 0, end.code
assert 'onnxruntime' not in sys.modules and 'rich' not in sys.modules
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage:")


OTHERS = (
    "splite_deploy.children",
    "splite_deploy.init.recognise",
    "splite_deploy.keeper",
    "splite_deploy.runtime.backends.flatbuffer",
    "splite_deploy.runtime.backends.tflite_file",
    "splite_deploy.runtime.backends.tflite_model",
    "splite_deploy.runtime.backends.tflite_operators",
    "splite_deploy.runtime.backends.tflite_schema",
    "splite_deploy.runtime.file_facts",
    "splite_deploy.runtime.first_load",
    "splite_deploy.runtime.verify",
)
"""What a run of an ONNX bundle has no use for: they cost it a fifth of its start."""
MOST_OF_OURS = 128


def test_a_run_imports_only_what_it_uses(tiny_bundle: Path, tmp_path: Path) -> None:
    code = """
import splite_deploy.cli, cv2, numpy
cv2.imwrite(sys.argv[2], numpy.zeros((60, 80, 3), numpy.uint8))
try:
    splite_deploy.cli.main(['run', sys.argv[1], sys.argv[2], '--json', sys.argv[2] + '.json'])
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(name for name in sys.modules if name.startswith('splite_deploy')))
"""
    done = run_python(code, tiny_bundle, tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    ours = done.stdout.split()
    assert "splite_deploy.runtime.backends.ort" in ours
    assert not set(OTHERS) & set(ours)
    assert len(ours) <= MOST_OF_OURS, ours


def test_a_missing_package_is_an_error_with_the_command_to_type(tmp_path: Path) -> None:
    code = "import splite_deploy.cli\nsplite_deploy.cli.main(['export', 'x.pt', '-o', sys.argv[1]])"
    done = run_python(code, tmp_path / "x.splite")
    assert done.returncode == 1
    assert re.search(r"error: 'export' needs (onnx|onnx_ir|torch), which is not installed here\.", done.stderr)
    assert "pip install 'splite-deploy[export]'" in done.stderr
    assert "Traceback" not in done.stderr


BROKEN_OPENCV = "raise ImportError('libGL.so.1: cannot open shared object file')"


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["doctor"], 1, "libGL.so.1"),
        (["run", "x.splite", "x.png"], 1, "error: 'run' needs a package that is broken here: libGL.so.1"),
        (["--help"], 0, "Usage:"),
    ],
)
def test_a_broken_opencv_is_told_not_thrown(tmp_path: Path, command: list[str], status: int, said: str) -> None:
    (tmp_path / "cv2.py").write_text(BROKEN_OPENCV)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from splite_deploy.cli import main; main()"
    line = [sys.executable, "-c", code, *command]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if command == ["doctor"]:
        assert "pip install --force-reinstall opencv-python-headless" in done.stdout
    if command[0] == "run":
        assert "hint:  splite-deploy doctor says which" in done.stderr
