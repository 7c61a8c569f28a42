"""The skeleton of a hand: bone lengths, joint limits, random shapes and poses.

The hand frame of a right hand, in millimetres: origin at the wrist's centre, x towards the thumb, y towards
the fingers, z out of the palm. A left hand is its mirror image in x. Angles are degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of floats

# Mean adult hand in mm: anthropometric phalanx lengths, the last one up to a point inside the finger pad.
BONES_MM = np.array(
    [[40.0, 32.0, 26.0], [39.5, 23.5, 20.0], [43.0, 26.5, 20.5], [39.5, 25.0, 20.0], [30.5, 19.5, 18.0]]
)
FINGER_MCP_MM = np.array([[22.0, 94.0, 2.0], [0.0, 96.0, 0.0], [-20.0, 90.0, 1.0], [-37.5, 77.0, 4.0]])
THUMB_CMC_MM = np.array([26.0, 18.0, 9.0])
# Half the thickness of each digit at its joints, proximal to tip.
RADII_MM = np.array(
    [
        [12.5, 10.6, 9.8, 7.6],
        [10.0, 8.9, 7.8, 6.3],
        [10.2, 9.0, 7.9, 6.4],
        [9.6, 8.5, 7.4, 6.0],
        [8.6, 7.4, 6.5, 5.4],
    ]
)
FAN_DEG = np.array([6.5, 0.0, -5.5, -14.0])  # direction of the unspread fingers, towards the thumb positive
ROLL_DEG = np.array([-2.0, 4.0, 8.0, 12.0])  # of the plane of flexion: curled fingers converge

# Active ranges of motion of healthy adults, rounded: (low, high) of the four angles of a finger (abduction,
# MCP, PIP, DIP) and of the thumb (radial and palmar abduction, MCP, IP).
FINGER_LIMITS_DEG = np.array([[-20.0, 20.0], [-15.0, 90.0], [0.0, 105.0], [0.0, 80.0]])
THUMB_LIMITS_DEG = np.array([[-20.0, 60.0], [0.0, 60.0], [-10.0, 55.0], [-20.0, 80.0]])
DIGITS_SHARE = 0.62
"""Of poses that are digits of a sign language, where nothing else is asked for."""
OPEN_THUMB_DEG = np.array([[28.0, 55.0], [5.0, 30.0], [-8.0, 15.0], [-18.0, 12.0]])
RELAXED_THUMB_DEG = np.array([[10.0, 40.0], [15.0, 45.0], [0.0, 25.0], [0.0, 40.0]])


@dataclass(frozen=True)
class Shape:
    """A person's hand in mm: (5, 3) bones, (4, 3) finger bases, (3,) thumb base, (5, 4) radii; scale."""

    bones: Array
    mcp: Array
    cmc: Array
    radii: Array
    scale: float


@dataclass(frozen=True)
class _Pose:
    """(4, 4) finger angles and (4,) thumb angles, degrees, in the order of the limits."""

    fingers: Array
    thumb: Array


@dataclass(frozen=True)
class Skeleton:
    """Joints (21, 3) mm in the hand frame and (5, 3, 3, 3) bone frames, columns (lateral, along, palmar)."""

    joints: Array
    frames: Array


def axis_rotation(axis: int, degrees: Array | float) -> Array:
    """(..., 3, 3) right-handed rotation about a coordinate axis."""
    angle = np.radians(np.asarray(degrees, dtype=np.float64))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., i, i] = matrix[..., j, j] = np.cos(angle)
    matrix[..., j, i] = np.sin(angle)
    matrix[..., i, j] = -np.sin(angle)
    return matrix


def normalize(vector: Array) -> Array:
    """Unit vectors (..., 3) in the direction of (..., 3) vectors."""
    unit: Array = vector / np.linalg.norm(vector, axis=-1, keepdims=True)
    return unit


