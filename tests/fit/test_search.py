"""The search and its driver on clusters on paper: what is tried again, what is shared, what is found, who goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splite_deploy.cli.fit import left_out
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.fit.driver import Driver
from splite_deploy.fit.measuring import Place
from splite_deploy.fit.search import Network, Settings, search
from splite_deploy.fit.simulated import Machine, Simulated
from splite_deploy.fit.space import Candidate, Space
from splite_deploy.fit.steps import Needs, Step
from splite_deploy.fit.store import Store
from splite_deploy.fit.work import Made
from splite_deploy.spec.plain import to_plain

OWN = Candidate(1.0, 1, 64, 64)
SECONDS = {"compact": 5.0, "layers": 20.0, "train": 100.0, "score": 10.0, "export": 30.0, "measure": 15.0}
SPACE = Space(speed_up=(1, 2, 4, 8), size=("64x64", "32x32"), precision=("fp32",), steps=(10, 30), keep=0.5)


def does(step: Step) -> Made:
    """A world in which a network's time goes with its multiply-accumulates, and its error against them."""
    candidate = step.options.get("candidate", {})
    macs = candidate.get("height", 64) ** 2 / candidate.get("speed_up", 1)
    name = f"{candidate} {step.options.get('steps', 0)}"
    facts: dict[str, Any] = {}
    files = {"network.safetensors": name.encode()}
    if step.kind == "compact":
        facts = {"layers": [f"shape {macs:g}"]}
    elif step.kind == "layers":
        files, facts = {}, {"times_us": {one: float(one.split()[1]) for one in step.options["shapes"]}}
    elif step.kind in ("score", "export"):
        files = {} if step.kind == "score" else {f"bundle/{macs:g}": b"graph"}
        facts = {"error": 1e4 / macs, "against": "parent"}
    elif step.kind == "measure":
        (file,) = step.inputs
        time_ms = float(file.removeprefix("bundle/")) / 1e3
        facts = {"p50_ms": time_ms, "p99_ms": time_ms, "model_ms": time_ms, "stable": True, "against": []}
        files = {}
    return Made(files, facts, SECONDS[step.kind])


def settings(budget_ms: float | None = None, space: Space = SPACE) -> Settings:
    digests = dict.fromkeys(("model", "training", "yardstick", "conversion"), "0")
    return Settings(space, OWN, "0" * 64, digests, [Place("pi", "a board")], budget_ms)


def driver(
    folder: Path, does: Callable[[Step], Made | SpliteError] = does, machines: int = 2, dies_s: float | None = None
) -> tuple[Driver, Simulated]:
    store = Store(folder)
    assert store.add(b"parent")
    (folder / "files" / ("0" * 64)).write_bytes(b"parent")
    cluster = [Machine(2, devices=frozenset({"pi"})), *(Machine(2, dies_s=dies_s) for _ in range(machines - 1))]
    workers = Simulated(cluster, does)
    return Driver(store, workers), workers


def test_who_keeps_the_budget_is_trained_and_the_better_half_goes_on(tmp_path: Path) -> None:
    one, _ = driver(tmp_path)
    outcome = search(settings(budget_ms=1.1), one)
    fates = {name: network.fate for name, network in outcome.networks.items()}
    assert fates["dense-64x64"] == fates["x2-r8-64x64"] == "too slow"
    assert fates["x4-r8-64x64"] == fates["dense-32x32"] == fates["x8-r8-64x64"] == "finished"
    assert fates["x8-r8-32x32"] == "stopped"
    assert "predicted to take 4.1 ms" in outcome.networks["dense-64x64"].reason
    assert outcome.networks["dense-32x32"].predicted_ms == {"pi": pytest.approx(1.024)}
    assert {point.network for point in outcome.points} == {name for name, fate in fates.items() if fate == "finished"}
    assert one.done["train"] == 6 + 3 and not one.failed


