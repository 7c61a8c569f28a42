"""Networks whose channels were once held without reason, and the reason where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

torch = pytest.importorskip("torch")

import case_nets
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional  # noqa: TID253

from splite_deploy.compact import CompactOptions, compact
from splite_deploy.errors import ExportError

Run = Callable[..., Result]
HALF = CompactOptions("l1", speed_up=2, round_to=2)


@pytest.mark.parametrize("kind", [case_nets.Shuffle, case_nets.PaddedChannels, case_nets.ResidualShuffle])
def test_the_command_halves_the_work(splite: Run, tmp_path: Path, kind: type[nn.Module]) -> None:
    checkpoint = case_nets.write(kind, tmp_path)
    output = tmp_path / "half.safetensors"
    done = splite("compact", checkpoint, "-o", output, "--speed-up", 2, "--round-to", 2, "--method", "l1")
    assert done.exit_code == 0, done.output
    assert output.exists()


class Between(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.a, self.between, self.c = nn.Conv2d(3, 16, 3, 4, 1), between, nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.c(self.between(self.a(x)))
        return maps


def halved(between: Callable[[Tensor], Tensor], width: int) -> Any:
    torch.manual_seed(0)
    return compact(Between(between, width), torch.randn(2, 3, 64, 64), HALF)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return (
        x.view(n, 4, c // 4, h, w).permute(0, 2, 1, 3, 4).clone(memory_format=torch.contiguous_format).view(n, c, h, w)
    )


def unfolded(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.movedim(1, -1).contiguous().view(n, h * w, c).transpose(1, 2).contiguous().view(n, c, h, w)


@pytest.mark.parametrize(
    ("between", "width"),
    [
        (shuffled, 16),
        (unfolded, 16),
        (lambda x: functional.pad(x, (1, 1, 1, 1, 0, 8), value=2.0), 24),
        (lambda x: functional.pad(x, (0, 0, 0, 0, 4, 4)), 24),
        (lambda x: torch.cat([x, torch.zeros_like(x)], 1), 32),
        (lambda x: torch.cat([x, torch.linspace(0, 1, 16).expand(x.shape[0], 2, 16, 16)], 1), 18),
        (lambda x: torch.cat([x, torch.zeros(x.shape[0], 8, 16, 16)], 1), 24),
    ],
    ids=["clone", "channels last", "padded all around", "padded before", "zeros like it", "coordinates", "zeros"],
)
def test_what_constants_are_laid_beside_is_compacted(between: Callable[[Tensor], Tensor], width: int) -> None:
    result = halved(between, width)
    assert result.speed_up >= 2
    assert result.notes == () or all("cannot be followed" not in note for note in result.notes)


@pytest.mark.parametrize(
    ("between", "width", "reason"),
    [
        (lambda x: functional.pad(x, (0, 0, 0, 0, 0, -4)), 12, r"Kept all channels that enter .*pad"),
        (lambda x: x.roll(1, 1), 16, r"Kept all channels that enter the network's roll: it cannot be followed"),
        (
            lambda x: torch.cat([x, torch.zeros(x.shape[0], 16, 16, 1)], 3),
            16,
            "Kept channels .*cat: it lays them beside some",
        ),
    ],
    ids=["cropped channels", "rolled", "a column of zeros"],
)
def test_what_holds_channels_is_named(between: Callable[[Tensor], Tensor], width: int, reason: str) -> None:
    with pytest.raises(ExportError, match=f"No channel of this network can be removed. {reason}"):
        halved(between, width)


def test_channels_that_meet_padded_ones_are_named() -> None:
    network = case_nets.seeded(case_nets.PaddedChannels)
    with pytest.raises(
        ExportError, match=r"Kept the channels that meet the 16 that the network's \w*pad\w* adds: their"
    ):
        compact(network, torch.randn(2, 3, 64, 64), CompactOptions("l1", speed_up=20, round_to=8))


def test_a_goal_that_cannot_be_reached_says_what_holds_channels() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 16, 3, 1, 1)
            self.c = nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            maps: Tensor = self.c(torch.relu(self.b(self.a(x).roll(1, 1))))
            return maps

    with pytest.raises(ExportError, match=r"speed-up 20 cannot be reached.*\. Kept all channels that enter .*roll"):
        compact(Mixed(), torch.randn(2, 3, 64, 64), CompactOptions("l1", speed_up=20, round_to=2))
