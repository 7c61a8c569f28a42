"""Timing in turn."""

from __future__ import annotations

import gc
import time

import pytest

from splite_deploy.bench.interleaved import BLOCK_FRAMES, interleave
from splite_deploy.errors import UsageError


def test_networks_run_in_blocks_in_changing_order_on_the_same_inputs() -> None:
    calls: list[tuple[str, int]] = []
    collecting = []

    def note(name: str, index: int) -> None:
        calls.append((name, index))
        collecting.append(gc.isenabled())

    runs = {name: lambda index, name=name: note(name, index) for name in "abc"}
    samples = interleave(runs, 8 * BLOCK_FRAMES - 3, warmup_frames=2)  # type: ignore[arg-type]
    assert gc.isenabled()
    assert {name: taken.shape for name, taken in samples.items()} == dict.fromkeys("abc", (8, BLOCK_FRAMES))
    assert calls[:6] == [(name, index) for name in "abc" for index in (0, 1)]
    assert not any(collecting[6:])
    timed = calls[6:]
    blocks = [timed[i : i + BLOCK_FRAMES] for i in range(0, len(timed), BLOCK_FRAMES)]
    assert all(len({name for name, _ in block}) == 1 for block in blocks)
    orders = [tuple(block[0][0] for block in blocks[i : i + 3]) for i in range(0, len(blocks), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 2
    for name in "abc":
        assert [index for other, index in timed if other == name] == list(range(8 * BLOCK_FRAMES))


def test_milliseconds_are_those_of_the_clock() -> None:
    samples = interleave({"sleeps": lambda index: time.sleep(0.003), "idles": lambda index: None}, 20, warmup_frames=0)
    assert samples["sleeps"].min() >= 3.0
    assert samples["idles"].min() < 0.1


def test_nothing_to_time() -> None:
    with pytest.raises(UsageError, match="0 inferences") as caught:
        interleave({"a": lambda index: None}, 0)
    assert "1 or more" in caught.value.hint
