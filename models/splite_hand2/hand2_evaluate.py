r"""SPLite Hand 2 on photographs of people whom no training picture shows, beside MediaPipe's landmark networks.

    python models/splite_hand2/hand2_evaluate.py hand2.splite --data HAND_DIGITS --data HANDS_VARIED \
        --mediapipe mediapipe-0.10.14-*.whl

Labels are pseudo labels of MediaPipe's full network: the figures say how closely a network agrees with that one. Of a
network whose crops are turned there are three: with the angle that it finds itself, as for who has a box alone; with
that of the label; and not turned. MediaPipe's networks find theirs likewise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from splite_deploy.errors import SpliteError
from splite_deploy.metrics.accuracy import keypoint_error, pa_mpjpe, pck
from splite_deploy.metrics.labels import LabelledImage, read_labels
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.any_angle import THERE
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from hand2_tiles import negatives
from landmark_net import LandmarkNet, read_tflite

Look = Callable[[Image, LabelledImage], Pose]
"""From an RGB image and a hand's label, of which it may use the box, to what is found there."""
LOST = 0.15
"""A hand whose mean error is a larger share of its box is lost."""
PASSING = 0.98
"""Share of hands that the presence has to let pass."""
NEGATIVE_CROPS, NEGATIVE_SEED, NEGATIVES_EACH = 500, 1, 6
PADDING = 1.25
FOUND = "found angles"


@dataclass(frozen=True)
class Figures:
    """On one set of labelled hands; errors in percent of the longer side of the labels' tight box.

    Attributes:
        images: Number of hands.
        mean_pct: Mean error.
        median_pct: Median of the hands' mean errors.
        pck_05: Share of keypoints within 5 %.
        lost: Share of hands whose mean error is over 15 %.
        pa_mm: Mean 3D error after a similarity alignment of each hand; None without a third dimension.
        right: Share of hands that are called right or left as their label; None where nobody says it.
        presence: The presence that `PASSING` of the hands have; None of a network without.
        there: Share of hands with a presence of `THERE` or more; None of a network without.
    """

    images: int
    mean_pct: float
    median_pct: float
    pck_05: float
    lost: float
    pa_mm: float | None
    right: float | None
    presence: float | None
    there: float | None


@dataclass(frozen=True)
class Photograph:
    """A labelled hand with its image, RGB, read once."""

    labelled: LabelledImage
    image: Image


