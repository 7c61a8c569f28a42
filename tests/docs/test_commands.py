"""Every command in the pages of docs/ runs as it stands, in its order, or says why not; so does their code."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from converters import use_any_converter
from pages import MARK, blocks, commands, pages, read

if TYPE_CHECKING:
    from conftest import MadeOnce

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "110",
    "SPLITE_BENCH_MIN_SECONDS": "0.1",
}
"""Of what runs, beside that of the test."""
START, APPLICATION = "docs/get-started.md", "docs/application.md"
QUOTED, SHELL = re.compile("'[^']*'"), re.compile(r'[][\\"$&();<>*?#`|~]')
"""What a shell takes as it stands, and what means something to it elsewhere."""
WHY = ("needs ", "takes ", "each line is for another machine")
"""How the reasons begin that a block may have for not being run."""
CLIP_FRAMES, CLIP_STEP_PX, CLIP_CORNER = 40, 4, (400, 120)
SCHEMA = Path("splite_deploy") / "bundle" / "manifest.schema.json"
MEDIAPIPE = "hand_landmark_full.tflite"


def runs(page: str) -> bool:
    return bool(commands(read(page)))


def fill_workplace(root: Path, folder: Path) -> None:
    """A folder as the pages assume it: a clone, a folder of photographs, a photograph, a video."""
    for name in ("models", "examples"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / SCHEMA).parent.mkdir(parents=True)
    shutil.copy(root / SCHEMA, folder / SCHEMA)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    example = [sys.executable, "models/splite_hand/synthetic.py", "--example", "photo.png"]
    printed = subprocess.run(example, cwd=folder, check=True, capture_output=True, text=True).stdout
    (folder / "box.txt").write_text(printed, encoding="utf-8")
    shutil.copy(folder / "photo.png", folder / "photos")
    for index in range(8):  # what `calibrate` needs at least: the hand, in front of other things
        part = cv2.imread(str(folder / "photo.png"))[40 * index :]
        blurred = cv2.GaussianBlur(rng.integers(0, 256, part.shape, np.uint8), (0, 0), 12)
        pattern = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
        cv2.imwrite(str(folder / "photos" / f"{index}.png"), cv2.addWeighted(part, 0.6, pattern, 0.4, 0))
    write_clip(folder)


def write_clip(folder: Path) -> None:
    """clip.mp4: the picture of the hand, from its corner in the first frame on moving to the right."""
    hand = cv2.imread(str(folder / "photo.png"))
    height, width = hand.shape[:2]
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (1280, 720))
    for index in range(CLIP_FRAMES):
        frame = np.full((720, 1280, 3), hand[0, 0], np.uint8)
        left, top = CLIP_CORNER[0] + CLIP_STEP_PX * index, CLIP_CORNER[1]
        frame[top : top + height, left : left + width] = hand
        writer.write(frame)
    writer.release()


def run(command: list[str] | str, folder: Path) -> str:
    """What a command prints in this folder; a line is read by a shell."""
    done = subprocess.run(
        command,
        cwd=folder,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_line(line: str, folder: Path) -> str:
    """What a line prints. A splite-deploy that a shell would only start runs here, where torch is imported already;
    test_readme.py types into a shell."""
    if not line.startswith("splite-deploy ") or SHELL.search(QUOTED.sub("", line)):
        return run(line, folder)
    from splite_deploy.cli import main

    here = Path.cwd()
    os.chdir(folder)
    try:
        done = CliRunner(env=ENVIRONMENT).invoke(main, shlex.split(line)[1:])
    finally:
        os.chdir(here)
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exc_info}"
    return done.stdout


def buildable(command: str) -> bool:
    """Whether this can run here: engines are built where TensorRT-RTX is installed, which has no wheel for some."""
    return command.split()[1] != "compile" or find_spec("tensorrt_rtx_bindings") is not None


def run_in_order(lines: list[str], folder: Path) -> dict[str, str]:
    """What each command prints."""
    return {line: run_line(line, folder) for line in lines if buildable(line)}


@pytest.fixture(scope="module")
def begun(root: Path, made_once: MadeOnce) -> Path:
    """The folder after the first commands of `get started`, which the other pages build on. Read only."""
    pytest.importorskip("torch")

    def fill(folder: Path) -> None:
        fill_workplace(root, folder)
        _, first, *_ = blocks(read(START), "sh")
        printed = run_in_order(first.body.splitlines(), folder)
        (folder / "printed.json").write_text(json.dumps(printed), encoding="utf-8")

    return made_once("docs", fill)


@pytest.fixture
def workplace(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, for the commands of one page: they run in their order, and pages side by side, and time little."""
    monkeypatch.setattr("splite_deploy.bench.run.FRAMES", 30)
    return shutil.copytree(begun, tmp_path / "workplace")


