"""Which networks go on after a rung, and which are worth showing: rules on figures alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from splite_deploy.bench.report.charts import pareto_front

K = TypeVar("K", bound=Hashable)


def going_on(
    errors: Mapping[K, float], latencies: Sequence[Mapping[K, float | None]], budget_ms: float | None, keep: float
) -> list[K]:
    """Successive halving (Jamieson and Talwalkar 2016) for several devices.

    It is synchronous: the same figures always give the same choice, whichever trial ended first, so that a search that
    is run again finds all its results.

    On each device the best part goes on of those that are thought to keep the budget there: by error. Without a budget
    what no other beats in error and latency comes first, then what only those beat, and so on.

    Args:
        errors: Of the networks that were trained, by network.
        latencies: Of each device what is thought of each network, milliseconds; None where nothing is known.
        budget_ms: How long a frame may take; None for no limit.
        keep: The part that goes on, at least one on each device.

    Returns:
        In the order of their errors.
    """
    chosen: set[K] = set()
    for known in latencies or [{}]:
        fits = [one for one in errors if budget_ms is None or (known.get(one) or 0.0) <= budget_ms]
        fits.sort(key=lambda one: errors[one])
        count = math.ceil(len(fits) * keep)
        if budget_ms is None and all(known.get(one) is not None for one in fits):
            fits = _by_front(fits, errors, known)
        chosen.update(fits[:count])
    return sorted(chosen, key=lambda one: errors[one])


def _by_front(networks: Sequence[K], errors: Mapping[K, float], known: Mapping[K, float | None]) -> list[K]:
    ordered, left = [], list(networks)
    while left:
        front = pareto_front([(known[one] or 0.0, errors[one]) for one in left])
        ordered += sorted((left[index] for index in front), key=lambda one: errors[one])
        left = [one for index, one in enumerate(left) if index not in front]
    return ordered
