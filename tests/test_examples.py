"""The examples run as their first lines say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import clips
import cv2
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def run(*words: object, **variables: str) -> str:
    command = [sys.executable, *map(str, words)]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), clips.frame(index))
    (folder / "notes.txt").touch()
    (folder / "broken.jpg").write_bytes(b"none")
    return folder


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    there = {file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".ipynb")}
    assert there == {name for name in there if f"`{name}`" in page}


def test_the_camera_loop_on_a_video(tiny_bundle: Path, tmp_path: Path) -> None:
    clip, preview = clips.write_clip(tmp_path / "clip.mp4", 6), tmp_path / "preview.png"
    loop = EXAMPLES / "camera_loop.py"
    lines = run(loop, tiny_bundle, clip, "--box", "20,10,120,110", "--preview", preview).splitlines()
    assert len(lines) == 6 and all(line == "lost" or " score " in line for line in lines)
    found = [line for line in lines if line != "lost"]
    assert preview.is_file() == bool(found)
    whole = run(loop, tiny_bundle, clip)
    assert len(whole.splitlines()) == 6


def test_an_example_tells_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "camera_loop.py", tmp_path / "none.splite", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{tmp_path / 'none.splite'} does not exist.",
        "Make a bundle with 'splite-deploy export CHECKPOINT -o NAME.splite'.",
    ]


def test_the_folder_of_pictures(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    printed = run(EXAMPLES / "picture_folder.py", tiny_bundle, photos, "--out", out)
    assert printed.splitlines()[:2] == ["0.png: 1", "1.png: 1"]
    assert printed.splitlines()[2].startswith("left out: ") and "broken.jpg" in printed.splitlines()[2]
    results: list[dict[str, Any]] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [(one["image_id"], one["file_name"], len(one["keypoints"])) for one in results] == [
        (1, "0.png", 15),
        (2, "1.png", 15),
    ]
    for name in ("0.png", "1.png"):
        drawn, plain = cv2.imread(str(out / f"{name}.png")), cv2.imread(str(photos / name))
        assert drawn is not None and plain is not None
        assert (drawn != cv2.resize(plain, drawn.shape[1::-1], interpolation=cv2.INTER_CUBIC)).any()


def test_the_folder_of_pictures_leaves_the_pictures(tiny_bundle: Path, photos: Path) -> None:
    before = {file.name: file.read_bytes() for file in photos.iterdir()}
    for folder, out, said in (
        (photos, photos / ".." / "photos", "--out is the folder of your pictures, whose place the results would take"),
        (photos / "none", photos, f"there is no folder {photos / 'none'}"),
    ):
        command = [sys.executable, EXAMPLES / "picture_folder.py", tiny_bundle, folder, "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
        assert done.returncode == 2 and said in done.stderr, done.stderr
    assert {file.name: file.read_bytes() for file in photos.iterdir()} == before


def test_pictures_that_differ_in_their_suffix_each_have_a_result(tiny_bundle: Path, tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        cv2.imwrite(str(tmp_path / f"a.{suffix}"), clips.frame(0))
    run(EXAMPLES / "picture_folder.py", tiny_bundle, tmp_path, "--out", tmp_path / "found")
    assert {file.name for file in (tmp_path / "found").iterdir()} == {"a.jpg.png", "a.png.png", "results.json"}


@pytest.mark.slow
def test_the_notebook(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    if find_spec("nbclient") is None or find_spec("ipykernel") is None:
        pytest.skip("nbclient or ipykernel is not installed")
    out = tmp_path / "out.ipynb"
    run("-c", NOTEBOOK, EXAMPLES / "first_steps.ipynb", out, BUNDLE=str(tiny_bundle), PICTURE=str(photos / "0.png"))
    cells = json.loads(out.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    assert "keypoints move by 0.00" in printed and "'ort fp32'" in printed
    (picture,) = (output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", ()))
    assert len(picture) > 1000


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 4 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
