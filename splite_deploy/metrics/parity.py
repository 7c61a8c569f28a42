"""How far the outputs of a conversion lie from those of the original network, in pixels and millimetres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import DoubleArray, FloatArray
from splite_deploy.bundle import Parity, Percentiles
from splite_deploy.bundle.report import BoxParity, PeopleParity
from splite_deploy.decoders import PeopleDecoder, decode, decoded_by_role
from splite_deploy.decoders.people import evened
from splite_deploy.metrics.people import Moved, compare_people
from splite_deploy.spec import LimitSpec, ModelSpec, Precision

Outputs = Mapping[str, FloatArray]
SWITCH_CELLS = 2
MAX_FACTOR = 6.0
"""Below fp32 the largest deviation may be this many times the limit of the 95th percentile: one ambiguous keypoint in a
thousand must not rule out a precision."""
_HEAD_P95, _HEAD_INT8_P95 = 0.001, 0.05
_BOXES: Mapping[Precision, tuple[float, float]] = {"fp32": (0.98, 0.2), "fp16": (0.95, 0.5), "int8": (0.8, 5.0)}
"""5th percentile of the intersection over union of boxes, and 95th percentile of the deviation of their centres in
percent of the longer side, where `LimitSpec` leaves them open."""
NOBODY_FACTOR = 6.0
"""Where a network finds nobody the largest deviation may be this many times its limit: of hundreds of candidates that
are no people some lie where activations are as large as calibration never saw them."""


@dataclass(frozen=True)
class Deviation:
    """How far int8 keypoints lie from the reference.

    Attributes:
        parity: Percentiles of the deviation in pixels, and of the depth.
        peak_switches: Keypoints whose largest cell lies more than `SWITCH_CELLS` cells, along any axis, from the
            reference's: they jumped to another mode. 0 where the decoder looks for no largest cell.
    """

    parity: Parity
    peak_switches: int


def compare(
    stage: str, reference: Outputs, candidate: Outputs, spec: ModelSpec, crops_from: str, *, reference_name: str = ""
) -> Parity:
    """How far ``candidate`` lies from ``reference``.

    Args:
        stage: What is compared, for the report.
        reference: Outputs by role, N first; those of a graph that decodes only where the candidate is one, too.
        candidate: The same, or what a graph that decodes gives; decoded values are compared then.
        spec: The model; its decoder turns both into keypoints.
        crops_from: Where the inputs came from, for the report.
        reference_name: What gave the reference, for the report.
    """
    moved = move(reference, candidate, spec)
    depth, unit = None, ""
    if moved.depth is not None:
        scale = spec.mm_per_unit()
        how = spec.decoder.depth
        unit = "mm" if scale is not None or how is None else how.unit
        depth = percentiles(moved.depth * (scale or 1.0))
    if spec.decoder.decodes(candidate) and not spec.decoder.decodes(reference):
        reference = decoded_by_role(reference, spec)
    crops = len(next(iter(reference.values())))
    reference, candidate = evened(reference, candidate, spec.decoder)
    return Parity(
        reference=reference_name,
        stage=stage,
        crops=crops,
        crops_from=crops_from,
        tensor_max_abs={role: float(np.abs(candidate[role] - reference[role]).max()) for role in reference},
        deviation_px=percentiles(moved.deviation_px),
        depth=depth,
        depth_unit=unit,
        people=None if moved.people is None else _people(moved.people),
        heads={role: percentiles(values) for role, values in moved.heads.items()},
    )


@dataclass(frozen=True)
class Movement:
    """How far keypoints moved.

    Attributes:
        deviation_px: Distances of keypoints, pixels of the network's input, (N, K) of crops or (M, K) of candidates.
        depth: (N, K) differences of the depth in the decoder's unit; None without depth.
        people: What became of people, where a network finds any number of them.
        heads: (N,) differences of each head, such as ``presence``, of 0 to 1.
    """

    deviation_px: DoubleArray
    depth: DoubleArray | None
    people: Moved | None = None
    heads: Mapping[str, DoubleArray] = field(default_factory=dict)


def move(reference: Outputs, candidate: Outputs, spec: ModelSpec) -> Movement:
    """How far keypoints moved, each of them; see `compare`."""
    decoder = spec.decoder
    if isinstance(decoder, PeopleDecoder):
        found = compare_people(candidates_of(reference, spec), candidates_of(candidate, spec), decoder, spec.input)
        return Movement(found.deviation_px, None, found)
    before, after = decode(reference, spec), decode(candidate, spec)
    moved_px = np.linalg.norm((after.keypoints - before.keypoints).astype(np.float64), axis=-1)
    pairs = {role: (values, (after.heads or {})[role]) for role, values in (before.heads or {}).items()}
    heads = {role: np.abs((now - then).astype(np.float64)) for role, (then, now) in pairs.items()}
    if before.depth is None or after.depth is None:
        return Movement(moved_px, None, heads=heads)
    return Movement(moved_px, np.abs((after.depth - before.depth).astype(np.float64)), heads=heads)


def candidates_of(outputs: Outputs, spec: ModelSpec) -> FloatArray:
    """(N, A, 5 + 3 K) candidates of a network that finds people, whether its graph decodes or not.

    Raises:
        BackendError: An output is not finite, or of another shape.
    """
    decode(outputs, spec)  # checks them
    decoder = spec.decoder
    return (outputs if decoder.decodes(outputs) else decoder.by_role(outputs, spec.input))["candidates"]


def _people(moved: Moved) -> PeopleParity:
    worst, people = float(moved.scores.max(initial=0.0)), moved.people
    if people is None:
        return PeopleParity(len(moved.scores), worst, 0, 0, 0, 0.0, None)
    away = percentiles(people.deviation_px) if people.deviation_px.size else None
    boxes = None
    if people.overlap.size:
        boxes = BoxParity(
            iou_min=float(people.overlap.min()),
            iou_p05=float(np.percentile(people.overlap, 5)),
            centre_px=percentiles(people.centre_px),
            centre_box_pct=percentiles(100 * people.centre_share),
        )
    return PeopleParity(len(moved.scores), worst, people.found, people.missed, people.new, people.beyond, away, boxes)


def measure_deviation(
    reference: Outputs,
    candidate: Outputs,
    spec: ModelSpec,
    *,
    stage: str = "",
    reference_name: str = "",
    crops_from: str = "",
) -> Deviation:
    """How far keypoints moved.

    Args:
        reference: Outputs by role, N first.
        candidate: The same, or the keypoints of a graph that decodes.
        spec: The model.
        stage: What gave ``candidate``, for the report.
        reference_name: What gave ``reference``, for the report.
        crops_from: Where the inputs came from, for the report.

    Raises:
        BackendError: An output is not finite.
    """
    parity = compare(stage, reference, candidate, spec, crops_from, reference_name=reference_name)
    switches = 0
    if not spec.decoder.decodes(candidate):
        before, after = spec.decoder.peaks(reference), spec.decoder.peaks(candidate)
        if before is not None and after is not None:
            switches = int((np.abs(after - before).max(axis=-1) > SWITCH_CELLS).sum())
    return Deviation(parity, switches)


def violations(parity: Parity, limits: LimitSpec, spec: ModelSpec) -> list[str]:
    """The limits that a comparison breaks, each as a phrase; empty if none."""
    return [
        f"{what} {value:.4g}{unit and ' ' + unit} (limit {limit:.4g})"
        for what, value, limit, unit in _limited(parity, limits, spec)
        if not value <= limit
    ]


def share_used(parity: Parity, limits: LimitSpec, spec: ModelSpec) -> float:
    """The largest share of a limit that a comparison uses; over 1 it breaks that limit."""
    return max(value / limit for _, value, limit, _ in _limited(parity, limits, spec))


def in_force(parity: Parity, limits: LimitSpec) -> LimitSpec:
    """The limits that a comparison has to keep: with `NOBODY_FACTOR` where a network finds nobody."""
    if parity.people is None or parity.people.found:
        return limits
    return replace(limits, shift_max_px=NOBODY_FACTOR * limits.shift_max_px)


def _limited(parity: Parity, limits: LimitSpec, spec: ModelSpec) -> list[tuple[str, float, float, str]]:
    """What is limited, each with its value, its limit, and the unit of both."""
    limits = in_force(parity, limits)
    found = [
        ("keypoint deviation p95", parity.deviation_px.p95, limits.shift_p95_px, "px"),
        ("keypoint deviation max", parity.deviation_px.max, limits.shift_max_px, "px"),
    ]
    if parity.depth is not None:
        limit = spec.depth_limit(limits) * (spec.mm_per_unit() or 1.0)
        found.append(("depth deviation p95", parity.depth.p95, limit, parity.depth_unit))
    for role, away in parity.heads.items():
        found.append((f"{role} deviation p95", away.p95, head_limit(limits), ""))
        found.append((f"{role} deviation max", away.max, MAX_FACTOR * head_limit(limits), ""))
    if (people := parity.people) is not None:
        found.append(("score deviation max", people.score_max, limits.score_max, ""))
        lost = f"{people.missed} people missed and {people.new} new, one with a score over the threshold by"
        found.append((lost, people.beyond, limits.score_max, ""))
        if people.deviation_px is not None:
            found.append(("deviation of people p95", people.deviation_px.p95, limits.shift_p95_px, "px"))
        if (boxes := people.boxes) is not None:
            # a bundle of an earlier export has no limits of boxes: the deviation of people holds them
            if limits.box_iou_p05 is not None:
                found.append(("1 - IoU of boxes p95", 1 - boxes.iou_p05, 1 - limits.box_iou_p05, ""))
            if limits.centre_p95_pct is not None:
                centre_pct = boxes.centre_box_pct.p95
                found.append(("deviation of box centres p95", centre_pct, limits.centre_p95_pct, "% of the box"))
    return found


def head_limit(limits: LimitSpec) -> float:
    """How far the 95th percentile of a head, such as ``presence``, may move; the largest `MAX_FACTOR` times that."""
    return _HEAD_P95 if limits.head_p95 is None else limits.head_p95


def box_limits(limits: LimitSpec, precision: Precision) -> tuple[float, float]:
    """What the 5th percentile of boxes' overlaps must reach, and how far the 95th of their centres may move, percent.

    Args:
        limits: Of the model spec.
        precision: Below fp32 both may be wider than the limits say.
    """
    least, most_pct = _BOXES[precision]
    if limits.box_iou_p05 is not None:
        least = limits.box_iou_p05 if precision == "fp32" else min(limits.box_iou_p05, least)
    if limits.centre_p95_pct is not None:
        most_pct = limits.centre_p95_pct if precision == "fp32" else max(limits.centre_p95_pct, most_pct)
    return least, most_pct


def limits_of(precision: Precision, spec: ModelSpec) -> LimitSpec:
    """How far keypoints may move: the spec's limits in fp32, below them at least a part of the box's longer side.

    int8: 0.5 % (p95) and 3 % (max) of the side as it lies in the crop, 5 % of a palm in depth, or where
    depth is in pixels the same as of x and y, 0.1 of a person's score, and 0.05 (p95) of a head. fp16: a tenth of that.
    Boxes of people: `_BOXES`.

    A decoder that rounds makes a jump of the least change where a place lies between two that it finds: the largest
    deviation may be so much more, and in int8, where one in twenty such places is soon reached, p95, too.
    """
    rounding_px = spec.decoder.rounding_px(spec.input)
    box_iou_p05, centre_p95_pct = None, None
    if isinstance(spec.decoder, PeopleDecoder):
        box_iou_p05, centre_p95_pct = box_limits(spec.limits, precision)
    if precision == "fp32":
        limits = replace(spec.limits, box_iou_p05=box_iou_p05, centre_p95_pct=centre_p95_pct)
        return replace(limits, shift_max_px=spec.limits.shift_max_px + rounding_px)
    part = 1.0 if precision == "int8" else 0.1
    side = max(spec.input.height, spec.input.width) / spec.input.box_padding
    shift_px = 0.005 * side * part
    depth, how = 0.05 * spec.units_per_palm() * part, spec.decoder.depth
    return LimitSpec(
        shift_p95_px=max(spec.limits.shift_p95_px, shift_px) + (rounding_px if precision == "int8" else 0.0),
        shift_max_px=max(spec.limits.shift_max_px, MAX_FACTOR * shift_px) + rounding_px,
        depth_p95=max(spec.depth_limit(spec.limits), shift_px if how is not None and how.unit == "pixel" else depth),
        score_max=max(spec.limits.score_max, 0.1 * part),
        head_p95=max(head_limit(spec.limits), _HEAD_INT8_P95 * part) if spec.heads else None,
        box_iou_p05=box_iou_p05,
        centre_p95_pct=centre_p95_pct,
    )


def percentiles(values: NDArray[np.floating[Any]]) -> Percentiles:
    """50th and 95th percentile and maximum; of nothing NaN, which keeps no limit."""
    if not values.size:
        return Percentiles(np.nan, np.nan, np.nan)
    return Percentiles(*(float(v) for v in (*np.percentile(values, [50, 95]), values.max())))
