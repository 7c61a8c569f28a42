"""Frames of a camera or a video file, through OpenCV."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

import cv2

from splite_deploy.errors import CameraError, OutputError, UsageError, first_line
from splite_deploy.runtime.closing import Closing
from splite_deploy.runtime.io.container import READABLE, Container, examine
from splite_deploy.runtime.io.native_log import quiet
from splite_deploy.runtime.io.native_name import is_utf8, native_name
from splite_deploy.runtime.io.video import known_rate
from splite_deploy.runtime.preprocess import Image
from splite_deploy.text import quoted

if TYPE_CHECKING:
    from cv2.typing import MatLike

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")

_CSI = re.compile(r"csi://([0-9]{1,4})")
_STREAM = re.compile(r"(rtsps?|udp)://.+", re.IGNORECASE)
_PIPELINE = re.compile(r" ! (.* ! )?appsink\b", re.DOTALL)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+")
_MOST_NUMBER = 9999

TIMEOUT_MS = 10_000
"""So long a stream may take to answer, and for each frame; OpenCV waits as long for a USB camera."""

_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


def csi_pipeline(sensor: int = 0, width: int = 1280, height: int = 720, fps: int = 30, flip: int = 0) -> str:
    """The GStreamer pipeline of a Jetson's CSI camera: scaled by hardware, and always the newest frame.

    Args:
        sensor: Number of the camera.
        width: Of the frames, in pixels; the sensor needs a mode of this size.
        height: Of the frames, in pixels.
        fps: Frames per second; the sensor needs a mode of this rate.
        flip: ``flip-method`` of nvvidconv: 0 as it is, 2 turned by 180 degrees.
    """
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM), width={width}, height={height}, framerate={fps}/1 ! "
        f"nvvidconv flip-method={flip} ! video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )


def is_video(source: str) -> bool:
    """Whether this names a video file, a camera, a stream or a pipeline, and no image or folder.

    Raises:
        UsageError: It is an address that no camera has: files are not read over a network.
    """
    if is_live(source):
        return True
    if _ADDRESS.match(source):
        scheme = source.partition(":")[0].lower()
        if scheme == "csi":
            raise UsageError(f"{source} names no camera.", hint="Write csi:// and its number, for example csi://0.")
        raise UsageError(
            f"{source} is an address, and {scheme}:// is not read.",
            hint="Download the file first, and name that. Of cameras rtsp://, rtsps://, udp:// and csi:// are read.",
        )
    return Path(source).suffix.lower() in VIDEO_SUFFIXES


def is_live(source: str) -> bool:
    """Whether this names a camera (``0``, ``csi://0``), a stream or a pipeline, whose frames do not wait.

    A pipeline can write files and open connections, so the name of a file that is there is never taken for one.
    """
    if any(form.fullmatch(source) for form in (_NUMBER, _CSI, _STREAM)):
        return True
    return _PIPELINE.search(source) is not None and not os.path.lexists(source)


class Camera(Closing):
    """Frames in order, each (H, W, 3) uint8 BGR, upright. A live camera drops frames that come too fast.

    Each frame is given once: a second loop goes on where the first one stopped. One thread reads; another may close,
    which waits for the frame that is being read, since OpenCV ends the whole process where two use one capture.

    Attributes:
        source: As it was named.
        live: Whether it is a camera, a stream or a pipeline, no file.
        fps: Frames per second as the source states them; None if it does not know them.
        frames: How many a file says it has; None for a live source, and for a file that does not say.
        time_s: When the last frame is shown, in seconds from the first one, by the clock of the file; None for a live
            source, and where neither the frames have a time nor the file a rate.

    Args:
        capture: Opened by `open_camera`.
        source: As it was named.
        container: What the file states; None for a live source.
    """

    def __init__(self, capture: cv2.VideoCapture, source: str, container: Container | None = None) -> None:
        self._capture = capture
        self._container = container or Container(counts=False)
        self.source = source
        self.live = is_live(source)
        self.fps = known_rate(capture.get(cv2.CAP_PROP_FPS))
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(count) if self._container.counts and math.isfinite(count) and count > 0 else None
        if self._container.shown is not None:
            self.frames = self._container.shown
        self.time_s: float | None = None
        self._turn = None if self.live else _turn_of(capture)
        self._lock = RLock()  # a handler of signals may close what this thread reads
        self._closed = False
        self._count, self._clock = 0, _Clock(None if self.live else self.fps)

    def __iter__(self) -> Iterator[Image]:
        """Reads until a file ends; a live source never ends by itself.

        Raises:
            CameraError: A live source stopped, or gives no colour pictures of 8 bits, or a file holds no frame; or,
                after the last frame, a file is not whole; or the camera was closed, or another thread reads it.
        """
        while True:
            frame = self._read()
            if frame is not None:
                yield frame if self._turn is None else cv2.rotate(frame, self._turn)  # type: ignore[misc]
            elif self.live:
                hint = "Check the cable, and that no other program uses it."
                if _STREAM.fullmatch(self.source):
                    hint = "Check that the camera still sends, and the network to it."
                raise CameraError(f"{self.source} gave no more frames.", hint=hint)
            elif self._count == 0:
                raise CameraError(f"{self.source} holds no frame that can be read.", hint=READABLE)
            else:
                self._check_whole(self._count)
                return

    def _read(self) -> Image | None:
        """The next frame as it is stored; None where there is none."""
        alone = self._lock.acquire(blocking=False)
        try:
            if self._closed:
                raise CameraError(f"{self.source} is closed.", hint="Open it again with open_camera.")
            if not alone:
                raise CameraError(
                    f"{self.source} is being read in another thread.",
                    hint="Read it in one thread, and hand its frames to the others, for example by a queue.Queue.",
                )
            there, frame = self._capture.read()
            if not there:
                return None
            self._check_colour(frame)
            if not self.live:
                self.time_s = self._clock(self._count, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            self._count += 1
            return frame  # type: ignore[return-value]
        finally:
            if alone:
                self._lock.release()

    def _check_colour(self, frame: MatLike) -> None:
        """A pipeline decides what comes: planes of brightness and colour, for example, look like a grey picture."""
        if frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == "uint8" and frame.size:
            return
        raise CameraError(
            f"{self.source} gives frames of shape {frame.shape} and type {frame.dtype}, no colour pictures of 8 bits.",
            hint="Name it by a GStreamer pipeline that ends in ' ! videoconvert ! video/x-raw, format=BGR ! appsink'.",
        )

    def _check_whole(self, count: int) -> None:
        """OpenCV ends a file that was cut, or whose frames are damaged, like a whole one."""
        frames, missing = self.frames, self._container.missing_bytes
        # frames at the marks of an edit list are shown by some versions of FFmpeg and not by others
        spare = 2 if self._container.shown is not None else 0
        lost = frames is not None and count < frames - spare
        if not lost and not missing:
            return
        states = f"{count} of {frames} frames could be read" if frames else f"{count} frames could be read"
        lacks = f", and {missing:,} bytes at its end are missing" if missing else ""
        raise CameraError(
            f"{self.source} is {'cut' if missing else 'damaged'}: {states}{lacks}.",
            hint="Copy it again from where it was recorded; those frames can be used.",
        )

    def close(self) -> None:
        """Lets go of the device or file, when the frame that another thread reads has come."""
        self._closed = True
        with self._lock:
            self._capture.release()


class _Clock:
    """Seconds from the first frame, from what OpenCV says of each; by number and rate where it says nothing.

    FFmpeg gives each frame its time, which a variable rate makes uneven. OpenCV's readers without FFmpeg give 0.
    """

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._first_s = self._last_s = 0.0
        self._runs = False

    def __call__(self, index: int, stated_s: float) -> float | None:
        if index == 0:
            self._first_s = stated_s if math.isfinite(stated_s) else 0.0
            return 0.0
        time_s = stated_s - self._first_s
        self._runs = self._runs or (math.isfinite(time_s) and time_s > 0)
        if not self._runs:
            return None if self._fps is None else index / self._fps
        self._last_s = max(time_s, self._last_s) if math.isfinite(time_s) else self._last_s
        return self._last_s


def _turn_of(capture: cv2.VideoCapture) -> int | None:
    """How to turn the frames so that they are upright, as OpenCV names it; None where it does so, or nothing is to do.

    OpenCV 4.7 and 5.0 turn them by themselves and 4.11 does not: where that can be switched off it is done here.
    """
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    if capture.get(cv2.CAP_PROP_ORIENTATION_AUTO) != 0:
        return None
    degrees = capture.get(cv2.CAP_PROP_ORIENTATION_META)
    return _TURNS.get(round(degrees) % 360) if math.isfinite(degrees) else None


def open_camera(source: str | os.PathLike[str] | int) -> Camera:
    """Opens a camera or a video file.

    Args:
        source: A video file, the number of a USB camera (``"0"`` or 0), ``csi://0`` for a Jetson's CSI camera, a stream
            of a network camera (``rtsp://``, ``rtsps://`` or ``udp://``), or a GStreamer pipeline that ends in
            ``appsink``, for example of `csi_pipeline`. A colon alone makes no protocol: ``a:b.mp4`` is a file.

    Raises:
        CameraError: It cannot be opened; the hint says what to look at.
        UsageError: It is an address of another kind, or names nothing.
    """
    source = _named(source)
    if is_live(source):
        if _STREAM.fullmatch(source):
            return _open_stream(source)
        if _NUMBER.fullmatch(source):
            return _open_numbered(source)
        csi = _CSI.fullmatch(source)
        return _open_pipeline(csi_pipeline(int(csi[1])) if csi else source, source)
    is_video(source)  # refuses other addresses
    container = examine(Path(source))
    try:
        with quiet(), native_name(Path(source)) as name:
            capture = cv2.VideoCapture(name, _reader())
    except (OSError, OutputError) as err:
        message = f"{source} is no name in UTF-8, and no link to it can be made: {first_line(err)}."
        raise CameraError(message, hint="Rename it.") from err
    if not capture.isOpened():
        if container.missing_bytes:
            hint = "Copy it again from where it was recorded."
            raise CameraError(f"{source} is cut: {container.missing_bytes:,} bytes at its end are missing.", hint=hint)
        raise CameraError(f"{source} is not a video that can be read.", hint=READABLE)
    return Camera(capture, source, container)


def _named(source: str | os.PathLike[str] | int) -> str:
    """The name as text: a path is always that of a file."""
    if isinstance(source, int) and not isinstance(source, bool) and source >= 0:
        return str(source)
    if isinstance(source, os.PathLike):
        name = os.fspath(source)
        source = f"{os.curdir}{os.sep}{name}" if isinstance(name, str) and is_live(name) else name
    if not isinstance(source, str) or not source:
        raise UsageError(
            f"{source!r} names no camera and no video.",
            hint='Pass the name of a file, or of a camera, for example "0".',
        )
    return source


def _reader() -> int:
    """OpenCV's part that reads files and streams: others take a name with %d for a series of images."""
    return cv2.CAP_FFMPEG if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG) else cv2.CAP_ANY


def _open_numbered(source: str) -> Camera:
    if len(source) > len(str(_MOST_NUMBER)):
        raise CameraError(f"There is no camera of the number {source[:24]}.", hint="Number the cameras from 0.")
    with quiet():
        capture = cv2.VideoCapture(int(source))
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame; not every driver obeys
    if not capture.isOpened():
        hint = f"Check that /dev/video{int(source)} is there, that you may read it, and that no other program uses it."
        if os.path.lexists(source):
            hint += f" If you mean the file of this name, write ./{source}"
        raise CameraError(f"Camera {source} cannot be opened.", hint=hint)
    return Camera(capture, source)


def _open_stream(source: str) -> Camera:
    if "\0" in source or not is_utf8(source):
        raise CameraError(f"{source!a} is no address.", hint="Name a camera, for example rtsp://192.168.0.10/stream.")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
    with quiet():
        capture = cv2.VideoCapture(source, _reader(), limits)
    if not capture.isOpened():
        hint = "Check the address and the network, for example with ffprobe and this address."
        raise CameraError(f"{source} gives no video (waited for at most {TIMEOUT_MS // 1000} s).", hint=hint)
    return Camera(capture, source)


def _open_pipeline(pipeline: str, source: str) -> Camera:
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise CameraError(
            f"{source} needs GStreamer, which this OpenCV ({cv2.__version__}) was built without.",
            hint="The OpenCV of pip has none: pip uninstall opencv-python opencv-python-headless, and use the system's "
            "(apt install python3-opencv; on a Jetson nvidia-opencv).",
        )
    missing = _missing_elements(pipeline)
    if missing:
        hint = "Install its plugin, for example with: apt install gstreamer1.0-plugins-good gstreamer1.0-plugins-bad."
        if any(name.startswith("nv") for name in missing):
            hint = "It comes with Jetson Linux; in a container: add --runtime nvidia."
        raise CameraError(f"{source} needs {missing[0]}, which this GStreamer does not have.", hint=hint)
    with quiet():
        capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        trial = f"gst-launch-1.0 {quoted(pipeline)}".replace("appsink drop=true max-buffers=1", "fakesink")
        raise CameraError(f"{source} cannot be opened.", hint=f"See what GStreamer says: {trial}")
    return Camera(capture, source)


def _missing_elements(pipeline: str) -> list[str]:
    """Elements of a pipeline that GStreamer does not have: OpenCV leaves them out, and may then wait for ever."""
    words = [part.split()[0] for part in pipeline.split(" ! ") if part.strip()]
    names = [word for word in words if re.fullmatch(r"[A-Za-z]\w*", word)]  # neither formats nor references
    try:
        gstreamer = ctypes.CDLL("libgstreamer-1.0.so.0")
    except OSError:  # OpenCV has its own
        return []
    gstreamer.gst_element_factory_find.restype = ctypes.c_void_p
    gstreamer.gst_init(None, None)
    return [name for name in names if not gstreamer.gst_element_factory_find(name.encode())]
