"""Links in a bundle's folder: to a file of the same folder they are files, anywhere else nothing is read or written."""

from __future__ import annotations

import os
from pathlib import Path

from splite_deploy.errors import BundleError


def refuse_link_out(file: Path) -> None:
    """Refuses a file of a bundle that is a link to anything outside of its folder, whether or not that exists.

    Raises:
        BundleError: It is.
    """
    try:
        leads_out = file.is_symlink() and Path(os.path.realpath(file)).parent != Path(os.path.realpath(file.parent))
    except (OSError, ValueError):  # no file has such a name
        return
    if leads_out:
        hint = "Copy the bundle with its files in the place of links: cp -rL."
        raise BundleError(f"{file} is a link that leads out of the bundle.", hint=hint)
