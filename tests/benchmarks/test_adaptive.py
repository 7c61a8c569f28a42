"""What of a budget counts as kept."""

from __future__ import annotations

import os
import time

import pytest
from adaptive import load, paced, summary, windows
from hands_in_frame import FRAME, SIDE_PX, frame_and_boxes

from splite_deploy.runtime.governor import WINDOW


def test_windows_lie_one_behind_the_other() -> None:
    assert windows([1.0] * WINDOW + [3.0] * WINDOW + [9.0]).tolist() == [1, 3]


def test_windows_that_no_variant_can_keep_do_not_count() -> None:
    calm, busy, hopeless = [5.0] * 2 * WINDOW, [5.0] * WINDOW + [30.0] * WINDOW, [30.0] * WINDOW
    alone = {0: [5.0, 3.0], 1: [12.0, 9.0], 2: [40.0, 30.0]}
    found = summary([calm, busy, hopeless], [0, 1, 2], alone, 10.0)
    assert (found["windows"], found["kept_share"]) == (4, 0.75)
    assert found["frames"] == 5 * WINDOW and found["late_share"] == pytest.approx(0.4)
    assert summary([hopeless], [2], alone, 10.0)["kept_share"] is None


def test_frames_come_at_a_steady_rate_and_late_ones_do_not_pile_up() -> None:
    starts: list[float] = []
    waits = iter([0.0, 0.1, 0.0, 0.0])

    def call(*what: object) -> None:
        starts.append(time.perf_counter())
        time.sleep(next(waits))

    taken = paced(call, (None, None), 4, 50.0, lambda: None)
    assert starts[1] - starts[0] >= 0.01 and taken[1] >= 100
    assert starts[2] - starts[1] >= 0.1 and starts[3] - starts[2] >= 0.01


def test_the_load_takes_the_processor_and_goes() -> None:
    before = os.times()
    with load(1):
        time.sleep(0.3)
    after = os.times()
    assert after.children_user - before.children_user > 0.05


def test_boxes_lie_in_the_frame() -> None:
    frame, boxes = frame_and_boxes(5)
    assert frame.shape == (*FRAME, 3) and len(boxes) == 5
    assert all(0 <= x0 < x1 <= FRAME[1] and 0 <= y0 < y1 <= FRAME[0] and x1 - x0 == SIDE_PX for x0, y0, x1, y1 in boxes)
