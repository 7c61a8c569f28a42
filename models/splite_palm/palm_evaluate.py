"""Accuracy of a bundle of SPLite Palm, through the public runtime; and the labels of the same pictures for bench.

    python models/splite_palm/palm_evaluate.py palm.splite --data HANDS_VARIED [--digits HAND_DIGITS] [-b ort -p int8]
    python models/splite_palm/palm_evaluate.py palm.splite --data HANDS_VARIED --thresholds   # to choose min_score by
    python models/splite_palm/palm_evaluate.py palm.splite --data HANDS_VARIED --hand hand.splite  # and a hand network;
                                                                       # with --thresholds, too, on held-out pictures
    python models/splite_palm/palm_evaluate.py --data HANDS_VARIED --write FOLDER    # bench palm.splite --eval FOLDER

Boxes of hands-varied are those around the keypoints that its teacher saw, MediaPipe: the figures say how closely a
detector agrees with that. Hands that the teacher is unsure of need not be found, and pictures in which it saw none are
left out: they show hands all the same. Pictures without hands are parts of the same pictures, of which `HAND_LEFT_IN`
are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy import Pose, PoseEstimator, TopDown, Tracker
from splite_deploy.bench.evaluation import LEAST_SCORE
from splite_deploy.decoders import PeopleDecoder
from splite_deploy.decoders.people import overlaps
from splite_deploy.errors import SpliteError
from splite_deploy.files import write_file
from splite_deploy.metrics.detections import LOOSE, MOST_BOXES, FoundBoxes, box_accuracy, pairs_of
from splite_deploy.metrics.labels import read_labels, tight_box
from splite_deploy.metrics.turned_boxes import angle_of, wrapped
from splite_deploy.runtime import all_backends
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.preprocess import Image
from splite_deploy.spec import PRECISIONS, Precision

sys.path.insert(0, str(Path(__file__).parent))
from palm_data import MIDDLE_MCP, WRIST, Hand, divided, load_scenes, without_hands

EMPTY, EMPTY_SEED = 100, 1
MOST_HANDS = 20
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
HAND_LEFT_IN = frozenset({0, 26, 65})
"""Numbers of parts that show a hand, or a piece of one, which the teacher did not see; found by eye."""


@dataclass(frozen=True)
class Picture:
    """A picture to evaluate on.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        hands: What it shows.
    """

    image: Image
    hands: tuple[Hand, ...]


def varied(folder: Path) -> list[Picture]:
    """Pictures of hands-varied's val split in which its teacher saw a hand."""
    return [Picture(scene.image, scene.hands) for scene in load_scenes(folder, "val") if scene.hands]


def empty(folder: Path) -> list[Picture]:
    """Parts of them without hands: faces, clothes, rooms."""
    scenes = [scene for scene in load_scenes(folder, "val") if scene.hands]
    parts: Iterator[Image] = without_hands(scenes, EMPTY + len(HAND_LEFT_IN), EMPTY_SEED, lambda _: None)
    return [Picture(image, ()) for number, image in enumerate(parts) if number not in HAND_LEFT_IN]


def held_out(folder: Path) -> list[Picture]:
    """Pictures of hands-varied's training split that nothing is trained on, and parts of them without hands."""
    _, scenes = divided(load_scenes(folder))
    closed = [scene for scene in scenes if scene.closed]
    parts = [Picture(image, ()) for image in without_hands(closed, EMPTY, EMPTY_SEED, lambda _: None)]
    return [Picture(scene.image, scene.hands) for scene in scenes if scene.hands] + parts


def digits(folder: Path) -> list[Picture]:
    """Photographs of hand-digits' val split, each filled by one hand."""
    return [
        Picture(
            cv2.cvtColor(read_image(one.path), cv2.COLOR_BGR2RGB),  # type: ignore[arg-type]
            (Hand(tight_box(one.keypoints), one.keypoints),),
        )
        for one in read_labels(folder, split="val")
    ]


