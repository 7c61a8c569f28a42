"""The skeleton of a body: proportions, poses, and where the keypoints of COCO and COCO-WholeBody lie on it.

Lengths are in units of 5 mm, in which a body has the numbers of a hand in millimetres, whose renderer draws it. The
body frame: x to the person's left, y up, z out of the chest. Angles are degrees.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from hand_skeleton import Array, axis_rotation, sample_shape, sample_skeleton

UNIT_MM = 5.0
BODY_KEYPOINTS, FOOT_KEYPOINTS, FACE_KEYPOINTS, HAND_KEYPOINTS = 17, 6, 68, 21
"""Of COCO-WholeBody, in its order; the hands come last, left before right."""

# Of the stature (Drillis and Contini 1966, in Winter, Biomechanics and Motor Control of Human Movement)
THIGH, SHANK, FOOT_HEIGHT = 0.245, 0.246, 0.039
UPPER_ARM, FOREARM = 0.186, 0.146
TRUNK, NECK = 0.272, 0.085  # hips to shoulders, shoulders to the height of the ears
SHOULDERS, HIPS = 0.112, 0.056  # half of the distance of the joints


@dataclass(frozen=True)
class Proportions:
    """A person: stature in units, and factors of limbs' lengths, of girth, and of the widths of shoulders and hips."""

    stature: float
    limbs: float
    girth: float
    shoulders: float
    hips: float


@dataclass(frozen=True)
class Head:
    """Centre (3,) between the ears, rotation (3, 3) of its frame (x left, y up, z to the front), units in one cm."""

    centre: Array
    rotation: Array
    cm: float

    def place(self, points_cm: Array) -> Array:
        """Points (..., 3) of the head's frame, in cm, in the body frame."""
        placed: Array = self.centre + (self.cm * np.asarray(points_cm)) @ self.rotation.T
        return placed


@dataclass(frozen=True)
class Body:
    """Joints of one person in the body frame, each (3,) in units; pairs are left, then right.

    Attributes:
        proportions: Of the person.
        trunk: (3, 3) rotation of the chest.
        pelvis: Middle of the hips: the origin.
        neck: Between the shoulders.
        head: Where the head is.
        shoulders, elbows, wrists, hips, knees, ankles: (2, 3) each.
        feet: (2, 3, 3): big toe, small toe, heel of each foot.
        hands: (2, 21, 3) as a hand's keypoints are ordered.
        palms: (2, 3) directions out of the palms.
    """

    proportions: Proportions
    trunk: Array
    pelvis: Array
    neck: Array
    head: Head
    shoulders: Array
    elbows: Array
    wrists: Array
    hips: Array
    knees: Array
    ankles: Array
    feet: Array
    hands: Array
    palms: Array

    def keypoints(self) -> Array:
        """(133, 3) keypoints of COCO-WholeBody; the first 17 are those of COCO."""
        face = self.head.place(FACE_CM)
        nose, eyes, ears = self.head.place(NOSE_CM), self.head.place(EYES_CM), self.head.place(EARS_CM)
        limbs = (self.shoulders, self.elbows, self.wrists, self.hips, self.knees, self.ankles)
        return np.concatenate([nose[None], eyes, ears, *limbs, self.feet.reshape(6, 3), face, *self.hands])


# --- the face, in cm from the middle between the ears -----------------------------------------------

NOSE_CM = np.array([0.0, -1.8, 11.2])
EYES_CM = np.array([[3.2, 1.4, 8.6], [-3.2, 1.4, 8.6]])
EARS_CM = np.array([[7.6, 0.0, 0.0], [-7.6, 0.0, 0.0]])
MOUTH_CM = np.array([0.0, -5.3, 9.3])


