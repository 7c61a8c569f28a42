"""What a picture file says about itself before it is decoded: size, depth, how it is turned, whether it is whole.

A file of some hundred bytes may state a picture of gigabytes, 12-bit cameras write their values into 16 bits, and which
formats are turned by their EXIF entry differs from OpenCV to OpenCV (WebP: 5.0, not 4.11). Sources: the PNG
specification (third edition), ITU-T T.81 for JPEG, TIFF 6.0 and EXIF 2.3, Google's "WebP Container Specification",
Microsoft's BITMAPINFOHEADER, and Netpbm's manuals.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Header:
    """What a picture file states.

    Attributes:
        format: Its format, by its first bytes and not by its name.
        height: In pixels, as it is stored.
        width: In pixels, as it is stored.
        bits: Of a sample.
        floating: Whether samples are floating-point numbers.
        significant_bits: How many of those bits the file says are in use; None where it does not.
        turn: EXIF's orientation, 1 to 8; 1 is upright.
        pictures: How many it holds: frames of an animation, pages; 2 stands for any number above 1.
        whole: False where its end is missing.
    """

    format: str
    height: int
    width: int
    bits: int = 8
    floating: bool = False
    significant_bits: int | None = None
    turn: int = 1
    pictures: int = 1
    whole: bool = True


def begins_as(data: bytes) -> str:
    """The format whose mark a file begins with, though its header may be broken; empty where none that is distinct."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    marks = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", **dict.fromkeys(TIFF_MARKS, "TIFF")}
    return next((name for mark, name in marks.items() if data.startswith(mark)), "")


def read_header(data: bytes) -> Header | None:
    """The header of an encoded picture; None where it has none that is known, or a broken one."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] in TIFF_MARKS:
            return _tiff(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        return _netpbm(data)
    except (struct.error, IndexError):
        return None


def _png(data: bytes) -> Header | None:
    if data[12:16] != b"IHDR":
        return None
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    place, significant, turn, pictures, whole = 8, None, 1, 1, False
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        body = memoryview(data)[place + 8 : place + 8 + length]
        if kind == b"sBIT" and len(body) > 0:
            significant = max(body[:3])
        elif kind == b"eXIf":
            turn = _orientation(bytes(body))
        elif kind == b"acTL" and len(body) >= 4 and int.from_bytes(body[:4], "big") > 1:
            pictures = 2
        elif kind == b"IEND":
            whole = place + 12 + length <= len(data)
            break
        place += 12 + length
    return Header("PNG", height, width, bits, False, significant, turn, pictures, whole)


def _jpeg(data: bytes) -> Header | None:
    place, turn, size = 2, 1, None
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            place += 1
            continue
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:
            place += 2
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        body = place + 4
        if marker == 0xE1 and data[body : body + 6] == b"Exif\0\0" and turn == 1:
            turn = _orientation(data[body + 6 : place + 2 + length])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = struct.unpack_from(">BHH", data, body)
        elif marker == 0xDA:
            if size is None:
                return None
            return Header("JPEG", size[1], size[2], size[0], turn=turn, whole=data.find(b"\xff\xd9", body) >= 0)
        place += 2 + length
    return None


def _webp(data: bytes) -> Header | None:
    kind = data[12:16]
    whole = struct.unpack_from("<I", data, 4)[0] + 8 <= len(data)
    if kind == b"VP8X":
        flags = data[20]
        width, height = (1 + int.from_bytes(data[place : place + 3], "little") for place in (24, 27))
        turn, place = 1, 12
        while flags & 0x08 and place + 8 <= len(data):
            name, length = struct.unpack_from("<4sI", data, place)
            if name == b"EXIF":
                body = data[place + 8 : place + 8 + length]
                turn = _orientation(body[6:] if body.startswith(b"Exif\0\0") else body)
                break
            place += 8 + length + length % 2
        return Header("WebP", height, width, turn=turn, pictures=2 if flags & 0x02 else 1, whole=whole)
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", (packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1, whole=whole)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WebP", height & 0x3FFF, width & 0x3FFF, whole=whole)
    return None


_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Bytes of the headers that there are."""


def _bmp(data: bytes) -> Header | None:
    (size,) = struct.unpack_from("<I", data, 14)
    if size not in _BMP_HEADERS:  # two letters alone may begin any text
        return None
    width, height = struct.unpack_from("<HH", data, 18) if size == 12 else struct.unpack_from("<ii", data, 18)
    return Header("BMP", abs(height), abs(width))


def _netpbm(data: bytes) -> Header | None:
    found = re.match(rb"P[1-6](?:\s+|#[^\n]*\n)+(\d{1,9})(?:\s+|#[^\n]*\n)+(\d{1,9})\s", data[:4096])
    return Header("PNM", int(found[2]), int(found[1])) if found else None


_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""Types of TIFF's entries that hold whole numbers."""


def _entries(data: bytes) -> tuple[dict[int, int], int] | None:
    """The first whole number of each entry of a TIFF file's first directory, and where the next directory is."""
    order = "<" if data.startswith(b"II") else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    place = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, place)[0]
    place, room = place + (8 if big else 2), 8 if big else 4
    found: dict[int, int] = {}
    if count > 4096:
        return None
    for _ in range(count):
        tag, kind = struct.unpack_from(order + "HH", data, place)
        number = struct.unpack_from(order + ("Q" if big else "I"), data, place + 4)[0]
        form = _INTEGERS.get(kind)
        if form is not None and number > 0:
            value = place + 4 + room
            if struct.calcsize(form) * number > room:
                value = struct.unpack_from(order + ("Q" if big else "I"), data, value)[0]
            if 0 <= value <= len(data) - struct.calcsize(form):
                found[tag] = struct.unpack_from(order + form, data, value)[0]
        place += 4 + 2 * room
    following = struct.unpack_from(order + ("Q" if big else "I"), data, place) if place + room <= len(data) else (0,)
    return found, following[0]


def _tiff(data: bytes) -> Header | None:
    found = _entries(data)
    if found is None:
        return None
    entries, following = found
    if 256 not in entries or 257 not in entries:
        return None
    bits, largest = entries.get(258, 1), entries.get(281)
    significant = None if largest is None else largest.bit_length()
    return Header(
        "TIFF",
        entries[257],
        entries[256],
        bits,
        floating=entries.get(339, 1) == 3,
        significant_bits=significant,
        turn=entries.get(274, 1),
        pictures=2 if following else 1,
    )


def _orientation(exif: bytes) -> int:
    """Of EXIF data, which has the form of a TIFF file; 1 where it does not say."""
    try:
        found = _entries(exif) if exif[:4] in TIFF_MARKS else None
    except struct.error:
        return 1
    turn = 1 if found is None else found[0].get(274, 1)
    return turn if 1 <= turn <= 8 else 1
