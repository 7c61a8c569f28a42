"""The README is short, its commands run, its table is that of the recorded results, and links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from pages import blocks, commands, pages, read, words

if TYPE_CHECKING:
    from conftest import MadeOnce

BIN = Path(sys.executable).parent
PATIENT = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}
"""`make demo` takes the seconds that it takes anywhere."""
MOST_WORDS, MOST_BYTES = 900, 1_000_000


def test_the_readme_is_a_front_door() -> None:
    text = read("README.md")
    assert 500 < words(text) <= MOST_WORDS
    assert all(f"]({page})" in text for page in pages() if page.startswith("docs/") and "reference/" not in page
               and page not in ("docs/codecs.md",))  # fmt: skip


def test_its_picture_moves_and_is_small(root: Path) -> None:
    from PIL import Image

    (picture,) = re.findall(r"!\[[^\]]+\]\((?!https:)([^)]+)\)", read("README.md"))
    assert (root / picture).stat().st_size <= MOST_BYTES
    with Image.open(root / picture) as frames:
        assert getattr(frames, "n_frames", 1) > 20
    assert f"`python docs/tools/make_clip.py --out {picture}`" in read("README.md")


def test_words_are_those_that_a_reader_sees() -> None:
    assert words("One [two](three.md), <!-- four --> | five | `six` |\n|---|---|\n") == 4


def test_the_commands_of_its_claims_are_there(root: Path) -> None:
    table = read("README.md").partition("<!-- claims:")[2].partition("<!-- end of claims")[0]
    typed = re.findall(r"`python (benchmarks/\w+\.py)([^`]*)`", table)
    assert len(typed) >= 6
    for script, rest in typed:
        source = (root / script).read_text(encoding="utf-8")
        assert all(f'"{option}"' in source for option in re.findall(r"--[a-z-]+", rest)), script


def clone(root: Path, folder: Path) -> Path:
    """The repository as somebody has it who cloned it: what is tracked, as it is now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)
    return folder


