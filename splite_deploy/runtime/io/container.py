"""What a video file says about itself: whether it is one, whether it is as long as it states, how many frames it shows.

OpenCV tells none of that. A file that lacks its second half ends for it like any other; a playlist is read by FFmpeg
like a video, and what it names as well: files of other folders, or addresses. So the container is looked at before
FFmpeg is. ISO/IEC 14496-12 describes the boxes of MP4 and MOV, RFC 8794 and 9559 the elements of Matroska and WebM,
Microsoft's "AVI RIFF File Reference" the chunks of AVI.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import CameraError

_BOXES = frozenset(b"ftyp moov mdat free skip wide pnot uuid meta udta moof mfra styp sidx ssix emsg prft pdin".split())
"""Boxes at the top level of a file. Anything else is rubbish at its end, which players pass over."""
_STREAMS = (b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
"""What FLV, ASF, Ogg, MPEG programme streams and MPEG-1 begin with. They do not say how long they are."""
_PACKET = 188
"""Bytes of a packet of an MPEG transport stream, each of which begins with 0x47."""
_MOST_MOOV = 1 << 28
_MOST_FRAMES = 10_000_000

_DEVICE = re.compile(r"/dev/video(\d+)")
_ONE_SLASH = re.compile(r"(rtsps?|udp):/*", re.IGNORECASE)

READABLE = "Convert it to MP4 (H.264), for example: ffmpeg -i VIDEO -pix_fmt yuv420p video.mp4"


@dataclass(frozen=True)
class Container:
    """What a video file states.

    Attributes:
        counts: Whether it states the number of its frames; otherwise OpenCV's number is an estimate by the duration.
        missing_bytes: How many bytes it states and does not have.
        shown: Frames between the marks of its edit list, which an editor sets to trim a video without changing it;
            None where there is no such list, or where it takes all frames.
    """

    counts: bool
    missing_bytes: int = 0
    shown: int | None = None


def examine(file: Path) -> Container:
    """What the file states.

    Args:
        file: Of a video.

    Raises:
        CameraError: It cannot be read, is no file (but a folder, a device, a pipe), or holds no video.
    """
    try:
        with open(file, "rb", opener=_without_waiting) as stream:
            state = os.fstat(stream.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise CameraError(
                    f"{file} is no file.", hint=camera_meant(file) or "Name a video file, or a camera by its number."
                )
            head = stream.read(2 * _PACKET)
            if head[4:8] in _BOXES:
                return _mp4(stream, file, state.st_size)
            if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
                return Container(counts=True, missing_bytes=_riff(stream, state.st_size))
            if head[:4] == b"\x1a\x45\xdf\xa3":
                return Container(counts=False, missing_bytes=_matroska(head, state.st_size))
    except OSError as err:
        raise CameraError(
            f"Cannot read {file}: {err.strerror or err}.", hint=camera_meant(file) or "Name a video file."
        ) from err
    except ValueError as err:  # of a name with a NUL
        raise CameraError(f"Cannot read {file}: {err}.", hint="Name a video file.") from err
    if head.startswith(_STREAMS) or (head[:1] == b"\x47" and head[_PACKET : _PACKET + 1] == b"\x47"):
        return Container(counts=False)
    if head.startswith((b"#EXTM3U", b"ffconcat")):
        raise CameraError(f"{file} is a list of videos, which is not followed.", hint="Name the videos themselves.")
    raise CameraError(f"{file} is not a video that can be read.", hint=READABLE)


def camera_meant(file: Path) -> str:
    """How to name the camera that somebody means who names this as a file; empty where it looks like none."""
    name = os.fspath(file)
    if device := _DEVICE.fullmatch(name):
        return f"Name this camera {device[1]}: cameras are named by their number."
    if protocol := _ONE_SLASH.match(name):
        return f"If it is a camera's address, it lacks a slash: write {protocol[1]}://{name[protocol.end() :]}"
    return ""


def _without_waiting(name: str, flags: int) -> int:
    """Opens a pipe at once, which would otherwise wait for somebody who writes to it."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _mp4(stream: BinaryIO, file: Path, size: int) -> Container:
    place, missing, counts, shown, described = 0, 0, False, None, False
    while place + 8 <= size:
        stream.seek(place)
        head = stream.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        if kind not in _BOXES:
            break
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
            start = 16
        else:
            start = 8
        end = size if length == 0 else place + max(length, start)
        missing = max(end - size, 0)
        described |= kind in (b"moov", b"moof")
        if kind == b"moov" and not missing and end - place <= _MOST_MOOV:
            stream.seek(place + start)
            counts, shown = _movie(stream.read(end - place - start))
        place = end
    if missing and not described:  # FFmpeg would say so too, on the standard error of whose program this is
        hint = "Copy it again from where it was recorded."
        raise CameraError(f"{file} is cut: {missing:,} bytes at its end are missing.", hint=hint)
    return Container(counts, missing, shown)


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of the boxes in a box, as far as they are whole."""
    place = 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if length < 8 or place + length > len(data):
            return
        yield kind, data[place + 8 : place + length]
        place += length


def _movie(data: bytes) -> tuple[bool, int | None]:
    """Whether the video track states its frames, and how many of them its edit list shows if not all."""
    boxes = list(_children(data))
    scale = next((_scale(body) for kind, body in boxes if kind == b"mvhd"), 0)
    for kind, track in boxes:
        if kind != b"trak":
            continue
        parts = dict(_children(track))
        media = dict(_children(parts.get(b"mdia", b"")))
        if media.get(b"hdlr", b"")[8:12] != b"vide":
            continue
        table = dict(_children(dict(_children(media.get(b"minf", b""))).get(b"stbl", b"")))
        times = _times(table.get(b"stts", b""), table.get(b"ctts", b""))
        if times is None:
            return False, None
        edits = _edits(dict(_children(parts.get(b"edts", b""))).get(b"elst", b""))
        media_scale = _scale(media.get(b"mdhd", b""))
        if not edits or not scale or not media_scale:
            return True, None
        shown = 0
        for duration, begin in edits:
            if begin >= 0:  # below 0 it is a pause
                end = begin + duration * media_scale / scale if duration else np.inf
                shown += int(((times >= begin) & (times < end)).sum())
        return True, shown if shown < len(times) else None
    return False, None


def _scale(header: bytes) -> int:
    """Ticks in a second, of mvhd or mdhd."""
    place = 20 if header[:1] == b"\x01" else 12
    return int(struct.unpack_from(">I", header, place)[0]) if len(header) >= place + 4 else 0


def _table(data: bytes, kind: str) -> NDArray[np.int64]:
    """(N, 2) the rows of a table that begins with version, flags and number; rows that are not there are left out."""
    count = struct.unpack_from(">I", data, 4)[0] if len(data) >= 8 else 0
    count = min(count, max(len(data) - 8, 0) // 8)
    rows = np.frombuffer(data, np.dtype([("times", ">u4"), ("value", kind)]), count, 8) if count else None
    if rows is None:
        return np.zeros((0, 2), np.int64)
    return np.stack([rows["times"].astype(np.int64), rows["value"].astype(np.int64)], axis=1)


def _times(stts: bytes, ctts: bytes) -> NDArray[np.int64] | None:
    """(N,) when each frame is shown, in ticks; None where there are none, or more than anybody can film."""
    durations, shifts = _table(stts, ">u4"), _table(ctts, ">i4")
    total = int(durations[:, 0].sum())
    if not 0 < total <= _MOST_FRAMES:
        return None
    steps = np.repeat(durations[:, 1], durations[:, 0])
    times = np.cumsum(steps) - steps
    if 0 < shifts[:, 0].sum() == total:
        times = times + np.repeat(shifts[:, 1], shifts[:, 0])
    return times


def _edits(data: bytes) -> list[tuple[int, int]]:
    """Duration in ticks of the movie, and begin in ticks of the track, of each part that is shown."""
    if len(data) < 8:
        return []
    form = ">QqI" if data[0] == 1 else ">IiI"
    room = (len(data) - 8) // struct.calcsize(form)
    count = min(struct.unpack_from(">I", data, 4)[0], room)
    return [struct.unpack_from(form, data, 8 + i * struct.calcsize(form))[:2] for i in range(count)]


def _riff(stream: BinaryIO, size: int) -> int:
    """How many bytes the chunks of an AVI file lack; recorders that were switched off left no length."""
    place = 0
    while place + 12 <= size:
        stream.seek(place)
        name, length, _ = struct.unpack("<4sI4s", stream.read(12))
        if name != b"RIFF" or length in (0, 0xFFFFFFFF):
            return 0
        place += 8 + length + length % 2
    return place - size if place > size + 1 else 0


def _matroska(head: bytes, size: int) -> int:
    """How many bytes the segment of a Matroska file lacks; 0 where it does not state its length."""
    place = 4
    length, place = _number(head, place)
    place += length or 0
    if head[place : place + 4] != b"\x18\x53\x80\x67":
        return 0
    length, place = _number(head, place + 4)
    return max(place + length - size, 0) if length is not None else 0


def _number(data: bytes, place: int) -> tuple[int | None, int]:
    """A length of EBML, None where it is unknown, and where it ends; see section 4 of RFC 8794."""
    first = data[place] if place < len(data) else 0
    octets = 9 - first.bit_length()
    if octets > 8 or place + octets > len(data):
        return None, len(data)
    value = int.from_bytes(data[place : place + octets], "big") & ((1 << 7 * octets) - 1)
    return (None if value == (1 << 7 * octets) - 1 else value), place + octets
