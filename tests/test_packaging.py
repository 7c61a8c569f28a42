"""What the wheel holds, and what the repository must not hold."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from splite_deploy import __version__


@pytest.fixture(scope="module")
def distributions(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if files.returncode != 0:
        pytest.skip("not a git checkout")
    source = tmp_path_factory.mktemp("source")
    for name in filter(None, files.stdout.split("\0")):
        if (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_wheel_holds_the_package_and_nothing_else(distributions: Path, root: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    assert wheel.name == f"splite_deploy-{__version__}-py3-none-any.whl"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "splite_deploy"], cwd=root, capture_output=True, text=True, check=True)
    assert names == set(tracked.stdout.splitlines())
    assert {"splite_deploy/cli/app.py", "splite_deploy/runtime/backends/ort.py", "splite_deploy/py.typed"} <= names
    demo = [one for one in zipfile.ZipFile(wheel).infolist() if one.filename.startswith("splite_deploy/demo/")]
    assert len(demo) == 11  # a picture, and two bundles of five files
    packed = sum(one.compress_size for one in demo)
    assert packed < 4_500_000
    cpp = [one for one in zipfile.ZipFile(wheel).infolist() if one.filename.startswith("splite_deploy/cpp/")]
    sources = sum(one.compress_size for one in cpp)
    assert sources < 200_000  # the larger half of it is what others wrote
    assert wheel.stat().st_size - packed - sources < 1_200_000


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_alone(distributions: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = [sys.executable, "-m", "splite_deploy", "demo", "--threads", "1", "--json", "found.json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [len(one["poses"]) for one in found["images"]] == [2]


def test_the_wheel_names_its_needs(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = archive.read(name).decode()
    base = {
        re.match(r"[\w-]+", line).group()  # type: ignore[union-attr]
        for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
        if "extra ==" not in line
    }
    assert base == {"numpy", "opencv-python-headless", "click", "rich", "tomli"}
    assert "Provides-Extra: export" in metadata
    assert "Provides-Extra: ort" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_the_source_distribution_is_complete(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "splite_deploy/cli/app.py"} <= names
