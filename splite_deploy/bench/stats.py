"""A latency as a distribution, never as one number. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import UsageError


@dataclass(frozen=True)
class LatencyStats:
    """What is said of one stage.

    Percentiles are interpolated linearly between the two nearest samples (numpy's ``linear``: percentile q lies at
    position q / 100 * (count - 1) of the sorted samples). The 99th of fewer than 100 samples is therefore close to
    the maximum.

    Attributes:
        count: Number of samples.
        mean_ms: Mean in milliseconds.
        std_ms: Standard deviation of these samples (divided by ``count``), milliseconds.
        min_ms: Smallest sample, milliseconds.
        p50_ms: Median, milliseconds.
        p90_ms: 90th percentile, milliseconds.
        p99_ms: 99th percentile, milliseconds.
        max_ms: Largest sample, milliseconds.
    """

    count: int
    mean_ms: float
    std_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def from_samples(cls, samples_ms: Sequence[float] | NDArray[np.float64]) -> LatencyStats:
        """Summarises samples in milliseconds.

        Raises:
            UsageError: There is no sample, or one is not finite.
        """
        values = np.asarray(samples_ms, np.float64).ravel()
        if values.size == 0:
            raise UsageError("There is no latency sample to summarise.", hint="Measure at least one frame.")
        if not np.isfinite(values).all():
            raise UsageError(
                "A latency sample is not finite (NaN or infinity).",
                hint="Check the clock that was given; time.perf_counter_ns never does this.",
            )
        p50, p90, p99 = np.percentile(values, [50, 90, 99], method="linear")
        return cls(
            count=int(values.size),
            mean_ms=float(values.mean()),
            std_ms=float(values.std()),
            min_ms=float(values.min()),
            p50_ms=float(p50),
            p90_ms=float(p90),
            p99_ms=float(p99),
            max_ms=float(values.max()),
        )
