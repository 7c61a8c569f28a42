"""Archives of arrays (``.npz``), read without trusting them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import UsageError

_DAMAGED = (OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Reads all arrays of an ``.npz``; nothing is ever unpickled.

    Raises:
        UsageError: The file is missing, damaged, no ``.npz``, or holds Python objects.
    """
    try:
        with path.open("rb") as stream:  # numpy leaves a file open that it opened and could not read
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it holds a single array without a name (.npy)")
            with loaded:
                return dict(loaded)
    except _DAMAGED as err:
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err) or type(err).__name__
        raise UsageError(
            f"{path} is not an .npz archive that can be read: {reason}.",
            hint="Write it with numpy.savez(path, crops=crops, color='rgb'), crops being uint8.",
        ) from err
