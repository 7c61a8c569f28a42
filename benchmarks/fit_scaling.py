"""What more machines bring a search, in virtual time with the real search and driver, and where the driver saturates.

    python benchmarks/fit_scaling.py --search fit-search.jsonl --out benchmarks/results/fit-scaling.jsonl

First the driver's own cost is measured on real Ray: steps that do nothing are given a checkpoint of ``--megabytes`` and
give one back; timed are submitting them, and taking and keeping results that are there already. The times of steps are
the medians that `fit_search.py` recorded; once with its short trainings, and once with trainings of ``--long`` seconds.

Then `splite_deploy.fit.search` runs on 1, 8 and 64 machines of two cores, of which one reaches the only board: 512
networks, three rungs of which a quarter goes on. Efficiency is the time of all cores in use over the time of all cores.
Last, with no board and ``--per-core`` networks for every core, machines become four times as many until the driver is
busy all the time: from there on more of them bring nothing. Errors are random, since only times are asked for. Appends
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from splite_deploy.bench import append_record, read_environment
from splite_deploy.errors import SpliteError
from splite_deploy.fit.driver import Driver
from splite_deploy.fit.measuring import Place
from splite_deploy.fit.on_ray import Done, OnRay
from splite_deploy.fit.search import Settings, search
from splite_deploy.fit.simulated import Machine, Simulated
from splite_deploy.fit.space import Candidate, Space
from splite_deploy.fit.steps import Needs, Result, Step
from splite_deploy.fit.store import Store
from splite_deploy.fit.work import CHECKPOINT, Files, Made, Project
from splite_deploy.spec.plain import to_plain

KIND = "fit-scaling"
BOARD = "board"
CORES = 2
OWN = Candidate(1.0, 1, 128, 128)
TRIED = 300
"""Steps by which the driver's cost is measured."""


