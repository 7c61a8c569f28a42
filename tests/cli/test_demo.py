"""The command demo: hands in the packaged picture, in pictures and videos of the user's, and nothing replaced."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result

pytest.importorskip("onnxruntime")

from splite_deploy.bundle import packaged
from splite_deploy.cli import demo
from splite_deploy.errors import BundleError

Splite = Callable[..., Result]
OURS = ["hand.splite", "hands-overlay.jpg", "hands.jpg", "palm.splite"]
HALVES_PX = 480
"""Between the two hands of the picture."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to work in, where little is timed."""
    for name, value in (("FRAMES", 3), ("WARMUP_FRAMES", 1), ("WARMUP_S", 0.0)):
        monkeypatch.setattr(demo, name, value)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_from_the_package_to_hands_and_what_to_type_next(
    quick: Path, splite: Splite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITE_BENCH_MIN_SECONDS", "0.01")
    done = splite("demo", "--threads", 1)
    assert done.exit_code == 0, done.output
    folder = quick / "splite-demo"
    assert names(quick) == ["splite-demo"] and names(folder) == OURS
    assert "splite-demo/hands.jpg: 2 hands, drawn in splite-demo/hands-overlay.jpg" in done.stdout
    plain, drawn = (cv2.imread(str(folder / name)).astype(int) for name in ("hands.jpg", "hands-overlay.jpg"))
    changed = np.abs(plain - drawn).max(axis=2) > 60
    assert plain.shape == drawn.shape == (640, 960, 3)
    assert changed[:, :HALVES_PX].mean() > 0.005 and changed[:, HALVES_PX:].mean() > 0.005
    for name in ("palm.splite ort fp32", "palm.splite ort int8", "hand.splite ort fp32", "hand.splite ort int8"):
        (row,) = (line for line in done.stdout.splitlines() if name in line)
        assert row.rstrip("│ ").endswith("✓")
    typed = [line.strip() for line in done.stdout.splitlines() if line.startswith("  splite-deploy ")]
    commands = [line for line in typed if "--camera" not in line]
    assert [line.split()[1] for line in commands] == ["run", "bench", "inspect"]
    for line in commands:
        again = splite(*shlex.split(line)[1:])
        assert again.exit_code == 0, f"{line}\n{again.output}"
    poses = json.loads((folder / "hands.json").read_text(encoding="utf-8"))["poses"]
    assert sorted(int(np.mean(pose["keypoints"], axis=0)[0] > HALVES_PX) for pose in poses) == [0, 1]


def test_nothing_is_replaced(quick: Path, splite: Splite) -> None:
    folder = quick / "mine"
    (folder / "hand.splite").mkdir(parents=True)
    (folder / "hand.splite" / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "hands.jpg").write_bytes(b"mine")
    (folder / "hands-overlay.jpg").mkdir()
    for _ in range(2):  # the second run takes what the first has written
        done = splite("demo", "-o", folder, "--threads", 1)
        assert done.exit_code == 0, done.output
        added = ["hand-2.splite", "hands-2-overlay.jpg", "hands-2.jpg"]
        assert names(folder) == sorted([*added, *OURS])
        assert "hands-2.jpg: 2 hands, drawn in" in done.stdout
    assert (folder / "hands.jpg").read_bytes() == b"mine"
    assert names(folder / "hand.splite") == ["notes.txt"] and names(folder / "hands-overlay.jpg") == []
    (folder / "palm.splite" / "model.onnx").write_bytes(b"damaged")
    assert splite("demo", "-o", folder, "--threads", 1).exit_code == 0
    assert {"palm-2.splite", "hand-2.splite"} <= set(names(folder)) and "hand-3.splite" not in names(folder)
    assert (folder / "palm.splite" / "model.onnx").read_bytes() == b"damaged"


def test_pictures_of_the_users_and_one_that_is_none(quick: Path, splite: Splite) -> None:
    picture = cv2.imread(str(packaged.packaged(packaged.PICTURE)))
    (quick / "photos").mkdir()
    cv2.imwrite("photos/a.png", picture[:, :HALVES_PX])
    cv2.imwrite("photos/b.png", np.full((200, 300, 3), 90, np.uint8))
    (quick / "broken.jpg").write_bytes(b"none")
    done = splite("demo", "photos", "broken.jpg", "--threads", 1, "--json", "-")
    assert done.exit_code == 1
    assert "error: 1 of 3 pictures could not be read. broken.jpg" in done.stderr
    found = json.loads(done.stdout)
    assert [(one["image"], len(one["poses"])) for one in found["images"]] == [("photos/a.png", 1), ("photos/b.png", 0)]
    assert names(quick / "splite-demo") == ["a-overlay.jpg", "b-overlay.jpg", "hand.splite", "palm.splite"]
    assert [one["verification"]["violations"] for one in found["artifacts"]] == [[]] * 4
    stages = [one["stages_ms"]["end_to_end"] for one in found["artifacts"]]
    stages.append(found["whole_picture"]["stages_ms"]["whole_picture"])
    assert all(one["count"] >= 3 and 0 < one["p50_ms"] <= one["p90_ms"] <= one["p99_ms"] for one in stages)
    shown = splite("demo", "photos/b.png", "--threads", 1)
    assert shown.exit_code == 0 and "photos/b.png: no hands, drawn in" in shown.stdout
    assert "note: bare hands are found that measure a tenth of the picture or more" in shown.stderr
    alone = splite("demo", "broken.jpg")
    assert alone.exit_code == 1 and "error: broken.jpg" in alone.stderr and "of 1" not in alone.stderr


def test_a_video_is_followed(quick: Path, splite: Splite) -> None:
    picture = cv2.resize(cv2.imread(str(packaged.packaged(packaged.PICTURE))), (480, 320))
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (480, 320))
    for _ in range(4):
        writer.write(picture)
    writer.release()
    done = splite("demo", "clip.avi", "--threads", 1, "--json", "lines.jsonl")
    assert done.exit_code == 0 and done.stdout == "", done.output
    lines = [json.loads(line) for line in (quick / "lines.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [[pose["id"] for pose in line["poses"]] for line in lines] == [[1, 2]] * 4
    video = quick / "splite-demo" / "clip-overlay.mp4"
    assert "video: splite-demo/clip-overlay.mp4\n" in done.stderr
    capture = cv2.VideoCapture(str(video))
    drawn = capture.read()[1].astype(int)
    capture.release()
    assert (np.abs(drawn - picture).max(axis=2) > 60).mean() > 0.005
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("the same with options of yours: "))
    again = splite(*shlex.split(line.partition(": ")[2])[1:])
    assert again.exit_code == 0 and len(again.stdout.splitlines()) == 4
    assert splite("demo", "clip.avi", "--threads", 1).stdout == ""
    assert "clip-overlay-2.mp4" in names(quick / "splite-demo")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("--camera", "0", "a.jpg"), "--camera is followed alone, and a.jpg was given.", "Leave out one of them."),
        (("--camera", "a.jpg"), "--camera a.jpg names no camera.", "Give its number, as in --camera 0."),
        (("a.mp4", "b.jpg"), "a.mp4 is a video or camera, which is followed alone, and 2 sources", "Give it alone."),
    ],
)
def test_sources_that_do_not_go_together(
    arguments: tuple[str, ...], message: str, hint: str, quick: Path, splite: Splite
) -> None:
    done = splite("demo", *arguments)
    assert done.exit_code == 2 and done.stderr.startswith(f"error: {message}") and f"hint:  {hint}" in done.stderr
    assert names(quick) == []


