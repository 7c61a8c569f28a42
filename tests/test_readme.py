"""The README's commands and code run as they stand, and its tables are those of the recorded results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import MadeOnce

FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)
BIN = Path(sys.executable).parent
PATIENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}
ENVIRONMENT = {**PATIENT, "SPLITE_BENCH_MIN_SECONDS": "0.3"}
"""Times what a command leaves open for a moment. `make demo` takes the seconds that it takes anywhere."""
FIRST = "Three commands"


def sections(root: Path) -> dict[str, str]:
    """The text below each heading of the README."""
    _, *parts = HEADING.split((root / "README.md").read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in FENCED.findall(text) if found == language]


def commands(text: str) -> list[str]:
    return [line for block in blocks(text, "sh") for line in block.splitlines() if line.strip()]


def fill_workplace(root: Path, folder: Path) -> None:
    """A folder as the README assumes it: the models, a picture of a hand, a folder of photographs."""
    shutil.copytree(root / "models", folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
    example = [sys.executable, "models/splite_hand/synthetic.py", "--example", "hand.png"]
    printed = subprocess.run(example, cwd=folder, check=True, capture_output=True, text=True).stdout
    (folder / "box.txt").write_text(printed, encoding="utf-8")
    (folder / "photos").mkdir()
    shutil.copy(folder / "hand.png", folder / "photos")
    rng = np.random.default_rng(0)
    for index in range(8):  # what `calibrate` needs at least: the hand, in front of other things
        part = cv2.imread(str(folder / "hand.png"))[40 * index :]
        blurred = cv2.GaussianBlur(rng.integers(0, 256, part.shape, np.uint8), (0, 0), 12)
        pattern = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
        cv2.imwrite(str(folder / "photos" / f"{index}.png"), cv2.addWeighted(part, 0.6, pattern, 0.4, 0))
    write_clip(folder)


CLIP_FRAMES, CLIP_STEP_PX, CLIP_CORNER = 40, 4, (400, 120)


def write_clip(folder: Path) -> None:
    """clip.mp4: the picture of the hand, from its corner in the first frame on moving to the right."""
    hand = cv2.imread(str(folder / "hand.png"))
    height, width = hand.shape[:2]
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (1280, 720))
    for index in range(CLIP_FRAMES):
        frame = np.full((720, 1280, 3), hand[0, 0], np.uint8)
        left, top = CLIP_CORNER[0] + CLIP_STEP_PX * index, CLIP_CORNER[1]
        frame[top : top + height, left : left + width] = hand
        writer.write(frame)
    writer.release()


def run(command: list[str] | str, folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_readmes_applications_are_well_typed(root: Path, tmp_path: Path) -> None:
    package = find_spec("cv2")
    if package is None or not Path(str(package.origin)).with_name("py.typed").is_file():
        pytest.skip("this release of OpenCV tells no types")
    pages = ("README.md", "docs/following.md")
    applications = [one for page in pages for one in blocks((root / page).read_text(encoding="utf-8"), "python")]
    assert len(applications) == 3
    for index, application in enumerate(applications):
        (tmp_path / f"application_{index}.py").write_text(application, encoding="utf-8")
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *files], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "Success: no issues found in 3 source files\n"


def buildable(command: str) -> bool:
    """Whether this can run here: engines are built where TensorRT-RTX is installed, which has no wheel for some."""
    return command.split()[1] != "compile" or find_spec("tensorrt_rtx_bindings") is not None


def run_in_order(lines: list[str], folder: Path) -> dict[str, str]:
    """What each command prints."""
    return {line: run(line, folder) for line in lines if buildable(line)}


@pytest.fixture(scope="module")
def begun(root: Path, made_once: MadeOnce) -> Path:
    """The folder after the first commands, which everything else in the README builds on. Read only."""

    def fill(folder: Path) -> None:
        fill_workplace(root, folder)
        printed = run_in_order(blocks(sections(root)[FIRST], "sh")[0].splitlines(), folder)
        (folder / "printed.json").write_text(json.dumps(printed), encoding="utf-8")

    return made_once("readme", fill)


@pytest.fixture
def workplace(begun: Path, tmp_path: Path) -> Path:
    """A copy of it, for the commands of one section: they run in their order, and sections side by side."""
    return shutil.copytree(begun, tmp_path / "workplace")


def pose_of(folder: Path) -> dict[str, Any]:
    """What the first commands found in the picture of a hand."""
    pose: dict[str, Any] = json.loads((folder / "hand.json").read_text(encoding="utf-8"))["poses"][0]
    return pose


def test_the_readme_has_every_command_in_a_section_that_is_run(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    assert len(commands(text)) >= 9
    used = {command.split()[1] for command in commands(text)}
    assert used == {"export", "calibrate", "verify", "run", "bench", "inspect", "doctor", "compact", "compile"}
    assert [title for title, body in sections(root).items() if commands(body)] == [FIRST, *SECTIONS, CAMERA]
    assert [title for title, body in sections(root).items() if blocks(body, "python")] == [APPLICATION, CAMERA]
    assert commands(text) == [line for body in sections(root).values() for line in commands(body)]


@pytest.mark.slow
def test_the_first_commands_of_the_readme(root: Path, begun: Path) -> None:
    printed: dict[str, str] = json.loads((begun / "printed.json").read_text(encoding="utf-8"))
    export = next(text for command, text in printed.items() if " export " in command)
    assert "torch -> onnx" in export
    assert "torch -> simplified" in export
    assert np.array(pose_of(begun)["keypoints"]).shape == (21, 2)
    assert cv2.imread(str(begun / "overlay.png")) is not None

    # the box that the README writes is the one of the rendered hand, to the pixel
    box = next(command.split("--box ")[1].split()[0] for command in printed if "--box" in command)
    truth = [float(value) for value in (begun / "box.txt").read_text(encoding="utf-8").split(",")]
    assert np.abs(np.array([float(value) for value in box.split(",")]) - truth).max() < 1


@pytest.mark.slow
def test_the_rest_of_the_first_section(root: Path, workplace: Path) -> None:
    _, *rest = blocks(sections(root)[FIRST], "sh")
    printed = run_in_order([line for block in rest for line in block.splitlines()], workplace)
    assert "End to end" in next(text for command, text in printed.items() if " bench " in command)
    assert json.loads((workplace / "bench.jsonl").read_text(encoding="utf-8"))["threads"] == 1


SECTIONS = ("Precisions", "Benchmark", "TensorRT engines", "Compaction")
APPLICATION, CAMERA = "In your application", "Embed in a Jetson app"


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_of_the_readme_runs_from_top_to_bottom(root: Path, workplace: Path, title: str) -> None:
    lines = commands(sections(root)[title])
    assert list(run_in_order(lines, workplace)) == [line for line in lines if buildable(line)] != []


def test_the_application_of_the_readme(root: Path, workplace: Path) -> None:
    (application,) = blocks(sections(root)[APPLICATION], "python")
    assert "palm" in run([sys.executable, "-W", "error", "-c", application], workplace)


@pytest.mark.slow
def test_the_camera_loop_of_the_readme_with_a_video_in_the_place_of_the_camera(root: Path, workplace: Path) -> None:
    (camera_loop,) = blocks(sections(root)[CAMERA], "python")
    with_clip, places = re.subn(r"csi_pipeline\([^)]*\)", '"clip.mp4"', camera_loop)
    assert places == 1
    printed_tips = run([sys.executable, "-W", "error", "-c", with_clip], workplace).splitlines()
    tips = np.array([line.split() for line in printed_tips])
    assert tips.shape == (CLIP_FRAMES, 3)
    still = np.array(pose_of(workplace)["keypoints"][8]) + CLIP_CORNER
    moved = np.arange(CLIP_FRAMES)[:, None] * (CLIP_STEP_PX, 0)
    assert np.abs(tips[:, :2].astype(float) - (still + moved)).max() < 10

    run_in_order(commands(sections(root)[CAMERA]), workplace)
    records = [json.loads(line) for line in (workplace / "clip.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["found"] for record in records] == [True] * CLIP_FRAMES
    capture = cv2.VideoCapture(str(workplace / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == CLIP_FRAMES


def test_the_table_of_jetpacks_is_that_of_the_code(root: Path) -> None:
    from splite_deploy.device.jetson import JETPACKS, dotted

    text = (root / "README.md").read_text(encoding="utf-8")
    table = text.partition("| JetPack |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[:5] for row in rows] == [
        [p.name, f"from {dotted(p.l4t)}", p.boards, dotted(p.tensorrt), dotted(p.python)] for p in JETPACKS
    ]
    for row, jetpack in zip(rows, JETPACKS, strict=True):
        assert row[5].startswith(f"TensorRT, {jetpack.typing}")
        assert (jetpack.dockerfile in row[5]) != jetpack.brings_module


def test_every_command_is_in_the_readme_and_explains_itself(root: Path) -> None:
    from splite_deploy.cli import main

    text = (root / "README.md").read_text(encoding="utf-8")
    for name, command in main.commands.items():
        assert f"splite-deploy {name}" in text
        assert command.help
        assert len(command.help.splitlines()[0]) > 20
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{name} {parameter.name} has no help"  # type: ignore[attr-defined]


def test_the_python_twins_exist(root: Path) -> None:
    import importlib.util

    text = (root / "README.md").read_text(encoding="utf-8")
    twins = set(re.findall(r"`(splite_deploy(?:\.\w+)+)`", text))
    assert len(twins) >= 5
    for twin in twins:
        module, _, name = twin.rpartition(".")
        if module.endswith(".Bundle"):
            module, name = module.removesuffix(".Bundle"), "Bundle"
        parent = importlib.import_module(module)
        assert hasattr(parent, name) or importlib.util.find_spec(twin), twin


def demo(
    root: Path, folder: Path, *variables: str, environment: dict[str, str] = ENVIRONMENT
) -> tuple[str, np.ndarray]:
    """Runs `make demo` with what is installed; returns what it printed and the keypoints it found."""
    make = ["make", "-o", ".venv/installed", "demo", f"DEMO={folder}", f"BIN={BIN}", *variables]
    done = subprocess.run(make, cwd=root, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cv2.imread(str(folder / "overlay.png")) is not None
    poses = json.loads((folder / "hand.json").read_text(encoding="utf-8"))["poses"]
    return done.stdout, np.array(poses[0]["keypoints"])


@pytest.mark.slow
def test_make_demo_ends_with_keypoints_on_the_fingers(root: Path, tmp_path: Path) -> None:
    from splite_deploy.export.source.symbol import load_symbol

    printed, keypoints = demo(root, tmp_path, environment=PATIENT)
    for expected in ("torch -> simplified", "torch -> ort fp32", "End to end", "overlay.png", "--help"):
        assert expected in printed
    folder = root / "models" / "splite_hand"
    render_hand = load_symbol("synthetic.py:render_hand", folder)
    hand = render_hand(np.random.default_rng([sys.modules[render_hand.__module__].EXAMPLE_SEED, 0]), size_px=480)
    error = np.linalg.norm(keypoints - hand.keypoints, axis=1) / np.ptp(hand.keypoints, axis=0).max()
    assert error.mean() < 0.03
    assert error.max() < 0.08


@pytest.mark.slow
def test_make_demo_takes_a_photograph(root: Path, begun: Path, tmp_path: Path) -> None:
    printed, keypoints = demo(root, tmp_path, f"IMAGE={begun / 'hand.png'}", "BOX=54,52,349,439")
    assert "Finding the keypoints in" in printed
    assert keypoints.min() > 40
    assert keypoints.max() < 450


def test_the_tables_are_those_of_the_recorded_results(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/make_tables.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "models/README.md",
        "benchmarks/README.md",
        "docker/README.md",
        "docs/following.md",
        "models/splite_hand/CARD.md",
    ],
)
def test_links_lead_somewhere(root: Path, page: str) -> None:
    file = root / page
    for target in re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (file.parent / target).exists(), f"{page} links to {target}"


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