@pytest.mark.slow
def test_the_commands_as_typed_on_a_fresh_machine(root: Path, tmp_path: Path) -> None:
    """In a new clone, with a Python and nothing else, in one shell: all that README says, and nothing besides."""
    index = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(tmp_path / "wheel"), "click"]
    if subprocess.run(index, capture_output=True, check=False).returncode != 0:
        pytest.skip("no package index can be reached, from which README installs")
    place = clone(root, tmp_path / "splite-deploy")
    python = Path(sys.base_prefix) / "bin"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL", "SPLITE"))}
    environment = {**kept, "PATH": f"{python}{os.pathsep}/usr/bin{os.pathsep}/bin", "COLUMNS": "110"}
    environment["SPLITE_BENCH_MIN_SECONDS"] = "0.3"  # times what bench leaves open for a moment
    environment["PIP_NO_COMPILE"] = "1"  # what Python does anyway, of the modules that are imported
    typed = "\n".join(commands(read("README.md")))
    assert len(typed.splitlines()) <= 5
    shell = ["bash", "-e", "-c", typed]
    done = subprocess.run(shell, cwd=place, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 hands, drawn in splite-demo/hands-overlay.jpg" in done.stdout
    assert cv2.imread(str(place / "splite-demo" / "hands-overlay.jpg")) is not None
    assert len(json.loads((place / "hands.json").read_text(encoding="utf-8"))["poses"]) == 2
    installed = {path.name for path in (place / ".venv").glob("lib/python3*/site-packages/*")}
    assert "onnxruntime" in installed and not installed & {"torch", "onnx", "tensorflow"}

    (application,) = blocks(read("README.md"), "python")
    run = [place / ".venv" / "bin" / "python", "-W", "error", "-c", application.body]
    done = subprocess.run(run, cwd=place, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[[") >= 2


def make_demo(root: Path, folder: Path, *more: str) -> str:
    """What `make demo` prints with what is installed."""
    make = ["make", "-o", ".venv/installed", "demo", f"DEMO={folder}", f"BIN={BIN}", *more]
    done = subprocess.run(make, cwd=root, capture_output=True, text=True, check=False, env={**os.environ, **PATIENT})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def keypoints_in(folder: Path) -> np.ndarray:
    assert cv2.imread(str(folder / "overlay.png")) is not None
    return np.array(json.loads((folder / "hand.json").read_text(encoding="utf-8"))["poses"][0]["keypoints"])


@pytest.fixture(scope="module")
def demo(root: Path, made_once: MadeOnce) -> Path:
    """What `make demo` leaves, and what it printed. Read only."""

    def fill(folder: Path) -> None:
        (folder / "printed").write_text(make_demo(root, folder), encoding="utf-8")

    return made_once("make-demo", fill)


@pytest.mark.slow
def test_make_demo_ends_with_keypoints_on_the_fingers(root: Path, demo: Path) -> None:
    from splite_deploy.export.source.symbol import load_symbol

    printed, keypoints = (demo / "printed").read_text(encoding="utf-8"), keypoints_in(demo)
    for expected in ("torch -> simplified", "torch -> ort fp32", "End to end", "overlay.png", "--help"):
        assert expected in printed
    folder = root / "models" / "splite_hand"
    render_hand = load_symbol("synthetic.py:render_hand", folder)
    hand = render_hand(np.random.default_rng([sys.modules[render_hand.__module__].EXAMPLE_SEED, 0]), size_px=480)
    error = np.linalg.norm(keypoints - hand.keypoints, axis=1) / np.ptp(hand.keypoints, axis=0).max()
    assert error.mean() < 0.03
    assert error.max() < 0.08


@pytest.mark.slow
def test_make_demo_takes_a_photograph(root: Path, demo: Path, tmp_path: Path) -> None:
    """Up to the photograph its commands are the same, so that only what differs is run again."""
    photograph = (f"IMAGE={demo / 'hand.png'}", "BOX=54,52,349,439")
    plain, lines = (make_demo(root, tmp_path, "-n", *more).splitlines() for more in ((), photograph))
    (found,) = (number for number, line in enumerate(lines) if "Finding the keypoints in" in line)
    assert lines[:found] == plain[:found] and " bench " in lines[found - 1]
    shutil.copytree(demo / "hand.splite", tmp_path / "hand.splite")
    subprocess.run(
        ["bash", "-eu", "-c", lines[found + 1]],
        cwd=root,
        check=True,
        capture_output=True,
        env={**os.environ, **PATIENT},
    )
    keypoints = keypoints_in(tmp_path)
    assert keypoints.min() > 40
    assert keypoints.max() < 450


def test_the_tables_are_those_of_the_recorded_results(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/make_tables.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


LINKED = (
    "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "models/README.md", "benchmarks/README.md", "docker/README.md",
    "models/splite_hand/CARD.md", "models/splite_hand2/CARD.md", "models/splite_palm/CARD.md",
    "models/lite_pose/README.md",
)  # fmt: skip


def anchors(text: str) -> set[str]:
    """What headings are called in addresses, as code hosts make it: words in small letters, joined by hyphens."""
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*pages(), *LINKED])
def test_links_lead_somewhere(root: Path, page: str) -> None:
    file = root / page
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", read(page)):
        if "://" not in target:
            there = file.parent / target if target else file
            assert there.exists(), f"{page} links to {target}"
            assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), f"{page}: {target}#{anchor}"


def test_the_field_table_is_that_of_the_code(root: Path) -> None:
    import dataclasses

    from splite_deploy.decoders import DECODERS
    from splite_deploy.spec import HostSpec, InputSpec, LimitSpec, ModelSpec, SkeletonSpec
    from splite_deploy.spec.view import InputView, OutputView

    classes = [ModelSpec, InputSpec, SkeletonSpec, LimitSpec, HostSpec, InputView, OutputView, *DECODERS.values()]
    fields = {field.name for cls in classes for field in dataclasses.fields(cls)}
    sections = {"input", "decoder", "skeleton", "limits", "arch_args"}
    table = (root / "models" / "README.md").read_text(encoding="utf-8")
    documented = {
        name
        for line in table.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert documented - {"type", "preset"} == fields - sections - {"folder", "view"}
    assert {name for name in sections if f"**`[{name}]`**" in table} == sections