def test_a_camera_that_is_not_there(quick: Path, splite: Splite) -> None:
    done = splite("demo", "--camera", 97, "--threads", 1)
    assert done.exit_code == 1 and "97" in done.stderr.partition("error: ")[2]
    assert names(quick / "splite-demo") == ["hand.splite", "palm.splite"]


def test_a_folder_that_cannot_be_written(quick: Path, splite: Splite) -> None:
    (quick / "file").touch()
    for folder in ("file", "file/inside", "/proc/none"):
        done = splite("demo", "-o", folder)
        assert done.exit_code == 1 and f"error: Cannot write {folder}: " in done.stderr
        assert "hint:  Name a folder that can be written to: splite-deploy demo -o FOLDER." in done.stderr
    assert names(quick) == ["file"]


def test_a_package_without_its_data(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "PACKAGED", tmp_path / "none")
    with pytest.raises(BundleError, match=r"none/hand\.splite is missing, which is a part of this package\.") as caught:
        packaged.copy_packaged(packaged.HAND, quick)
    assert caught.value.hint.startswith("Install the package again: pip install --force-reinstall --no-deps")


def test_the_demo_needs_no_training_framework(quick: Path) -> None:
    """In a process of its own, where importing one fails."""
    blocked = dict.fromkeys(("torch", "onnx", "onnxsim", "onnx_ir", "tensorflow", "jinja2", "starlette"))
    code = f"import sys; sys.modules.update({blocked!r}); from splite_deploy.__main__ import main; main()"
    program: list[Any] = [sys.executable, "-c", code, "demo", "--threads", "1", "--json", "found.json"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 hands" in done.stdout and len(json.loads((quick / "found.json").read_text(encoding="utf-8"))) == 4


@pytest.mark.slow
def test_the_picture_is_rendered_and_its_hands_are_where_they_are(root: Path, quick: Path, splite: Splite) -> None:
    from scripts import load_script

    scene = load_script(root / "models" / "splite_palm" / "palm_renders.py").example()
    packed = cv2.cvtColor(cv2.imread(str(packaged.packaged(packaged.PICTURE))), cv2.COLOR_BGR2RGB)
    calm = [cv2.GaussianBlur(one, (0, 0), 3.0).astype(int) for one in (packed, scene.image)]  # JPEG changes the noise
    assert np.abs(calm[0] - calm[1]).mean() < 1.0
    assert splite("demo", "--threads", 1, "--json", "found.json").exit_code == 0
    poses = json.loads((quick / "found.json").read_text(encoding="utf-8"))["images"][0]["poses"]
    found = np.array(sorted((pose["keypoints"] for pose in poses), key=lambda points: points[0][0]))
    truth = scene.keypoints[np.argsort(scene.keypoints[:, 0, 0])]
    sides = np.ptp(truth, axis=1).max(axis=1)
    errors = np.linalg.norm(found - truth, axis=2).mean(axis=1) / sides
    assert errors.max() < 0.05
