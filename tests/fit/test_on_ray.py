"""Steps on real Ray: a cluster of three machines of which one is killed, and a board that does one thing at a time."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

ray = pytest.importorskip("ray", reason="the extra 'fit' is not installed")

from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.fit.driver import Driver, Flow
from splite_deploy.fit.on_ray import OnRay
from splite_deploy.fit.steps import Needs, Result, Step
from splite_deploy.fit.store import Store
from splite_deploy.fit.training import TrainingCommand
from splite_deploy.fit.work import CHECKPOINT, Project

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
CANDIDATE = {"speed_up": 1.0, "round_to": 1, "height": 64, "width": 48}


def project(model: Path, command: str) -> Project:
    return Project(model, TrainingCommand.parse(f"sh -c '{command}' sh {{checkpoint}} {{out}} {{steps}}"))


def weights(number: int) -> bytes:
    """A checkpoint whose last byte is this digit."""
    return save({"weight": np.frombuffer(str(number).encode(), np.uint8)})


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def flow(parent: str, steps: int, needs: Needs) -> Flow[Result]:
    options = {"candidate": CANDIDATE, "steps": steps}
    return (yield Step("train", f"number {steps}", {CHECKPOINT: parent}, options, needs))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Three machines of one core; the first one reaches a board. What is sent to them is an empty folder."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "resources": {"device:pi": 1}, "include_dashboard": False},
    )
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]  # the machines beside the first
    yield made
    made.shutdown()


def test_a_killed_machine_loses_no_trial_and_no_result_comes_twice(
    cluster: Any, tiny_model: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "cache")
    parent, begun = store.add(weights(0)), tmp_path / "begun"
    begun.mkdir()
    slowly = f"touch {begun}/$3-$$; sleep 2; head -c -1 $1 >$2; printf $3 >>$2"
    killed: list[str] = []

    def kill_one(step: Step, what: str) -> None:
        """When the first trial is done kills a machine that is at work by now."""
        if what == "done" and not killed:
            time.sleep(1.0)
            killed.append(cluster.nodes[0].node_id)
            cluster.remove_node(cluster.nodes[0], allow_graceful=False)

    with OnRay(store, project(tiny_model, slowly), cluster.address, [Needs()]) as workers:
        driver = Driver(store, workers, tell=kill_one)
        given = driver.together({steps: flow(parent, steps, Needs()) for steps in range(1, 8)})
        with pytest.raises(UsageError, match=r"No machine of the cluster has 1 CPU, 1 device:attic\.") as caught:
            workers.check_needs([Needs(device="attic")])
    assert "ray start --resources" in caught.value.hint
    assert driver.done == {"train": 7}
    assert len(list((tmp_path / "cache" / "results").iterdir())) == 7
    for steps, result in given.items():
        assert isinstance(result, Result)
        assert store.content(result.files[CHECKPOINT]) == weights(steps)
    began = [path.name.partition("-")[0] for path in begun.iterdir()]
    assert set(began) == set("1234567")
    assert len(began) <= 7 + len(driver.failed)  # fewer where a machine was killed before its process had begun
    assert driver.failed and all(one.again and "went away" in one.error for one in driver.failed)


def test_a_board_does_one_thing_at_a_time_and_what_fails_is_told(tiny_model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    parent, log = store.add(weights(0)), tmp_path / "log"
    once = f"echo begin >>{log}; sleep 0.5; echo end >>{log}; test $3 = 2 && echo no such data && exit 4; cp $1 $2"
    needs = Needs(device="pi")
    before = set(Path("/tmp").iterdir())
    with OnRay(store, project(tiny_model, once), None, [Needs(), needs]) as workers:
        driver = Driver(store, workers, retries=1)
        given = driver.together({steps: flow(parent, steps, needs) for steps in (1, 2, 3)})
    assert log.read_text().split() == ["begin", "end"] * 4  # the second twice
    assert isinstance(given[2], SpliteError) and "status 4. It said last: no such data" in given[2].message
    assert isinstance(given[1], Result) and isinstance(given[3], Result)
    assert [one.again for one in driver.failed] == [True, False]
    assert not [one for one in set(Path("/tmp").iterdir()) - before if "ray" in one.name]


def test_a_function_comes_with_the_working_folder_and_says_where_it_is_not(
    cluster: Any, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "working" / "parts").mkdir()
    (tmp_path / "working" / "parts" / "ends.py").write_text("END = b'9'")
    (tmp_path / "working" / "mine.py").write_text(
        "from parts.ends import END\n"
        "def tune(checkpoint, steps, out, model):\n    out.write_bytes(checkpoint.read_bytes()[:-1] + END)\n"
    )
    given = {}
    for name in ("mine:tune", "far.away:tune"):
        store = Store(tmp_path / name.partition(":")[0])
        parent = store.add(weights(0))
        with OnRay(store, Project(tiny_model, TrainingCommand.parse(name)), cluster.address, [Needs()]) as workers:
            given[name] = Driver(store, workers).together({1: flow(parent, 1, Needs())})[1]
    tuned, lacking = given["mine:tune"], given["far.away:tune"]
    assert isinstance(tuned, Result), tuned.message
    assert Store(tmp_path / "mine").content(tuned.files[CHECKPOINT]) == weights(9)
    assert isinstance(lacking, SpliteError)
    assert f"far.away:tune cannot be imported on {platform.node()} by " in lacking.message
    assert "No module named 'far'. What a training imports has to lie below the working folder" in lacking.message


def test_who_leaves_ray_leaves_no_training_behind(tiny_model: Path, tmp_path: Path) -> None:
    store, pids = Store(tmp_path / "cache"), tmp_path / "pids"
    endless = f"sleep 600 & echo $$ $! >{tmp_path}/new; mv {tmp_path}/new {pids}; wait"
    with OnRay(store, project(tiny_model, endless), None, [Needs()]) as workers:
        workers.submit(next(flow(store.add(weights(0)), 1, Needs())), ())
        end = time.monotonic() + 120
        while not pids.exists():
            assert time.monotonic() < end
            time.sleep(0.1)
    end = time.monotonic() + 10
    while any(map(lives, map(int, pids.read_text().split()))):
        assert time.monotonic() < end
        time.sleep(0.1)
