"""Cameras and video files: what they give, and what is said where they cannot be opened."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from splite_deploy.errors import CameraError, OutputError, UsageError
from splite_deploy.runtime.io.camera import Camera, csi_pipeline, is_live, is_video, open_camera
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.io.video import CODECS, check_video_name, write_video

GSTREAMER = cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)


def flat(level: int, height: int = 120, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def video(path: Path, levels: range = range(0, 250, 25), fps: float | None = 25.0) -> Path:
    with write_video(path, fps) as put:
        for level in levels:
            put(flat(level))
    return path


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    file = video(tmp_path / "new" / f"levels{suffix}")
    with open_camera(str(file)) as camera:
        assert (camera.live, camera.fps, camera.frames) == (False, 25.0, 10)
        means = [float(frame.mean()) for frame in camera]
    np.testing.assert_allclose(means, range(0, 250, 25), atol=6)
    assert list(file.parent.iterdir()) == [file]


def test_the_rate_without_one_is_thirty(tmp_path: Path) -> None:
    with open_camera(str(video(tmp_path / "a.avi", fps=None))) as camera:
        assert camera.fps == 30.0


class Stating:
    """A capture whose driver states this for every property, as some do for what they do not know."""

    def __init__(self, stated: float) -> None:
        self._stated = stated

    def get(self, which: int) -> float:
        return self._stated

    def set(self, which: int, value: float) -> bool:
        return False

    def release(self) -> None:
        pass


class Giving(Stating):
    """A pipeline that gives such a frame."""

    def __init__(self, frame: np.ndarray) -> None:
        super().__init__(0.0)
        self._frame = frame

    def read(self) -> tuple[bool, np.ndarray]:
        return True, self._frame


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (np.zeros((120, 160), np.uint8), r"shape \(120, 160\) and type uint8"),
        (np.zeros((120, 160, 4), np.uint8), r"shape \(120, 160, 4\) and type uint8"),
        (np.zeros((120, 160, 3), np.uint16), r"shape \(120, 160, 3\) and type uint16"),
        (np.zeros((0, 0, 3), np.uint8), r"shape \(0, 0, 3\) and type uint8"),
    ],
)
def test_a_camera_that_gives_no_colour_pictures(frame: np.ndarray, said: str) -> None:
    source = "videotestsrc ! video/x-raw, format=GRAY8 ! appsink"
    with (
        Camera(Giving(frame), source) as camera,  # type: ignore[arg-type]
        pytest.raises(CameraError, match=f"{said}, no colour pictures of 8 bits") as caught,
    ):
        next(iter(camera))
    assert "videoconvert ! video/x-raw, format=BGR ! appsink" in caught.value.hint


@pytest.mark.parametrize("stated", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_opencv_does_not_know_is_none(tmp_path: Path, stated: float) -> None:
    for source in ("0", "clip.avi"):
        with Camera(Stating(stated), source) as camera:  # type: ignore[arg-type]
            assert camera.fps is None and camera.frames is None
    with write_video(tmp_path / "a.mp4", camera.fps) as put:
        put(flat(0))
    with open_camera(str(tmp_path / "a.mp4")) as written:
        assert written.fps == 30.0


@pytest.mark.parametrize(("fps", "shown"), [(0.0, "0"), (-1.0, "-1"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_a_rate_that_cannot_be_written(tmp_path: Path, fps: float, shown: str) -> None:
    message = rf"The frame rate {shown} of .*a\.mp4 is not a positive number\."
    with pytest.raises(UsageError, match=message) as caught, write_video(tmp_path / "a.mp4", fps):
        pass
    assert caught.value.hint == "Pass frames per second, or None for 30."
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_the_format_does_not_take(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    message = r"OpenCV cannot write .*a\.mp4 at 90000 frames per second\."
    with pytest.raises(OutputError, match=message) as caught, write_video(tmp_path / "a.mp4", 90_000) as put:
        put(flat(0))
    assert caught.value.hint == "Name a file that ends in .avi."
    assert list(tmp_path.iterdir()) == []
    capfd.readouterr()  # what FFmpeg says


def test_names() -> None:
    for live in ("0", "12", "csi://0", csi_pipeline(), "rtsp://camera/1", "RTSPS://camera:8554/a", "udp://@:5000"):
        assert is_live(live) and is_video(live)
    for file in ("clip.mp4", "a/CLIP.AVI", "0.mov", "a:b.mp4", "concat:a.mp4", "rtsp:/a.mp4"):
        assert is_video(file) and not is_live(file)
    for other in ("hand.png", "photos", "photos/0", "mp4", "", "a:b", "rtsp:", "-1"):
        assert not is_video(other)


def test_the_pipeline_of_a_csi_camera() -> None:
    pipeline = csi_pipeline(sensor=1, width=1920, height=1080, fps=60, flip=2)
    parts = [part.strip() for part in pipeline.split(" ! ")]
    assert parts[0] == "nvarguscamerasrc sensor-id=1"
    assert parts[1] == "video/x-raw(memory:NVMM), width=1920, height=1080, framerate=60/1"
    assert parts[2] == "nvvidconv flip-method=2"
    assert parts[-2:] == ["video/x-raw, format=BGR", "appsink drop=true max-buffers=1 sync=false"]


def test_a_file_that_is_missing() -> None:
    with pytest.raises(CameraError, match=r"Cannot read none\.mp4: No such file or directory\.") as caught:
        open_camera("none.mp4")
    assert caught.value.hint == "Name a video file."


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("/dev/video7", "Name this camera 7: cameras are named by their number."),
        ("rtsp:/host/a", "If it is a camera's address, it lacks a slash: write rtsp://host/a"),
        ("RTSPS:/host/a.mp4", "If it is a camera's address, it lacks a slash: write RTSPS://host/a.mp4"),
    ],
)
def test_a_camera_that_is_named_as_a_file(source: str, hint: str) -> None:
    with pytest.raises(CameraError) as caught:
        open_camera(source)
    assert caught.value.hint == hint
    with pytest.raises(UsageError) as refused:
        read_image(Path(source))
    assert refused.value.hint == hint


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    file = tmp_path / "text.mp4"
    file.write_text("no video")
    with pytest.raises(CameraError, match=r"text\.mp4 is not a video that can be read\.") as caught:
        open_camera(str(file))
    assert "MP4" in caught.value.hint


def test_a_file_without_a_frame(tmp_path: Path) -> None:
    capture = cv2.VideoCapture(str(video(tmp_path / "a.avi", range(1))))
    assert capture.grab()
    with pytest.raises(CameraError, match=r"a\.avi holds no frame that can be read\."):
        list(Camera(capture, "a.avi"))


def test_a_second_loop_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    with open_camera(str(video(tmp_path / "a.avi"))) as camera:
        for _ in camera:
            break
        assert camera.time_s == 0
        assert len(list(camera)) == 9 and camera.time_s == pytest.approx(9 / 25)
        assert list(camera) == []


def test_what_is_closed_says_so(tmp_path: Path) -> None:
    with open_camera(str(video(tmp_path / "a.avi"))) as camera:
        frames = iter(camera)
        next(frames)
    for reads in (lambda: next(frames), lambda: list(camera)):
        with pytest.raises(CameraError, match=r"a\.avi is closed\.") as caught:
            reads()
        assert caught.value.hint == "Open it again with open_camera."
    camera.close()


class Slow(Stating):
    """A capture whose frames come when they are let, and that knows who uses it at once."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.asked, self.let, self.uses = threading.Event(), threading.Event(), 0

    def read(self) -> tuple[bool, np.ndarray]:
        self.uses += 1
        self.asked.set()
        assert self.let.wait(10)
        self.uses -= 1
        return True, flat(1)

    def release(self) -> None:
        assert self.uses == 0, "OpenCV would abort the process"


