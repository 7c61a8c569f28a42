"""Latency on this CPU: ONNX Runtime, float32, one thread, networks in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from splite_deploy.bench.interleaved import Run, interleave
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.export.artifacts import GraphFile
from splite_deploy.export.graph.torch_to_onnx import simplified_graph
from splite_deploy.runtime.session import Session, open_bytes
from splite_deploy.spec import ModelSpec


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference, without pre- and postprocessing."""

    dense: LatencyStats
    compacted: LatencyStats

    @property
    def speed_up(self) -> float:
        """Medians, dense over compacted."""
        return self.dense.p50_ms / self.compacted.p50_ms


def measure_latency(
    dense: nn.Module,
    compacted: nn.Module,
    spec: ModelSpec,
    *,
    inferences: int = 200,
    progress: Callable[[str], None] = lambda message: None,
) -> Latency:
    """Exports both networks as `export` does and times them in turn.

    Args:
        dense: The network before.
        compacted: The network after.
        spec: The model spec of both.
        inferences: Number of timed inferences of each, after half as many to warm up.
        progress: Called with each step as it begins.

    Raises:
        ExportError: One cannot be exported.
    """
    networks = {"dense": dense, "compacted": compacted}
    progress("exporting both to ONNX")
    files = [
        GraphFile.of(f"{name}.onnx", simplified_graph(network, spec), spec.decoder)
        for name, network in networks.items()
    ]
    progress("timing both on one thread")
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(open_bytes(file.content, file.artifact("fp32", spec.limits), threads=1))
            for file in files
        ]
        return Latency(*time_in_turn(sessions, inferences))


def time_in_turn(sessions: Sequence[Session], inferences: int) -> list[LatencyStats]:
    """Times sessions on noise, a block of each in turn.

    Args:
        sessions: The sessions to time; a dynamic batch is 1.
        inferences: Number of timed inferences of each, after half as many to warm up.

    Returns:
        Milliseconds of one inference, per session.
    """
    noise = np.random.default_rng(0)
    feeds = [
        {spec.name: noise.standard_normal([size or 1 for size in spec.shape], np.float32) for spec in session.inputs}
        for session in sessions
    ]
    runs: dict[str, Run] = {str(i): partial(_infer, *pair) for i, pair in enumerate(zip(sessions, feeds, strict=True))}
    samples_ms = interleave(runs, inferences, warmup_frames=inferences // 2)
    return [LatencyStats.from_samples(samples) for samples in samples_ms.values()]


def _infer(session: Session, feeds: Mapping[str, NDArray[np.float32]], index: int) -> object:
    return session.run(feeds)
