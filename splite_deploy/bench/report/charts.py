"""Geometry of the charts of the HTML page, in percent of their width and height.

The page lays its text out itself and stretches only lines and areas, so that labels are as large on a phone as on a
desk. Pure numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDE_RATIO = 6.0
"""From this ratio of largest to smallest on, an axis is logarithmic."""
BINS = 120
LABEL_WIDTH_PCT, LABEL_HEIGHT_PCT = 10.0, 10.0
"""What a number in a circle takes of the chart of a phone."""


_LEAST, _MOST = 1e-50, 1e50
_NOISE = 1e-9
"""Share of the values below which they do not differ: float64 could not tell the ends of the axis apart."""


@dataclass(frozen=True)
class Axis:
    """A range of values and how it is divided.

    Attributes:
        low: Value at 0 %.
        high: Value at 100 %.
        logarithmic: Otherwise linear.
    """

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def around(cls, values: Sequence[float], *, zero: bool = False, margin: float = 0.06) -> Axis:
        """An axis that holds ``values`` with some room; ``zero`` makes it linear from 0 on.

        A record may hold any float64: values outside of what an axis can divide count as the nearest that it can.
        """
        low, high = (min(max(value, -_MOST), _MOST) for value in (min(values), max(values)))
        if zero:
            return cls(0.0, high * (1 + margin) if high > _LEAST else 1.0)
        if low > _LEAST and high / low >= WIDE_RATIO:
            room = (high / low) ** margin
            return cls(low / room, high * room, logarithmic=True)
        largest = max(abs(low), abs(high))
        spread = high - low if high - low > _NOISE * largest else largest
        room = max(spread, _LEAST) * margin
        return cls(low - room, high + room)

    def percent(self, value: float) -> float:
        """Where a value lies; values beyond an end lie at it."""
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """(percent, text) of three to seven round values."""
        values = self._decades() if self.logarithmic else self._steps()
        return [(self.percent(value), f"{value:g}") for value in values]

    def _steps(self) -> list[float]:
        span = self.high - self.low
        power = 10 ** math.floor(math.log10(span))
        step = next(s * power for s in (0.1, 0.2, 0.25, 0.5, 1, 2) if span / (s * power) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 12) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _decades(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            values = [digit * 10.0**power for power in powers for digit in digits]
            shown = [value for value in values if self.low <= value <= self.high]
            if len(shown) <= 7:
                break
        return shown


def ridge(times_ms: Sequence[float], axis: Axis) -> str:
    """The distribution of times as points of an SVG polygon, 100 high; its peak is at the top.

    Times beyond the end of the axis count in its last bin.
    """
    places = np.array([axis.percent(time) for time in times_ms])
    counts, edges = np.histogram(places, bins=BINS, range=(0, 100))
    kernel = np.array([1, 2, 3, 2, 1]) / 9
    smooth = np.convolve(counts, kernel, mode="same")
    heights = 100 - 100 * smooth / smooth.max()
    centres = (edges[:-1] + edges[1:]) / 2
    inner = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(centres, heights, strict=True))
    return f"0,100 {inner} 100,100"


def polylines(xs: Sequence[float], ys: Sequence[float | None], x_axis: Axis, y_axis: Axis) -> list[str]:
    """A series as points of SVG polylines, y upwards; where a value is missing the line is broken."""
    lines: list[list[str]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            lines.append([])
        else:
            lines[-1].append(f"{x_axis.percent(x)},{round(100 - y_axis.percent(y), 2)}")
    return [" ".join(points) for points in lines if points]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other one beats in both values, by the first value; small is good in both."""
    order = sorted(range(len(points)), key=lambda index: points[index])
    front: list[int] = []
    for index in order:
        if not front or points[index][1] < points[front[-1]][1]:
            front.append(index)
    return front


def stacked(places: Sequence[tuple[float, float]]) -> list[int]:
    """How many labels high each label has to go so that it hides none to its left that is near, on a phone too.

    Args:
        places: (x, y) of each in percent.
    """
    levels = [0] * len(places)
    order = sorted(range(len(places)), key=lambda index: places[index])
    for position, index in enumerate(order):
        near = {
            levels[other]
            for other in order[:position]
            if places[index][0] - places[other][0] < LABEL_WIDTH_PCT
            and abs(places[index][1] - places[other][1]) < LABEL_HEIGHT_PCT
        }
        levels[index] = next(level for level in range(len(places)) if level not in near)
    return levels
