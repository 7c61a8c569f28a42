"""What the package brings along for its demo: the bundles of a detector and of a hand network, and a rendered picture.

``make demo-bundles`` makes them of the checkpoints in ``models/`` (`models/make_demo.py`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from splite_deploy.bundle.manifest import MANIFEST
from splite_deploy.bundle.new import new_bundle
from splite_deploy.bundle.store import Bundle
from splite_deploy.errors import BundleError
from splite_deploy.files import anything_at, is_file, names_like, writing

PACKAGED = Path(__file__).parents[1] / "demo"
HAND, PALM, PICTURE = "hand.splite", "palm.splite", "hands.jpg"


def packaged(name: str) -> Path:
    """Where one of them lies.

    Raises:
        BundleError: It is not there: somebody left out the data of the package.
    """
    path = PACKAGED / name
    if not anything_at(path):
        raise BundleError(
            f"{path} is missing, which is a part of this package.",
            hint="Install the package again: pip install --force-reinstall --no-deps splite-deploy.",
        )
    return path


def copy_packaged(name: str, folder: Path) -> Bundle:
    """A copy of a packaged bundle in a folder of the user's, where nothing is replaced.

    A copy that is there already is taken, if it is whole. Where something else has the name, the copy gets one like it.

    Args:
        name: `HAND` or `PALM`.
        folder: Exists.

    Raises:
        BundleError: The package lacks it.
        OutputError: It cannot be written.
    """
    source = packaged(name)
    for place in names_like(folder / name):
        if _is_copy(place, source):
            return Bundle.open(place)
        if not anything_at(place):
            with new_bundle(place) as made, writing(place):
                for file in _files(source):
                    shutil.copyfile(file, made / file.name)
            return Bundle.open(place)
    raise AssertionError


def _files(bundle: Path) -> list[Path]:
    return sorted(file for file in bundle.iterdir() if is_file(file))


def _is_copy(place: Path, source: Path) -> bool:
    """Whether a folder holds the files of the other one, byte by byte; others may lie beside them."""
    if not is_file(place / MANIFEST):
        return False
    try:
        return all((place / file.name).read_bytes() == file.read_bytes() for file in _files(source))
    except OSError:
        return False
