"""Cross-layer equalisation of SPLite Hand; see ``../common/equalisation.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from arch import InvertedResidual, SpliteHand, SqueezeExcite
from equalisation import Coupled, equalise_channels


def coupled_channels(network: SpliteHand) -> Iterator[Coupled]:
    """All channels of the network but those of its outputs, from the image on."""

    def pair(maker: nn.Module, *readers: nn.Module) -> Coupled:
        return Coupled([maker], list(readers), [maker])

    first = network.stage4[0]
    assert isinstance(first, InvertedResidual)
    yield pair(network.stem, first.expand[0])
    after = (network.stage8[0], network.stage16[0], None)
    lateral = (network.up4.lateral[0], network.up8.lateral[0], network.up8.up[0])
    for stage, following, beside in zip((network.stage4, network.stage8, network.stage16), after, lateral, strict=True):
        blocks = [block for block in stage if isinstance(block, InvertedResidual)]
        for block in blocks:
            yield pair(block.expand, block.depthwise[0])
            gate = block.gate
            if isinstance(gate, SqueezeExcite):
                yield pair(block.depthwise, gate.reduce, block.project[0])
                yield pair(gate.reduce, gate.expand)
            else:
                yield pair(block.depthwise, block.project[0])
        readers = [block.expand[0] for block in (*blocks[1:], following) if isinstance(block, InvertedResidual)]
        makers: list[nn.Module] = [block.project for block in blocks]
        yield Coupled(makers, [*readers, beside], [*makers, *blocks])
    for up, read_by in ((network.up8, [network.up4.up[0]]), (network.up4, [network.heatmap, network.depth])):
        assert isinstance(up.smooth[0], nn.Sequential) and isinstance(up.smooth[1], nn.Sequential)
        yield Coupled([up.up, up.lateral], [up.smooth[0][0]], [up.shuffle, up.lateral], up.up)
        yield pair(up.smooth[0], up.smooth[1][0])
        yield pair(up.smooth[1], *read_by)


def equalise(network: SpliteHand, crops: Tensor) -> None:
    """Equalises the channels of a network, in place; see `equalisation.equalise_channels`."""
    equalise_channels(network, coupled_channels(network), crops)
