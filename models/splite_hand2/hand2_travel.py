"""Tiles on their way to another machine: a twentieth of their size, as pictures. For the developer's machine.

    python models/splite_hand2/hand2_travel.py pack runs/hand2/tiles packed     # where the photographs are
    python models/splite_hand2/hand2_travel.py unpack packed runs/hand2/tiles   # where the training is

Of 1.5 GB there remain 60 MB, which go to a GPU's machine in seconds. WebP and PNG keep colours and masks well enough
for crops that training blurs and compresses anyway.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from hand2_tiles import Image, Tile, Tiles, write_tiles
from training_loop import make_progress, save_atomically

QUALITY = 86
"""Of WebP; at 95 files are twice as large."""
FACTS = ("keypoints", "depth", "weight", "right", "masked")


def pack(source: Path, target: Path) -> None:
    """Writes the tiles of ``FOLDER/NAME.npz`` to one file of pictures.

    Args:
        source: The index of a source, as `write_tiles` wrote it.
        target: File to write.
    """
    tiles = Tiles(source.parent, source.stem)
    colours: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.uint8]] = []
    facts: dict[str, list[Any]] = {name: [] for name in FACTS}
    for index in range(len(tiles)):
        tile = tiles[index]
        bgr = cv2.cvtColor(np.ascontiguousarray(tile.image[..., :3]), cv2.COLOR_RGB2BGR)
        colours.append(_encoded(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, QUALITY]))
        if tile.masked:
            mask = np.ascontiguousarray(tile.image[..., 3])
            masks.append(_encoded(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 9]))
        for name, values in facts.items():
            values.append(getattr(tile, name))
    arrays = {name: np.array(values, bool if name == "masked" else np.float32) for name, values in facts.items()}
    for name, streams in (("colours", colours), ("masks", masks)):
        arrays[name] = np.concatenate([*streams, np.empty(0, np.uint8)])
        arrays[f"{name}_end"] = np.cumsum([len(stream) for stream in streams], dtype=np.int64)

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    target.parent.mkdir(parents=True, exist_ok=True)
    save_atomically(target, write)


def unpack(source: Path, target: Path) -> None:
    """Writes the tiles of a packed file as `write_tiles` does.

    Args:
        source: A file of `pack`.
        target: The index to write, ``FOLDER/NAME.npz``.
    """
    with np.load(source) as stored:
        arrays = {name: stored[name] for name in stored.files}
    write_tiles(target.parent, target.stem, _tiles(arrays))


def _tiles(arrays: dict[str, NDArray[Any]]) -> Iterator[Tile]:
    colours, masks = (iter(np.split(arrays[name], arrays[f"{name}_end"])) for name in ("colours", "masks"))
    for keypoints, depth, weight, right, masked in zip(*(arrays[name] for name in FACTS), strict=True):
        rgb = cv2.cvtColor(cv2.imdecode(next(colours), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        shown = cv2.imdecode(next(masks), cv2.IMREAD_GRAYSCALE) if masked else np.zeros(rgb.shape[:2], np.uint8)
        yield Tile(np.dstack([rgb, shown]), keypoints, depth, weight, float(right), bool(masked))


def _encoded(kind: str, image: Image | Any, options: list[int]) -> NDArray[np.uint8]:
    return cv2.imencode(kind, image, options)[1].ravel()  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path, metavar="FROM", help="folder of tiles, or of packed ones")
    parser.add_argument("target", type=Path, metavar="TO", help="folder to write to; what is there already is kept")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    options = parser.parse_args()
    work: Callable[[Path, Path], None] = pack if options.what == "pack" else unpack
    files = sorted(options.source.glob("*.npz"))
    if not files:
        sys.exit(f"error: {options.source} holds no .npz files. Cut tiles first: train.py tiles.")
    jobs = [(file, options.target / file.name) for file in files if not (options.target / file.name).exists()]
    with make_progress(Console()) as progress, ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        task = progress.add_task(f"{options.what}ing", total=len(jobs))
        for done in [pool.submit(work, *job) for job in jobs]:
            done.result()
            progress.advance(task)


if __name__ == "__main__":
    main()
