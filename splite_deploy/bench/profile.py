"""What an artifact is made of as its backend runs it: layer by layer, in which types, and with times where it tells."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import UsageError
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.backends.base import Backend, ModelFile
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import OptionSet, TracedSession, open_traced
from splite_deploy.spec import ModelSpec

RUNS = 50
LIMIT_S = 0.15
"""A slow network is run less often than `RUNS`, so that its profile takes about so long."""
_FEWEST_RUNS = 3


@dataclass(frozen=True)
class LayerGroup:
    """The layers of one kind that work in the same types.

    Attributes:
        kind: See `Layer.kind`.
        types: See `Layer.types`.
        count: Their number.
        time_us: What they take together; None where it was not measured.
        share: Part of the time of all layers, 0 to 1; None where it was not measured.
    """

    kind: str
    types: str
    count: int
    time_us: float | None
    share: float | None


def profile_artifact(
    bundle: Bundle,
    artifact: Artifact,
    *,
    backend: Backend | None = None,
    runs: int = RUNS,
    threads: int | None = 1,
    options: OptionSet = (),
) -> tuple[Layer, ...]:
    """Reads or measures the layers of an artifact, in the order in which they run.

    The backend runs it on the golden crops in turn and tells, see `TracedSession.layers`.

    Args:
        bundle: The bundle.
        artifact: One of its artifacts.
        backend: What runs it; None is the backend that it was made for.
        runs: At most so many inferences; about `LIMIT_S` seconds is the other limit.
        threads: CPU threads of the backend; None is its default.
        options: How the backend works.

    Raises:
        UsageError: The backend gives no profile, or there is nothing to run.
        MissingDependencyError: The backend's package is not installed.
        BackendError: It cannot be loaded or run.
        BundleError: Its file is missing or damaged.
        CompileError: The file is not what its backend reads.
    """
    chosen, content = backend or find_backend(artifact.backend), ModelFile.of(bundle, artifact)
    crops = bundle.golden().crops
    return profile_file(chosen, content, bundle.model, crops, runs=runs, threads=threads, options=options)


def profile_file(
    backend: Backend,
    file: ModelFile,
    model: ModelSpec,
    crops: NDArray[np.uint8],
    *,
    runs: int = RUNS,
    threads: int | None = None,
    options: OptionSet = (),
) -> tuple[Layer, ...]:
    """The same of a file that was read.

    Args:
        backend: What runs it.
        file: The file.
        model: Its model.
        crops: (N, h, w, C) what it is run on in turn.
        runs: See `profile_artifact`.
        threads: See `profile_artifact`.
        options: How the backend works.

    Raises:
        UsageError: See `profile_artifact`.
        MissingDependencyError: See `profile_artifact`.
        BackendError: See `profile_artifact`.
        CompileError: See `profile_artifact`.
    """
    if runs < 1:
        raise UsageError(f"{runs} runs cannot be timed.", hint="Give 1 or more.")
    with open_traced(backend, file, threads=threads, options=options) as session:
        tensors = Preprocessor(model.input, model.input.picture_color).feed(crops, session.inputs[0])
        name = session.inputs[0].name
        return _timed(session, [{name: tensors[index : index + 1]} for index in range(len(tensors))], runs)


def profile_network(
    backend: Backend,
    file: ModelFile,
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    *,
    threads: int | None = None,
    options: OptionSet = (),
) -> tuple[Layer, ...]:
    """The same of a file without a model spec, on tensors.

    Args:
        backend: The backend.
        file: The file.
        feeds: Inputs by name, used in turn.
        threads: See `profile_artifact`.
        options: See `profile_artifact`.

    Raises:
        UsageError: See `profile_artifact`.
        MissingDependencyError: See `profile_artifact`.
        BackendError: See `profile_artifact`.
        CompileError: See `profile_artifact`.
    """
    with open_traced(backend, file, threads=threads, options=options) as session:
        return _timed(session, feeds, RUNS)


def _timed(session: TracedSession, feeds: Sequence[Mapping[str, NDArray[Any]]], runs: int) -> tuple[Layer, ...]:
    began = time.perf_counter()
    for run in range(runs):
        session.run(feeds[run % len(feeds)])
        if run + 1 >= _FEWEST_RUNS and time.perf_counter() - began > LIMIT_S:
            break
    return session.layers()


def histogram(layers: Sequence[Layer]) -> list[LayerGroup]:
    """Layers by kind and types; what takes longest comes first, or is most frequent where nothing was timed."""
    groups = [_group(kind, types, layers) for kind, types in dict.fromkeys((one.kind, one.types) for one in layers)]
    return sorted(groups, key=lambda group: (-(group.time_us or 0), -group.count, group.kind, group.types))


def types_histogram(layers: Sequence[Layer]) -> list[LayerGroup]:
    """The same by types alone; `LayerGroup.kind` is empty."""
    groups = [_group(None, types, layers) for types in dict.fromkeys(one.types for one in layers)]
    return sorted(groups, key=lambda group: (-(group.time_us or 0), -group.count, group.types))


def shares_by_type(layers: Sequence[Layer]) -> dict[str, float]:
    """What a network really computes in: of each type of inputs the share of the layers that work on it, 0 to 1.

    Shares are of the time of all layers, or of their number where one was not measured; the largest comes first.

    Returns:
        By type, with that of the weights in brackets where they are stored in another one; empty without layers.
    """
    timed = total_us(layers)
    shares: dict[str, float] = {}
    for one in layers:
        name = one.types.partition(" ->")[0]
        share = (one.time_us or 0.0) / timed if timed else 1 / len(layers)
        shares[name] = shares.get(name, 0.0) + share
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def float_layers(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Those that work in floating point alone: neither on integers, nor converting from or to them."""
    return tuple(one for one in layers if all("float" in name for name in re.findall(r"\w+", one.types)))


def _group(kind: str | None, types: str, layers: Sequence[Layer]) -> LayerGroup:
    members = [one for one in layers if one.types == types and kind in (None, one.kind)]
    time_us, all_us = total_us(members), total_us(layers)
    share = time_us / all_us if time_us is not None and all_us else None
    return LayerGroup(kind or "", types, len(members), time_us, share)


def total_us(layers: Iterable[Layer]) -> float | None:
    """What layers take together, microseconds; None where one was not measured."""
    times = [one.time_us for one in layers]
    return None if None in times else float(sum(filter(None, times)))