def pose_of(folder: Path) -> dict[str, Any]:
    """What the first commands found in the picture of a hand."""
    pose: dict[str, Any] = json.loads((folder / "hand.json").read_text(encoding="utf-8"))["poses"][0]
    return pose


def given(page: str) -> Mapping[str, Callable[[Path], Path]]:
    """The networks of the user that a page is about: what writes them, by the names that they have there."""
    from strange_nets import heatmaps, simcc, yolo

    return {
        "docs/own-network.md": {"net.onnx": heatmaps},
        "docs/recipes/rtmpose.md": {"rtmpose.onnx": simcc},
        "docs/recipes/hrnet.md": {"hrnet.onnx": heatmaps},
        "docs/recipes/vitpose.md": {"vitpose.onnx": heatmaps},
        "docs/recipes/yolo-pose.md": {"yolo.onnx": yolo},
    }.get(page, {})


def test_every_block_of_commands_is_run_or_says_why_not() -> None:
    for page in pages():
        text = read(page)
        marked = [block for block in blocks(text, "sh") if block.why]
        assert len(marked) == len(MARK.findall(text)), f"{page}: a mark without a block of commands behind it"
        assert all(block.why.startswith(WHY) for block in marked), f"{page}: {[block.why for block in marked]}"
        hidden = re.findall(r"^ {4}(?:sudo |\$ )?(?:splite-deploy|python|pip|make|docker) .*$", text, re.MULTILINE)
        assert hidden == [], f"{page} has commands that no test sees: {hidden}"
    assert sum(len(commands(read(page))) for page in pages()) > 50


def test_every_command_is_used_and_explains_itself() -> None:
    from splite_deploy.cli import main

    text = "\n".join(map(read, pages()))
    for name, command in main.commands.items():
        assert f"splite-deploy {name}" in text, name
        assert command.help
        assert len(command.help.splitlines()[0]) > 20
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{name} {parameter.name} has no help"  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_first_commands(begun: Path) -> None:
    printed: dict[str, str] = json.loads((begun / "printed.json").read_text(encoding="utf-8"))
    export = next(text for command, text in printed.items() if " export " in command)
    assert "torch -> onnx" in export
    assert "torch -> simplified" in export
    assert np.array(pose_of(begun)["keypoints"]).shape == (21, 2)
    assert cv2.imread(str(begun / "overlay.png")) is not None

    # the box that the page writes is the one of the rendered hand, to the pixel
    box = next(command.split("--box ")[1].split()[0] for command in printed if "--box" in command)
    truth = [float(value) for value in (begun / "box.txt").read_text(encoding="utf-8").split(",")]
    assert np.abs(np.array([float(value) for value in box.split(",")]) - truth).max() < 1


@pytest.mark.slow
def test_the_rest_of_the_first_page(workplace: Path) -> None:
    _, _, *rest = blocks(read(START), "sh")
    printed = run_in_order([line for block in rest for line in block.body.splitlines()], workplace)
    assert "End to end" in next(text for command, text in printed.items() if " bench " in command)
    assert json.loads((workplace / "bench.jsonl").read_text(encoding="utf-8"))["threads"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if page not in ("README.md", START) and runs(page)])
