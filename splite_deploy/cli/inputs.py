"""What a command reads besides the files that it is given, so that no result takes the place of any of them.

A file of labels names pictures, model.toml names code and ranges, an ONNX graph names its weights. They are looked for
only where a result would replace a file, and only those that a result would replace are told: labels may name a hundred
thousand pictures.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.files import is_file, is_folder, real_path

Named = tuple[str, Path]
"""A path, after what messages call it."""
_LINE = re.compile(r"(.+):(\d{1,9})")
_TEXT_BEGINS = b"{", b"[", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"


def line_of(named: Path) -> tuple[Path, int | None]:
    """What ``results.jsonl:2`` names: a file and the number of a line; None for a file alone, whatever its name."""
    found = _LINE.fullmatch(named.name)
    if found is None or is_file(named):
        return named, None
    return named.with_name(found.group(1)), int(found.group(2))


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle: others have a ``manifest.json``, too. Of those without one nothing is imported."""
    if not is_file(folder / "manifest.json"):
        return False
    from splite_deploy.bundle import new

    return new.is_bundle(folder)


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of installed bundles. Of those without a ``store.json`` nothing is imported."""
    if not is_file(folder / "store.json"):
        return False
    from splite_deploy.updates import store

    return store.is_store(folder)


def bundle_at(path: Path) -> Path:
    """The current bundle, where this is a store; else what was named.

    Raises:
        UpdateError: The store is damaged.
    """
    if not is_store(path):
        return path
    from splite_deploy.updates import Store

    return Store(path).current()


def store_around(place: Path, made: Path | None = None) -> Path | None:
    """The store that a real path lies in, or is.

    Args:
        place: Of a file or folder.
        made: What becomes a store.
    """
    return next((folder for folder in (place, *place.parents) if folder == made or is_store(folder)), None)


def check_places(outputs: Sequence[Named], bundle_made: Path | None, store_made: Path | None) -> None:
    """Refuses to write into a bundle or a store, whichever: their files have to be those that they themselves name.

    Args:
        outputs: What will be written.
        bundle_made: The one of them that becomes a bundle, or replaces one.
        store_made: What becomes a store, or is one.

    Raises:
        UsageError: An output lies in a bundle or a store.
    """
    store = None if store_made is None else real_path(store_made)
    for name, path in outputs:
        try:
            place = Path(os.path.realpath(path))
        except (OSError, ValueError):  # nothing can have such a name
            continue
        for folder in place.parents if path == bundle_made else (place, *place.parents):
            if is_bundle(folder):
                raise UsageError(
                    f"{name} {path} would write into the bundle {folder}.",
                    hint=f"Name another place with {name}.",
                )
        if (around := store_around(place, store)) is not None:
            raise UsageError(
                f"{name} {path} would write into the store {around}.",
                hint=f"Name another place with {name}; into a store only 'install' writes.",
            )


def read_along(inputs: Sequence[Named], outputs: Sequence[Named], *, made: str = "") -> list[Named]:
    """Files that are read with the inputs, as far as outputs would replace them.

    Args:
        inputs: What is read; what does not exist is passed over.
        outputs: What will be written.
        made: What the command makes anew and thus does not read: "model" for model.toml, "calibration" for the ranges
            that it names.
    """
    places = [path for _, path in outputs if is_file(path)]
    replaced = set(filter(None, map(_identity, places)))
    if not replaced:
        return []
    found = [(called, one) for called, path in inputs for one in _along(called, path, places, made)]
    return [(called, path) for called, path in found if _identity(path) in replaced]


def _along(called: str, path: Path, places: Sequence[Path], made: str) -> Iterator[Path]:
    if is_folder(path):
        yield path / "labels.json"
        yield from _pictures(path / "labels.json")
    elif is_file(path):
        beside = path.parent / "model.toml"
        yield path.parent / "arch.py"
        yield path.with_name(f"{path.name}.data")
        if made != "model":
            yield beside
            yield from _of_model(beside, made)
        if called in ("--model", "--reference-model"):
            yield from _of_model(path, made)
        yield from _pictures(path)
        yield from _weights(path, places)


def _identity(file: Path) -> tuple[int, int] | None:
    """The same for all names of a file; None of what is none."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _pictures(labels: Path) -> Iterable[Path]:
    """The pictures that a file names, if it is one of labels; the command says what is wrong with another."""
    try:
        with labels.open("rb") as stream:
            if not stream.read(200).lstrip().startswith(_TEXT_BEGINS):
                return []
    except OSError:
        return []
    from splite_deploy.metrics.labels import read_boxes, read_images

    found: list[Path] = []
    with suppress(SpliteError):
        found += read_images(labels)
    with suppress(SpliteError):
        found += [one.path for one in read_boxes(labels)]
    return dict.fromkeys(found)


def _of_model(file: Path, made: str) -> Iterator[Path]:
    """Files that a model.toml names, which may be wrong in any other way, but for what is made anew."""
    from splite_deploy.spec.reading import ReadError, read_toml

    data: dict[str, Any] = {}
    with suppress(ReadError):
        data = read_toml(file)
    named = [] if made == "calibration" else data.get("calibration", [])
    for name in named if isinstance(named, list) else [named]:
        if isinstance(name, str):
            yield file.parent / name
    for key in ("arch", "samples"):
        if isinstance(name := data.get(key), str) and name:
            yield file.parent / name.partition(":")[0]


def _weights(graph: Path, places: Sequence[Path]) -> Iterator[Path]:
    """Those of these files in the folder of a graph, by whatever name there, whose name is in the graph.

    The names of other files stand in an ONNX graph as they are, and it is read without onnx, which a device lacks.
    """
    if graph.suffix.lower() != ".onnx":
        return
    names: dict[str, Path] = {}
    with suppress(OSError, ValueError):
        folder = graph.parent.resolve()
        for place in places:
            if folder in (real := place.resolve()).parents:
                names[real.relative_to(folder).as_posix()] = real
        wanted = set(map(_identity, places))
        for entry in os.scandir(folder):
            if entry.name != graph.name and _identity(folder / entry.name) in wanted:
                names[entry.name] = folder / entry.name
        if not names:
            return
        with graph.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield from (file for name, file in names.items() if content.find(os.fsencode(name)) >= 0)
