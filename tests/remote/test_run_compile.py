"""run and compile on machines that a real sshd leads to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from engines import tensorrt_rtx
from ssh_server import Devices, Server
from trt_graphs import with_graphs

from splite_deploy.bundle import Bundle

Run = Callable[..., Result]


def write_picture(place: Path, seed: int = 0) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(place), np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8))
    return place


def test_a_picture_on_two_machines(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    devices("left", "right")
    picture = write_picture(Path("Hände 1.png"))
    there = ("--device", "left", "--device", "right")
    done = splite("run", bundle, picture, *there, "--box", "10,10,80,80", "--save", "drawn")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [one["device"] for one in found] == ["left", "right"]
    here = json.loads(splite("run", bundle, picture, "--box", "10,10,80,80", "--save", "here.png").stdout)
    for one in found:
        assert one["result"] == here and one["environment"]["cpu_model"]
        drawn = Path("drawn", one["device"], "Hände 1.png")
        assert drawn.read_bytes() == Path("here.png").read_bytes()
        told = json.loads(Path("drawn", one["device"], "environment.json").read_text(encoding="utf-8"))
        assert told["environment"] == one["environment"]


def test_labels_with_their_pictures(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    devices("board")
    write_picture(Path("set/pictures/a.png"), 1)
    write_picture(Path("set/b.png"), 2)
    samples = [{"image": name, "box": [5, 5, 60, 60]} for name in ("pictures/a.png", "b.png")]
    Path("set/labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    done = splite("run", bundle, "set/labels.json", "--device", "board", "--json", "there.json")
    assert done.exit_code == 0, done.output
    (there,) = json.loads(Path("there.json").read_text(encoding="utf-8"))
    assert there["result"] == json.loads(splite("run", bundle, "set/labels.json").stdout)
    assert "hands or people" in done.stdout


def test_what_is_wrong_with_one_picture_is_told(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    devices("board")
    write_picture(Path("photos/a.png"))
    Path("photos/b.png").write_bytes(b"no picture")
    done = splite("run", bundle, "photos", "--device", "board")
    assert done.exit_code == 1
    assert [one["image"] for one in json.loads(done.stdout)[0]["result"]] == ["a.png"]
    assert "error: board: 1 of 2 images gave no result. in/" in done.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("0",), "0 is no file of this machine, and --device names another."),
        (("photo.png", "--box", "1,2"), "The box '1,2' is not four numbers"),
        (("photo.png", "--save", "there"), "there/a exists."),
    ],
)
def test_what_cannot_be_run_there(
    typed: tuple[str, ...], said: str, bundle: Path, splite: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there/a").mkdir(parents=True)
    write_picture(Path("photo.png"))
    done = splite("run", bundle, *typed, "--device", "ssh://a")
    assert done.exit_code in (1, 2) and said in done.stderr


@pytest.mark.slow
def test_compile(ssh: Server, devices: Devices, tiny_bundle: Path, splite: Run, tmp_path: Path) -> None:
    tensorrt_rtx()
    graph = ("fp32", ("weak", "strong"), tiny_bundle / "model.onnx")
    bundle = with_graphs(tiny_bundle, tmp_path / "own.splite", [graph]).path
    devices("board")
    before = {one.name: one.read_bytes() for one in bundle.iterdir()}
    done = splite("compile", bundle, "-p", "fp32", "--device", "board", "--results", "built", "--json", "a.json")
    assert done.exit_code == 0, done.output
    assert {one.name: one.read_bytes() for one in bundle.iterdir()} == before
    made = Bundle.open("built/board/own.splite")
    assert "trt fp32" in [one.label for one in made.manifest.artifacts]
    (there,) = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert there["engines"][0]["sha256"] == made.find("trt", "fp32").sha256
    assert Path("built/board/environment.json").is_file()
    again = splite("compile", bundle, "-p", "fp32", "--device", "board", "--results", "built")
    assert again.exit_code == 1 and "built/board exists." in again.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--device", "ssh://a"), "--device builds elsewhere, and nothing says where"),
        (("--results", "x"), "--results is for --device, which is not given."),
        (
            ("--device", "ssh://a", "--results", "x", "--timing-cache", "t"),
            "--timing-cache names a file of",
        ),
    ],
)
def test_what_cannot_be_built_there(typed: tuple[str, ...], said: str, bundle: Path, splite: Run) -> None:
    done = splite("compile", bundle, *typed)
    assert done.exit_code == 2 and said in done.stderr