def boxes_of(hands: Sequence[Hand], *, known: bool) -> NDArray[np.float64]:
    """(G, 4) boxes of hands that have to be found, or of the others."""
    return np.reshape([hand.box for hand in hands if (hand.keypoints is not None) == known], (-1, 4))


def angle_errors(pairs: Sequence[tuple[NDArray[np.floating], Hand]]) -> NDArray[np.float64]:
    """By how many degrees the line from wrist to middle knuckle is off, of found keypoints (2, 2) and hands."""
    errors = []
    for keypoints, hand in pairs:
        assert hand.keypoints is not None
        found, truth = angle_of(keypoints, (0, 1)), angle_of(hand.keypoints, (WRIST, MIDDLE_MCP))
        if found is not None and truth is not None:
            errors.append(abs(wrapped(found - truth)))
    return np.array(errors)


def measure(detector: PoseEstimator, pictures: Sequence[Picture], min_score: float) -> dict[str, float]:
    """Accuracy of boxes, and by how many degrees hands are taken for turned."""
    found, pairs = [], []
    for picture in pictures:
        poses = detector.detect(picture.image)
        boxes = np.reshape([pose.box for pose in poses], (-1, 4)).astype(np.float32)
        scores = np.array([pose.box_score for pose in poses], np.float32)
        labelled = boxes_of(picture.hands, known=True)
        found.append(FoundBoxes(boxes, scores, labelled, boxes_of(picture.hands, known=False)))
        known = [hand for hand in picture.hands if hand.keypoints is not None]
        sure = np.flatnonzero(scores >= min_score)
        for row, column in pairs_of(overlaps(labelled.astype(np.float32), boxes[sure]), LOOSE):
            pairs.append((poses[sure[column]].keypoints, known[row]))
    accuracy = box_accuracy(found, min_score)
    alarms = [len(one.given(min_score).boxes) for one in found if one.empty]
    figures = {name: value for name, value in asdict(accuracy).items() if value is not None} if accuracy else {}
    if accuracy is None:
        figures = {"empty_images": len(alarms), "false_alarms": float(np.mean(alarms))}
    off = angle_errors(pairs)
    if off.size:
        figures |= {"angle_p50_deg": float(np.median(off)), "angle_p95_deg": float(np.percentile(off, 95))}
        figures["angle_over_45_deg"] = float((off > 45).mean())
    return figures


def figures_of(
    bundle: Path,
    backend: str,
    precision: Precision | None,
    sets: Mapping[str, Sequence[Picture]],
    min_score: float | None = None,
) -> dict[str, dict[str, float]]:
    """What `measure` says of an artifact, by the name of the set.

    Args:
        bundle: Of SPLite Palm.
        backend: ``auto`` takes the first that runs.
        precision: None takes the backend's first.
        sets: Pictures by the name of their set.
        min_score: None is the model's own.
    """
    with PoseEstimator.open(bundle, backend, precision, threads=1, color="rgb") as opened:
        decoder = opened.spec.decoder
        assert isinstance(decoder, PeopleDecoder)
        detector = with_decoder(opened, min_score=LEAST_SCORE, max_people=MOST_BOXES)
        least = decoder.min_score if min_score is None else min_score
        return {name: measure(detector, pictures, least) for name, pictures in sets.items()}


def with_decoder(detector: PoseEstimator, **changes: Any) -> PoseEstimator:
    """The same session with other values of its decoder."""
    spec = detector.spec
    return PoseEstimator(replace(spec, decoder=replace(spec.decoder, **changes)), detector.session, detector.color)


def delivered(follow: TopDown, pictures: Sequence[Picture]) -> dict[str, float]:
    """What comes of the detector's boxes behind a hand network, which throws out what it takes for none.

    Args:
        follow: Both, for RGB images.
        pictures: With hands and without.
    """
    shown = found = empty_images = alarms = 0
    for picture in pictures:
        poses = follow.detect(picture.image)
        known = [hand for hand in picture.hands if hand.keypoints is not None]
        shown += len(known)
        found += sum(any(lies_on(pose, hand) for pose in poses) for hand in known)
        if not picture.hands:
            empty_images += 1
            alarms += len(poses)
    return {"hands": shown, "found": found, "empty_images": empty_images, "false_hands": alarms}


