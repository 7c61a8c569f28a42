"""Where what can be made again is kept. Standard library only."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def cache_folder() -> Path | None:
    """Where this user's rendered images and TensorRT's timings are kept; None where the user has no home."""
    with suppress(RuntimeError):
        if named := os.environ.get("SPLITE_CACHE"):
            return Path(named).expanduser()
        shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "splite-deploy"
    return None


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file whole and on the disk under another name, then gives it its own: others may be reading there.

    Raises:
        OSError: It cannot be written; what lay there lies there still.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
