"""The surface of a body: round cones around its bones, and the camera that sees it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from body_skeleton import Body
from hand_skeleton import Array, axis_rotation, normalize
from hand_surface import FINGER_PART, PALM_PART, Cones, View
from numpy.typing import NDArray


class Region(IntEnum):
    """What a cone is a part of."""

    TRUNK, PELVIS, NECK, HEAD, UPPER_ARM, FOREARM, HAND, THIGH, SHANK, FOOT = range(10)


@dataclass(frozen=True)
class Covered:
    """Cones of a body with the region (P,) of each, and how far along its limb (P, 2) its two ends lie, 0 to 1."""

    cones: Cones
    region: NDArray[np.int64]
    reach: Array


def cover_body(body: Body) -> Covered:
    """Round cones around the bones of a body, in its frame."""
    rows: list[tuple[Array, Array, float, float, Array, int, int]] = []
    regions: list[Region] = []
    reaches: list[tuple[float, float]] = []
    front = body.trunk[:, 2]
    size = body.proportions.stature / 344.0
    girth = size * body.proportions.girth

    def add(
        region: Region,
        start: Array,
        end: Array,
        radii: tuple[float, float],
        *,
        soft: bool = False,
        scale: float = girth,
        reach: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        part = PALM_PART if soft else FINGER_PART
        rows.append((start, end, radii[0] * scale, radii[1] * scale, front, part, -1))
        regions.append(region)
        reaches.append(reach)

    trunk, neck, shoulders, hips = body.trunk, body.neck, body.shoulders, body.hips
    waist = 0.42 * neck
    breast = neck - trunk @ (0.0, 20.0 * size, -2.0 * size)
    add(Region.TRUNK, breast, 0.5 * (breast + waist), (12.0, 12.0), soft=True)
    add(Region.TRUNK, 0.5 * (breast + waist), 0.8 * waist, (12.0, 11.0), soft=True)
    for side in (0, 1):
        chest = neck + 0.62 * (shoulders[side] - neck) - trunk @ (0.0, 22.0 * size, 0.0)
        belly = waist + 0.42 * (hips[side] - body.pelvis)
        add(Region.TRUNK, chest, belly, (15.5, 11.5), soft=True)
        add(Region.PELVIS, belly, 0.75 * hips[side] + trunk @ (0.0, 4.0 * size, 0.0), (11.5, 14.5), soft=True)
        add(Region.TRUNK, neck - trunk @ (0.0, 7.0 * size, 0.0), shoulders[side], (8.0, 7.5), soft=True)
    add(Region.NECK, neck - trunk @ (0.0, 4.0 * size, 0.0), body.head.place(np.array([0.0, -3.0, 0.0])), (11.0, 9.5))
    head = body.head
    for start, end, radii in (
        ((0.0, 1.5, 1.2), (0.0, 4.6, -1.2), (7.2, 7.4)),  # skull
        ((0.0, -5.6, 4.6), (0.0, -0.5, 2.6), (3.6, 6.0)),  # jaw
        ((0.0, 1.0, 8.2), (0.0, -1.7, 9.6), (0.6, 1.3)),  # nose
    ):
        add(Region.HEAD, head.place(np.array(start)), head.place(np.array(end)), radii, scale=head.cm)
    for side in (0, 1):
        shoulder, elbow, wrist = shoulders[side], body.elbows[side], body.wrists[side]
        add(Region.UPPER_ARM, shoulder, elbow, (11.0, 8.0))
        add(Region.FOREARM, elbow, 0.6 * elbow + 0.4 * wrist, (8.0, 7.6), reach=(0.0, 0.4))
        add(Region.FOREARM, 0.6 * elbow + 0.4 * wrist, wrist, (7.6, 5.2), reach=(0.4, 1.0))
        hand = body.hands[side]
        for knuckle in (5, 9, 13, 17):
            add(Region.HAND, hand[0], hand[knuckle], (3.4, 3.0), scale=size)
        for base in (1, 5, 9, 13, 17):
            for joint in range(base, base + 3):
                add(Region.HAND, hand[joint], hand[joint + 1], (1.3, 1.0), scale=size)
        add(Region.HAND, hand[0], hand[2], (3.4, 1.6), scale=size)
        hip, knee, ankle = hips[side], body.knees[side], body.ankles[side]
        add(Region.THIGH, 0.92 * hip, knee, (16.0, 10.5))
        calf = 0.7 * knee + 0.3 * ankle
        add(Region.SHANK, knee, calf, (10.3, 10.3), reach=(0.0, 0.3))
        add(Region.SHANK, calf, ankle, (10.3, 6.5), reach=(0.3, 1.0))
        big, small, heel = body.feet[side]
        up = normalize(ankle - heel) * 5.0 * size
        add(Region.FOOT, heel + up, 0.55 * (big + small) - 0.1 * heel + 0.8 * up, (6.0, 5.5), scale=size)
        add(Region.FOOT, ankle, 0.5 * (big + heel) + 0.9 * up, (6.5, 5.5), scale=size)
    columns = (np.array(column) for column in zip(*rows, strict=True))
    start, end, start_radius, end_radius, direction, part, bone = columns
    cones = Cones(start, end, start_radius, end_radius, direction, part, bone)
    return Covered(cones, np.array(regions), np.array(reaches))


def place_camera(rng: np.random.Generator, body: Body, size_px: int) -> View:
    """A camera some metres away that sees the body at half to nearly all of the picture; sometimes a part of it only.

    Most people face it within 60 degrees; the others are seen from any side. It stands a little above their middle.
    """
    yaw = np.clip(rng.normal(0.0, 32.0), -75.0, 75.0) if rng.random() < 0.6 else rng.uniform(-180.0, 180.0)
    pitch = rng.uniform(15.0, 55.0) if rng.random() < 0.1 else rng.normal(4.0, 9.0)
    roll = rng.uniform(-60.0, 60.0) if rng.random() < 0.06 else rng.normal(0.0, 6.0)
    facing = np.diag([1.0, -1.0, -1.0])
    rotation = axis_rotation(2, roll) @ axis_rotation(0, pitch) @ axis_rotation(1, yaw) @ facing
    points = body.keypoints()
    if (cropped := rng.random()) < 0.12:  # head to hips
        shown = points[[*range(13), *range(91, 133)]]
    elif cropped < 0.17:  # all but the feet
        shown = points[:15]
    else:
        shown = points
    centre = rotation @ shown.mean(axis=0)
    distance = float(np.exp(rng.uniform(np.log(480.0), np.log(1600.0))))
    translation = np.array([0.0, 0.0, distance]) - centre
    view = View(rotation, translation, np.eye(3))
    plane = view.project(view.to_camera(shown))
    low, high = plane.min(axis=0), plane.max(axis=0)
    focal = rng.uniform(0.55, 0.88) * size_px / float((high - low).max())
    extent = focal * (high - low)
    room = (size_px - extent) / 2.0 * 0.85
    principal = size_px / 2.0 + rng.uniform(-room, room) - focal * (low + high) / 2.0
    return View(
        rotation, translation, np.array([[focal, 0.0, principal[0]], [0.0, focal, principal[1]], [0.0, 0.0, 1.0]])
    )
