"""The timing cache: the builder reuses the timings of earlier builds on the same device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from splite_deploy.errors import OutputError, UsageError
from splite_deploy.files import cache_folder, write_file

_KEYS = ("flavour", "tensorrt", "platform", "gpu", "compute_capability", "driver", "cuda")


def timing_file(named: str | None, facts: Mapping[str, str]) -> Path | None:
    """The file that stores timings.

    Args:
        named: A file, ``off``, or None for one in the user's cache folder, named after everything timings depend on.
        facts: See `splite_deploy.compile.tensorrt.target.facts_of`.
    """
    if named == "off":
        return None
    if named is not None:
        return Path(named)
    folder = cache_folder()
    key = hashlib.sha256(json.dumps([facts.get(name) for name in _KEYS]).encode()).hexdigest()[:16]
    return folder / f"trt-timings-{key}.cache" if folder is not None else None


def check_timing_file(named: str | None) -> None:
    """Refuses a file that cannot be one of timings before the build, which writes it in the end.

    TensorRT does not say how it writes timings; it is asked itself when the build begins, see `use_timings`.

    Args:
        named: As of `timing_file`.

    Raises:
        UsageError: It is no file, or begins as a text, a picture, an archive, a video or a network does.
    """
    if named in (None, "off"):
        return
    file = Path(named)
    try:
        with file.open("rb") as stream:
            begins = stream.read(_BEGINNING_BYTES)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as err:
        raise _no_timings(file) from err
    if begins.startswith(_OTHERS) or begins[4:8] in _OTHERS_AT_4 or (begins and _is_text(begins)):
        raise _no_timings(file)
    if begins and file.suffix.lower() in _SUFFIXES_OF_OTHERS:
        raise _no_timings(file)


_BEGINNING_BYTES = 4096
_OTHERS = b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"PK\x03\x04", b"\x1f\x8b", b"\x7fELF", b"%PDF"
_OTHERS_AT_4 = b"TFL3", b"ftyp"
_SUFFIXES_OF_OTHERS = frozenset(
    (
        ".onnx",
        ".tflite",
        ".engine",
        ".plan",
        ".pt",
        ".pth",
        ".pt2",
        ".ckpt",
        ".safetensors",
        ".json",
        ".toml",
        ".py",
        ".npz",
        ".npy",
        ".jpg",
        ".jpeg",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".ppm",
        ".avi",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".webm",
    )
)


def _is_text(begins: bytes) -> bool:
    """Whether it is UTF-8, perhaps cut within a character, without NUL."""
    try:
        begins.decode()
    except UnicodeDecodeError as err:
        if err.start < len(begins) - 3:
            return False
    return b"\0" not in begins


def _no_timings(file: Path) -> UsageError:
    message = f"--timing-cache {file} holds something else than timings that this TensorRT can use."
    return UsageError(message, hint="Name a new file with --timing-cache, or leave it out.")


def use_timings(config: Any, file: Path, *, named: bool = False) -> None:
    """Gives the builder the timings of the file; those of another device are ignored.

    Args:
        config: TensorRT's.
        file: The file.
        named: Whether the user named it: it is not replaced then if TensorRT cannot make anything of it.

    Raises:
        UsageError: It is named, and TensorRT cannot.
    """
    content = _read(file)
    cache = config.create_timing_cache(content)
    if cache is None and content and named:
        raise _no_timings(file)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def keep_timings(config: Any, file: Path) -> None:
    """Writes the builder's timings to the file; a file that cannot be written costs time, not the build.

    Another build may have written it meanwhile: its timings are merged.
    """
    cache = config.get_timing_cache()
    if cache is None:
        return
    with suppress(OSError, OutputError):
        file.parent.mkdir(parents=True, exist_ok=True)
        written = config.create_timing_cache(_read(file))
        if written is not None:
            cache.combine(written, True)
        write_file(file, bytes(cache.serialize()))


def _read(file: Path) -> bytes:
    with suppress(OSError):
        return file.read_bytes()
    return b""