def _face() -> Array:
    """(68, 3) landmarks of a face: jaw, brows, nose, eyes and mouth, each from the person's right to the left."""
    turn = np.linspace(-90.0, 90.0, 17) * np.pi / 180
    jaw = np.stack([7.0 * np.sin(turn), 0.4 - 10.0 * np.cos(turn) ** 1.2, 0.8 + 7.4 * np.cos(turn)], -1)
    across = np.linspace(-6.2, -1.6, 5)
    arch = np.array([2.7, 3.5, 3.7, 3.5, 3.1])
    brow = np.stack([across, arch, 9.2 - 0.06 * across**2], -1)
    bridge = np.stack([np.zeros(4), np.linspace(1.5, -1.4, 4), np.linspace(9.4, 11.1, 4)], -1)
    nostrils = np.stack([np.linspace(-1.6, 1.6, 5), np.array([-2.6, -2.8, -2.9, -2.8, -2.6]), np.full(5, 9.9)], -1)
    lid = np.array([[-1.5, 0.0], [-0.6, 0.55], [0.6, 0.55], [1.5, 0.0], [0.6, -0.5], [-0.6, -0.5]])
    eyes = [np.column_stack([x + lid[:, 0], 1.4 + lid[:, 1], np.full(6, 8.6)]) for x in (-3.2, 3.2)]

    def ring(width: float, top: float, bottom: float, above: int, below: int) -> Array:
        upper = np.linspace(-width, width, above)
        lower = np.linspace(width, -width, below + 2)[1:-1]
        xs = np.concatenate([upper, lower])
        heights = np.where(np.arange(len(xs)) < above, top, -bottom)
        ys = heights * np.sqrt(np.clip(1.0 - (xs / width) ** 2, 0.0, 1.0))
        return MOUTH_CM + np.stack([xs, ys, -0.12 * xs**2], -1)

    left_brow = brow[::-1] * (-1.0, 1.0, 1.0)
    mouth = [ring(2.6, 0.8, 1.1, 7, 5), ring(1.9, 0.25, 0.3, 5, 3)]
    return np.concatenate([jaw, brow, left_brow, bridge, nostrils, *eyes, *mouth])


FACE_CM = _face()


# --- poses ------------------------------------------------------------------------------------------


def sample_proportions(rng: np.random.Generator) -> Proportions:
    """A person between a child of ten and a tall adult, thin or stout."""
    stature = float(np.clip(rng.normal(335.0, 24.0), 260.0, 390.0))
    girth = float(np.exp(rng.normal(0.0, 0.13)))
    shoulders, hips, limbs = np.clip(rng.normal(1.0, [0.07, 0.08, 0.03]), 0.85, 1.18)
    return Proportions(stature, float(limbs), girth, float(shoulders), float(hips))