class Memory(Store):
    """A store that forgets contents: the clock is virtual, and what writing costs is in the driver's cost."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._known: dict[str, Result] = {}

    def find(self, step: Step) -> Result | None:
        """See `Store.find`."""
        return self._known.get(step.key)

    def keep(self, step: Step, files: Files, facts: Mapping[str, Any], seconds: float, node: str) -> Result:
        """See `Store.keep`; what a simulated step makes is a name."""
        named = {name: content.decode() for name, content in files.items()}
        return self._known.setdefault(step.key, Result(named, facts, seconds, node))


def nothing(step: Step, project: Project, names: list[str], *contents: bytes) -> Done:
    """A step that gives back what it was given."""
    return Done("", Made(dict(zip(names, contents, strict=True)), {}, 0.0))


def driver_cost(megabytes: float) -> dict[str, float]:
    """What a step costs the driver on Ray, seconds: to submit it, and to take and keep its result."""
    with TemporaryDirectory() as folder:
        store = Store(Path(folder) / "cache")
        parents = [store.add(os.urandom(int(megabytes * 1e6))) for _ in range(8)]
        project = Project(Path("model.toml"), None)
        steps = [Step("train", str(i), {CHECKPOINT: parents[i % 8]}, {"i": i}) for i in range(TRIED)]
        with OnRay(store, project, None, [Needs()], nothing) as workers:
            workers.submit(Step("train", "first", {CHECKPOINT: parents[0]}, {"i": -1}), ())
            workers.wait()  # by then there is a process to do it
            began = time.perf_counter()
            for step in steps:
                workers.submit(step, ())
            submit_s = (time.perf_counter() - began) / TRIED
            time.sleep(TRIED * 0.02)
            left, spent_s = TRIED, 0.0
            while left:
                began = time.perf_counter()
                ended = workers.wait()
                if len(ended) == 1:  # it may have been waited for
                    began = time.perf_counter()
                for one in ended:
                    assert one.made is not None
                    store.keep(one.step, one.made.files, one.made.facts, one.made.seconds, one.node)
                spent_s += time.perf_counter() - began
                left -= len(ended)
        return {"submit_s": submit_s, "result_s": spent_s / TRIED}


def simulated(
    machines: int, networks: int, seconds: dict[str, float], cost: dict[str, float], board: bool
) -> dict[str, Any]:
    """A search on so many machines; its time and who was busy in it."""
    chance = random.Random(0)

    def does(step: Step) -> Made:
        facts: dict[str, Any] = {}
        files = {CHECKPOINT: step.key.encode()}
        if step.kind == "compact":
            facts = {"layers": [f"shape of {step.options['candidate']['speed_up']:g}"]}
        elif step.kind == "layers":
            files, facts = {}, {"times_us": dict.fromkeys(step.options["shapes"], 100.0)}
        elif step.kind in ("score", "export"):
            files = {} if step.kind == "score" else {"bundle/model.onnx": step.key.encode()}
            facts = {"error": chance.random(), "against": "labels"}
        elif step.kind == "measure":
            files, facts = {}, {"p50_ms": 5.0, "p99_ms": 6.0, "model_ms": 4.0, "stable": True, "against": []}
        taken_s = seconds[step.kind] * (0.0 if step.needs.device and not board else 1.0)
        return Made(files, facts, taken_s)

    cluster = [Machine(CORES, devices=frozenset({BOARD} if index == 0 else ())) for index in range(machines)]
    workers = Simulated(cluster, does, **cost)
    speed_ups = tuple(1.5 + index / 1e4 for index in range(networks // 4))
    sizes = tuple(f"{side}x{side}" for side in (64, 96, 128, 160))
    space = Space(speed_up=speed_ups, size=sizes, precision=("fp32", "int8"), steps=(1, 2, 3), keep=0.25)
    digests = dict.fromkeys(("model", "training", "yardstick", "conversion"), "")
    with TemporaryDirectory() as folder:
        driver = Driver(Memory(Path(folder)), workers)
        search(Settings(space, OWN, "parent", digests, [Place(BOARD)]), driver)
    steps = sum(driver.done.values())
    return {
        "machines": machines,
        "networks": networks,
        "steps": steps,
        "seconds": workers.now_s,
        "efficiency": workers.busy_s / (workers.now_s * CORES * machines),
        "driver_share": steps * sum(cost.values()) / workers.now_s,
        "board_share": driver.done["measure"] * seconds["measure"] * board / workers.now_s,
    }


def saturation(seconds: dict[str, float], cost: dict[str, float], per_core: int, most: int) -> list[dict[str, Any]]:
    """Searches on more and more machines, without the board, until the driver is busy all the time."""
    found: list[dict[str, Any]] = []
    machines = 1
    while machines <= most and not (found and found[-1]["driver_share"] > 0.95):
        found.append(simulated(machines, max(8, per_core * CORES * machines), seconds, cost, board=False))
        machines *= 4
    return found


def table(record: dict[str, Any]) -> Table:
    """All searches."""
    shown = Table("training", "machines", "networks", "hours", "efficiency", "driver busy", "board busy")
    for name in ("runs", "saturation"):
        for training, runs in record[name].items():
            for one in runs:
                shares = (f"{100 * one[key]:.2g} %" for key in ("efficiency", "driver_share", "board_share"))
                shown.add_row(
                    training, str(one["machines"]), str(one["networks"]), f"{one['seconds'] / 3600:.3g}", *shares
                )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=Path, required=True, help="what fit_search.py recorded")
    parser.add_argument("--megabytes", type=float, default=2.0, help="of a checkpoint (default: 2)")
    parser.add_argument("--long", type=float, default=3600.0, help="seconds of a long training (default: 3600)")
    parser.add_argument("--per-core", type=int, default=4, help="networks for every core (default: 4)")
    parser.add_argument("--most", type=int, default=1024, help="machines at most (default: 1024)")
    parser.add_argument("--out", type=Path, help="JSON lines file to append a record to")
    options = parser.parse_args()
    try:
        measured = json.loads(options.search.read_text(encoding="utf-8").splitlines()[-1])["steps"]
        short = {kind: one["p50_s"] for kind, one in measured.items()}
        cost = driver_cost(options.megabytes)
        times = {"as recorded": short, f"{options.long:g} s": {**short, "train": options.long}}
        record = {
            "kind": KIND,
            "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "environment": to_plain(read_environment()),
            "driver": {**cost, "megabytes": options.megabytes, "steps": TRIED},
            "steps_s": short,
            "runs": {
                name: [simulated(count, 512, seconds, cost, board=True) for count in (1, 8, 64)]
                for name, seconds in times.items()
            },
            "saturation": {
                name: saturation(seconds, cost, options.per_core, options.most) for name, seconds in times.items()
            },
        }
        if options.out is not None:
            append_record(options.out, record)
    except SpliteError as err:
        raise SystemExit(f"error: {err}") from err
    print(
        f"driver: {1e3 * cost['submit_s']:.2f} ms to submit a step, {1e3 * cost['result_s']:.2f} ms to keep its result"
    )
    Console().print(table(record))


if __name__ == "__main__":
    main()
