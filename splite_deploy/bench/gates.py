"""Limits on a result, for continuous integration: ``p99_ms>33`` fails where the 99th percentile is above 33 ms."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from splite_deploy.bench.loop import DEVICE_STAGES, END_TO_END, STAGES
from splite_deploy.bench.recommend import source_of
from splite_deploy.bench.result import BenchResult
from splite_deploy.errors import GateError, OptionError
from splite_deploy.text import Lines

Reading = Callable[[BenchResult], float | None]
_FIGURES = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*([a-z_0-9]+)\s*(>=|<=|>|<)\s*([^\s<>=]+)\s*")


@dataclass(frozen=True)
class Metric:
    """A figure of a result that a limit can be set on.

    Attributes:
        read: Takes it from a result; None where it was not measured.
        needs: What to add to the command that it is measured.
    """

    read: Reading
    needs: str


def _latency(stage: str | None, figure: str) -> Metric:
    def read(result: BenchResult) -> float | None:
        stats = result.stages.get(stage or result.headline)
        return None if stats is None else float(getattr(stats, figure))

    needs = "a backend that tells it" if stage in DEVICE_STAGES else "a bundle instead of a file alone"
    return Metric(read, f"It needs {needs}.")


def _part(path: str, needs: str) -> Metric:
    """A figure in a part of the result that may be absent, by its path, for example ``memory.rss_peak_mib``."""

    def read(result: BenchResult) -> float | None:
        value: Any = result
        for name in path.split("."):
            value = None if value is None else getattr(value, name)
        return None if value is None else float(value)

    return Metric(read, needs)


_AGAIN = "Measure it again with this version of splite-deploy."
_LABELS, _LABELS_3D, _COCO = (
    f"Add --eval LABELS{kind}." for kind in ("", " with labels in three dimensions", " of COCO's 17 keypoints")
)

_ERRORS = ("epe_px", "epe_box_pct", "pck_05", "pck_auc")
_BUNDLE = "It needs a bundle, which records what its original network finds."
_DETECTOR = "Add --eval LABELS, of a network that finds hands or people itself."

METRICS: Mapping[str, Metric] = {
    **{figure: _latency(None, figure) for figure in _FIGURES},
    **{
        f"{stage}_{figure}": _latency(stage, figure)
        for stage in (*STAGES, *DEVICE_STAGES)
        if stage != END_TO_END
        for figure in _FIGURES
    },
    **{name: _part(f"accuracy.{name}", _LABELS) for name in _ERRORS},
    **{name: _part(f"accuracy.{name}", _LABELS_3D) for name in ("mpjpe_mm", "pa_mpjpe_mm")},
    "handedness": _part("accuracy.handedness", "Add --eval LABELS with handedness, of a network that tells it."),
    "oks_ap": _part("accuracy.oks_ap", _COCO),
    **{name: _part(f"accuracy.boxes.{name}", _DETECTOR) for name in ("ap_30", "ap_50", "recall_30", "recall_50")},
    "false_alarms": _part("accuracy.boxes.false_alarms", "Add --eval LABELS with pictures that are empty."),
    "deviation_p95_px": _part("deviation.deviation_px.p95", _BUNDLE),
    "deviation_max_px": _part("deviation.deviation_px.max", _BUNDLE),
    "frames_per_second": _part("frames_per_second", _AGAIN),
    "model_mb": Metric(lambda result: None if result.model_bytes is None else result.model_bytes / 1e6, _AGAIN),
    **{name: _part(f"memory.{name}", _AGAIN) for name in ("rss_steady_mib", "rss_peak_mib")},
    **{name: _part(f"startup.{name}", _AGAIN) for name in ("load_ms", "first_inference_ms")},
    "sustained_frames_per_second": _part("sustained.frames_per_second", "Add --duration SECONDS."),
    "energy_mj_per_frame": _part(
        "sustained.sensors.energy_mj_per_frame", "Add --duration SECONDS, on a machine whose power can be read."
    ),
    "streams_frames_per_second": _part("streams.frames_per_second", "Add --streams COUNT."),
}
"""Every figure that a limit can be set on. Latencies without a stage are end to end, or of a file
alone."""


@dataclass(frozen=True)
class Gate:
    """A condition that a result must not meet.

    Attributes:
        metric: A key of `METRICS`.
        comparison: ``>``, ``>=``, ``<`` or ``<=``.
        limit: A finite number in the metric's unit.
    """

    metric: str
    comparison: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Reads METRIC, comparison and number, for example ``p99_ms>33``.

        Raises:
            UsageError: It has another form, or there is no such metric.
        """
        match = _FORM.fullmatch(text)
        try:
            limit = float(match.group(3)) if match else math.nan
        except ValueError:
            limit = math.nan
        if match is None or not math.isfinite(limit):
            raise OptionError(
                f"The limit '{text}' is not METRIC, comparison and number.",
                hint="Write for example --fail-if 'p99_ms>33', in quotes; comparisons are > >= < <=.",
            )
        if match.group(1) not in METRICS:
            near = nearest_metrics(match.group(1))
            meant = f"Did you mean {' or '.join(near)}? " if near else ""
            raise OptionError(
                f"There is no metric '{match.group(1)}'.", hint=f"{meant}There are: {', '.join(METRICS)}."
            )
        return cls(match.group(1), match.group(2), limit)

    def failure(self, result: BenchResult, name: str | None = None) -> str | None:
        """How far a result is beyond the limit, as text; None if it keeps it.

        Args:
            result: The result.
            name: What the text calls it; None is its label.

        Raises:
            UsageError: The metric was not measured.
        """
        metric = METRICS[self.metric]
        value = metric.read(result)
        if value is None:
            nobody = result.accuracy is not None and result.accuracy.images == 0
            hint = "None of those who are labelled was found: set limits on ap_30, ap_50 or recall_50."
            raise OptionError(
                f"{self.metric} was not measured ({name or result.label}).",
                hint=hint if nobody and self.metric in _ERRORS else metric.needs,
            )
        if not _OPERATORS[self.comparison](value, self.limit):
            return None
        side = "over" if self.comparison in (">", ">=") else "under"
        return (
            f"{self.metric} is {value:.4g}, {abs(value - self.limit):.3g} {side} the limit of {self.limit:g} "
            f"({name or result.label})"
        )


def nearest_metrics(name: str) -> list[str]:
    """The metrics that a misspelt one may stand for, the likeliest first: at most three, of like letters or initials.

    Args:
        name: What was typed, for example ``p9_ms`` or ``fps``.
    """
    initials = [one for one in METRICS if "".join(word[0] for word in one.split("_")) == name]
    return initials or get_close_matches(name, METRICS, 3, 0.7)


def check(gates: Sequence[Gate], results: Sequence[BenchResult]) -> None:
    """Holds every result against every limit.

    Raises:
        UsageError: A metric was not measured.
        GateError: Limits are not kept; the message has a line for each.
    """
    several = len({source_of(result) for result in results}) > 1
    named = [(result, f"{source_of(result)} {result.label}" if several else result.label) for result in results]
    failures = [failure for one in named for gate in gates if (failure := gate.failure(*one)) is not None]
    if failures:
        raise GateError(Lines.of(failures), hint="The limits are those of --fail-if.")
