"""Cross-layer equalisation of SPLite Hand 2; see ``../common/equalisation.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from equalisation import Coupled, equalise_channels
from hand2_arch import Block, SpliteHand2


def coupled_channels(network: SpliteHand2) -> Iterator[Coupled]:
    """All channels of the network but those of its outputs, from the image on."""

    def pair(maker: nn.Module, *readers: nn.Module) -> Coupled:
        return Coupled([maker], list(readers), [maker])

    yield pair(network.stem, network.stage4[0][0])  # type: ignore[index]
    following: tuple[list[nn.Module], ...] = (
        [network.stage8[0][0], network.up4.lateral[0]],  # type: ignore[index]
        [network.stage16[0][0], network.up8.lateral[0]],  # type: ignore[index]
        [network.up8.up[0], network.presence, network.handedness],
    )
    for stage, readers in zip((network.stage4, network.stage8, network.stage16), following, strict=True):
        blocks = [block for block in stage if isinstance(block, Block)]
        yield Coupled(
            [stage[0], *(block.mix for block in blocks)],
            [*(block.spatial[0] for block in blocks), *readers],
            [stage[0], *(block.mix for block in blocks), *blocks],
        )
        for block in blocks:
            yield pair(block.spatial, block.mix[0])
    for up, read_by in ((network.up8, [network.up4.up[0]]), (network.up4, [network.heatmap, network.depth])):
        yield Coupled([up.up, up.lateral], [up.smooth[0]], [up.shuffle, up.lateral], up.up)
        yield pair(up.smooth, *read_by)


def equalise(network: SpliteHand2, crops: Tensor) -> None:
    """Equalises the channels of a network, in place; see `equalisation.equalise_channels`."""
    equalise_channels(network, coupled_channels(network), crops)