def lies_on(pose: Pose, hand: Hand) -> bool:
    """Whether keypoints lie on a hand: at most `LOOSE` of its size away, in the mean."""
    assert hand.keypoints is not None
    away = np.linalg.norm(pose.keypoints - hand.keypoints, axis=1).mean()
    return bool(away <= LOOSE * (hand.box[2:] - hand.box[:2]).max())


def write_labels(folder: Path, pictures: Sequence[Picture]) -> Path:
    """Writes pictures and a labels.json for ``bench --eval``.

    Args:
        folder: Is made.
        pictures: Those without hands are said to be empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples: list[dict[str, object]] = []
    for number, picture in enumerate(pictures):
        name = f"{number:04d}.png"
        write_file(folder / name, cv2.imencode(".png", picture.image[..., ::-1])[1].tobytes())
        if not picture.hands:
            samples.append({"image": name, "empty": True})
        for hand in picture.hands:
            sample: dict[str, object] = {"image": name, "box": hand.box.tolist()}
            if hand.keypoints is None:
                samples.append({**sample, "ignore": True})
            else:
                samples.append({**sample, "keypoints": hand.keypoints[[WRIST, MIDDLE_MCP]].tolist()})
    file = folder / "labels.json"
    write_file(file, json.dumps({"samples": samples}).encode())
    return file


def measured(
    options: argparse.Namespace, sets: Mapping[str, Sequence[Picture]], min_score: float | None = None
) -> dict[str, dict[str, float]]:
    """What is found of each set with this threshold of the detector, or its own: by it, or by a hand network behind."""
    if not options.hand:
        return figures_of(options.bundle, options.backend, options.precision, sets, min_score)
    detector, hand = (
        PoseEstimator.open(path, options.backend, options.precision, threads=1, color="rgb")
        for path in (options.bundle, options.hand)
    )
    if min_score is not None:
        detector = with_decoder(detector, min_score=min_score)
    with TopDown(detector, hand, Tracker(MOST_HANDS)) as follow:
        return {name: delivered(follow, pictures) for name, pictures in sets.items()}


def told(figures: Mapping[str, float]) -> str:
    """Figures in a line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="NAME.splite")
    parser.add_argument("--data", type=Path, required=True, help="folder of hands-varied")
    parser.add_argument("--digits", type=Path, help="folder of hand-digits")
    parser.add_argument("-b", "--backend", default="auto", choices=["auto", *all_backends()])
    parser.add_argument("-p", "--precision", choices=PRECISIONS)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the pictures of hands-varied as labels")
    parser.add_argument("--thresholds", action="store_true", help="show what each would give on held-out pictures")
    parser.add_argument("--hand", type=Path, metavar="HAND.splite", help="what this network then finds in the boxes")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    try:
        answer(options)
    except SpliteError as err:
        sys.exit(f"error: {err}")


def answer(options: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    if options.thresholds and options.bundle is not None:
        pictures = {"held out": held_out(options.data)}
        for least in THRESHOLDS:
            print(f"{least:g}: {told(measured(options, pictures, least)['held out'])}")
        return
    sets = {"hands-varied val": varied(options.data) + empty(options.data)}
    if options.write:
        print(write_labels(options.write, sets["hands-varied val"]))
    if options.bundle is None:
        return
    if options.digits and not options.hand:
        sets["hand-digits val"] = digits(options.digits)
    figures = measured(options, sets)
    if options.json:
        print(json.dumps(figures))
        return
    for name, its in figures.items():
        print(f"{name}: {told(its)}")


if __name__ == "__main__":
    main()