def test_a_page_runs_from_top_to_bottom(page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = commands(read(page))
    for name, write in given(page).items():
        write(workplace / name)
    if MEDIAPIPE in read(page):
        lines = with_mediapipe(lines, workplace)
    if any(" -b tflite" in line for line in lines):
        use_any_converter(monkeypatch)
    ran = run_in_order(lines, workplace)
    assert list(ran) == [line for line in lines if buildable(line)] != []


def with_mediapipe(lines: list[str], folder: Path) -> list[str]:
    """The commands on MediaPipe's file where SPLITE_MEDIAPIPE names a folder with it, else on a graph of that form."""
    from strange_nets import mediapipe_hand

    file = Path(os.environ.get("SPLITE_MEDIAPIPE", os.devnull)) / MEDIAPIPE
    if file.is_file():
        shutil.copy(file, folder)
        return lines
    made = mediapipe_hand(folder / "hand_landmark_full.onnx")
    return [line.replace(MEDIAPIPE, made.name) for line in lines]


def test_the_applications_are_well_typed(root: Path, tmp_path: Path) -> None:
    package = find_spec("cv2")
    if package is None or not Path(str(package.origin)).with_name("py.typed").is_file():
        pytest.skip("this release of OpenCV tells no types")
    applications = [block.body for page in pages() for block in blocks(read(page), "python")]
    assert len(applications) >= 4
    for index, application in enumerate(applications):
        (tmp_path / f"application_{index}.py").write_text(application, encoding="utf-8")
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *files], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"Success: no issues found in {len(files)} source files\n"


def run_code(code: str, script: Path, folder: Path) -> str:
    """What a Python program prints. It lies elsewhere: ``splite_deploy/`` of a clone is not the package installed."""
    script.write_text(code, encoding="utf-8")
    return run([sys.executable, "-W", "error", str(script)], folder)


def test_the_application(workplace: Path, tmp_path: Path) -> None:
    application, _ = blocks(read(APPLICATION), "python")
    assert "palm" in run_code(application.body, tmp_path / "application.py", workplace)
    (adaptive,) = blocks(read("docs/adaptive.md"), "python")
    assert "hand.splite ort fp32" in run_code(adaptive.body, tmp_path / "adaptive.py", workplace)


@pytest.mark.slow
def test_the_camera_loop_with_a_video_in_the_place_of_the_camera(workplace: Path, tmp_path: Path) -> None:
    _, camera_loop = blocks(read(APPLICATION), "python")
    with_clip, places = re.subn(r"csi_pipeline\([^)]*\)", '"clip.mp4"', camera_loop.body)
    assert places == 1
    printed_tips = run_code(with_clip, tmp_path / "loop.py", workplace).splitlines()
    tips = np.array([line.split() for line in printed_tips])
    assert tips.shape == (CLIP_FRAMES, 3)
    still = np.array(pose_of(workplace)["keypoints"][8]) + CLIP_CORNER
    moved = np.arange(CLIP_FRAMES)[:, None] * (CLIP_STEP_PX, 0)
    assert np.abs(tips[:, :2].astype(float) - (still + moved)).max() < 10

    run_in_order(commands(read(APPLICATION)), workplace)
    records = [json.loads(line) for line in (workplace / "clip.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["found"] for record in records] == [True] * CLIP_FRAMES
    capture = cv2.VideoCapture(str(workplace / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == CLIP_FRAMES


def test_the_python_twins_exist() -> None:
    twins = set(re.findall(r"`(splite_deploy(?:\.\w+)+)`", read(APPLICATION)))
    assert len(twins) >= 5
    for twin in twins:
        module, _, name = twin.rpartition(".")
        if module.endswith(".Bundle"):
            module, name = module.removesuffix(".Bundle"), "Bundle"
        parent = importlib.import_module(module)
        assert hasattr(parent, name) or importlib.util.find_spec(twin), twin


def test_the_table_of_jetpacks_is_that_of_the_code() -> None:
    from splite_deploy.device.jetson import JETPACKS, dotted

    table = read("docs/jetson.md").partition("| JetPack |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[:5] for row in rows] == [
        [p.name, f"from {dotted(p.l4t)}", p.boards, dotted(p.tensorrt), dotted(p.python)] for p in JETPACKS
    ]
    for row, jetpack in zip(rows, JETPACKS, strict=True):
        assert row[5].startswith(f"TensorRT, {jetpack.typing}")
        assert (jetpack.dockerfile in row[5]) != jetpack.brings_module
