"""Videos as people have them: turned by a phone, of a variable rate, cut, damaged, named in any way."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
from click.testing import Result

from splite_deploy.errors import CameraError, UsageError
from splite_deploy.runtime.io import camera as camera_module
from splite_deploy.runtime.io.camera import is_live, is_video, open_camera
from splite_deploy.runtime.io.container import Container, examine
from splite_deploy.runtime.io.video import write_video

Run = Callable[..., Result]
FRAMES = 20


def read(file: Path | str) -> list[tuple[int, float]]:
    """Which frames are read, and their times."""
    with open_camera(str(file)) as camera:
        return [(clips.index_of(frame), round(camera.time_s or 0.0, 4)) for frame in camera]


def corner_of_square(image: np.ndarray) -> str:
    corners = {"top left": (9, 9), "top right": (9, -9), "bottom right": (-9, -9), "bottom left": (-9, 9)}
    (found,) = [name for name, (y, x) in corners.items() if image[y, x, 2] > 150 and image[y, x, 0] < 60]
    return found


# --- rotation and time ---


@pytest.mark.parametrize(
    ("degrees", "corner"), [(0, "top left"), (90, "top right"), (180, "bottom right"), (270, "bottom left")]
)
def test_the_turn_of_the_track_header_is_applied_once(tmp_path: Path, degrees: int, corner: str) -> None:
    file = clips.turn(clips.write_clip(tmp_path / "a.mp4", 2), degrees)
    with open_camera(str(file)) as camera:
        for image in camera:
            assert image.shape[:2] == ((120, 160) if degrees % 180 == 0 else (160, 120))
            assert corner_of_square(image) == corner


def test_times_are_those_of_the_container(tmp_path: Path) -> None:
    durations = [1, 1, 1, 5, 1, 1, 3, 0.5, 0.5, 1]
    file = clips.at_times(clips.write_clip(tmp_path / "a.mp4", 10, fps=10), durations)
    expected = (np.cumsum(durations) - durations) / 10
    assert read(file) == [(index, pytest.approx(time_s, abs=1e-3)) for index, time_s in enumerate(expected)]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_times_of_a_constant_rate(tmp_path: Path, suffix: str) -> None:
    found = read(clips.write_clip(tmp_path / f"a{suffix}", 5, fps=12.5))
    assert [time_s for _, time_s in found] == pytest.approx([0, 0.08, 0.16, 0.24, 0.32], abs=1e-3)


class Clockless:
    """OpenCV's own readers of AVI and of images give no time."""

    def __init__(self, file: Path) -> None:
        self._capture = cv2.VideoCapture(str(file))

    def get(self, which: int) -> float:
        return 0.0 if which == cv2.CAP_PROP_POS_MSEC else self._capture.get(which)

    def __getattr__(self, name: str) -> object:
        return getattr(self._capture, name)


def test_times_follow_the_rate_where_frames_have_none(tmp_path: Path) -> None:
    file = clips.write_clip(tmp_path / "a.avi", 4, fps=10)
    camera = camera_module.Camera(Clockless(file), str(file))  # type: ignore[arg-type]
    assert [camera.time_s for _ in camera] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_trimmed_video_is_whole(tmp_path: Path) -> None:
    """An editor leaves the frames and sets marks: what lies outside is not missing."""
    file = clips.trim_to(clips.write_clip(tmp_path / "a.mp4", 20, fps=10), 0.5, 1.5)
    assert examine(file) == Container(counts=True, shown=10)
    assert [index for index, _ in read(file)] == list(range(5, 15))


# --- cut and damaged ---


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".webm"])
def test_a_cut_video_is_no_whole_one(tmp_path: Path, suffix: str) -> None:
    file = written(tmp_path / f"a{suffix}")
    assert [index for index, _ in read(file)] == list(range(FRAMES))
    file = clips.cut(file, 0.6)
    frames: list[np.ndarray] = []
    with open_camera(str(file)) as camera, pytest.raises(CameraError) as caught:
        frames.extend(camera)
    of = f" of {FRAMES}" if suffix in (".mp4", ".avi") else ""  # the others do not say how many they hold
    assert 5 <= len(frames) < FRAMES
    said = f"{file} is cut: {len(frames)}{of} frames could be read, and "
    assert caught.value.message.startswith(said) and caught.value.message.endswith(" bytes at its end are missing.")
    assert caught.value.hint == "Copy it again from where it was recorded; those frames can be used."


def written(file: Path) -> Path:
    if file.suffix in (".mp4", ".avi"):
        return clips.write_clip(file, FRAMES)
    codec = cv2.VideoWriter.fourcc(*("VP80" if file.suffix == ".webm" else "mp4v"))
    writer = cv2.VideoWriter(str(file), codec, 10.0, (clips.WIDTH, clips.HEIGHT))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {file.suffix}")
    for index in range(FRAMES):
        writer.write(clips.frame(index))
    writer.release()
    return file


