"""Ways to spoil files: their bytes, and what their formats are made of. Knows nothing of the product.

Every mutator takes a ``random.Random``, which alone decides, and what to spoil; it gives the spoilt thing.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

Rng = random.Random

WORDS = (0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31)
WORDS = (*WORDS, (1 << 31) + 1, (1 << 32) - 16, (1 << 32) - 4, (1 << 32) - 1, 0x7F800000, 0x7FC00000, 0x7F7FFFFF)
LONG_WORDS = (*WORDS, 1 << 32, 1 << 40, (1 << 53) + 1, (1 << 62) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)

NUMBERS = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "3",
        "-0.0",
        "0.5",
        "1e-9",
        "255",
        "256",
        "4096",
        "65536",
        "100000",
        "2147483647",
        "2147483648",
    ),
    *(
        "-2147483649",
        "9223372036854775807",
        "9223372036854775808",
        "1e20",
        "1e38",
        "3.5e38",
        "-3.5e38",
        "1e155",
        "1e308",
        "-1e308",
        "1e-320",
        "1e999",
    ),
)
"""As JSON, TOML and Python write them."""
TEXTS = (
    *("", " ", "x", "0", "null", "é", "x" * 300, "x" * 5000, "../x", "/etc/passwd", "a/b", ".", "..", "/dev/zero", "-"),
    *("\0", "a\0b", "\n", "\x1b[31mred", "\x9b31m", "\u202e", "[/red]", "[bold]x", "[link=x]", "%s{}", "$(id)", "'; x"),
    *("NaN", "fp32", "int8", "float32", "bgr", "image", "keypoints", "\ud800"),
)
JSON_VALUES = (
    *NUMBERS,
    *(json.dumps(text) for text in TEXTS),
    *(
        "null",
        "true",
        "false",
        "[]",
        "{}",
        "[[]]",
        "[null]",
        '{"a": 1}',
        "NaN",
        "Infinity",
        "-Infinity",
        "[0, 0, 0, 0]",
    ),
    *("9" * 400, "-" + "9" * 400, "9" * 5000, "1" + "0" * 30, "1" * 400 + ".5", "[" * 50 + "]" * 50),
    *("[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000, "[" * 200_000, "[" + "0," * 3000 + "0]"),
)


# --- bytes ---


def spoil_bytes(rng: Rng, data: bytes, *, words: bool = False) -> bytes:
    """Changes a few places, truncates, extends, or moves parts.

    Args:
        rng: What decides.
        data: The file.
        words: Whether to prefer aligned words of four bytes, as binary formats of tables have them.
    """
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not new:
            return b"" if rng.random() < 0.5 else rng.randbytes(rng.randrange(1, 64))
        if words and rng.random() < 0.7:
            _spoil_word(rng, new)
        else:
            rng.choice(_BYTE_WAYS)(rng, new)
    return bytes(new)


def _place(rng: Rng, data: bytearray) -> int:
    """Somewhere, most often near the start, where formats have their headers, or near the end."""
    way = rng.random()
    if way < 0.4:
        return rng.randrange(min(len(data), 256))
    return len(data) - 1 - rng.randrange(min(len(data), 256)) if way < 0.6 else rng.randrange(len(data))


def _spoil_word(rng: Rng, data: bytearray) -> None:
    at = (_place(rng, data) if rng.random() < 0.4 else rng.randrange(len(data))) & ~3
    old = int.from_bytes(data[at : at + 4], "little")
    new = rng.choice((*WORDS, old + 1, old - 1, old + 4, old - 4, old * 2, old + 1000, -old)) & 0xFFFFFFFF
    data[at : at + 4] = new.to_bytes(4, "little")


def _flip(rng: Rng, data: bytearray) -> None:
    data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _set(rng: Rng, data: bytearray) -> None:
    data[_place(rng, data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _truncate(rng: Rng, data: bytearray) -> None:
    del data[rng.choice((0, 1, len(data) // 2, len(data) - 1, rng.randrange(len(data)), rng.randrange(len(data)))) :]


def _extend(rng: Rng, data: bytearray) -> None:
    data += rng.choice((bytes(rng.randrange(1, 64)), rng.randbytes(rng.randrange(1, 64)), bytes(data[:4096])))


def _delete(rng: Rng, data: bytearray) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 4, rng.randrange(1, 100)))]


def _repeat(rng: Rng, data: bytearray) -> None:
    at = _place(rng, data)
    part = bytes(data[at : at + rng.randrange(1, 100)])
    data[at:at] = part * rng.choice((1, 1, 3, 50))


def _clear(rng: Rng, data: bytearray) -> None:
    at = _place(rng, data)
    size = min(rng.choice((4, 16, 256)), len(data) - at)
    data[at : at + size] = bytes([rng.choice((0, 0xFF))]) * size


def _number(rng: Rng, data: bytearray) -> None:
    """A number of another order of magnitude, in one of the usual forms."""
    at, form = _place(rng, data), rng.choice(("<I", ">I", "<Q", ">Q", "<H", ">H", "<f", "<d"))
    size = struct.calcsize(form)
    if form[1] in "fd":
        value = rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45, 0.0))
        new = struct.pack(form, value)
    else:
        new = struct.pack(form, rng.choice(LONG_WORDS) & ((1 << 8 * size) - 1))
    data[at : at + size] = new[: len(data) - at]


def _swap(rng: Rng, data: bytearray) -> None:
    size = min(rng.choice((4, 16, 64)), max(1, len(data) // 2))
    one, other = rng.randrange(len(data) - size + 1), rng.randrange(len(data) - size + 1)
    first, second = bytes(data[one : one + size]), bytes(data[other : other + size])
    data[one : one + size], data[other : other + size] = second, first


_BYTE_WAYS: tuple[Callable[[Rng, bytearray], None], ...] = (
    *(_flip, _flip, _set, _set, _truncate, _truncate, _extend, _delete, _repeat, _clear, _number, _number, _swap),
)


# --- JSON and TOML ---


def spoil_json(rng: Rng, text: str, *, first: int = 3) -> str:
    """Changes values, keys and lists of a JSON text.

    Args:
        rng: What decides.
        text: The JSON.
        first: The most places that are changed.
    """
    raw: list[str] = []
    data = [json.loads(text)]
    same_kind = rng.random() < 0.4  # what gets behind the checks of types
    for _ in range(rng.randint(1, first)):
        places = list(_places(data))
        container, key = rng.choice(places)
        if same_kind:
            container[key] = _other_value(rng, container[key], raw)
        else:
            _spoil_place(rng, container, key, raw, places)
    new = json.dumps(data[0], indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.7)
    new = new.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return re.sub('"\ue000(\\d+)"|"\\\\ue000(\\d+)"', lambda match: raw[int(match[1] or match[2])], new)


def _places(data: Any) -> Any:
    """Every container with each of its keys."""
    stack = [data]
    while stack:
        one = stack.pop()
        for key in one if isinstance(one, dict) else range(len(one)):
            yield one, key
            if isinstance(one[key], dict | list):
                stack.append(one[key])


def _spoil_place(rng: Rng, container: Any, key: Any, raw: list[str], places: list[Any]) -> None:
    value = container[key]
    way = rng.random()
    if way < 0.35:
        container[key] = _other_value(rng, value, raw)
    elif way < 0.55:
        container[key] = _raw(raw, rng.choice(JSON_VALUES))
    elif way < 0.65 and len(container) > 1:
        del container[key]
    elif way < 0.72:
        other, place = rng.choice(places)
        container[key] = json.loads(json.dumps(other[place])) if place in other or isinstance(other, list) else None
    elif way < 0.78:
        container[key] = _raw(raw, f'{rng.choice(JSON_VALUES)}, "x": 1') if isinstance(container, dict) else [value]
    elif way < 0.84 and isinstance(container, dict):
        container[rng.choice((f"{key}_", key.upper(), "", *TEXTS, *container))] = container.pop(key)
    elif way < 0.9 and isinstance(value, list):
        container[key] = rng.choice(
            (value * 2, value[:-1], value[1:], value[::-1], value * 500, [value], [*value, None])
        )
    else:
        container[key] = rng.choice(([value], {"a": value}, [value, value], None, str(value)[:100]))


def _raw(raw: list[str], text: str) -> str:
    """A place holder for text that ``json.dumps`` would not write."""
    raw.append(text)
    return f"\ue000{len(raw) - 1}"


def _other_value(rng: Rng, value: Any, raw: list[str]) -> Any:
    """One of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        near = (value + 1, value - 1, -value, value * 2, value * 1000, value / 7, value + 0.5, value // 1 * 16 + 1)
        return rng.choice(near) if rng.random() < 0.5 else _raw(raw, rng.choice(NUMBERS))
    if isinstance(value, str):
        changed = (
            value + "x",
            value[:-1],
            value.upper(),
            value * 30,
            value[::-1],
            f" {value}",
            value + rng.choice(TEXTS),
        )
        return rng.choice(changed) if rng.random() < 0.5 else rng.choice(TEXTS)
    if isinstance(value, list) and value:
        return rng.choice((value[:-1], value[1:], value[::-1], [*value, value[0]], value * 2, value * 100))
    return rng.choice(([], {}, None, 0, ""))


_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\btrue\b|\bfalse\b|\bnull\b|[\[\]{},:=]')


def spoil_tokens(rng: Rng, text: str) -> str:
    """Replaces, drops or repeats a few numbers, texts and brackets of JSON or TOML."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        tokens = list(_TOKEN.finditer(text))
        if not tokens:
            return text + rng.choice(JSON_VALUES)
        token = rng.choice(tokens)
        new = rng.choice((rng.choice(JSON_VALUES), rng.choice(NUMBERS), "", token[0] * 2, rng.choice(tokens)[0]))
        text = text[: token.start()] + new + text[token.end() :]
    return text.encode("utf-8", "replace").decode()


def spoil_lines(rng: Rng, text: str) -> str:
    """Drops, repeats or moves lines, or gives a key another value, as an editor's slip would."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        way = rng.random()
        if way < 0.6 and "=" in lines[at]:
            key = lines[at].partition("=")[0]
            extra = ("1979-05-27", "07:32:00", "0x7fffffff", "nan", "inf", "-inf", "[[1, 2], 3]", "{a = 1}", "'''", "")
            lines[at] = f"{key}= {rng.choice((*extra, *JSON_VALUES))}"
        elif way < 0.7:
            lines[at] = rng.choice(
                ("[x]", "[input]", "[decoder]", "[[input]]", "[limits]", "=", "a.b.c = 1", "#", "[", '"')
            )
        elif way < 0.8 and len(lines) > 1:
            del lines[at]
        elif way < 0.9:
            lines.insert(rng.randrange(len(lines)), lines[at])
        else:
            lines[at] = spoil_tokens(rng, lines[at])
    return "\n".join(lines).encode("utf-8", "replace").decode() + "\n"


def spoil_text(rng: Rng, text: str, *ways: Callable[[Rng, str], str]) -> bytes:
    """One of the given ways, or now and then bytes."""
    if rng.random() < 0.15:
        return spoil_bytes(rng, text.encode())
    return rng.choice(ways)(rng, text).encode("utf-8", "surrogatepass")


# --- Protocol Buffers: https://protobuf.dev/programming-guides/encoding ---

Field = list[Any]
"""Number, wire type, value: an int, bytes, or the fields of a message."""


def spoil_protobuf(rng: Rng, data: bytes) -> bytes:
    """Changes numbers, texts and messages of a protobuf file and writes all lengths right."""
    tree = _message(data, 0)
    if tree is None:
        return spoil_bytes(rng, data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        all_fields = [(fields, index) for fields in _messages(tree) for index in range(len(fields))]
        if not all_fields:
            break
        _spoil_field(rng, *rng.choice(all_fields), all_fields)
    return _written(tree)


def _message(data: bytes, depth: int) -> list[Field] | None:
    fields, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if at < 0 or number == 0 or number > 1000:
            return None
        value: Any
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = data[at : at + size], at + size
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
            inner = _message(value, depth + 1) if size and depth < 8 and size < 100_000 else None
            value = value if inner is None or at > len(data) else inner
        else:
            return None
        if at < 0 or at > len(data):
            return None
        fields.append([number, wire, value])
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            return 0, -1
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
    return 0, -1


def _messages(tree: list[Field]) -> Any:
    stack = [tree]
    while stack:
        fields = stack.pop()
        yield fields
        stack += [value for _, _, value in fields if isinstance(value, list)]


def _spoil_field(rng: Rng, fields: list[Field], index: int, all_fields: list[Any]) -> None:
    number, wire, value = fields[index]
    way = rng.random()
    if way < 0.15:
        del fields[index]
    elif way < 0.25:
        fields.insert(index, fields[index])
    elif way < 0.32:
        fields[index] = [rng.choice((number + 1, max(1, number - 1), rng.randrange(1, 30))), wire, value]
    elif way < 0.4:
        other, place = rng.choice(all_fields)
        fields[index] = [number, *deepcopy(other[place][1:])]  # a message in itself would have no end
    elif wire == 0:
        fields[index] = [number, 0, rng.choice((*LONG_WORDS, value + 1, value * 2, rng.randrange(24), 0, 1))]
    elif wire in (1, 5):
        fields[index] = [number, wire, spoil_bytes(rng, value)[: len(value)].ljust(len(value), b"\0")]
    elif isinstance(value, list):
        fields[index] = [number, 2, rng.choice(([], value[::-1], value * 2, b"", value[1:], value[:-1]))]
    else:
        text = rng.choice(TEXTS).encode("utf-8", "replace")
        fields[index] = [number, 2, rng.choice((text, spoil_bytes(rng, value), value[:-1], value * 2, b""))]


def _written(tree: list[Field]) -> bytes:
    out = bytearray()
    for number, wire, value in tree:
        out += _as_varint(number << 3 | wire)
        if wire == 0:
            out += _as_varint(value & ((1 << 64) - 1))
            continue
        content = _written(value) if isinstance(value, list) else value
        out += (_as_varint(len(content)) if wire == 2 else b"") + content
    return bytes(out)


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


# --- objects, such as those that a generated reader of FlatBuffers makes ---


def spoil_objects(rng: Rng, root: Any) -> str:
    """Changes numbers, texts and lists of nested objects in place; says which."""
    places = list(_attributes(root))
    said = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, name, value = rng.choice(places)
        new = _other_attribute(rng, value)
        said.append(f"{type(holder).__name__}.{name}")
        if isinstance(holder, list):
            holder[name] = new
        else:
            setattr(holder, name, new)
    return ", ".join(said)


def _attributes(root: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Every object with each of its attributes, and every list with some of its items."""
    stack = [root]
    while stack:
        one = stack.pop()
        items = list(enumerate(one))[:8] if isinstance(one, list) else list(vars(one).items())
        for name, value in items:
            yield one, name, value
            if isinstance(value, list) or hasattr(value, "__dict__"):
                stack.append(value)


def _other_attribute(rng: Rng, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        extremes = (0, 1, -1, 2, 7, 100, 255, 1000, 1 << 16, (1 << 31) - 1, -(1 << 31), value + 1, value - 1, value * 2)
        return rng.choice(extremes)
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30, value * 2))
    if isinstance(value, bytes | str):
        return rng.choice((value[:-1], value * 3, value[:0], *(text.encode("utf-8", "replace") for text in TEXTS)))
    if isinstance(value, list) and value:
        return rng.choice((value[:-1], value[1:], value[::-1], value * 2, [], None, value[:1] * 50))
    if hasattr(value, "__len__") and len(value):  # an array of numbers, such as a shape or a buffer
        array = value.copy()
        way = rng.random()
        if way < 0.5:
            array[rng.randrange(len(array))] = rng.choice((0, 1, -1, 3, 100, 127)) % 128
            return array
        return rng.choice((value[:-1], value[1:], value[::-1], value[:0], value[:1], value.repeat(2), None))
    return None


# --- archives, tensors and pictures ---


def spoil_zip(rng: Rng, data: bytes, spoil: Callable[[Rng, str, bytes], bytes]) -> bytes:
    """Writes an archive anew in which a member is spoilt, missing, doubled or called otherwise.

    Args:
        rng: What decides.
        data: The archive.
        spoil: Spoils the content of a member, by its name.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    way = rng.random()
    if way < 0.75:
        members[at] = (name, spoil(rng, name, content))
    elif way < 0.83:
        del members[at]
    elif way < 0.9:
        members[at] = (rng.choice((name + "x", "../" + name, "x/" + name, name.upper(), "/" + name)), content)
    else:
        members.append((name, spoil(rng, name, content)))
    out = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", kind) as archive:
        seen = set()
        for name, content in members:
            if name not in seen:  # zipfile warns of the second one
                archive.writestr(name, content)
            seen.add(name)
    return out.getvalue()


def spoil_safetensors(rng: Rng, data: bytes) -> bytes:
    """Changes the header, whose length is then right, or the numbers behind it."""
    size = int.from_bytes(data[:8], "little")
    header, content = data[8 : 8 + size].decode(), data[8 + size :]
    if rng.random() < 0.25:
        return data[: 8 + size] + spoil_floats(rng, content)
    new = spoil_text(rng, header, spoil_json, spoil_json, spoil_tokens)
    new += b" " * (-len(new) % 8 if rng.random() < 0.9 else 3)
    return len(new).to_bytes(8, "little") + new + content


def spoil_floats(rng: Rng, content: bytes, form: str = "<f") -> bytes:
    """Puts NaN, infinity, or numbers near the ends of the type into an array of floats."""
    data, size = bytearray(content), struct.calcsize(form)
    count = len(data) // size
    if not count:
        return content
    value = rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45, 1e20, -1e30, 0.0, 1e4))
    first = rng.randrange(count)
    for at in range(first, min(count, first + rng.choice((1, 1, 8, 1000, count)))):
        struct.pack_into(form, data, at * size, value)
    return bytes(data)


def spoil_png(rng: Rng, data: bytes) -> bytes:
    """Changes the content of a chunk, with the checksum made right, or drops or repeats chunks."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    index = rng.randrange(len(chunks)) if rng.random() < 0.5 else 0
    name, content = chunks[index]
    way = rng.random()
    if way < 0.7 and name == b"IHDR":
        size = [*struct.unpack(">II", content[:8])]
        size[rng.randrange(2)] = rng.choice((0, 1, 3, 32767, 32768, 65535, 100_000, 1 << 20, (1 << 31) - 1))
        depth = bytes(rng.choice((old, old, rng.randrange(20))) for old in content[8:])
        content = struct.pack(">II", *size) + depth
        chunks[index] = (name, content)
    elif way < 0.85:
        chunks[index] = (name, spoil_bytes(rng, content))
    elif way < 0.92:
        del chunks[index]
    else:
        chunks.insert(rng.randrange(len(chunks) + 1), (rng.choice((name, b"tRNS", b"eXIf", b"gAMA", b"PLTE")), content))
    out = bytearray(data[:8])
    for name, content in chunks:
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return bytes(out)
