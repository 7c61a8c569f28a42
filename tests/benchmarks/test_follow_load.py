"""Frames while a followed bundle is loaded: every one is answered and belongs to a span."""

from __future__ import annotations

import argparse
from pathlib import Path

from follow_load import SPANS, figures, measure


def test_a_late_frame_is_one_that_takes_longer_than_the_next_comes() -> None:
    found = figures([1.0] * 98 + [20.0, 40.0], fps=30.0)
    assert (found["frames"], found["late"], found["max_ms"], found["p50_ms"]) == (100, 1, 40.0, 1.0)


def test_frames_before_during_and_after_a_change(tiny_bundle: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(bundles=[tiny_bundle, tiny_bundle], fps=50.0, frames=20, proving=5)
    found = measure(options, tmp_path / "store")
    assert list(found["spans"]) == list(SPANS)
    assert found["spans"]["before"]["frames"] == found["spans"]["after"]["frames"] == 20
    assert found["spans"]["while it is loaded"]["frames"] > 0
    assert found["told"] == ["Goes on with the bundle STORE/2.splite."]