def _chain(base: Array, frame: Array, flexion: Array, lengths: Array) -> tuple[Array, Array]:
    """Joints (..., 4, 3) and bone frames (..., 3, 3, 3) of a digit whose bones flex by (..., 3) degrees."""
    joints, frames = [np.broadcast_to(base, (*flexion.shape[:-1], 3))], []
    for bone in range(3):
        frame = frame @ axis_rotation(0, flexion[..., bone])
        frames.append(frame)
        joints.append(joints[-1] + frame[..., :, 1] * lengths[bone])
    return np.stack(joints, axis=-2), np.stack(frames, axis=-3)


def _finger(shape: Shape, finger: int, angles: Array) -> tuple[Array, Array]:
    """Chain of a finger (0 index ... 3 little) for (..., 4) pose angles."""
    frame = axis_rotation(2, -(FAN_DEG[finger] + angles[..., 0])) @ axis_rotation(1, ROLL_DEG[finger])
    return _chain(shape.mcp[finger], frame, angles[..., 1:], shape.bones[finger + 1])


def _thumb(shape: Shape, angles: Array) -> tuple[Array, Array]:
    """Chain of the thumb for (..., 4) pose angles; the pad turns towards the fingers as it opposes."""
    radial, palmar = np.radians(angles[..., 0]), np.radians(angles[..., 1])
    along = np.stack([np.sin(radial) * np.cos(palmar), np.cos(radial) * np.cos(palmar), np.sin(palmar)], axis=-1)
    twist = np.radians(50.0 - 70.0 * np.clip(angles[..., 1] / 55.0, 0.0, 1.0))
    pad = np.stack([-np.cos(twist), np.zeros_like(twist), np.sin(twist)], axis=-1)
    pad = normalize(pad - np.sum(pad * along, axis=-1, keepdims=True) * along)
    frame = np.stack([np.cross(along, pad), along, pad], axis=-1)
    flexion = np.concatenate([np.zeros_like(angles[..., :1]), angles[..., 2:]], axis=-1)
    return _chain(shape.cmc, frame, flexion, shape.bones[0])


def _pose_skeleton(shape: Shape, pose: _Pose) -> Skeleton:
    chains = [_thumb(shape, pose.thumb), *(_finger(shape, i, pose.fingers[i]) for i in range(4))]
    joints = np.concatenate([np.zeros((1, 3)), *(joints for joints, _ in chains)])
    return Skeleton(joints, np.stack([frames for _, frames in chains]))


def sample_shape(rng: np.random.Generator) -> Shape:
    scale = float(np.clip(rng.normal(1.0, 0.07), 0.84, 1.16))
    per_digit = np.clip(rng.normal(1.0, 0.03, (5, 1)), 0.93, 1.07)
    bones = BONES_MM * scale * per_digit * np.clip(rng.normal(1.0, 0.025, (5, 3)), 0.94, 1.06)
    palm = scale * np.clip(rng.normal(1.0, [0.05, 0.03, 0.1]), 0.88, 1.12)
    radii = RADII_MM * scale * float(np.clip(rng.normal(1.0, 0.07), 0.85, 1.18))
    return Shape(bones, FINGER_MCP_MM * palm, THUMB_CMC_MM * palm, radii, scale)


# --- poses ----------------------------------------------------------------------------------------


def _thumbs(rng: np.random.Generator, limits: Array, count: int = 1) -> Array:
    """(count, 4) thumb angles, uniform between the rows of (4, 2) limits."""
    return rng.uniform(limits[:, 0], limits[:, 1], (count, 4))


def _limit_finger(angles: Array) -> Array:
    """(..., 4) finger angles inside the limits; a flexed finger cannot spread."""
    limited = np.clip(angles, FINGER_LIMITS_DEG[:, 0], FINGER_LIMITS_DEG[:, 1])
    freedom = np.clip(1.0 - limited[..., 1] / 90.0, 0.0, 1.0)
    limited[..., 0] = np.clip(limited[..., 0], -20.0 * freedom, 20.0 * freedom)
    return limited


def _flexed(rng: np.random.Generator, mcp: tuple[float, float], pip: tuple[float, float], count: int = 1) -> Array:
    """(count, 4) finger angles, MCP and PIP drawn from ranges; the DIP follows the PIP (shared tendon)."""
    pips = rng.uniform(*pip, count)
    dips = pips * rng.normal(0.62, 0.08, count) + rng.normal(0.0, 4.0, count)
    return _limit_finger(np.stack([rng.normal(0.0, 3.0, count), rng.uniform(*mcp, count), pips, dips], axis=-1))


