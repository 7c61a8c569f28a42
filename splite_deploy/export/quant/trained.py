"""Networks that were trained with fake quantisation: torch's modules for it, and what an export has to know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

_KINDS = ("FakeQuantizeBase", "ObserverBase", "UniformQuantizationObserverBase")
_FUSED, _PLAIN = "FusedMovingAvgObsFakeQuantize", "FakeQuantize"


def is_quantiser(module: nn.Module) -> bool:
    """Whether this is a fake quantiser or an observer of torch; by name, since they have moved between packages."""
    return any(kind.__name__ in _KINDS for kind in type(module).__mro__)


def has_quantisers(network: nn.Module) -> bool:
    """Whether the network was trained for int8."""
    return any(is_quantiser(module) for module in network.modules())


def load_quantisers(network: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """Loads the scales, whose shapes torch's modules take over from a checkpoint, and stops the observers.

    These would move the scales at every input, even in evaluation mode. Quantisers whose observer is fused into them
    become plain ones, which torch can export.

    Args:
        network: The network.
        tensors: The checkpoint, with the names of the network's own state.

    Returns:
        How many fake quantisers there are.
    """
    count = 0
    for name, module in network.named_modules():
        if is_quantiser(module):
            own = {
                key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")
            }
            module.load_state_dict(own)
            if hasattr(module, "disable_observer"):
                module.disable_observer()
                count += 1
            if type(module).__name__ == _FUSED:
                module.__class__ = next(kind for kind in type(module).__mro__ if kind.__name__ == _PLAIN)
    return count


@contextmanager
def without_quantisers(network: nn.Module) -> Iterator[None]:
    """Switches the fake quantisers of a network off, so that it is the float network that was trained."""
    switches: list[Tensor] = []
    for module in network.modules():
        switch = getattr(module, "fake_quant_enabled", None)
        if is_quantiser(module) and isinstance(switch, Tensor):
            switches.append(switch)
    before = [switch.clone() for switch in switches]
    for switch in switches:
        switch.zero_()
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.copy_(value)
