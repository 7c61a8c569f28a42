"""A backend that another package brings along is found by everything, with nothing else touched.

The package lies in tests/toy_backend and is installed by pip into a folder; commands run in processes of their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from splite_deploy.bundle import Bundle

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if find_spec("pip") is None or find_spec("setuptools") is None:
    pytest.skip("pip or setuptools is not installed", allow_module_level=True)

DIAGNOSE = """
import dataclasses, json
from splite_deploy.doctor import diagnose
print(json.dumps([dataclasses.asdict(stage) for stage in diagnose(exporting=False).stages]))
"""
"""What doctor says of running networks, without trying what exports them."""
QUICK = ("--frames", 10, "--warmup", 1, "--threads", 1)


@dataclass
class Installed:
    """A folder with packages, and what can be run with them.

    Attributes:
        folder: Where they were installed.
        root: The repository.
        variables: Environment variables beside those of the tests.
    """

    folder: Path
    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    def python(self, *arguments: object, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        path = [str(self.folder), str(self.root), str(self.root / "tests" / "shared")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), **self.variables}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s, cwd=self.root
        )

    def splite(self, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs the command line; fails where it ends with another status."""
        done = self.python("-m", "splite_deploy", *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Where the package of the toy is installed."""
    source, target = tmp_path_factory.mktemp("source") / "toy", tmp_path_factory.mktemp("installed")
    shutil.copytree(root / "tests" / "toy_backend", source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target", target]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def toy(toy_folder: Path, root: Path) -> Installed:
    return Installed(toy_folder, root)


@pytest.fixture(scope="module")
def toy_bundle(
    toy_folder: Path, root: Path, tiny_bundle: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What export makes for the toy."""
    path = tmp_path_factory.mktemp("bundle") / "toy.splite"
    options = ("--model", tiny_model, "--crops", 8, "-b", "toy", "-p", "fp32", "-p", "fp16")
    Installed(toy_folder, root).splite("export", tiny_bundle / "model.onnx", "-o", path, *options)
    return path


def text_of(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(re.sub(r"[│┃┏┓┡┩└┘━─├┤┼]", " ", done.stdout).split())


@pytest.mark.slow
def test_it_keeps_the_contract(toy: Installed) -> None:
    tests = "tests/runtime/test_session_contract.py"
    done = toy.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "toy", "-rs", tests)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|skipped|failed)", done.stdout)}
    assert counts["passed"] >= 30, done.stdout
    # No artifact of the bundle was made for it, so there is nothing to lose where it is not installed.
    assert counts.get("skipped", 0) == 1 and "holds nothing for toy" in done.stdout


def test_verify_runs_graphs_of_another_backend_that_it_reads(toy: Installed, tiny_bundle: Path) -> None:
    (result,) = json.loads(toy.splite("verify", tiny_bundle, "-b", "numpy", "--json", "-").stdout)  # an alias
    assert (result["backend"], result["artifact"]["backend"]) == ("toy", "ort")
    assert result["violations"] == [] and 0 < result["parity"]["deviation_px"]["max"] < 1e-3
    assert [one["backend"] for one in json.loads(toy.splite("verify", tiny_bundle, "--json", "-").stdout)] == ["ort"]


def test_its_options_are_the_command_lines(toy: Installed, tiny_bundle: Path) -> None:
    assert "--toy-gain FLOAT Toy: multiply every output by this." in text_of(toy.splite("run", "--help"))
    done = toy.splite("verify", tiny_bundle, "-b", "toy", "--toy-gain", "0", status=1)
    assert "toy fp32 differs on this machine" in done.stderr
    done = toy.splite("verify", tiny_bundle, "-b", "ort", "--toy-gain", "0.5", status=2)
    assert "--toy-gain is for toy, and -b names ort." in done.stderr


def test_bench_measures_it_in_one_configuration(toy: Installed, tiny_bundle: Path, tmp_path: Path) -> None:
    toy.variables["TOY_BACKEND_LOG"] = str(tmp_path / "log.jsonl")
    file = tmp_path / "bench.jsonl"
    toy.splite("bench", tiny_bundle, "-b", "toy", *QUICK, "--toy-gain", "0.25", "--json", file)
    result = json.loads(file.read_text())
    assert (result["backend"], result["precision"], result["threads"]) == ("toy", "fp32", 1)
    assert result["environment"]["versions"]["toy"] == "1.0 (splite-deploy-toy)"
    assert {layer["kind"] for layer in result["layers"]} >= {"Conv"}
    assert result["startup"]["load_ms"] > 0 and result["memory"]["rss_peak_mib"] > 0
    opened = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len({one.pop("process") for one in opened}) == 2, "the measurement and the cold start"
    assert len(opened) == 3 and opened == [{"threads": 1, "gain": 0.25}] * 3


