"""Which bundle to ship on a device, and why: one rule on what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splite_deploy.bench.report.charts import pareto_front
from splite_deploy.fit.search import Point

AS_GOOD = 1.05
"""Without a budget errors up to so many times the least are as good, and the fastest of them is chosen."""


@dataclass(frozen=True)
class Choice:
    """What to ship on a device.

    Attributes:
        place: The device.
        ship: It; None where nothing keeps its limits and the budget.
        reason: Why, as a sentence.
        front: Names of the points that no other beats in error and latency.
    """

    place: str
    ship: Point | None
    reason: str
    front: tuple[str, ...]


def choose(place: str, points: Sequence[Point], budget_ms: float | None, unit: str) -> Choice:
    """Chooses of what was measured on a device.

    With a budget it is the least error among those whose 99th percentile keeps it; without one the fastest among those
    whose error is next to the least. What breaks its limits there is never chosen.

    Args:
        place: The device.
        points: Measured there.
        budget_ms: How long a frame may take.
        unit: Of errors.
    """
    sound = [one for one in points if not one.measured["against"]]
    pairs = [(one.measured["p50_ms"], one.error) for one in sound]
    front = tuple(sound[index].name for index in pareto_front(pairs))
    if not sound:
        why = "nothing could be measured there" if not points else "everything breaks its limits there"
        return Choice(place, None, f"Ship nothing on {place}: {why}.", front)
    if budget_ms is None:
        least = min(one.error for one in sound)
        best = min((one for one in sound if one.error <= least * AS_GOOD), key=lambda one: one.measured["p50_ms"])
        rule = "the fastest whose error is within 5 % of the least"
    else:
        kept = [one for one in sound if one.measured["p99_ms"] <= budget_ms]
        if not kept:
            fast = min(sound, key=lambda one: one.measured["p99_ms"])
            told = f"the p99 of the fastest, {fast.name}, is {fast.measured['p99_ms']:.3g} ms"
            return Choice(place, None, f"Nothing keeps {budget_ms:g} ms on {place}: {told}.", front)
        best = min(kept, key=lambda one: (one.error, one.measured["p99_ms"]))
        rule = f"the least error of {len(kept)} that keep {budget_ms:g} ms"
    return Choice(
        place,
        best,
        f"Ship {best.name} on {place}: {rule}, {best.error:.3g} {unit}, p50 {best.measured['p50_ms']:.3g} ms, "
        f"p99 {best.measured['p99_ms']:.3g} ms.",
        front,
    )
