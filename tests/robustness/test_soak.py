"""The soak test can fail: by memory that grows, by a result that differs, by descriptors and threads that stay open."""

from __future__ import annotations

import json
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

import soak as soaking

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's /proc")

FRAMES = np.arange(450) * 2000.0
PAGE = 4096


def noise(memory: float = 0.9) -> NDArray[np.float64]:
    """Autocorrelated noise of some pages."""
    rng, values = np.random.default_rng(1), [0.0]
    for draw in rng.normal(0, 3 * PAGE, len(FRAMES) - 1):
        values.append(memory * values[-1] + draw)
    return np.array(values)


def log(changes: dict[str, Any] | None = None, count: int = 200) -> list[str]:
    """A log in which nothing grows; ``changes`` are functions of the sample's number."""
    lines, steady = [json.dumps({"kind": "start"})], dict.fromkeys(soaking.sample(), 100)
    for index in range(count):
        one = {"frames": 1000 * (index + 1), "seconds": index + 1.0, "differing": 0, "where": []}
        one |= steady | {name: change(index) for name, change in (changes or {}).items()}
        lines.append(json.dumps({"kind": "sample", **one}))
    return lines


def test_what_is_steady_or_falls_does_not_grow() -> None:
    assert soaking.fit(FRAMES, np.full(len(FRAMES), 123_456_789.0)) == soaking.Slope(0, 0, 0)
    step, falling = np.where(FRAMES > 300_000, 32.0 * PAGE, 0), -3 * FRAMES
    for values in (noise(), step, step + noise(), falling, noise() - FRAMES / 8):
        assert not soaking.fit(FRAMES, values).grows


def test_a_leak_of_a_byte_a_frame_is_found_in_noise() -> None:
    leak = soaking.fit(FRAMES, noise() + FRAMES)
    assert leak.grows and leak.slope == pytest.approx(1000, abs=2 * leak.error)
    pages = soaking.fit(FRAMES, np.floor(FRAMES / 50_000) * PAGE)  # one page every 50,000 frames
    assert pages.grows and pages.slope == pytest.approx(PAGE / 50, rel=0.05)


def test_the_error_is_that_of_many_runs() -> None:
    """Of noise without memory, the slope's spread over many runs is what one run says."""
    rng = np.random.default_rng(2)
    slopes = [soaking.fit(FRAMES, rng.normal(0, PAGE, len(FRAMES))) for _ in range(300)]
    spread = np.std([one.slope for one in slopes])
    assert np.median([one.newey_west_error for one in slopes]) == pytest.approx(spread, rel=0.15)
    assert sum(one.grows for one in slopes) <= 12  # 2.3 % by Newey and West's error alone


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("rss_bytes", lambda index: 1e8 + 5000 * index, "rss_bytes grow by 5000.0"),
        ("anonymous_bytes", lambda index: 1e8 + 5000 * index, "anonymous_bytes grow"),
        ("python_blocks", lambda index: 1e5 + index, "python_blocks grow"),
        ("descriptors", lambda index: 7 + (index > 150), "descriptors: 7 after the warm-up, 8 later"),
        ("threads", lambda index: 1 + (index > 150), "threads: 1 after the warm-up, 2 later"),
        ("differing", lambda index: int(index > 150), "1 results differ"),
    ],
)
def test_each_failure_is_told(name: str, change: Callable[[int], float], said: str) -> None:
    (failure,) = soaking.judge(log({name: change})).failures
    assert said in failure
    assert soaking.judge(log()).failures == []


def test_what_happens_in_the_warm_up_is_passed_over(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    grown = {"rss_bytes": lambda index: 1e8 + 1e6 * min(index, 15), "descriptors": lambda index: 9 - (index > 15)}
    assert soaking.judge(log(grown)).failures == []
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(log(grown)[:20]), encoding="utf-8")
    assert soaking.main(["--judge", str(path)]) == 1
    assert "18 samples after the warm-up tell no slope; 60 do" in capsys.readouterr().err


def test_a_real_run_keeps_its_results(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "log.jsonl"
    command = ["--bundle", tiny_bundle, "--log", made, "--frames", 120, "--every", 0, "--json", "-"]
    soaking.main([str(word) for word in command])  # too short to judge memory by it
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["frames"], verdict["differing"]) == (120, 0)
    assert verdict["last"]["descriptors"] == verdict["first"]["descriptors"]
    assert json.loads(made.read_text(encoding="utf-8").splitlines()[0])["cycle"] == soaking.SINGLE + soaking.TRACKED


def test_steps_differ_and_refusals_count(tiny_bundle: Path) -> None:
    from splite_deploy.bundle import Bundle
    from splite_deploy.runtime import PoseEstimator

    with PoseEstimator.open(tiny_bundle) as estimator:
        crops = Bundle.open(tiny_bundle).golden().crops
        found = [soaking.bits(step()) for step in soaking.steps_of(estimator, crops, None, crops)]
        assert len(set(found)) == len(found)
        assert soaking.refused(estimator) == 0
        assert soaking.refused(lambda *_: None) == 3  # type: ignore[arg-type]


def test_a_wrong_result_and_a_leak_are_seen_where_they_happen() -> None:
    from splite_deploy.runtime import Pose

    ones, calls, leaked = np.ones((3, 2), np.float32), [], []

    def step() -> Pose:
        calls.append(0)
        pages = mmap.mmap(-1, 1_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # none that was freed before
        pages.write(b"x" * len(pages))
        leaked.append(pages)
        return Pose(ones * np.float32(1 + 1e-7 * (len(calls) == 150)), ones[:, 0], np.zeros(4, np.float32))

    expected, lines = [soaking.bits(Pose(ones, ones[:, 0], np.zeros(4, np.float32)))], []
    soaking.soak([step], expected, 300, lines.append, every_s=0, between=lambda: int(len(calls) == 170))
    assert lines[-1]["differing"] == 2 and lines[-1]["where"] == [[149, 0]]
    verdict = soaking.judge([json.dumps(line) for line in lines])
    assert verdict.slopes["anonymous_bytes"].slope == pytest.approx(1e9, rel=0.2)
    growing = [one.partition(" grow")[0] for one in verdict.failures if "grow" in one]
    assert growing[:2] == ["rss_bytes", "anonymous_bytes"]
