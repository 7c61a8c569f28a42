"""Video files, written whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import cv2

from splite_deploy.errors import OptionError, OutputError, UsageError
from splite_deploy.files import whole_file, writing
from splite_deploy.runtime.io.native_name import native_name
from splite_deploy.runtime.preprocess import AnyImage, check_image

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""What OpenCV's own FFmpeg can write, by suffix."""

DEFAULT_FPS = 30.0


class Write(Protocol):
    """Takes the next frame."""

    def __call__(self, frame: AnyImage) -> None:
        """Appends an (H, W, 3) uint8 BGR frame; all have the size of the first."""


def check_video_name(path: Path) -> None:
    """Raises `UsageError` if the suffix names no format that can be written."""
    if path.suffix.lower() not in CODECS:
        raise OptionError(f"{path} has no video suffix.", hint=f"Use one of {', '.join(CODECS)}.")


def known_rate(fps: float) -> float | None:
    """Frames per second as OpenCV states them; None where it does not know them, which it states as 0, -1 or nan."""
    return fps if math.isfinite(fps) and fps > 0 else None


@contextmanager
def write_video(path: Path, fps: float | None) -> Iterator[Write]:
    """Writes frames to a file that is there, whole, when the block ends; not at all if the block fails.

    Args:
        path: Its suffix names the format, see `CODECS`.
        fps: Frames per second; `DEFAULT_FPS` if None.

    Raises:
        UsageError: The suffix names no format, or the rate is not a positive number.
        OutputError: The file cannot be written.
    """
    check_video_name(path)
    if fps is not None and known_rate(fps) is None:
        hint = f"Pass frames per second, or None for {DEFAULT_FPS:g}."
        raise UsageError(f"The frame rate {fps:g} of {path} is not a positive number.", hint=hint)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        writer = _Writer(partial, path, DEFAULT_FPS if fps is None else fps)
        try:
            yield writer
        finally:
            writer.release()
        writer.check()


class _Writer:
    def __init__(self, file: Path, shown: Path, fps: float) -> None:
        self._file, self._shown, self._fps = file, shown, fps
        self._writer: cv2.VideoWriter | None = None
        self._size: tuple[int, int] | None = None
        self._frames = 0

    def __call__(self, frame: AnyImage) -> None:
        frame = check_image(frame)
        size = (frame.shape[1], frame.shape[0])
        if self._writer is None:
            with writing(self._shown):  # OpenCV does not say why it cannot
                self._file.touch()
            codec = cv2.VideoWriter.fourcc(*CODECS[self._shown.suffix.lower()])
            with writing(self._shown), native_name(self._file) as name:
                self._writer, self._size = cv2.VideoWriter(name, codec, self._fps, size), size
            if not self._writer.isOpened():
                message = f"OpenCV cannot write {self._shown} at {self._fps:g} frames per second."
                raise OutputError(message, hint="Name a file that ends in .avi.")
        if size != self._size:
            hint = "Save each size to its own file."
            raise OutputError(f"The frames for {self._shown} change their size.", hint=hint)
        self._writer.write(frame)
        self._frames += 1

    def release(self) -> None:
        if self._writer is not None:
            self._writer.release()

    def check(self) -> None:
        """OpenCV does not report a disk that fills up: the file is read again."""
        with writing(self._shown), native_name(self._file) as name:
            capture = cv2.VideoCapture(name)
        found = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if found != self._frames or found == 0:
            message = f"{self._shown} could not be written: {found} of {self._frames} frames arrived."
            raise OutputError(message, hint="Free some space, or name another place.")
