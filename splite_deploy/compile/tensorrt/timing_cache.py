"""The timing cache: the builder reuses the timings of earlier builds on the same device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from splite_deploy.errors import OutputError
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


def use_timings(config: Any, file: Path) -> None:
    """Gives the builder the timings of the file; those of another device or version are ignored."""
    cache = config.create_timing_cache(_read(file))
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
