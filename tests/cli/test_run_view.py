"""``run --view``: its options, what it prints, and that results and signals are as without it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import box_detector
import clips
import cv2
import numpy as np
import pytest
from click.testing import Result

from splite_deploy.cli import main, run_view

Splite = Callable[..., Result]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return clips.write_clip(tmp_path / "a.mp4", 20, fps=40)


@pytest.fixture
def served() -> None:
    for package in ("starlette", "uvicorn"):
        pytest.importorskip(package, reason="the extra 'view' is not installed")


def state_of(answer: bytes) -> dict[str, Any]:
    """The state in an answer of the page's server."""
    found = re.search(rb"\r\n\r\n(\{.*?\})\r\n", answer)
    assert found is not None
    return dict(json.loads(found[1]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "8091"), "--port is for --view."),
        (("--host", "0.0.0.0"), "--host is for --view."),
        (("--view", "--port", "65536"), "65536 is not in the range 0<=x<=65535"),
    ],
)
def test_options_that_make_no_sense(splite: Splite, tiny_bundle: Path, options: tuple[str, ...], said: str) -> None:
    done = splite("run", tiny_bundle, "a.mp4", *options)
    assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize("source", ["a.png", "folder", "labels.json"])
def test_pictures_have_no_page(splite: Splite, tiny_bundle: Path, tmp_path: Path, source: str) -> None:
    (tmp_path / "folder").mkdir()
    done = splite("run", tiny_bundle, tmp_path / source, "--view")
    assert done.exit_code == 2
    assert f"--view shows a video or camera while it runs, and {tmp_path / source} is neither." in done.stderr
    assert "hint:  Leave out --view, and draw into pictures with --save." in done.stderr


