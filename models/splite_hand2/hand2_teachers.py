r"""What MediaPipe's landmark networks say of each training hand, asked in several ways. For the developer's machine.

    python models/splite_hand2/hand2_teachers.py --mediapipe mediapipe-0.10.14-*.whl --data HAND_DIGITS --out digits.npz

Labels that a network made are its opinion of one crop. Here the full and the lite network see each hand turned, scaled,
moved and mirrored; the median of these opinions is steadier than any of them, and their spread tells where the teacher
does not know: fists, hands seen edge-on, fingers behind others. Only the split ``train`` is ever looked at. Hands that
a ``scenes.json`` has besides, which its makers were not sure of, are asked for, too: what all views agree on is a hand.

An interrupted run goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from splite_deploy.errors import SpliteError
from splite_deploy.metrics.labels import read_labels
from splite_deploy.runtime.preprocess import invert, transform_points

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from landmark_net import SIDE_PX, LandmarkNet, Roi, crop, read_tflite, roi_of_landmarks, rotation
from training_loop import make_progress, save_atomically

Points = NDArray[np.float64]
SAVE_EVERY = 200
LABEL_VIEWS = 2
"""A label counts as so many views."""


@dataclass(frozen=True)
class View:
    """One way to look at a hand, relative to the square that MediaPipe's tracking derives from its label.

    Attributes:
        network: ``full`` or ``lite``.
        angle_deg: By how much the square is turned.
        scale: Factor on its side.
        shift: By which share of its side it is moved, along x and y.
        mirrored: Whether the network sees the mirror image.
    """

    network: str
    angle_deg: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False


VIEWS = (
    View("full"),
    View("full", mirrored=True),
    View("full", -25.0, 1.1, (0.03, 0.0)),
    View("full", 25.0, 1.1, (-0.03, 0.0), mirrored=True),
    View("full", 10.0, 0.88, (0.0, 0.03), mirrored=True),
    View("full", -10.0, 1.25, (0.0, -0.03)),
    View("full", 15.0, 0.95, (0.02, 0.02)),
    View("full", -15.0, 1.0, (0.0, -0.04), mirrored=True),
    View("lite"),
    View("lite", mirrored=True),
    View("lite", 20.0, 1.1, (0.03, 0.02)),
    View("lite", -20.0, 0.92, (-0.03, 0.02), mirrored=True),
)


@dataclass(frozen=True)
class Hand:
    """A hand to be looked at.

    Attributes:
        image: Its file, relative to the data's folder.
        keypoints: (21, 2) pixels, the label.
        usable: Whether the makers of the labels were sure of it.
    """

    image: str
    keypoints: Points
    usable: bool


def training_hands(folder: Path) -> list[Hand]:
    """The hands of the split ``train``: those of labels.json, then those that scenes.json has besides, if it is there.

    Raises:
        UsageError: The labels are missing or malformed.
    """
    labels = read_labels(folder, split="train")
    hands = [Hand(one.path.relative_to(folder).as_posix(), one.keypoints, True) for one in labels]
    scenes = folder / "scenes.json"
    if scenes.exists():
        for scene in json.loads(scenes.read_text(encoding="utf-8"))["scenes"]:
            if scene["split"] == "train":
                doubtful = [hand for hand in scene["hands"] if not hand["usable"]]
                hands += [Hand(scene["image"], np.array(hand["keypoints"], float), False) for hand in doubtful]
    return hands


def look(net: LandmarkNet, image: NDArray[np.uint8], base: Roi, view: View) -> tuple[Points, Points, float, float]:
    """One opinion: keypoints (21, 2) in pixels of the image, (21, 3) mm, presence, and whether it is a right hand.

    Millimetres are along the axes of the image: x to the right, y down, z away from the camera.
    """
    turn = rotation(base.angle)
    centre = base.centre + turn @ (np.array(view.shift) * base.side_px)
    roi = Roi(centre, base.side_px * view.scale, base.angle + math.radians(view.angle_deg))
    tensor = crop(image, roi)
    if view.mirrored:
        tensor = np.ascontiguousarray(tensor[:, :, ::-1])
    landmarks, presence, right, world = net.run(tensor)
    found = landmarks.reshape(-1, 3)[:, :2].astype(np.float64)
    mm = 1000 * world.reshape(-1, 3).astype(np.float64)
    side = float(right[0, 0])
    if view.mirrored:
        found[:, 0], mm[:, 0], side = SIDE_PX - found[:, 0], -mm[:, 0], 1 - side
    mm[:, :2] = mm[:, :2] @ rotation(roi.angle).T
    return transform_points(found, invert(roi.matrix())), mm, float(presence[0, 0]), side


def opinion(nets: dict[str, LandmarkNet], image: NDArray[np.uint8], hand: Hand) -> dict[str, NDArray[np.float32]]:
    """What all views say together.

    Returns:
        keypoints: (21, 2) pixels, the median, in which the label counts `LABEL_VIEWS` times.
        spread: (21,) mean distance of the views from it, as a share of the longer side of the tight box.
        world_mm: (21, 3) the median.
        presence: () the median.
        right: () the mean chance that it is a right hand, as the picture shows it.
    """
    base = roi_of_landmarks(hand.keypoints)
    found = [look(nets[view.network], image, base, view) for view in VIEWS]
    points = np.stack([one[0] for one in found] + [hand.keypoints] * LABEL_VIEWS)
    keypoints = np.median(points, axis=0)
    side = float(np.ptp(keypoints, axis=0).max())
    spread = np.linalg.norm(points - keypoints, axis=2).mean(axis=0) / max(side, 1e-6)
    said = {
        "keypoints": keypoints,
        "spread": spread,
        "world_mm": np.median([one[1] for one in found], axis=0),
        "presence": np.median([one[2] for one in found]),
        "right": np.mean([one[3] for one in found]),
    }
    return {name: np.asarray(value, np.float32) for name, value in said.items()}


def opinions(
    nets: dict[str, LandmarkNet], folder: Path, hands: Sequence[Hand]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The same of each hand; an image that several in turn share is read once."""
    read, image = "", np.empty(0, np.uint8)
    for hand in hands:
        if hand.image != read:
            read, image = hand.image, cv2.cvtColor(cv2.imread(str(folder / hand.image)), cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
        yield opinion(nets, image, hand)


def _save(path: Path, hands: Sequence[Hand], found: Sequence[dict[str, NDArray[np.float32]]]) -> None:
    arrays: dict[str, Any] = {name: np.stack([one[name] for one in found]) for name in (found[0] if found else ())}
    done = hands[: len(found)]
    arrays |= {
        "image": np.array([hand.image for hand in done]),
        "label": np.array([hand.keypoints for hand in done], np.float32),
        "usable": np.array([hand.usable for hand in done]),
    }

    def write(target: Path) -> None:
        with target.open("wb") as file:
            np.savez_compressed(file, **arrays)

    save_atomically(path, write)


def _load(path: Path) -> list[dict[str, NDArray[np.float32]]]:
    with np.load(path) as stored:
        names = ("keypoints", "spread", "world_mm", "presence", "right")
        arrays = {name: stored[name] for name in names}
    return [{name: arrays[name][i] for name in names} for i in range(len(arrays["right"]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mediapipe", type=Path, required=True, help="mediapipe's wheel, site-packages, or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs with their labels.json")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .npz")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    try:
        nets = {
            name: LandmarkNet(read_tflite(options.mediapipe, f"hand_landmark_{name}.tflite"))
            for name in ("full", "lite")
        }
        hands = training_hands(options.data)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    found = _load(options.out) if options.out.exists() else []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with make_progress(Console()) as progress:
        task = progress.add_task("hands", total=len(hands), completed=len(found))
        advance = partial(progress.advance, task)
        for said in opinions(nets, options.data, hands[len(found) :]):
            found.append(said)
            advance()
            if len(found) % SAVE_EVERY == 0:
                _save(options.out, hands, found)
    _save(options.out, hands, found)
    spread = np.stack([one["spread"] for one in found]).mean(axis=1)
    quantiles = ", ".join(f"{100 * value:.1f}" for value in np.percentile(spread, (50, 90, 99)))
    print(f"{options.out}: {len(found)} hands; spread p50, p90, p99: {quantiles} % of the box")


if __name__ == "__main__":
    main()