def test_a_second_search_does_nothing_and_a_wider_one_only_what_is_new(tmp_path: Path) -> None:
    first = search(settings(), driver(tmp_path)[0])
    again, _ = driver(tmp_path)
    assert search(settings(), again) == first and not again.done
    wider, _ = driver(tmp_path)
    search(settings(space=Space(**{**vars(SPACE), "precision": ("fp32", "fp16")})), wider)
    assert not wider.done["train"] and not wider.done["layers"] and wider.done["export"] == wider.done["measure"] > 0


def test_a_budget_that_nobody_can_keep_trains_nothing(tmp_path: Path) -> None:
    one, _ = driver(tmp_path)
    with pytest.raises(UsageError, match=r"the fastest, x8-r8-32x32, is predicted to take 0\.128 ms") as caught:
        search(settings(budget_ms=0.01), one)
    assert "Nothing was trained" in caught.value.hint and not one.done["train"]


def test_a_step_that_fails_is_done_again_elsewhere_and_one_that_always_fails_is_left_out(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()

    def failing(step: Step) -> Made | SpliteError:
        tries[str(step)] += 1
        if step.kind == "train" and step.options["candidate"]["speed_up"] == 8:
            return SpliteError("the loss is not finite")
        if str(step) == "train x2-r8-64x64 to 10 steps" and tries[str(step)] == 1:
            return SpliteError("the disk is full")
        return does(step)

    one, _ = driver(tmp_path, failing)
    outcome = search(settings(), one)
    assert outcome.networks["x8-r8-64x64"].fate == "failed"
    assert outcome.networks["x8-r8-64x64"].reason == "the loss is not finite"
    assert left_out(outcome.networks) == [
        "x8-r8-64x64 failed and is left out. the loss is not finite",
        "x8-r8-32x32 failed and is left out. the loss is not finite",
    ]
    many = {f"x{index}": Network(OWN, fate="failed", reason="No disk.") for index in range(5)}
    assert left_out(many)[2:] == ["x2 failed and is left out. No disk.", "2 more networks failed; the page says why."]
    assert outcome.networks["x2-r8-64x64"].fate == "finished"
    full = [try_ for try_ in one.failed if "disk" in try_.error]
    assert [(try_.step, try_.again) for try_ in full] == [("train x2-r8-64x64 to 10 steps", True)]
    assert tries["train x8-r8-64x64 to 10 steps"] == 2


def test_a_machine_that_goes_away_costs_time_and_no_result(tmp_path: Path) -> None:
    whole, quick = driver(tmp_path / "whole", machines=3)
    outcome = search(settings(), whole)
    one, slow = driver(tmp_path / "lost", machines=3, dies_s=150.0)
    assert search(settings(), one) == outcome
    assert one.done == whole.done and one.failed and all("went away" in try_.error for try_ in one.failed)
    assert slow.now_s > quick.now_s


def test_two_that_want_the_same_share_it(tmp_path: Path) -> None:
    one, _ = driver(tmp_path)
    step = Step("train", "a", {}, {"steps": 1}, Needs())

    def flow() -> Any:
        return (yield Step("train", "b", {}, dict(step.options), Needs()))

    given = one.together({name: flow() for name in "abc"})
    assert one.done == {"train": 1} and len({id(result) for result in given.values()}) == 1


def test_nothing_is_measured_where_no_network_can_be_made(tmp_path: Path) -> None:
    def failing(step: Step) -> Made | SpliteError:
        lost = step.kind == "compact" and step.options["candidate"] != to_plain(OWN)
        return SpliteError("its width would be 0") if lost else does(step)

    one, _ = driver(tmp_path, failing)
    with pytest.raises(UsageError, match=r"all 2 failed\. x2-r8-64x64: its width would be 0"):
        search(settings(space=Space(speed_up=(2, 4), precision=("fp32",))), one)
    assert one.done == {"compact": 1}


def test_where_all_fail_the_first_reason_is_told(tmp_path: Path) -> None:
    def failing(step: Step) -> Made | SpliteError:
        return SpliteError("no module named data") if step.kind == "train" else does(step)

    space = Space(**{**vars(SPACE), "speed_up": (2.0,)})
    with pytest.raises(UsageError, match=r"all 2 failed\. x2-r8-64x64: no module named data"):
        search(settings(space=space), driver(tmp_path, failing)[0])
