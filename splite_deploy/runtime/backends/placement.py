"""Where the nodes of a loaded file ran, as its engine tells, and the refusal of a fall-back that nobody asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError

_MOST_KINDS = 4


@dataclass(frozen=True)
class Placement:
    """What one execution provider, or one delegate, ran of a file.

    Attributes:
        provider: As the engine calls it, for example ``CPUExecutionProvider``.
        nodes: Nodes that it ran. What was fused counts as one.
        time_us: What they take together, microseconds; None where the engine times none.
    """

    provider: str
    nodes: int
    time_us: float | None

    def __str__(self) -> str:
        times = "" if self.time_us is None else f", {self.time_us:.0f} µs"
        return f"{self.provider} ({self.nodes} node{'s' if self.nodes > 1 else ''}{times})"


def placements_of(layers: Iterable[Layer], *, timed: bool = True) -> tuple[Placement, ...]:
    """Layers by what ran them, the most nodes first; none of layers that do not tell.

    Args:
        layers: Of a file.
        timed: Whether their times are those of a warm network, and count.
    """
    told = [layer for layer in layers if layer.provider is not None]
    found = []
    for provider, nodes in Counter(layer.provider for layer in told).most_common():
        times = [layer.time_us for layer in told if layer.provider == provider]
        total_us = float(sum(filter(None, times))) if timed and None not in times else None
        found.append(Placement(str(provider), nodes, total_us))
    return tuple(found)


def refuse_fall_back(
    layers: Iterable[Layer], wanted: str, *, file: str, label: str, flag: str, allow_cpu: bool
) -> None:
    """Compares where nodes ran with where they were asked to run.

    Args:
        layers: Of the file, with what ran each.
        wanted: What should have run them, as `Placement.provider` calls it.
        file: Its name, for messages.
        label: What ``wanted`` is called in messages.
        flag: The option that asked for it.
        allow_cpu: Whether some of them may run elsewhere.

    Raises:
        BackendError: None ran there; or some ran elsewhere, which was not allowed.
    """
    layers = tuple(layers)
    elsewhere = [layer for layer in layers if layer.provider != wanted]
    if len(elsewhere) == len(layers):
        raise BackendError(
            f"{label} runs nothing of {file}: the CPU runs all of its {len(layers)} nodes.",
            hint=f"Leave {flag} out to run it on the CPU.",
        )
    if elsewhere and not allow_cpu:
        kinds = Counter(layer.kind for layer in elsewhere).most_common()
        named = ", ".join(f"{count} {kind}" for kind, count in kinds[:_MOST_KINDS])
        more = ", ..." if len(kinds) > _MOST_KINDS else ""
        raise BackendError(
            f"{label} runs {len(layers) - len(elsewhere)} of the {len(layers)} nodes of {file}, and the CPU runs the "
            f"others ({named}{more}).",
            hint="Allow that with --allow-cpu (allow_cpu of the backend's options): results then tell who ran what.",
        )