def test_another_thread_may_close_and_not_read() -> None:
    capture = Slow()
    camera, said = Camera(capture, "0"), []  # type: ignore[arg-type, var-annotated]

    def read() -> None:
        try:
            said.extend(frame.mean() for frame in camera)
        except CameraError as err:
            said.append(str(err.message))

    reader, closer = threading.Thread(target=read), threading.Thread(target=camera.close)
    reader.start()
    assert capture.asked.wait(10)
    with pytest.raises(CameraError, match=r"0 is being read in another thread\.") as caught:
        next(iter(camera))
    assert "queue.Queue" in caught.value.hint
    closer.start()
    closer.join(0.05)
    assert closer.is_alive()
    capture.let.set()
    reader.join(10)
    closer.join(10)
    assert said == [1.0, "0 is closed."]


def test_a_thread_that_closes_a_video_ends_no_process(tmp_path: Path) -> None:
    file = video(tmp_path / "a.mp4", range(60))
    for _ in range(5):
        camera, begun = open_camera(file), threading.Event()

        def read(camera: Camera = camera, begun: threading.Event = begun) -> None:
            with suppress(CameraError):
                for _ in camera:
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(10)
        camera.close()
        reader.join(10)
        assert not reader.is_alive()


def test_a_source_is_named_as_people_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_camera(video(tmp_path / "a.avi")) as camera:
        assert camera.source == str(tmp_path / "a.avi") and len(list(camera)) == 10
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CameraError, match=r"Cannot read .*0: No such file"):
        open_camera(Path("0"))
    with pytest.raises(CameraError, match=r"Camera 987 cannot be opened\."):
        open_camera(987)
    for nothing in (None, "", True, -1, b"a.avi", 1.5):
        with pytest.raises(UsageError, match=r" names no camera and no video\.") as caught:
            open_camera(nothing)  # type: ignore[arg-type]
        assert caught.value.hint == 'Pass the name of a file, or of a camera, for example "0".'


