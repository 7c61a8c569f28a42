"""Reads FlatBuffers that anybody may have written: every place is checked before anything is read from it.

The binary form is that of https://flatbuffers.dev/internals/: a table begins with the distance to its vtable, which
says where in the table each field lies; vectors and strings begin with their length, strings end in a zero.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

Record = dict[str, Any]
"""The fields of a table by name. A scalar is a number; a string is text; a vector of scalars is a tuple, of bytes a
memoryview; a table is a record; a vector of tables is a tuple of records; of a union there is the name of the table's
type in ``NAME_type``, empty where it has none. A field that is left out has its default, which is None for all but
scalars."""
_FIELD = re.compile(r"(\w+):(\[?)(\|?)([\w?]+)\]?(?:=(-?\d+))?")
_SIZES = {code: struct.calcsize(code) for code in "bB?hHiIqQfd"}
_BYTES = "B"
_MOST_TABLES = 400_000


class DamagedError(ValueError):
    """The bytes are no such FlatBuffer; the message is a clause about what is wrong."""


@dataclass(frozen=True)
class _Field:
    """One slot of a vtable: its name, how its number in the table is stored, and what that leads to."""

    name: str
    code: str
    target: str = ""
    vector: bool = False
    union: str = ""
    default: Any = None


@dataclass(frozen=True)
class _Layout:
    """Where the fields of all tables with one vtable lie."""

    size: int
    fields: struct.Struct
    names: tuple[str, ...]
    wide: tuple[int, ...]
    leading: tuple[tuple[_Field, int], ...]
    without: tuple[str, ...]


class Schema:
    """The tables of a format.

    Args:
        tables: Lines of a table's name and its fields, each ``NAME:TYPE`` and ``=DEFAULT``: a type is a letter of the
            module struct, ``s`` for a string, the name of a table, ``|`` with the name of a union, or any of the first
            three in brackets for a vector. An indented line goes on with the table before it.
        unions: The tables of each union, in the order of their numbers, which begin at 1.
    """

    def __init__(self, tables: str, unions: Mapping[str, str]) -> None:
        self.unions: dict[str, tuple[str, ...]] = {name: ("", *members.split()) for name, members in unions.items()}
        self.fields: dict[str, tuple[_Field, ...]] = {}
        self.defaults: dict[str, Record] = {}
        for line in tables.replace("\n ", " ").splitlines():
            kind, _, rest = line.partition(" ")
            fields = tuple(field for found in _FIELD.findall(rest) for field in _fields(*found))
            self.fields[kind] = fields
            self.defaults[kind] = {field.name: field.default for field in fields}


def _fields(name: str, vector: str, union: str, kind: str, default: str) -> tuple[_Field, ...]:
    if union:
        return (_Field(f"{name}_type", "B", default=""), _Field(name, "I", union=kind))
    if kind in _SIZES and not vector:
        return (_Field(name, kind, default=int(default or 0)),)
    return (_Field(name, "I", target=kind, vector=bool(vector)),)


def read_flatbuffer(data: bytes, schema: Schema, root: str) -> Record:
    """Reads the whole of a FlatBuffer.

    What is shared is read once; no more is read than the file is long, however its parts overlap.

    Args:
        data: The file.
        schema: Its format.
        root: Name of its outermost table.

    Raises:
        DamagedError: A table, vector or string does not lie within the file, or not where its type may lie.
    """
    return _Reader(data, schema).root(root)


class _Reader:
    def __init__(self, data: bytes, schema: Schema) -> None:
        self._data, self._view, self._size = data, memoryview(data), len(data)
        self._schema = schema
        self._layouts: dict[tuple[int, str], _Layout] = {}
        self._tables: dict[tuple[int, str], Record] = {}
        self._vectors: dict[tuple[int, str], Any] = {}
        self._left = 2 * self._size

    def root(self, kind: str) -> Record:
        return self._table(self._number(0, "the file"), kind)

    def _number(self, place: int, what: str) -> int:
        if place + 4 > self._size or place < 0:
            raise DamagedError(f"{what} lies beyond its end")
        return int.from_bytes(self._data[place : place + 4], "little")

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0 or len(self._tables) > _MOST_TABLES:
            raise DamagedError("its parts overlap, or there are too many of them")

    def _table(self, place: int, kind: str) -> Record:
        key = place, kind
        known = self._tables.get(key)
        if known is not None:
            return known
        if place & 3:
            raise DamagedError(f"a table ({kind}) lies at an odd place")
        distance = self._number(place, f"a table ({kind})")
        distance -= (distance & 0x80000000) << 1
        layout = self._layouts.get((place - distance, kind)) or self._layout(place - distance, kind)
        if place + layout.size > self._size:
            raise DamagedError(f"a table ({kind}) ends beyond its end")
        self._spend(layout.size)
        for offset in layout.wide:
            if (place + offset) & 7:
                raise DamagedError(f"a field of a table ({kind}) lies at an odd place")
        record = self._tables[key] = self._schema.defaults[kind].copy() if kind in self._schema.defaults else {}
        record.update(zip(layout.names, layout.fields.unpack_from(self._data, place + 4), strict=True))
        for name in layout.without:
            record[name] = ""
        for field, offset in layout.leading:
            record[field.name] = self._follow(record, field, place + offset, kind)
        return record

    def _follow(self, record: Record, field: _Field, place: int, kind: str) -> Any:
        """What a field leads to."""
        distance = record[field.name]
        target = place + distance
        if not distance or target >= self._size:
            raise DamagedError(f"{field.name} of a table ({kind}) lies beyond its end")
        if field.union:
            number, members = record[f"{field.name}_type"] or 0, self._schema.unions[field.union]
            record[f"{field.name}_type"] = name = members[number] if number < len(members) else f"type {number}"
            return self._table(target, name) if name else None
        if field.vector:
            return self._vector(target, field.target, f"{field.name} of a table ({kind})")
        if field.target == "s":
            return self._text(target, f"{field.name} of a table ({kind})")
        return self._table(target, field.target)

    def _layout(self, place: int, kind: str) -> _Layout:
        """Checks a vtable, for tables of one kind.

        Raises:
            DamagedError: It lies outside of the file, or a field outside of its table.
        """
        data = self._data
        what = f"the layout of a table ({kind})"
        if place < 0 or place & 1 or place + 4 > self._size:
            raise DamagedError(f"{what} lies beyond its end")
        length, size = struct.unpack_from("<HH", data, place)
        if length < 4 or length & 1 or place + length > self._size or size < 4:
            raise DamagedError(f"{what} ends beyond its end")
        self._spend(length)
        offsets = struct.unpack_from(f"<{length // 2 - 2}H", data, place + 4)
        fields = self._schema.fields.get(kind, ())
        if any(offset >= size for offset in offsets):
            raise DamagedError(f"{what} has fields beyond the table")
        present = [(offset, field) for offset, field in zip(offsets, fields, strict=False) if offset]
        present.sort(key=itemgetter(0))
        codes, end = "<", 4
        for offset, field in present:
            if offset < end or offset + _SIZES[field.code] > size or offset % min(_SIZES[field.code], 4):
                raise DamagedError(f"{what} has a field over another one, or at an odd place")
            codes += f"{offset - end}x{field.code}"
            end = offset + _SIZES[field.code]
        names = [field.name for _, field in present]
        found = _Layout(
            size,
            struct.Struct(codes),
            tuple(names),
            tuple(offset for offset, field in present if _SIZES[field.code] == 8),
            tuple((field, offset) for offset, field in present if field.target or field.union),
            tuple(f"{field.name}_type" for field in fields if field.union and field.name not in names),
        )
        self._layouts[place, kind] = found
        return found

    def _vector(self, place: int, kind: str, what: str) -> Any:
        """A vector of scalars, strings or tables."""
        key = place, kind
        known = self._vectors.get(key)
        if known is not None:
            return known
        if place & 3:
            raise DamagedError(f"{what} lies at an odd place")
        count, start = self._number(place, what), place + 4
        size = _SIZES.get(kind, 4)
        if start + count * size > self._size:
            raise DamagedError(f"{what} ends beyond its end")
        if kind == _BYTES:
            found: Any = self._view[start : start + count]
        elif size == 8 and start & 7 and count:
            raise DamagedError(f"{what} lies at an odd place")
        else:
            self._spend(count * size)
            found = struct.unpack_from(f"<{count}{kind if kind in _SIZES else 'I'}", self._data, start)
        if kind not in _SIZES:
            places = [start + 4 * index + offset for index, offset in enumerate(found)]
            found = tuple([self._text(one, what) if kind == "s" else self._table(one, kind) for one in places])
        self._vectors[key] = found
        return found

    def _text(self, place: int, what: str) -> str:
        """A string, with a mark in the place of what is no text."""
        key = place, "s"
        known: str | None = self._vectors.get(key)
        if known is not None:
            return known
        if place & 3:
            raise DamagedError(f"{what} lies at an odd place")
        end = place + 4 + self._number(place, what)
        if end >= self._size or self._data[end]:
            raise DamagedError(f"{what} ends beyond its end, or in no zero")
        self._spend(end - place)
        found = self._vectors[key] = self._data[place + 4 : end].decode("utf-8", "replace")
        return found