def test_without_the_extra_the_command_to_type_is_told(
    splite: Splite, tiny_bundle: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    done = splite("run", tiny_bundle, clip, "--view")
    assert done.exit_code == 1 and "pip install 'splite-deploy[view]'" in done.stderr


def test_the_help_names_the_address() -> None:
    texts = {option.name: str(getattr(option, "help", "")) for option in main.commands["run"].params}
    assert f"http://{run_view.HOST}:{run_view.PORT}/" in texts["view"]
    assert str(run_view.PORT) in texts["port"] and run_view.HOST in texts["host"]


@pytest.mark.usefixtures("served")
def test_a_port_in_use_is_told_and_nothing_is_written(
    splite: Splite, tiny_bundle: Path, clip: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = splite("run", tiny_bundle, clip, "--view", "--port", port, "--json", tmp_path / "a.jsonl")
    assert done.exit_code == 1
    assert (
        f"error: Port {port} of 127.0.0.1 is in use." in done.stderr and "--port 0 for one that is free" in done.stderr
    )
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.usefixtures("served")
def test_results_are_those_without_it(splite: Splite, tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    def run(name: str, *options: str) -> Result:
        outputs = ("--json", tmp_path / f"{name}.jsonl", "--save", tmp_path / f"{name}.avi")
        done = splite("run", tiny_bundle, clip, *outputs, *options)
        assert done.exit_code == 0, done.output
        return done

    run("plain")
    began_s = time.monotonic()
    done = run("viewed", "--view", "--port", "0")
    assert time.monotonic() - began_s > 19 / 40  # it plays in its own time
    assert (tmp_path / "viewed.jsonl").read_text() == (tmp_path / "plain.jsonl").read_text()
    assert (tmp_path / "viewed.avi").read_bytes() == (tmp_path / "plain.avi").read_bytes()
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["view", "keypoints", "video"]


@pytest.mark.usefixtures("served")
def test_where_it_is_and_how_to_get_there(
    splite: Splite, tiny_bundle: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "jetson")
    monkeypatch.setenv("SSH_CONNECTION", "192.168.0.2 51000 192.168.0.7 22")
    done = splite("run", tiny_bundle, clip, "--view", "--port", "0")
    assert re.fullmatch(
        r"view: http://127\.0\.0\.1:(\d+)/ \(from another machine: ssh -L \1:127\.0\.0\.1:\1 jetson@192\.168\.0\.7, "
        r"then the same address there\)\n",
        done.stderr,
    ), done.stderr
    monkeypatch.delenv("SSH_CONNECTION")
    assert f"jetson@{socket.gethostname()}," in splite("run", tiny_bundle, clip, "--view", "--port", "0").stderr


@pytest.mark.usefixtures("served")
def test_an_address_that_others_reach_is_warned_of(splite: Splite, tiny_bundle: Path, clip: Path) -> None:
    done = splite("run", tiny_bundle, clip, "--view", "--port", "0", "--host", "0.0.0.0")
    warning, view = done.stderr.splitlines()
    assert warning == (
        "warning: with --host 0.0.0.0 everybody who reaches this machine sees what the camera sees, without a password "
        "and not encrypted; ssh -L and no --host show it to you alone"
    )
    assert re.match(rf"view: http://{socket.gethostname()}:\d+/ \(elsewhere perhaps with this machine's address", view)


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_as_without_a_page(tiny_bundle: Path, tmp_path: Path, number: signal.Signals) -> None:
    clip = clips.write_clip(tmp_path / "a.mp4", 600, fps=20)
    command = [sys.executable, "-m", "splite_deploy", "run", tiny_bundle, clip, "--view", "--port", "0"]
    command += ["--json", tmp_path / "a.jsonl", "--save", tmp_path / "b.avi"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        address = re.search(r"http://\S+/", process.stderr.readline())
        assert address is not None
        state = b""
        while b'"frame": 3' not in state:  # while a browser watches
            state = urllib.request.urlopen(f"{address[0]}next").read()
        began_s = time.monotonic()
        process.send_signal(number)
        assert process.wait(15) == 128 + number
        assert time.monotonic() - began_s < 6
        who = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        assert process.stderr.read() == f"Stopped by {who}; unfinished work was removed.\n"
        assert process.stdout.read() == ""
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.mp4"]


class Clock:
    """A clock that goes on by what is slept, and by what a test adds."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now_s)
    monkeypatch.setattr(time, "sleep", made.sleep)
    return made


def test_a_file_plays_in_its_own_time(clock: Clock) -> None:
    """Also where its times are wrong, and where frames take longer than they last."""
    frame = np.zeros((4, 4, 3), np.uint8)

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        for time_s, takes_s in ((0.0, 0.01), (0.1, 0.01), (0.2, 0.35), (0.3, 0.01), (0.6, 0.01), (9e9, 0.0)):
            clock.now_s += takes_s
            yield time_s, frame

    assert [time_s for time_s, _ in run_view.in_its_time(frames())] == [0.0, 0.1, 0.2, 0.3, 0.6, 9e9]
    assert clock.slept == [0.08, 0.13, 1.0]


def test_a_gap_in_the_times_of_a_file_is_one_pause(clock: Clock) -> None:
    """And while the command was halted nothing was missed: it goes on in its time."""
    frame = np.zeros((4, 4, 3), np.uint8)
    times_s = [0.0, 3600.0, 3600.1, 3600.2, 3600.3, 7200.0, 7200.1]
    assert [at_s for at_s, _ in run_view.in_its_time((at_s, frame) for at_s in times_s)] == times_s
    assert clock.slept == [1.0, 0.1, 0.1, 0.1, 1.0, 0.1]

    def halted() -> Iterator[tuple[float, np.ndarray]]:
        for index in range(40):
            clock.now_s += 600.0 if index == 10 else 0.0
            yield index / 10, frame

    clock.slept.clear()
    began_s = clock.now_s
    assert len(list(run_view.in_its_time(halted()))) == 40
    assert clock.slept[:9] == clock.slept[-19:-10] == [0.1] * 9 and len(clock.slept) >= 28
    assert clock.now_s - began_s == pytest.approx(600 + 3.9 - 1.0, abs=0.11), "a second at most is made up for"


@pytest.mark.usefixtures("served")
def test_what_ended_a_video_is_told_on_the_page_too(tiny_bundle: Path, tmp_path: Path) -> None:
    clip = clips.cut(clips.write_clip(tmp_path / "a.mp4", 20, fps=10), 0.7)
    command = [sys.executable, "-m", "splite_deploy", "run", tiny_bundle, clip, "--view", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        address = re.search(r"http://\S+/", process.stderr.readline())
        assert address is not None
        ended = None
        while ended is None:
            ended = state_of(urllib.request.urlopen(f"{address[0]}next").read())["ended"]
        errors = process.stderr.read()
        assert process.wait(10) == 1
    assert f"error: {ended}" in errors and "is cut: " in ended


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """A network camera: MPEG-TS over UDP, as long as the test runs."""
    file = tmp_path / "camera.ts"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (clips.WIDTH, clips.HEIGHT))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MPEG-TS")
    for index in range(100):
        writer.write(clips.frame(index % 20))
    writer.release()
    data = file.read_bytes()
    file.unlink()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stop = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                for start in range(0, len(data), 1316):
                    with suppress(ConnectionRefusedError):  # nobody listens yet, or no more
                        sender.sendto(data[start : start + 1316], ("127.0.0.1", port))
                    if stop.wait(0.004):
                        return

    sending = threading.Thread(target=send)
    sending.start()
    yield f"udp://127.0.0.1:{port}"
    stop.set()
    sending.join()


@pytest.mark.slow
@pytest.mark.usefixtures("served")
def test_a_camera_that_is_stopped_has_its_results_and_says_so(tiny_bundle: Path, tmp_path: Path, camera: str) -> None:
    lines = tmp_path / "a.jsonl"
    command = [sys.executable, "-m", "splite_deploy", "run", tiny_bundle, camera, "--view", "--port", "0"]
    with subprocess.Popen([*command, "--json", lines], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = re.search(r"http://\S+/", process.stderr.readline())
        assert address is not None
        state: dict[str, Any] = {"run": "", "frame": -1, "ended": None}
        stopped = False
        while state["ended"] is None:
            asked = f"{address[0]}next?run={state['run']}&after={state['frame']}"
            state = state_of(urllib.request.urlopen(asked).read())
            if state["frame"] > 3 and not stopped:
                process.send_signal(signal.SIGINT)
                stopped = True
        assert state["ended"] == "The command was stopped." and state["source"] == camera
        assert process.stderr.read().endswith(f"keypoints: {lines}\n")
        assert process.wait(15) == 0
    assert len(lines.read_text().splitlines()) == state["frame"] + 1


@pytest.mark.usefixtures("served")
def test_a_detector_has_times_of_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    detector = box_detector.write(tmp_path / "detector")
    clip = clips.write_clip(tmp_path / "a.mp4", 600, fps=20)
    command = [sys.executable, "-m", "splite_deploy", "run", tiny_bundle, clip, "--detector", detector, "--view"]
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        address = re.search(r"http://\S+/", run.stderr.readline())
        assert address is not None
        state: dict[str, Any] = {"frame": -1}
        while state["frame"] < 0:
            state = state_of(urllib.request.urlopen(f"{address[0]}next").read())
        run.kill()
    times = {stage["name"]: stage["mean_ms"] for stage in state["stages"]}
    of_detector = ["detector: preprocess", "detector: inference", "detector: decode"]
    assert list(times) == [*of_detector, "preprocess", "inference", "decode", "rest"]
    assert times["detector: inference"] > 0


def test_a_camera_that_is_not_there_has_no_page(splite: Splite, tiny_bundle: Path, served: None) -> None:
    if cv2.VideoCapture(9).isOpened():
        pytest.skip("there is a camera of this number")
    done = splite("run", tiny_bundle, "9", "--view", "--port", "0")
    assert done.exit_code == 1 and "view:" not in done.stderr and "Camera 9 cannot be opened." in done.stderr
