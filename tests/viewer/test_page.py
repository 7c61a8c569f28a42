"""The page in a real browser, with a video file in the place of the camera."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import browser as browsers
import clips
import numpy as np
import pytest
from browser import Browser

from splite_deploy.runtime import PoseEstimator
from splite_deploy.viewer.board import Board
from splite_deploy.viewer.server import serve

pytest.importorskip("starlette", reason="the extra 'view' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'view' is not installed")
SIZES = ((1280, 800), (800, 1000), (360, 740))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with browsers.browser(tmp_path / "browser") as opened:
        yield opened


@contextmanager
def running(bundle: Path, source: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command and the address that it prints."""
    command = [sys.executable, "-m", "splite_deploy", "run", bundle, source, "--view", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            found = re.match(r"view: (http://127\.0\.0\.1:\d+/) ", said)
            assert found is not None, said + process.stderr.read()
            yield process, found[1]
        finally:
            process.kill()


def kind(browser: Browser, kind: str) -> None:
    browser.wait(f"document.body.className === '{kind}'")


@pytest.mark.slow
def test_it_shows_a_clip_and_says_how_it_ended(tiny_bundle: Path, tmp_path: Path, browser: Browser) -> None:
    clip = clips.write_clip(tmp_path / "a <b>clip<i>.mp4", 600, fps=20)
    with running(tiny_bundle, clip, "--port", "0") as (process, address):
        browser.resize(*SIZES[0])
        browser.open(address)
        kind(browser, "live")
        first = browser.value("after")
        browser.wait(f"after > {first + 10}")
        assert browser.value("document.getElementById('picture').naturalWidth") == 480
        red = """(() => {
            const canvas = document.createElement("canvas"), picture = document.getElementById("picture");
            canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
            const context = canvas.getContext("2d");
            context.drawImage(picture, 0, 0);
            return [...context.getImageData(20, 20, 1, 1).data];
        })()"""
        assert browser.value(red) == pytest.approx([255, 0, 0, 255], abs=40)
        text = browser.text()
        assert text.startswith("tiny a <b>clip<i>.mp4\n")
        assert browser.value("document.title") == "tiny, a <b>clip<i>.mp4"
        rate = re.search(r"([\d.]+)\nframes per second", text)
        assert rate is not None and 0 < float(rate[1]) < 30  # of 20: other work may slow it down
        for stage in ("preprocess", "inference", "decode", "rest", "frame to keypoints", "until the next frame"):
            assert re.search(rf"{stage}\s+[\d.]+\s+[\d.]+\s+[\d.]+", text), text
        for size in SIZES:
            for dark in (False, True):
                browser.resize(*size, dark=dark)
                assert browser.value("document.documentElement.scrollWidth") <= size[0]
                paper = browser.value("getComputedStyle(document.body).backgroundColor")
                assert paper == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
        assert browser.complaints == []
        process.send_signal(signal.SIGTERM)
        kind(browser, "ended")
        assert "The command was stopped. This page goes on by itself" in browser.text()
        assert process.wait(10) == 143
        time.sleep(2)  # while nobody answers it stays with what it knows
        assert browser.value("document.body.className") == "ended"


@pytest.mark.slow
def test_it_says_that_the_connection_is_lost_and_goes_on_with_the_next_run(
    tiny_bundle: Path, tmp_path: Path, browser: Browser
) -> None:
    clip = clips.write_clip(tmp_path / "a.mp4", 600, fps=20)
    with running(tiny_bundle, clip, "--port", "0") as (process, address):
        browser.open(address)
        kind(browser, "live")
        browser.wait("after > 5")
        os.kill(process.pid, signal.SIGKILL)
        kind(browser, "lost")
        assert "There is no connection to the command" in browser.text()
        assert browser.value("document.getElementById('picture').hidden") is False
    again = clips.write_clip(tmp_path / "b.mp4", 600, fps=20)
    with running(tiny_bundle, again, "--port", address.rstrip("/").rpartition(":")[2]):
        kind(browser, "live")
        assert browser.value("document.getElementById('source').textContent") == "b.mp4"


def test_hands_have_rows_and_hostile_names_stay_text(tiny_bundle: Path, browser: Browser) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\"></b><script>document.title='owned'</script>"
    with PoseEstimator.open(tiny_bundle, "replay") as estimator:
        board = Board(hostile, hostile, estimator.spec.skeleton, {"": estimator})
        with serve(board, "127.0.0.1", 0) as served:
            browser.open(served.address)
            kind(browser, "waiting")
            browser.wait("run !== ''")
            assert browser.value("document.getElementById('model').textContent") == hostile
            assert browser.value("document.querySelectorAll('img, script').length") == 2
            frame = np.full((90, 120, 3), 128, np.uint8)
            pose = estimator(frame)
            more = {"presence": 0.991, "handedness": 0.03, "box_score": 0.5, "id": 12}
            board.show(frame, [pose, type(pose)(**{**vars(pose), **more})], True, time.perf_counter())
            kind(browser, "live")
            rows = (
                "[...document.querySelectorAll('#poses tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
            )
            score = f"{float(pose.scores.mean()):.2f}"
            assert browser.value(rows) == [
                ["", "hand", "presence", "box score", "score"],
                ["1", "", "", "", score],
                ["id 12", "left, 97 %", "99 %", "0.50", score],
            ]
            board.show(frame, [pose], False, time.perf_counter())
            browser.wait("after === 1")
            assert browser.value(rows) == [["", "score"], ["lost", score]]
            kind(browser, "stale")
            assert "The camera has given no new picture for" in browser.text()
    kind(browser, "ended")
    assert "The video has ended." in browser.text()
    assert browser.complaints == [] or all("ERR_CONNECTION_REFUSED" in one for one in browser.complaints)