def test_bench_of_a_file(toy: Installed, tiny_bundle: Path, tmp_path: Path) -> None:
    found = []
    for backend in (["-b", "toy"], []):
        file = tmp_path / f"bench-{len(backend)}.jsonl"
        toy.splite("bench", tiny_bundle / "model.onnx", *backend, *QUICK, "--json", file)
        found.append(json.loads(file.read_text())["backend"])
    assert found == ["toy", "ort"], "several backends run .onnx: a built-in one does unless -b says otherwise"


def test_doctor_tries_it(toy: Installed) -> None:
    def stage() -> tuple[dict[str, Any], dict[str, Any]]:
        stages = json.loads(toy.python("-c", DIAGNOSE).stdout)
        (found,) = [one for one in stages if one["name"] == "run with toy"]
        return found, {check["name"]: check for check in found["checks"]}

    found, checks = stage()
    assert found["computes"] and checks["onnx"]["status"] == "ok"
    assert checks["toy device"] == {"name": "toy device", "status": "ok", "detail": "works", "fix": ""}
    toy.variables["TOY_BACKEND_PROBLEM"] = "no toy is plugged in"
    _, checks = stage()
    assert (checks["toy device"]["status"], checks["toy device"]["detail"]) == ("failed", "no toy is plugged in")


def test_export_makes_artifacts_for_it_and_inspect_shows_them(toy: Installed, toy_bundle: Path) -> None:
    bundle = Bundle.open(toy_bundle)  # here, where there is no toy
    artifacts = {one.label: one for one in bundle.manifest.artifacts}
    assert list(artifacts) == ["toy fp32", "toy fp16", "ort fp32"]
    assert artifacts["toy fp32"].file == artifacts["ort fp32"].file == "model.onnx"
    report = bundle.report()
    assert {one.stage for one in report.parity} >= {"toy fp32", "toy fp16"}
    assert {row.label for row in report.recommendation.rows} == set(artifacts)  # type: ignore[union-attr]
    assert {one.kind for one in report.layers["toy fp16"]} >= {"Conv", "Cast"}
    shown = text_of(toy.splite("inspect", toy_bundle))
    assert "Toy: the nodes of the graph; nothing is timed." in shown
    assert "ONNX Runtime: as it fused and converted them" in shown
    results = json.loads(toy.splite("verify", toy_bundle, "--json", "-").stdout)
    assert [one["backend"] for one in results] == ["toy", "toy", "ort"]


def test_auto_takes_what_was_made_for_it_and_nothing_else(toy: Installed, toy_bundle: Path, tiny_bundle: Path) -> None:
    code = """
import sys
from splite_deploy.bundle import Bundle
from splite_deploy.runtime.session import pick_artifact
print(*(pick_artifact(Bundle.open(path))[0].name for path in sys.argv[1:]))
"""
    assert toy.python("-c", code, toy_bundle, tiny_bundle).stdout.split() == ["toy", "ort"]


def test_describing_it_imports_nothing_heavy(toy: Installed) -> None:
    code = """
import sys
before = set(sys.modules)  # a package may lay a namespace (cuda) there at the start of Python
import splite_deploy.cli
from splite_deploy.runtime.backends import all_backends
assert list(all_backends())[-1] == "toy"
heavy = {"onnx", "onnxruntime", "ai_edge_litert", "cv2", "tensorrt", "tensorrt_rtx", "cuda"}
print(sorted(heavy & set(sys.modules) - before))
"""
    done = toy.python("-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


BROKEN = {
    "absent": ("import a_module_that_nobody_has", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
    "raising": ("raise RuntimeError('cannot work here')", "raising:BACKEND: RuntimeError: cannot work here"),
    "other": ("BACKEND = 'nothing'", "other:BACKEND is a str, not a Backend"),
    "double": (
        "from splite_deploy.runtime.backends.ort import BACKEND",
        "double:BACKEND calls itself 'ort', as another backend does",
    ),
}


def test_plug_ins_that_cannot_be_loaded_spoil_nothing(tmp_path: Path, root: Path, tiny_bundle: Path) -> None:
    facts = tmp_path / "broken-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    points = "".join(f"{name} = {name}:BACKEND\n" for name in BROKEN)
    (facts / "entry_points.txt").write_text(f"[splite_deploy.backends]\n{points}")
    for name, (source, _) in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(f"{source}\n")
    broken = Installed(tmp_path, root)
    (result,) = json.loads(broken.splite("verify", tiny_bundle, "--json", "-").stdout)
    assert result["backend"] == "ort"
    stages = {one["name"]: one for one in json.loads(broken.python("-c", DIAGNOSE).stdout)}
    for name, (_, problem) in BROKEN.items():
        check = stages[f"run with {name}"]["checks"][-1]
        assert check["status"] == "failed" and problem in check["detail"]
    done = broken.splite("verify", tiny_bundle, "-b", "raising", status=1)
    assert "error: The backend 'raising' cannot be loaded: raising:BACKEND: RuntimeError" in done.stderr
    assert "Upgrade or remove the package that brings it." in done.stderr
