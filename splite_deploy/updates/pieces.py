"""What two files have in common: one as pieces of the others, and what none of them has.

Files are cut where their content says so, a kilobyte apart on average: where the last 32 bytes have a certain hash.
Bytes that were put in or left out somewhere thus move the cuts near by alone, and pieces further on are found again,
wherever they lie by then. (The method of LBFS: Muthitacharoen, Chen, Mazieres, SOSP 2001; the hash is the gear hash of
Xia et al., Ddelta, 2014.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

_MEAN_BITS, _LEAST, _MOST = 10, 256, 1 << 14
_GEAR: NDArray[np.uint32] = np.frombuffer(
    b"".join(hashlib.sha256(bytes([value])).digest()[:4] for value in range(256)), "<u4"
).astype(np.uint32)
_AT_ONCE = 1 << 22
_WINDOW = 32

Piece = tuple[str, int, int]
"""A file's name, where a piece begins in it and how many bytes it has; with an empty name it is one of the new file."""


def cuts(content: bytes) -> list[int]:
    """Where pieces end, the end of the content last."""
    found: list[int] = []
    last = 0
    for place in _candidates(content):
        while place - last > _MOST:
            last += _MOST
            found.append(last)
        if place - last >= _LEAST:
            last = place
            found.append(last)
    while len(content) - last > _MOST:
        last += _MOST
        found.append(last)
    return [*found, len(content)] if last < len(content) else found


def _candidates(content: bytes) -> Iterator[int]:
    """Behind which bytes the hash says so; blocks overlap by the window, so that it is no matter where they begin."""
    mask = np.uint32(((1 << _MEAN_BITS) - 1) << (32 - _MEAN_BITS))
    for begin in range(0, len(content), _AT_ONCE):
        first = max(0, begin - _WINDOW + 1)
        sums = _GEAR[np.frombuffer(content, np.uint8, min(_AT_ONCE + begin, len(content)) - first, first)]
        width = 1
        while width < _WINDOW:  # of every byte the sum over the window before it, each byte shifted by its age
            sums[width:] += sums[:-width] << np.uint32(width)
            width *= 2
        for place in np.flatnonzero(sums & mask == 0).tolist():
            if first + place >= begin:
                yield first + place + 1


def found_again(content: bytes, old: Mapping[str, bytes]) -> list[Piece]:
    """A file as pieces of others, and pieces of its own where none of them has these bytes, in its order.

    Args:
        content: Of the file.
        old: Of the others by their names.
    """
    known: dict[bytes, tuple[str, int]] = {}
    for name, other in old.items():
        for begin, end in _pieces(other):
            known.setdefault(hashlib.sha256(other[begin:end]).digest(), (name, begin))
    made: list[Piece] = []
    for begin, end in _pieces(content):
        name, place = known.get(hashlib.sha256(content[begin:end]).digest(), ("", begin))
        if made and (made[-1][0], made[-1][1] + made[-1][2]) == (name, place):
            made[-1] = (name, made[-1][1], made[-1][2] + end - begin)
        else:
            made.append((name, place, end - begin))
    return made


def _pieces(content: bytes) -> Iterator[tuple[int, int]]:
    begin = 0
    for end in cuts(content):
        yield begin, end
        begin = end
