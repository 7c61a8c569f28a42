"""The command run on images: several boxes, and where the results go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from splite_deploy import PoseEstimator

BOXES = ((20.0, 10.0, 70.0, 74.0), (90.0, 30.0, 150.0, 110.0))
OPTIONS = [part for box in BOXES for part in ("--box", ",".join(map(str, box)))]


@pytest.fixture
def photo(image: NDArray[np.uint8], tmp_path: Path) -> Path:
    file = tmp_path / "two.png"
    cv2.imwrite(str(file), image)
    return file


def test_each_box_has_its_pose(
    splite: Callable[..., Result], tiny_bundle: Path, photo: Path, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    result = splite("run", tiny_bundle, photo, *OPTIONS, "-b", "ort", "--save", tmp_path / "drawn.png")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    with PoseEstimator.open(tiny_bundle, "ort") as estimator:
        assert record["poses"] == [estimator(image, box).to_dict() for box in BOXES]
    assert record["poses"][0] != record["poses"][1]
    drawn = [cv2.imread(str(tmp_path / "drawn.png"))]
    for option in (OPTIONS[:2], OPTIONS[2:]):
        assert splite("run", tiny_bundle, photo, *option, "--save", tmp_path / "one.png").exit_code == 0
        drawn.append(cv2.imread(str(tmp_path / "one.png")))
    both, first, second = (np.asarray(picture, int) for picture in drawn)
    assert (both != first).any() and (both != second).any()  # a skeleton more than in either


def test_the_boxes_are_those_of_every_image_of_a_folder(
    splite: Callable[..., Result], tiny_bundle: Path, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "again.png").write_bytes(photo.read_bytes())
    result = splite("run", tiny_bundle, tmp_path, *OPTIONS)
    assert result.exit_code == 0, result.output
    assert [(one["image"], len(one["poses"])) for one in json.loads(result.stdout)] == [
        ("again.png", 2),
        ("two.png", 2),
    ]


def test_several_images_folders_and_patterns(
    splite: Callable[..., Result], tiny_bundle: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that expands a pattern, and one that does not (those of Windows), give the same."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "inside/c.png", "c[1].png", "notes.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(photo.read_bytes())
    for sources, expected in (
        (("two.png", "b.png"), ["two.png", "b.png"]),
        (("*.png",), ["b.png", "c[1].png", "two.png"]),
        (("[bt]*",), ["b.png", "two.png"]),
        (("**/*.png",), ["b.png", "c[1].png", "c.png", "two.png"]),
        (("inside", "two.png", "t*"), ["c.png", "two.png"]),
        (("c?1?.png",), ["c[1].png"]),
    ):
        done = splite("run", tiny_bundle, *sources)
        assert done.exit_code == 0, done.output
        assert [one["image"] for one in json.loads(done.stdout)] == expected
    named = splite("run", tiny_bundle, "c[1].png", "--save", "drawn.jpg")  # a file of such a name is no pattern
    assert json.loads(named.stdout)["image"] == "c[1].png"
    assert splite("run", tiny_bundle, "*.png", "--save", "out").exit_code == 0
    assert sorted(file.name for file in Path("out").iterdir()) == ["b.png", "c[1].png", "two.png"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("none*.png",), "No image matches none*.png.", "Images end in .jpg, .jpeg, .png"),
        (("*.txt",), "No image matches *.txt.", "Images end in"),
        (("two.png", "a.mp4"), "Several were named, and a.mp4 is no image", "Run a video, a camera or labels alone."),
        (("two.png", "labels.json"), "Several were named, and labels.json is no image", "alone."),
        (("*.png", "--save", "a.png"), "--save a.png names a file, but there are several.", "Name a folder"),
        (
            ("*.png", "--json", "two.png"),
            "--json two.png would overwrite the input that SOURCE names, two.png",
            "--json.",
        ),
        (("a.png", "two.png", "--json", "two.png"), "--json two.png would overwrite the input that SOURCE", "--json."),
        (("*.png", "--save", "."), "--save would draw into the folder of the images", "Name another folder"),
    ],
)
def test_what_cannot_be_run_together(
    arguments: tuple[str, ...],
    message: str,
    hint: str,
    splite: Callable[..., Result],
    tiny_bundle: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photo.parent)
    Path("notes.txt").touch()
    done = splite("run", tiny_bundle, *arguments)
    assert done.exit_code in (1, 2) and done.stdout == ""
    told = " ".join(done.stderr.split())
    assert message in told and hint in told, told
    assert photo.read_bytes()[:4] == b"\x89PNG"


def test_results_go_to_standard_output_unless_a_file_is_named(
    splite: Callable[..., Result], tiny_bundle: Path, photo: Path, tmp_path: Path
) -> None:
    plain, dash = splite("run", tiny_bundle, photo), splite("run", tiny_bundle, photo, "--json", "-")
    named = splite("run", tiny_bundle, photo, "--json", tmp_path / "a.json")
    assert (plain.exit_code, dash.exit_code, named.exit_code) == (0, 0, 0)
    assert plain.stdout == dash.stdout == (tmp_path / "a.json").read_text(encoding="utf-8")
    assert (plain.stderr, dash.stderr, named.stdout) == ("", "", "")
    assert named.stderr == f"keypoints: {tmp_path / 'a.json'}\n"


def test_what_a_runtime_logs_stays_off_the_terminal(tiny_tflite_bundle: Path, tmp_path: Path) -> None:
    """LiteRT tells once in each process that it has made its delegate."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 48, 3), np.uint8))
    command = [sys.executable, "-m", "splite_deploy", "run", tiny_tflite_bundle, tmp_path / "a.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_each_line_of_a_video_is_printed_at_once(tiny_bundle: Path, tmp_path: Path) -> None:
    source = clips.write_clip(tmp_path / "a.mp4", 200)
    command = [sys.executable, "-m", "splite_deploy", "run", tiny_bundle, source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first = json.loads(child.stdout.readline())
        assert child.poll() is None and first["frame"] == 0
        assert len(child.stdout.readlines()) == 199
    assert child.returncode == 0


def test_the_password_of_a_camera_is_not_told(splite: Callable[..., Result], tiny_bundle: Path) -> None:
    done = splite("run", tiny_bundle, "rtsp://admin:secret@127.0.0.1:9/x")
    assert done.exit_code == 1 and "rtsp://***@127.0.0.1:9/x" in done.stderr and "secret" not in done.output


@pytest.mark.parametrize(
    "words",
    [
        ("run", "{bundle}", "x.png", "--box", "1,2,3"),
        ("run", "{bundle}", "x.mp4", "--box", "1,2,3,4", "--box", "1,2,3,4"),
        ("bench", "{bundle}", "--fail-if", "p99_mss>1"),
        ("export", "x.pt", "-o", "x.splite", "-p", "int8", "-p", "int8"),
    ],
)
def test_a_mistyped_option_is_wrong_usage(
    splite: Callable[..., Result], tiny_bundle: Path, words: tuple[str, ...]
) -> None:
    done = splite(*(word.format(bundle=tiny_bundle) for word in words))
    assert done.exit_code == 2 and "hint:" in done.stderr, done.stderr
