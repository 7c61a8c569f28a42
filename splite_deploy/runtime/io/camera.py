"""Frames of a camera or a video file, through OpenCV."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from splite_deploy.errors import CameraError
from splite_deploy.runtime.closing import Closing
from splite_deploy.runtime.io.video import known_rate
from splite_deploy.runtime.preprocess import Image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")

_CSI = re.compile(r"csi://(\d+)")


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
    """Whether this names a video file, a camera or a pipeline, and no image or folder."""
    return is_live(source) or Path(source).suffix.lower() in VIDEO_SUFFIXES


def is_live(source: str) -> bool:
    """Whether this names a camera (``0``, ``csi://0``) or a GStreamer pipeline, whose frames do not wait."""
    return source.isdecimal() or _CSI.fullmatch(source) is not None or " ! " in source


class Camera(Closing):
    """Frames in order, each (H, W, 3) uint8 BGR. A live camera drops frames that come too fast.

    Attributes:
        source: As it was named.
        live: Whether it is a camera or a pipeline, no file.
        fps: Frames per second as the source states them; None if it does not know them.
        frames: How many a file says it has; None for a live source, and for a file that does not say.

    Args:
        capture: Opened by `open_camera`.
        source: As it was named.
    """

    def __init__(self, capture: cv2.VideoCapture, source: str) -> None:
        self._capture = capture
        self.source = source
        self.live = is_live(source)
        self.fps = known_rate(capture.get(cv2.CAP_PROP_FPS))
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(count) if not self.live and math.isfinite(count) and count > 0 else None

    def __iter__(self) -> Iterator[Image]:
        """Reads until a file ends; a live source never ends by itself.

        Raises:
            CameraError: A live source stopped, or a file holds no frame.
        """
        count = 0
        while True:
            there, frame = self._capture.read()
            if there:
                count += 1
                yield frame  # type: ignore[misc]
            elif self.live:
                hint = "Check the cable, and that no other program uses it."
                raise CameraError(f"{self.source} gave no more frames.", hint=hint)
            elif count == 0:
                raise CameraError(f"{self.source} holds no frame that can be read.", hint="Convert it to MP4 (H.264).")
            else:
                return

    def close(self) -> None:
        """Lets go of the device or file."""
        self._capture.release()


def open_camera(source: str) -> Camera:
    """Opens a camera or a video file.

    Args:
        source: A video file, the number of a USB camera (``0``), ``csi://0`` for a Jetson's CSI camera, or a GStreamer
            pipeline that ends in ``appsink``, for example of `csi_pipeline`.

    Raises:
        CameraError: It cannot be opened; the hint says what to look at.
    """
    csi = _CSI.fullmatch(source)
    if csi is not None or " ! " in source:
        return _open_pipeline(csi_pipeline(int(csi[1])) if csi else source, source)
    with _quiet():
        if source.isdecimal():
            capture = cv2.VideoCapture(int(source))
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame; not every driver obeys
        else:
            capture = cv2.VideoCapture(source)
    if capture.isOpened():
        return Camera(capture, source)
    if source.isdecimal():
        hint = f"Check that /dev/video{source} is there, that you may read it, and that no other program uses it."
        raise CameraError(f"Camera {source} cannot be opened.", hint=hint)
    try:
        with Path(source).open("rb"):
            pass
    except OSError as err:
        raise CameraError(f"Cannot read {source}: {err.strerror}.", hint="Name a video file.") from err
    raise CameraError(f"{source} is not a video that can be read.", hint="Convert it to MP4 (H.264).")


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
    with _quiet():
        capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        trial = f"gst-launch-1.0 '{pipeline}'".replace("appsink drop=true max-buffers=1", "fakesink")
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps OpenCV's own warnings from the terminal; what went wrong is said by the error."""
    level = cv2.setLogLevel(0)
    try:
        yield
    finally:
        cv2.setLogLevel(level)