def photographs(data: Path, split: str = "val") -> list[Photograph]:
    """The hands of a split.

    Raises:
        UsageError: The labels are missing or malformed, or an image cannot be read.
    """
    read: dict[Path, Image] = {}
    for one in (labels := read_labels(data, split=split)):
        if one.path not in read:
            read[one.path] = cv2.cvtColor(read_image(one.path), cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
    return [Photograph(one, read[one.path]) for one in labels]


def figures(photos: Sequence[Photograph], look: Look) -> Figures:
    """Runs something that finds hands on all photographs."""
    poses = [look(one.image, one.labelled) for one in photos]
    labels = [one.labelled for one in photos]
    sides = np.array([labelled.side_px for labelled in labels])[:, None]
    truth = np.stack([labelled.keypoints for labelled in labels])
    shares = keypoint_error(np.stack([pose.keypoints for pose in poses]), truth) / sides
    of_hand = shares.mean(axis=1)
    pairs = [
        (pose.keypoints_3d, labelled.world_mm)
        for pose, labelled in zip(poses, labels, strict=True)
        if pose.keypoints_3d is not None and labelled.world_mm is not None
    ]
    sided = [
        (pose.handedness >= 0.5) != labelled.right  # MediaPipe, whose labels they are, means mirrored pictures
        for pose, labelled in zip(poses, labels, strict=True)
        if pose.handedness is not None and labelled.right is not None
    ]
    present = [pose.presence for pose in poses if pose.presence is not None]
    return Figures(
        images=len(photos),
        mean_pct=100 * float(shares.mean()),
        median_pct=100 * float(np.median(of_hand)),
        pck_05=pck(shares, 0.05),
        lost=float((of_hand > LOST).mean()),
        pa_mm=float(pa_mpjpe(*map(np.stack, zip(*pairs, strict=True))).mean()) if pairs else None,
        right=float(np.mean(sided)) if sided else None,
        presence=float(np.quantile(present, 1 - PASSING)) if present else None,
        there=float((np.array(present) >= THERE).mean()) if present else None,
    )


def ways(estimator: PoseEstimator) -> dict[str, Look]:
    """How an estimator for RGB images can be given its boxes; see the head of this file."""
    turn = estimator.spec.input.turn
    return {
        FOUND: lambda image, labelled: estimator.at_any_angle(image, labelled.box),
        "labels' angles": lambda image, labelled: estimator(image, labelled.placed(turn)),
        "not turned": lambda image, labelled: estimator(image, labelled.box),
    }


def mediapipe(net: LandmarkNet) -> Look:
    """MediaPipe's network, which looks as often as ours; see `LandmarkNet.find`."""

    def look(image: Image, labelled: LabelledImage) -> Pose:
        found = net.find(image, labelled.box, PADDING)
        points = found.keypoints.astype(np.float32)
        scores = np.ones(len(points), np.float32)
        box = labelled.box.astype(np.float32)
        world = found.world_mm.astype(np.float32)
        return Pose(points, scores, box, world, "mm", "root", None, presence=found.presence)

    return look


def presence_without_hands(estimator: PoseEstimator, crops: Sequence[Image]) -> NDArray[np.float64]:
    """What the presence says of crops without a hand, RGB."""
    said = []
    for crop in crops:
        height, width = crop.shape[:2]
        rest = (1 - 1 / PADDING) / 2
        box = [rest * width, rest * height, (1 - rest) * width, (1 - rest) * height]
        said.append(estimator.at_any_angle(crop, box).presence or 0.0)
    return np.array(said)


def crops_without_hands(data: Path) -> list[Image]:
    """`NEGATIVE_CROPS` parts of val's photographs without a hand, evenly from all that there are."""
    tiles = [tile.image[..., :3] for tile in negatives(data, "val", NEGATIVE_SEED, NEGATIVES_EACH)]
    picked = np.linspace(0, len(tiles) - 1, min(NEGATIVE_CROPS, len(tiles))).round().astype(int)
    return [np.ascontiguousarray(tiles[i]) for i in picked]


def compared(looks: Mapping[str, Look], sets: Mapping[str, Sequence[Photograph]]) -> Iterator[tuple[str, str, Figures]]:
    """Each way on each set: their names and what came out."""
    for name, photos in sets.items():
        for way, look in looks.items():
            yield name, way, figures(photos, look)


def table(rows: Sequence[tuple[str, str, Figures]]) -> Table:
    """Figures for people."""
    grid = Table("set", "network", caption="Labels are pseudo labels of MediaPipe's full landmark network.")
    for header in ("hands", "error %", "median %", "PCK@0.05", "lost %", "PA mm", "side %", "presence", "over 0.5 %"):
        grid.add_column(header, justify="right", no_wrap=True)

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for name, way, found in rows:
        grid.add_row(
            name,
            way,
            str(found.images),
            f"{found.mean_pct:.2f}",
            f"{found.median_pct:.2f}",
            f"{found.pck_05:.3f}",
            f"{100 * found.lost:.1f}",
            shown(found.pa_mm, ".2f"),
            shown(None if found.right is None else 100 * found.right, ".1f"),
            shown(found.presence, ".3f"),
            shown(None if found.there is None else 100 * found.there, ".1f"),
        )
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="NAME.splite; without it MediaPipe alone")
    parser.add_argument("--data", type=Path, action="append", required=True, help="folder with labels.json; repeatable")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision")
    parser.add_argument("--mediapipe", type=Path, help="mediapipe's wheel, site-packages, or folder")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rows: list[tuple[str, str, Figures]] = []
    false: dict[str, dict[str, float]] = {}
    try:
        sets = {data.name: photographs(data) for data in options.data}
        if options.bundle is not None:
            with PoseEstimator.open(options.bundle, options.backend, options.precision, color="rgb") as estimator:
                rows += compared(ways(estimator), sets)
                for data in options.data:
                    if (data / "scenes.json").exists() and estimator.spec.heads:
                        of_hands = next(found for name, way, found in rows if (name, way) == (data.name, FOUND))
                        said = presence_without_hands(estimator, crops_without_hands(data))
                        thresholds = {"as_98_of_100_hands": of_hands.presence or 0.0, "there": THERE}
                        false[data.name] = {name: float((said >= least).mean()) for name, least in thresholds.items()}
        if options.mediapipe is not None:
            nets = [f"hand_landmark_{name}" for name in ("lite", "full")]
            looks = {net: mediapipe(LandmarkNet(read_tflite(options.mediapipe, f"{net}.tflite"))) for net in nets}
            rows += compared(looks, sets)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    Console(width=140).print(table(sorted(rows, key=lambda row: row[0])))
    for name, shares in false.items():
        passing, there = (100 * share for share in shares.values())
        print(f"{name}: {passing:.1f} % of crops without a hand pass where {100 * PASSING:.0f} % of hands do")
        print(f"{name}: {there:.1f} % of them have a presence of {THERE} or more")
    if options.json is not None:
        figured = {"rows": [[name, way, asdict(found)] for name, way, found in rows], "false_hands": false}
        options.json.write_text(json.dumps(figured) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
