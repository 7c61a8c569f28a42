"""Video files of a kind that OpenCV cannot write: turned, with a variable rate, cut, damaged."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 120, 160
STEP = 10
"""Grey levels from a frame to the next."""


def frame(index: int) -> NDArray[np.uint8]:
    """The frame of this number: (HEIGHT, WIDTH, 3), a level of its own and some noise, a red square at the top left."""
    noise = np.random.default_rng(index).integers(-15, 16, (HEIGHT, WIDTH, 3))
    pixels = (noise + 20 + STEP * index).clip(0, 255).astype(np.uint8)
    pixels[:40, :40] = (0, 0, 255)
    return pixels


def index_of(pixels: NDArray[np.uint8]) -> int:
    """Which of them a decoded frame is, turned or not."""
    return round((float(np.median(pixels)) - 20) / STEP)


def write_clip(path: Path, frames: int = 20, fps: float = 10.0) -> Path:
    """Such a video; its suffix names the format."""
    codec = cv2.VideoWriter.fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
    writer = cv2.VideoWriter(str(path), codec, fps, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(frame(index))
    writer.release()
    return path


def turn(path: Path, degrees: int) -> Path:
    """Writes a turn, clockwise, into the track header of an MP4 file, as a phone does: the pixels stay as they are."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4
    matrix = start + (40 if data[start] == 0 else 52)
    cos, sin = (round(f(math.radians(degrees))) << 16 for f in (math.cos, math.sin))
    data[matrix : matrix + 36] = struct.pack(">9i", cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def at_times(path: Path, durations: Sequence[float]) -> Path:
    """Gives each frame of an MP4 file a duration of its own, as a part of the usual one.

    The table of times grows; OpenCV's writer puts it behind the frames, whose places therefore stay.
    """
    data = path.read_bytes()
    assert data.index(b"moov") > data.index(b"mdat")
    start = data.index(b"stts") - 4
    size, _, _, entries, _, usual = struct.unpack(">I4sIIII", data[start : start + 24])
    assert entries == 1
    rows = b"".join(struct.pack(">II", 1, round(usual * one)) for one in durations)
    table = struct.pack(">I4sII", 16 + len(rows), b"stts", 0, len(durations)) + rows
    grown = bytearray(data[:start] + table + data[start + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = data.index(name, data.index(b"moov")) - 4
        (old,) = struct.unpack(">I", grown[place : place + 4])
        grown[place : place + 4] = struct.pack(">I", old + len(table) - size)
    path.write_bytes(grown)
    (media_scale,) = struct.unpack_from(">I", grown, grown.index(b"mdhd") + 16)
    return trim_to(path, 0, sum(round(usual * one) for one in durations) / media_scale)


def trim_to(path: Path, begin_s: float, end_s: float) -> Path:
    """Sets the edit list of an MP4 file, by which an editor trims a video without touching its frames."""
    data = bytearray(path.read_bytes())
    (movie_scale,) = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)
    (media_scale,) = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)
    entry = data.index(b"elst") + 12
    struct.pack_into(">Ii", data, entry, round((end_s - begin_s) * movie_scale), round(begin_s * media_scale))
    path.write_bytes(data)
    return path


def cut(path: Path, part: float) -> Path:
    """Keeps this part of the file's bytes, from its begin on; of an MP4 file the index is put first, as on the web."""
    data = path.read_bytes()
    if path.suffix == ".mp4":
        data = index_first(data)
    path.write_bytes(data[: int(len(data) * part)])
    return path


def index_first(data: bytes) -> bytes:
    """An MP4 file with the index (moov) before the frames (mdat)."""
    start = data.index(b"moov") - 4
    (size,) = struct.unpack_from(">I", data, start)
    movie = bytearray(data[start : start + size])
    head = data.index(b"free") - 4 if b"free" in data[:64] else data.index(b"mdat") - 4
    table = movie.index(b"stco")
    (count,) = struct.unpack_from(">I", movie, table + 8)
    for place in range(table + 12, table + 12 + 4 * count, 4):
        struct.pack_into(">I", movie, place, struct.unpack_from(">I", movie, place)[0] + size)
    return data[:head] + bytes(movie) + data[head:start] + data[start + size :]


def spoil(path: Path, length: int = 600) -> Path:
    """Overwrites some bytes in the middle of the frames."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + length] = bytes(length)
    path.write_bytes(data)
    return path