def _fingers(rng: np.random.Generator, extended: NDArray[np.bool_]) -> Array:
    """(4, 4) angles of fingers that are extended or curled, the extended ones spread by a common amount."""
    up, down = _flexed(rng, (-10.0, 18.0), (0.0, 16.0), 4), _flexed(rng, (62.0, 90.0), (88.0, 105.0), 4)
    middle = 0.1 if extended[2] else -0.8  # without the ring finger, index and middle part as a V
    up[:, 0] += np.array([0.9, middle, -0.5, -1.0]) * rng.uniform(-4.0, 13.0)
    return _limit_finger(np.where(extended[:, None], up, down))


def _thumb_touching(rng: np.random.Generator, shape: Shape, targets: Array, facing: Array) -> tuple[Array, int]:
    """Thumb angles whose tip comes nearest to one of (m, 3) targets with its pad against (m, 3) `facing`.

    A random search: the thumb's reach is small and 500 draws come within a few millimetres.

    Returns:
        (4,) thumb angles and the index of the target that is touched.
    """
    angles = _thumbs(rng, THUMB_LIMITS_DEG, 500)
    joints, frames = _thumb(shape, angles)
    distance = np.linalg.norm(joints[:, None, 3] - targets, axis=-1)
    strain = 0.3 * np.clip(15.0 - angles[:, 0], 0.0, None)  # the metacarpal stays beside the palm when it can
    cost = distance + 6.0 * (1.0 + frames[:, 2, :, 2] @ facing.T) + strain[:, None]
    best = int(np.argmin(cost))
    return angles[best // len(targets)], best % len(targets)


def _thumb_on_finger(rng: np.random.Generator, shape: Shape, finger: int, angles: Array) -> Array:
    """Thumb angles that lay its pad on the back of a curled finger's middle bone, as in a fist."""
    joints, frames = _finger(shape, finger, angles)
    outward = -frames[1, :, 2]
    contact = joints[1] + rng.uniform(0.3, 0.8) * (joints[2] - joints[1])
    target = contact + outward * (shape.radii[finger + 1, 1] + shape.radii[0, 3])
    return _thumb_touching(rng, shape, target[None], outward[None])[0]


def _tip_touch(rng: np.random.Generator, shape: Shape, finger: int) -> tuple[Array, Array]:
    """Finger and thumb angles, (4,) each, that bring the two pads together."""
    angles = _flexed(rng, (30.0, 80.0), (35.0, 95.0), 60)
    joints, frames = _finger(shape, finger, angles)
    pad = frames[:, 2, :, 2]
    gap = 0.9 * (shape.radii[finger + 1, 3] + shape.radii[0, 3])
    thumb, chosen = _thumb_touching(rng, shape, joints[:, 3] + gap * pad, pad)
    return angles[chosen], thumb


def _digit_pose(rng: np.random.Generator, shape: Shape, digit: int) -> _Pose:
    """A one-handed sign-language digit: 0 is the "O", 1-5 count fingers, 6-9 touch little ... index."""
    if digit == 0:
        angles, thumb = _tip_touch(rng, shape, int(rng.integers(0, 2)))
        return _Pose(_limit_finger(angles + rng.normal(0.0, [1.5, 5.0, 5.0, 4.0], (4, 4))), thumb)
    if digit >= 6:
        touched = 9 - digit
        fingers = _fingers(rng, np.arange(4) != touched)
        fingers[touched], thumb = _tip_touch(rng, shape, touched)
        return _Pose(fingers, thumb)
    fingers = _fingers(rng, np.arange(4) < (digit if digit != 3 else 2))
    if digit in (3, 5):
        return _Pose(fingers, _thumbs(rng, OPEN_THUMB_DEG)[0])
    if digit == 4:
        across = np.array([[rng.uniform(-18.0, 6.0), rng.uniform(60.0, 78.0), shape.radii[0, 3] + 14.0]])
        return _Pose(fingers, _thumb_touching(rng, shape, across, np.array([[0.0, 0.0, 1.0]]))[0])
    return _Pose(fingers, _thumb_on_finger(rng, shape, digit, fingers[digit]))


def _sample_pose(rng: np.random.Generator, shape: Shape, digits: float) -> tuple[_Pose, bool]:
    """A pose, and whether it is the "O" that is mostly shown from the side."""
    kind = rng.random()
    if kind >= digits:
        kind = DIGITS_SHARE + (kind - digits) * (1.0 - DIGITS_SHARE) / (1.0 - digits)
    if kind < DIGITS_SHARE:
        digit = int(rng.integers(0, 10))
        return _digit_pose(rng, shape, digit), digit == 0
    thumb = _thumbs(rng, THUMB_LIMITS_DEG)[0]
    if kind < 0.74:
        fingers = _fingers(rng, rng.random(4) < 0.45)
        if fingers[1, 1] > 50.0 and rng.random() < 0.6:
            thumb = _thumb_on_finger(rng, shape, 1, fingers[1])
        return _Pose(fingers, thumb), False
    if kind < 0.86:
        fingers = _flexed(rng, (-15.0, 90.0), (0.0, 105.0), 4)
        fingers[:, 0] = rng.uniform(-20.0, 20.0, 4)
        return _Pose(_limit_finger(fingers), thumb), False
    start, curl = rng.uniform(5.0, 30.0), rng.uniform(10.0, 50.0)
    fingers = _flexed(rng, (start, start + 15.0), (curl, curl + 15.0), 4)
    fingers[:, 1:3] += np.arange(4)[:, None] * rng.uniform(0.0, 7.0)
    return _Pose(_limit_finger(fingers), _thumbs(rng, RELAXED_THUMB_DEG)[0]), False


def _penetration_mm(shape: Shape, skeleton: Skeleton) -> float:
    """Depth of the deepest overlap between two digits or of a digit with the palm, mm."""
    steps = np.linspace(0.0, 1.0, 5)
    starts, ends = skeleton.joints[1:].reshape(5, 4, 3)[:, :-1], skeleton.joints[1:].reshape(5, 4, 3)[:, 1:]
    points = starts[:, :, None] + steps[:, None] * (ends - starts)[:, :, None]
    radii = shape.radii[:, :-1, None] + steps * (shape.radii[:, 1:] - shape.radii[:, :-1])[:, :, None]
    # Webbed roots (the first half of each proximal bone) always overlap: leave them out.
    points, radii = points.reshape(5, 15, 3)[:, 3:], radii.reshape(5, 15)[:, 3:]
    palm = (shape.mcp[:, None] * np.linspace(0.3, 0.9, 4)[:, None]).reshape(-1, 3)
    worst = 0.0
    for digit in range(5):
        tips, tip_radii = points[digit, 4:], radii[digit, 4:]
        reach = np.linalg.norm(tips[:, None] - palm, axis=-1)
        worst = max(worst, float((tip_radii[:, None] + 11.0 * shape.scale - reach).max()))
        for other in range(digit):
            gap = np.linalg.norm(points[digit][:, None] - points[other], axis=-1)
            worst = max(worst, float((radii[digit][:, None] + radii[other] - gap).max()))
    return worst


def sample_skeleton(rng: np.random.Generator, shape: Shape, digits: float = DIGITS_SHARE) -> tuple[Skeleton, bool]:
    """A skeleton whose digits do not pass through each other (soft tissue gives way a little).

    Args:
        rng: The source of chance.
        shape: The person's hand.
        digits: Share of poses that show a number, up to `DIGITS_SHARE`; the others are free.

    Returns:
        The skeleton, and whether it is to be shown mostly from the side.
    """
    best: tuple[float, Skeleton, bool] | None = None
    for _ in range(12):
        pose, sideways = _sample_pose(rng, shape, digits)
        skeleton = _pose_skeleton(shape, pose)
        depth = _penetration_mm(shape, skeleton)
        if best is None or depth < best[0]:
            best = depth, skeleton, sideways
        if depth < 5.0 * shape.scale:
            break
    assert best is not None
    return best[1], best[2]
