"""The best of several builds: the builder chooses kernels by timing them, so that no two engines are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splite_deploy.arrays import Feed
from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.errors import ParityError
from splite_deploy.metrics.parity import compare, violations
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import Session
from splite_deploy.runtime.verify import batch_violations, largest_batch, presence_violations, run_each

FRAMES = 200


@dataclass(frozen=True)
class Trial:
    """One build, as it ran.

    Attributes:
        p50_ms: Median of an inference of one crop, with its copies.
        deviation_p95_px: Keypoint deviation from the reference, pixels of the network's input.
        violations: The limits it breaks.
    """

    p50_ms: float
    deviation_p95_px: float
    violations: tuple[str, ...]


def try_builds(sessions: Sequence[Session], bundle: Bundle, artifact: Artifact) -> list[Trial]:
    """Runs several builds of one graph on the bundle's golden crops: for their errors, and in turn for their times."""
    golden, spec = bundle.golden(), bundle.model
    feeds = [Preprocessor(spec.input, spec.input.color).feed(golden.crops, session.inputs[0]) for session in sessions]

    runs = {str(number): _runner(*pair) for number, pair in enumerate(zip(sessions, feeds, strict=True))}
    samples = interleave(runs, FRAMES)
    return [
        _trial(float(np.median(samples[str(number)])), session, tensors, bundle, artifact)
        for number, (session, tensors) in enumerate(zip(sessions, feeds, strict=True))
    ]


def _runner(session: Session, tensors: Feed) -> Run:
    name = session.inputs[0].name
    return lambda index: session.run({name: tensors[index % len(tensors) :][:1]})


def choose_build(trials: Sequence[Trial], file: str) -> tuple[int, str]:
    """The fastest build that keeps its limits, and a sentence on the builds that it was chosen from.

    Raises:
        ParityError: None keeps them.
    """
    within = [number for number, trial in enumerate(trials) if not trial.violations]
    if not within:
        raise ParityError(
            f"None of {len(trials)} builds of {file} keeps its limits: {'; '.join(trials[0].violations)}.",
            hint="Nothing was written. Compile another precision.",
        )
    best = min(within, key=lambda number: trials[number].p50_ms)
    times, deviations = [t.p50_ms for t in trials], [t.deviation_p95_px for t in trials]
    return best, (
        f"{len(trials)} builds, p50 {min(times):.3f} to {max(times):.3f} ms, "
        f"deviation p95 {min(deviations):.3g} to {max(deviations):.3g} px"
    )


def _trial(p50_ms: float, session: Session, tensors: Feed, bundle: Bundle, artifact: Artifact) -> Trial:
    golden, spec, limits = bundle.golden(), bundle.model, artifact.limits
    parity = compare("", golden.outputs, run_each(session, tensors, spec), spec, "")
    mixed = batch_violations(session, golden.crops, spec, limits, largest_batch(artifact))
    present = presence_violations(session, golden.nobody, spec, limits)
    return Trial(p50_ms, parity.deviation_px.p95, (*violations(parity, limits, spec), *mixed, *present))