def _arm_angles(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Abduction, flexion, twist of the upper arm, flexion of the elbow."""
    kind = rng.random()
    if kind < 0.35:  # hanging
        return rng.uniform(2, 22), rng.normal(5, 14), rng.normal(0, 20), abs(rng.normal(12, 14))
    if kind < 0.55:  # hand on the hip, arms folded, something held
        return rng.uniform(5, 50), rng.uniform(-20, 40), rng.uniform(-70, 40), rng.uniform(60, 130)
    if kind < 0.8:  # raised
        return rng.uniform(40, 165), rng.uniform(-15, 60), rng.uniform(-60, 60), rng.uniform(0, 110)
    return rng.uniform(0, 60), rng.uniform(20, 160), rng.uniform(-60, 60), rng.uniform(0, 110)


def _leg_angles(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Flexion and abduction of the hip and flexion of the knee, for both legs."""
    kind = rng.random()
    if kind < 0.35:  # standing
        spread = abs(rng.normal(0, 7))
        return [(rng.normal(0, 5), spread + rng.uniform(0, 6), abs(rng.normal(0, 7))) for _ in range(2)]
    if kind < 0.62:  # walking, running
        swing = rng.uniform(8, 50) * rng.choice([-1.0, 1.0])
        bent = rng.uniform(0, 0.9 * abs(swing) + 25, 2)
        return [(swing * sign + rng.normal(0, 5), rng.uniform(-2, 8), bent[i]) for i, sign in enumerate((1, -1))]
    if kind < 0.8:  # sitting, squatting
        hip, knee = rng.uniform(55, 115), rng.uniform(50, 130)
        return [(hip + rng.normal(0, 6), rng.uniform(0, 28), np.clip(knee + rng.normal(0, 12), 0, 145)) for _ in "lr"]
    return [(rng.uniform(-25, 110), rng.uniform(-5, 50), rng.uniform(0, 125)) for _ in range(2)]


def _hand(rng: np.random.Generator, wrist: Array, frame: Array, stature: float, left: bool) -> tuple[Array, Array]:
    """Keypoints (21, 3) and the direction out of the palm (3,) of a hand whose fingers point down -y of ``frame``."""
    shape = sample_shape(rng)
    joints = sample_skeleton(rng, shape)[0].joints / (shape.scale * UNIT_MM) * stature / 344.0
    side = 1.0 if left else -1.0
    basis = np.stack([frame[:, 2], -frame[:, 1], -side * frame[:, 0]], axis=1)  # thumb, fingers, palm
    return wrist + joints @ basis.T, basis[:, 2]


def sample_body(rng: np.random.Generator) -> Body:
    """A person in a random pose: standing, walking, sitting, stretching, arms anywhere that shoulders allow."""
    person = sample_proportions(rng)
    size, limb = person.stature, person.stature * person.limbs
    lean = rng.normal(0.0, [10.0, 14.0, 7.0])
    if rng.random() < 0.2:
        lean[0] = rng.uniform(15.0, 70.0)  # bent forward
    trunk = axis_rotation(1, lean[1]) @ axis_rotation(2, lean[2]) @ axis_rotation(0, lean[0])
    pelvis = np.zeros(3)
    neck = trunk @ (0.0, TRUNK * size, 0.0)
    nod = axis_rotation(1, rng.normal(0.0, 24.0)) @ axis_rotation(0, rng.normal(4.0, 13.0) - 0.5 * max(lean[0], 0.0))
    turned = trunk @ nod @ axis_rotation(2, rng.normal(0.0, 8.0))
    cm = size / 344.0 * 2.0
    head = Head(neck + 0.5 * (trunk + turned) @ (0.0, NECK * size, 0.02 * size), turned, cm)
    shoulders, elbows, wrists, hips, knees, ankles, feet, hands, palms = ([] for _ in range(9))  # type: ignore[var-annotated]
    legs = _leg_angles(rng)
    shrug = rng.normal(0.0, 0.008, 2)
    for index, side in enumerate((1.0, -1.0)):
        shoulder = neck + trunk @ (side * SHOULDERS * person.shoulders * size, -0.012 * size + shrug[index] * size, 0.0)
        abduction, flexion, twist, elbow = _arm_angles(rng)
        upper = (
            trunk @ axis_rotation(2, side * abduction) @ axis_rotation(0, -flexion) @ axis_rotation(1, -side * twist)
        )
        lower = upper @ axis_rotation(0, -elbow) @ axis_rotation(1, -side * rng.uniform(-40.0, 80.0))
        wave = axis_rotation(0, rng.normal(0.0, 20.0)) @ axis_rotation(2, rng.normal(0.0, 10.0))
        shoulders.append(shoulder)
        elbows.append(shoulder + upper @ (0.0, -UPPER_ARM * limb, 0.0))
        wrists.append(elbows[-1] + lower @ (0.0, -FOREARM * limb, 0.0))
        hand, palm = _hand(rng, wrists[-1], lower @ wave, size, side > 0)
        hands.append(hand)
        palms.append(palm)
        flexion, abduction, bend = legs[index]
        thigh = (
            axis_rotation(2, side * abduction) @ axis_rotation(0, -flexion) @ axis_rotation(1, side * rng.normal(8, 12))
        )
        shank = thigh @ axis_rotation(0, bend)
        foot = shank @ axis_rotation(0, rng.normal(8.0, 12.0)) @ axis_rotation(1, side * rng.normal(4.0, 6.0))
        hips.append(pelvis + np.array([side * HIPS * person.hips * size, 0.0, 0.0]))
        knees.append(hips[-1] + thigh @ (0.0, -THIGH * limb, 0.0))
        ankles.append(knees[-1] + shank @ (0.0, -SHANK * limb, 0.0))
        sole = -0.033 * size
        points = ((-0.008 * side, 0.102), (0.027 * side, 0.08), (0.0, -0.03))  # big toe, small toe, heel
        feet.append(np.stack([ankles[-1] + foot @ (x * size, sole, z * size) for x, z in points]))
    parts = (np.stack(part) for part in (shoulders, elbows, wrists, hips, knees, ankles, feet, hands, palms))
    return Body(person, trunk, pelvis, neck, head, *parts)