def test_a_file_without_its_index_is_told_without_ffmpeg(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = clips.write_clip(tmp_path / "a.mp4", FRAMES)
    data = file.read_bytes()
    file.write_bytes(data[: data.index(b"moov") // 2])
    with pytest.raises(CameraError, match=r"a\.mp4 is cut: [\d,]+ bytes at its end are missing\.") as caught:
        open_camera(str(file))
    assert caught.value.hint == "Copy it again from where it was recorded."
    assert capfd.readouterr().err == ""


def test_every_length_of_a_cut_video_is_told(tmp_path: Path) -> None:
    whole = clips.index_first(clips.write_clip(tmp_path / "a.mp4", FRAMES).read_bytes())
    for length in range(len(whole) // 50, len(whole), len(whole) // 50):
        (tmp_path / "b.mp4").write_bytes(whole[:length])
        with pytest.raises(CameraError, match=r"is cut|not a video that can be read|holds no frame"):
            read(tmp_path / "b.mp4")


def test_frames_that_are_lost_on_the_way_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = clips.spoil(clips.write_clip(tmp_path / "a.avi", FRAMES), 30_000)
    with pytest.raises(CameraError, match=rf"a\.avi is damaged: \d+ of {FRAMES} frames could be read\."):
        read(file)
    capfd.readouterr()


@pytest.mark.parametrize(("spoil", "word"), [(lambda file: clips.cut(file, 0.6), "cut"), (clips.spoil, "damaged")])
def test_what_came_of_a_video_that_is_not_whole_is_delivered(
    splite: Run,
    tiny_bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    spoil: Callable[[Path], Path],
    word: str,
) -> None:
    file = spoil(clips.write_clip(tmp_path / "a.mp4", FRAMES))
    done = splite("run", tiny_bundle, file, "--json", tmp_path / "a.jsonl", "--save", tmp_path / "drawn.avi")
    assert done.exit_code == 1
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(len(lines))) and 5 <= len(lines) <= FRAMES
    assert f"a.mp4 is {word}: {len(lines)} " in done.stderr
    assert "Copy it again from where it was recorded" in done.stderr and "FFmpeg says '" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert capfd.readouterr().err == ""  # FFmpeg writes past Python
    assert len(read(tmp_path / "drawn.avi")) == len(lines)


def test_a_whole_video_says_nothing(splite: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    done = splite("run", tiny_bundle, clips.write_clip(tmp_path / "a.mp4", 3))
    assert (done.exit_code, done.stderr, len(done.stdout.splitlines())) == (0, "", 3)


def test_errors_are_still_seen_while_native_output_is_taken(tiny_bundle: Path, tmp_path: Path) -> None:
    file = clips.spoil(clips.write_clip(tmp_path / "a.mp4", FRAMES))
    command = [sys.executable, "-m", "splite_deploy", "run", os.fspath(tiny_bundle), os.fspath(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"], done.stderr


def test_without_standard_error_a_video_is_read_as_well(tiny_bundle: Path, tmp_path: Path) -> None:
    file = clips.write_clip(tmp_path / "a.mp4", 3)
    command = f'exec "{sys.executable}" -m splite_deploy run "{tiny_bundle}" "{file}" 2>&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3


# --- what a file says of itself ---


def test_boxes_that_lie_about_their_size(tmp_path: Path) -> None:
    data = clips.write_clip(tmp_path / "a.mp4", 3).read_bytes()
    for name in (b"moov", b"trak", b"stbl", b"stts", b"elst", b"mvhd"):
        place = data.index(name) - 4
        for size in (0, 1, 7, 9, 0x7FFFFFFF, 0xFFFFFFFF):
            (tmp_path / "b.mp4").write_bytes(data[:place] + struct.pack(">I", size) + data[place + 4 :])
            assert examine(tmp_path / "b.mp4").missing_bytes >= 0
    for name, shift in ((b"stts", 8), (b"elst", 8), (b"stts", 12)):  # tables with billions of rows or frames
        place = data.index(name) + shift
        (tmp_path / "b.mp4").write_bytes(data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :])
        examine(tmp_path / "b.mp4")


def test_rubbish_behind_a_video_is_passed_over(tmp_path: Path) -> None:
    file = clips.write_clip(tmp_path / "a.mp4", 3)
    file.write_bytes(file.read_bytes() + bytes(20) + b"\xff" * 20)
    assert len(read(file)) == 3


# --- names ---


@pytest.mark.parametrize(
    "name",
    [b"a:b.mp4", b"a b.mp4", b"file:a.mp4", b"clip%d.mp4", b"clip%03d.avi", b"-x.mp4", "ä.mp4".encode(), b"\xff.mp4"],
)
def test_names_of_files(
    splite: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    file = Path(os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    clips.write_clip(Path("plain").with_suffix(file.suffix), 3).rename(file)
    assert len(read(file)) == len(read(file.absolute())) == 3
    done = splite("run", tiny_bundle, "--", file)
    assert done.exit_code == 0, done.output
    shown = name.decode(errors="backslashreplace")  # JSON is UTF-8
    assert [json.loads(line)["video"] for line in done.stdout.splitlines()] == [shown] * 3


@pytest.mark.parametrize("name", [b"a:b.mp4", b"c%d.avi", b"\xff.mp4"])
def test_names_of_videos_that_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(os.fsdecode(name))
    with write_video(file, 10) as put:
        for index in range(3):
            put(clips.frame(index))
    assert len(read(file)) == 3
    assert list(Path().iterdir()) == [file]


@pytest.mark.parametrize(
    "source", ["http://host/a.mp4", "https://host/a", "ftp://host/a.mp4", "FILE:///a.mp4", "tcp://a"]
)
def test_addresses_are_refused(splite: Run, tiny_bundle: Path, source: str) -> None:
    with pytest.raises(UsageError, match=r"is an address, and \w+:// is not read\.") as caught:
        is_video(source)
    assert "Download the file first" in caught.value.hint
    with pytest.raises(UsageError):
        open_camera(source)
    done = splite("run", tiny_bundle, source)
    assert done.exit_code == 1 and "Download the file first" in done.stderr


@pytest.mark.parametrize("name", ["v ! w.mp4", "videotestsrc ! filesink location=x ! appsink"])
def test_a_file_is_no_pipeline(splite: Run, tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    """A pipeline can write files and open connections: the name of a stranger's file must not become one."""
    file = tmp_path / name
    assert is_live(name) == name.endswith("appsink") and not is_live("a ! b")
    with write_video(tmp_path / "a.mp4", 10) as put:
        put(clips.frame(0))
    (tmp_path / "a.mp4").rename(file)
    assert not is_live(str(file))
    with open_camera(str(file)) as camera:
        assert len(list(camera)) == 1
    picture = tmp_path / "v ! w ! appsink.png"
    cv2.imwrite(str(picture), clips.frame(0))
    done = splite("run", tiny_bundle, picture, "--json", "-")
    assert done.exit_code == 0 and "GStreamer" not in done.stderr, done.stderr


def test_a_file_named_like_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("987").touch()
    with pytest.raises(CameraError, match=r"Camera 987 cannot be opened\.") as caught:
        open_camera("987")
    assert caught.value.hint.endswith("If you mean the file of this name, write ./987")


@pytest.mark.parametrize("source", ["csi://", "csi://x", "csi://-1"])
def test_numbers_of_csi_cameras(source: str) -> None:
    with pytest.raises(UsageError, match="names no camera") as caught:
        is_video(source)
    assert "csi://0" in caught.value.hint


@pytest.mark.parametrize("name", ["list.m3u8.mp4", "list.mp4"])
@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:2.0,\nsecret.mp4\n", "ffconcat version 1.0\nfile 'secret.mp4'\n"])
def test_lists_of_videos_are_not_followed(tmp_path: Path, name: str, text: str) -> None:
    clips.write_clip(tmp_path / "secret.mp4", 3)
    (tmp_path / name).write_text(text)
    with pytest.raises(CameraError, match=r"is a list of videos, which is not followed\.") as caught:
        open_camera(str(tmp_path / name))
    assert caught.value.hint == "Name the videos themselves."


@pytest.mark.parametrize(
    "text", ["<?xml version='1.0'?><MPD/>", "v=0\no=- 0 0 IN IP4 127.0.0.1\n", ";FFMETADATA1\n", ""]
)
def test_text_is_no_video(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.mp4").write_text(text)
    with pytest.raises(CameraError, match=r"a\.mp4 is not a video that can be read\.") as caught:
        open_camera(str(tmp_path / "a.mp4"))
    assert "ffmpeg -i" in caught.value.hint


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    for name, said in (("pipe.mp4", "is no file"), ("zero.mp4", "is no file"), ("folder.mp4", "Is a directory")):
        with pytest.raises(CameraError, match=said):
            open_camera(str(tmp_path / name))
    for source in ("a\0.mp4", f"{'x' * 5000}.mp4"):
        with pytest.raises(CameraError, match="Cannot read"):
            open_camera(source)


@pytest.mark.parametrize("source", [str(10**20), "9" * 5000])
def test_numbers_that_no_camera_has(splite: Run, tiny_bundle: Path, source: str) -> None:
    done = splite("run", tiny_bundle, source)
    assert done.exit_code == 1 and "There is no camera of the number " in done.stderr
    assert "Number the cameras from 0." in done.stderr


@pytest.mark.parametrize("scheme", ["rtsp", "udp"])
def test_a_stream_that_hangs_has_a_limit(
    splite: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], scheme: str
) -> None:
    """Somebody listens and never answers; both slashes arrive at FFmpeg."""
    monkeypatch.setattr(camera_module, "TIMEOUT_MS", 700)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        source = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/stream"
        start_s = time.monotonic()
        done = splite("run", tiny_bundle, source)
        assert time.monotonic() - start_s < 10
        listener.settimeout(1)
        if scheme == "rtsp":
            with listener.accept()[0] as client:
                client.settimeout(1)
                assert client.recv(100).startswith(f"OPTIONS {source} RTSP/1.0".encode())
    assert done.exit_code == 1 and f"{source} gives no video (waited for at most 0 s)." in done.stderr
    assert "ffprobe" in done.stderr and capfd.readouterr().err == ""
