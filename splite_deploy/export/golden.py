"""The golden data of a bundle: crops with what the original network makes of them, and an image with its box.

The image is there for preprocessing, which the crops have behind them: it is cropped again on every machine that
verifies the bundle, and it shrinks on the way, since there versions of OpenCV differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Golden, GoldenImage
from splite_deploy.decoders import PeopleDecoder, decode
from splite_deploy.export.crops import GOLDEN_CROPS, evenly
from splite_deploy.export.reference import Reference
from splite_deploy.metrics.parity import Outputs, candidates_of, share_used, violations
from splite_deploy.metrics.people import crops_with_people, same_person
from splite_deploy.metrics.turned_boxes import corners_of
from splite_deploy.runtime.crops import Example
from splite_deploy.runtime.preprocess import (
    Image,
    Matrix,
    Preprocessor,
    check_box,
    check_image,
    crop_matrix,
    invert,
    scale_of,
    transform_points,
)
from splite_deploy.runtime.session import Session
from splite_deploy.spec import Color, InputSpec, LimitSpec

SHRINK = 3.0
"""Pixels of the golden image per pixel of the crop: it is halved once, and interpolated between pixels."""
LONGEST_PX = 640
"""Longest side of the golden image, unless the network's input is longer: there it shrinks by less, or not at all."""
_ROOM = 1.05  # kernels of the device sum in another order
_LEAST_IOU = 0.01  # a limit is positive
MARGIN_PX = 12
"""Pixels of the golden image around the padded box: more than averaging and interpolation read."""


@dataclass(frozen=True)
class PreparedImage:
    """The golden image with its crop, before the network has seen it.

    Attributes:
        pixels: (H, W, 3) uint8.
        color: Channel order of ``pixels``.
        box: (4,) float64 xyxy, pixels of the image, or (5,) with an angle.
        crop: (h, w, C) uint8, channels in the order of the input spec.
        matrix: (2, 3), pixels of the image to pixels of the crop.
    """

    pixels: Image
    color: Color
    box: NDArray[np.float64]
    crop: Image
    matrix: Matrix


def prepare_image(example: Example, spec: InputSpec) -> PreparedImage:
    """Cuts an image down to what the network sees of it, and resizes that to `SHRINK` times the network's input.

    Args:
        example: An image with its box, of any size.
        spec: The input.
    """
    image = check_image(example.image)
    box = check_box(None if spec.letterbox else example.box, *image.shape[:2])
    matrix, size = crop_matrix(box, spec), np.array([spec.width, spec.height])
    shrink = max(1.0, min(SHRINK, (LONGEST_PX - 2 * MARGIN_PX) / size.max()))
    ratio = shrink * scale_of(matrix)  # pixels of the golden image per pixel of the example
    whole = np.array(image.shape[1::-1])
    corners = transform_points(corners_of(np.array([0.0, 0.0, *size])), invert(matrix))
    low = np.floor(corners.min(axis=0) - MARGIN_PX / ratio).astype(int).clip(0, whole - 1)
    high = np.ceil(corners.max(axis=0) + MARGIN_PX / ratio).astype(int).clip(low + 1, whole)
    part = image[low[1] : high[1], low[0] : high[0]]
    longest = max(LONGEST_PX, size.max() + 2 * MARGIN_PX)
    resized = ((high - low) * ratio).round().astype(int).clip(1, longest)
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    pixels: Image = cv2.resize(part, resized.tolist(), interpolation=method)  # type: ignore[assignment]
    moved = ((box[:4].reshape(2, 2) - low) * resized / (high - low)).reshape(4)
    moved = np.concatenate([moved, box[4:]])
    crop, matrix = Preprocessor(spec, example.color).crop(pixels, moved)
    return PreparedImage(pixels, example.color, moved, crop, matrix)


def golden_crops(reference: Reference, most: int = GOLDEN_CROPS) -> NDArray[np.int64]:
    """Which crops of the reference are golden: those that show people, where a network finds any number of them.

    Args:
        reference: The original network on all crops.
        most: How many at most.
    """
    which, spec = np.arange(len(reference.pixels)), reference.spec
    if isinstance(spec.decoder, PeopleDecoder):
        which = crops_with_people(candidates_of(reference.outputs, spec), spec.decoder)
    return which[evenly(len(which), most)]


def make_golden(reference: Reference, image: PreparedImage, outputs: Outputs, most: int = GOLDEN_CROPS) -> Golden:
    """Evenly picked crops of the reference, and the golden image.

    Args:
        reference: The original network on all crops.
        image: The golden image.
        outputs: Of the original network on its crop, by role; N is 1.
        most: How many crops at most.
    """
    chosen = golden_crops(reference, most)
    picked = {role: values[chosen] for role, values in reference.outputs.items()}
    spec = reference.spec
    if isinstance(spec.decoder, PeopleDecoder):
        (best,) = same_person(candidates_of(outputs, spec), spec.decoder)
        found, scores = best[:, :2], best[:, 2]
    else:
        decoded = decode(outputs, spec)
        found, scores = decoded.keypoints[0], decoded.scores[0]
    keypoints = transform_points(found, invert(image.matrix)).astype(np.float32)
    return Golden(
        crops=reference.pixels[chosen],
        outputs=picked,
        decoded=decode(picked, reference.spec),
        image=GoldenImage(
            pixels=image.pixels,
            color=image.color,
            box=image.box,
            crop=image.crop,
            keypoints=keypoints,
            scores=scores,
            opencv=cv2.__version__,
        ),
        reference=reference.name,
        nobody=reference.nobody,
    )


def with_room_on_golden(
    artifact: Artifact, session: Session, reference: Reference, most: int = GOLDEN_CROPS
) -> Artifact:
    """The artifact, with limits that hold on the few golden crops too, where the p95 is another number than on all.

    ``verify`` asks with them whether another machine computes what this one did.

    Args:
        artifact: The artifact.
        session: Of it, open.
        reference: What it is compared with.
        most: How many crops are golden at most.
    """
    some = golden_crops(reference, most)
    golden = replace(
        reference,
        pixels=reference.pixels[some],
        outputs={role: values[some] for role, values in reference.outputs.items()},
    )
    parity = golden.measure(artifact.label, golden.run(session)).parity
    spec, limits = reference.spec, artifact.limits
    if not violations(parity, limits, spec):
        return artifact
    share = _ROOM * share_used(parity, limits, spec)
    depth = None if limits.depth_p95 is None else share * limits.depth_p95
    shift_px = share * limits.shift_p95_px, share * limits.shift_max_px
    head = None if limits.head_p95 is None else min(1.0, share * limits.head_p95)
    least = None if limits.box_iou_p05 is None else max(_LEAST_IOU, 1 - share * (1 - limits.box_iou_p05))
    centre_pct = None if limits.centre_p95_pct is None else min(100.0, share * limits.centre_p95_pct)
    return replace(artifact, limits=LimitSpec(*shift_px, depth, share * limits.score_max, head, least, centre_pct))
