"""Finds the keypoints in every picture of a folder: COCO's JSON for other tools, and pictures with the skeleton.

python examples/picture_folder.py hand.splite photos --out found

Each picture shows one hand or person, or the bundle finds people itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from splite_deploy import PoseEstimator, SpliteError, overlay
from splite_deploy.runtime.io.images import read_image, write_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def main() -> None:
    """Writes results.json and a picture of each picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("found"))
    given = parser.parse_args()
    if not given.folder.is_dir():
        parser.error(f"there is no folder {given.folder}")
    if given.out.resolve() == given.folder.resolve():
        parser.error("--out is the folder of your pictures, whose place the results would take: name another")
    given.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    with PoseEstimator.open(given.bundle) as estimator:
        files = sorted(file for file in given.folder.iterdir() if file.suffix.lower() in SUFFIXES)
        for number, file in enumerate(files, 1):
            try:
                image = read_image(file)  # upright, as its header says, of 8 or 16 bits
            except SpliteError as err:
                print(f"left out: {err.message}")
                continue
            poses = estimator.detect(image) if estimator.finds_people else [estimator(image)]
            results += [{**pose.to_coco(number), "file_name": file.name} for pose in poses]
            write_image(given.out / f"{file.name}.png", overlay(image, poses))
            print(f"{file.name}: {len(poses)}")
    (given.out / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except SpliteError as err:  # says what happened, and what to do
        raise SystemExit(f"{err.message}\n{err.hint}") from err