def test_a_camera_that_stops_is_an_error(tmp_path: Path) -> None:
    """A file in the place of the device: for a camera its end is no normal end."""
    camera = Camera(cv2.VideoCapture(str(video(tmp_path / "a.avi", range(3)))), "0")
    frames = iter(camera)
    for _ in range(3):
        next(frames)
    with pytest.raises(CameraError, match=r"0 gave no more frames\.") as caught:
        next(frames)
    assert "cable" in caught.value.hint


def test_a_camera_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CameraError, match=r"Camera 987 cannot be opened\.") as caught:
        open_camera("987")
    assert "/dev/video987" in caught.value.hint
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(GSTREAMER, reason="this OpenCV has GStreamer")
@pytest.mark.parametrize("source", ["csi://0", "videotestsrc ! appsink"])
def test_opencv_without_gstreamer_says_so(source: str) -> None:
    with pytest.raises(CameraError, match=r"needs GStreamer, which this OpenCV \(\S+\) was built without\.") as caught:
        open_camera(source)
    assert "apt install python3-opencv" in caught.value.hint


@pytest.mark.skipif(not GSTREAMER, reason="this OpenCV has no GStreamer; that of pip never has")
def test_a_gstreamer_pipeline() -> None:
    pipeline = "videotestsrc ! video/x-raw, width=64, height=48 ! videoconvert ! video/x-raw, format=BGR ! appsink"
    with open_camera(pipeline) as camera:
        assert next(iter(camera)).shape == (48, 64, 3)
    for source, message, hint in (
        ("csi://0", r"csi://0 needs nvarguscamerasrc, which this GStreamer does not have\.", "--runtime nvidia"),
        (f"{pipeline} ! nosuchsink", r"needs nosuchsink, which", "gstreamer1.0-plugins-good"),
        ("videotestsrc ! video/x-raw, width=-1 ! appsink", r"cannot be opened\.", "gst-launch-1.0 'videotestsrc ! "),
    ):
        with pytest.raises(CameraError, match=message) as caught:
            open_camera(source)
        assert hint in caught.value.hint


def test_a_video_that_fails_on_the_way_leaves_the_old_one(tmp_path: Path) -> None:
    file = video(tmp_path / "a.avi")
    before = file.read_bytes()
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(OutputError, match=r"The frames for .*a\.avi change their size\."))
        put = stack.enter_context(write_video(file, 30))
        put(flat(1))
        put(flat(2, 60, 60))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_video_of_another_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.gif has no video suffix\.") as caught:
        check_video_name(tmp_path / "a.gif")
    assert ".mp4" in caught.value.hint


def test_a_video_that_no_frame_came_for(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="0 of 0 frames arrived"), write_video(tmp_path / "a.mp4", 30):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV reports nothing: a file whose end is cut off stands in for the disk that filled up."""
    with ExitStack() as stack:
        caught = stack.enter_context(pytest.raises(OutputError, match="could not be written: 0 of 10 frames arrived"))
        put = stack.enter_context(write_video(tmp_path / "a.mp4", 30))
        for level in range(10):
            put(flat(level))
        release = put.release  # type: ignore[attr-defined]

        def cut() -> None:
            release()
            (partial,) = tmp_path.iterdir()
            partial.write_bytes(partial.read_bytes()[:100])

        monkeypatch.setattr(put, "release", cut)
    assert "Free some space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"), write_video(tmp_path / "file" / "a.mp4", 30):
        pass
