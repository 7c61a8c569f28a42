"""Keypoints drawn on a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import UsageError
from splite_deploy.metrics.turned_boxes import corners_of
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import AnyImage, Image, check_image
from splite_deploy.spec import SkeletonSpec

MIN_SIDE_PX = 480
"""Smaller pictures are enlarged, so that the drawing does not hide what it shows."""


def overlay(image: AnyImage, poses: Sequence[Pose], skeleton: SkeletonSpec | None = None) -> Image:
    """Draws skeletons on a copy of ``image`` (BGR); small images are enlarged by a whole factor.

    Every chain of the skeleton has its own hue; a keypoint of low score is drawn hollow. A box that a network found is
    drawn around its person, and so is one that was turned, and that of somebody who is followed, with the id.
    A keypoint that is not finite is left out.

    Args:
        image: (H, W, 3) uint8.
        poses: What was found in it.
        skeleton: How keypoints are joined; None takes that of each pose, and of one without it draws keypoints alone.

    Raises:
        UsageError: The image is no (H, W, 3) uint8 array, or the skeleton has another number of keypoints than a pose.
    """
    image = check_image(image)
    factor = max(1, -(-MIN_SIDE_PX // max(image.shape[:2])))
    canvas = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    for pose in poses:
        _draw(canvas, pose, _skeleton_of(pose, skeleton), factor)  # type: ignore[arg-type]
    return canvas  # type: ignore[return-value]


def _skeleton_of(pose: Pose, requested: SkeletonSpec | None) -> SkeletonSpec:
    count = len(pose.keypoints)
    found = requested or pose.skeleton or SkeletonSpec(tuple(map(str, range(count))), ())
    if len(found.keypoint_names) != count:
        raise UsageError(
            f"The skeleton has {len(found.keypoint_names)} keypoints, and the pose {count}.",
            hint="Leave the skeleton out: a pose of an estimator brings its own.",
        )
    return found


def _draw(canvas: Image, pose: Pose, skeleton: SkeletonSpec, factor: int) -> None:
    known = np.isfinite(pose.keypoints).all(axis=1)
    places = pose.keypoints[known] if known.any() else pose.box.reshape(2, 2)
    extent = float(np.ptp(places, axis=0).max()) * factor
    thickness, shift = min(max(1, round(extent / 130)), max(canvas.shape[:2])), 4
    # OpenCV's pixel centres are at integers; it takes fixed-point coordinates with `shift` fractional bits
    fixed = np.round((np.where(known[:, None], pose.keypoints, 0).astype(np.float64) * factor - 0.5) * (1 << shift))
    points = fixed.clip(-(1 << 30), 1 << 30).astype(int).tolist()  # OpenCV's are 32-bit
    if pose.angle_deg is not None or pose.box_score is not None or pose.id is not None:
        turned = pose.box if pose.angle_deg is None else np.append(pose.box, pose.angle_deg)
        corners = np.round((corners_of(turned) * factor - 0.5) * (1 << shift))
        outline = corners.clip(-(1 << 30), 1 << 30).astype(np.int32)
        cv2.polylines(canvas, [outline], True, (255, 255, 255), max(1, thickness // 2), cv2.LINE_AA, shift)
        if pose.id is not None:
            _write(canvas, str(pose.id), outline[outline[:, 1].argmin()] >> shift)
    colours = _chain_colours(skeleton)
    for a, b in skeleton.edges:
        if known[a] and known[b]:
            cv2.line(canvas, points[a], points[b], colours[b], thickness, cv2.LINE_AA, shift)
    for drawn, point, score, colour in zip(known, points, pose.scores, colours, strict=True):
        if not drawn:
            continue
        radius = round(1.6 * thickness * (1 << shift))
        cv2.circle(canvas, point, radius, colour, -1 if score >= 0.5 else 1, cv2.LINE_AA, shift)
        cv2.circle(canvas, point, radius, (255, 255, 255), max(1, thickness // 2), cv2.LINE_AA, shift)


def _write(canvas: Image, text: str, place: NDArray[np.int32]) -> None:
    """Writes a few letters above a place, white with a dark edge, inside the picture."""
    height, width = canvas.shape[:2]
    scale = max(height, width) / 800
    (across, up), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = min(max(int(place[0]) - across // 2, 2), max(width - across - 2, 0))
    y = min(max(int(place[1]) - up // 2, up + 2), height - 2)
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        wide = max(1, round(thickness * scale))
        cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, wide, cv2.LINE_AA)


def _chain_colours(skeleton: SkeletonSpec) -> list[tuple[int, int, int]]:
    """A BGR colour per keypoint: keypoints whose names share their first word share a hue."""
    groups = [name.split("_")[0] for name in skeleton.keypoint_names]
    hues = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    rgb = [colorsys.hsv_to_rgb(hues[group] / len(hues), 0.85, 1.0) for group in groups]
    return [(round(255 * b), round(255 * g), round(255 * r)) for r, g, b in rgb]
