"""Archives of arrays (``.npz``), read without trusting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import UsageError, first_line
from splite_deploy.spec.reading import ReadError, check_file


def read_npz(
    path: Path, hint: str = "Write it with numpy.savez(path, crops=crops, color='rgb'), crops being uint8."
) -> dict[str, NDArray[Any]]:
    """Reads all arrays of an ``.npz``; nothing is ever unpickled.

    Args:
        path: The archive.
        hint: How to write a right one.

    Raises:
        UsageError: The file is missing, damaged, no ``.npz``, or holds Python objects or other files.
    """
    try:
        check_file(path)
    except ReadError as err:
        raise UsageError(err.message, hint=hint) from err
    try:
        with path.open("rb") as stream:  # numpy leaves a file open that it opened and could not read
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it holds a single array without a name (.npy)")
            with loaded:
                arrays = dict(loaded)
        if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"its member '{others[0]}' is no array")
    except (
        Exception
    ) as err:  # of headers that are parsed as Python, of zip's kinds and flags; numpy passes on many kinds
        reason = (isinstance(err, OSError) and err.strerror) or first_line(err, named=not isinstance(err, ValueError))
        raise UsageError(f"{path} is not an .npz archive that can be read: {reason}.", hint=hint) from err
    return arrays
