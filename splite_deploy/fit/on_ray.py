"""Steps on Ray: on this machine, or on a cluster whose machines need not share a file system. Imports ray.

Contents of files travel through Ray's object store, and each only once to a machine. Ray's part ends there: what is
done next, what is done again, and what is known already is for `splite_deploy.fit.driver`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from splite_deploy.errors import MissingDependencyError, SpliteError, UsageError, first_line
from splite_deploy.files import work_folder
from splite_deploy.fit.driver import Ended
from splite_deploy.fit.steps import Needs, Step
from splite_deploy.fit.store import Store
from splite_deploy.fit.work import Made, Project, perform

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_enable_open_telemetry": "0",
}
"""Ray reports to nobody, and warns of nothing that concerns its developers."""
_LOOKED_AFTER_S = 0.5  # Ctrl-C is noticed between two looks
_BUG_HINT = "That is no error that was expected: --one-by-one shows where it comes from."


@dataclass(frozen=True)
class Done:
    """What a task gives back: exceptions of ours need not survive the way."""

    node: str
    made: Made | None = None
    message: str = ""
    hint: str = ""


Do = Callable[..., Done]
"""Does a step in a process of Ray's: from the step, the project, names and contents of its inputs."""


def do(step: Step, project: Project, names: Sequence[str], *contents: bytes) -> Done:
    """A step, in a process of Ray's."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    try:
        return Done(node, perform(step, project, dict(zip(names, contents, strict=True))))
    except SpliteError as err:
        return Done(node, message=err.message, hint=err.hint)
    except Exception as err:  # of one trial among many: it is told, and the others go on
        return Done(node, message=first_line(err, named=True), hint=_BUG_HINT)


class OnRay:
    """See `splite_deploy.fit.driver.Workers`; a context, at whose end Ray is left.

    Args:
        store: Has the inputs of steps.
        project: See `perform`.
        address: Of a running cluster, whose machines get the working folder and this package; None starts Ray here.
        needs: What will be asked for, to be refused at once where no machine has it.
        do: Does the steps.

    Raises:
        MissingDependencyError: Ray is not installed.
        UsageError: There is no such cluster, or no machine of it has what is needed.
    """

    def __init__(
        self, store: Store, project: Project, address: str | None, needs: Sequence[Needs], do: Do = do
    ) -> None:
        self._store, self._project, self._needs = store, project, needs
        self._folder = ExitStack()
        self._running: dict[Any, Step] = {}
        self._known: dict[str, Any] = {}
        os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
        try:
            import ray
        except ImportError as err:
            raise MissingDependencyError(
                "The search runs on Ray, which is not installed here.",
                hint="Install it: pip install 'splite-deploy[fit]', or add --one-by-one, which needs none.",
            ) from err
        self._ray: Any = ray  # whose annotations are incomplete
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._start(address)
        finally:
            with suppress(ValueError):  # outside of the main thread nobody took it
                signal.signal(signal.SIGTERM, handler)  # which Ray takes
        try:
            self.check_needs(self._needs)
            self._task = self._ray.remote(do)
            self._project_there = self._ray.put(project)
        except BaseException:
            self.close()
            raise

    def _start(self, address: str | None) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
        if address is None:
            devices = {_resource(one.device): 1.0 for one in self._needs if one.device is not None}
            options |= {"resources": devices, "_temp_dir": str(self._folder.enter_context(work_folder("ray")))}
        else:
            package = Path(__file__).parents[1]
            options |= {"address": address, "runtime_env": {"working_dir": ".", "py_modules": [str(package)]}}
        try:
            self._ray.init(**options)
        except (OSError, ValueError, RuntimeError) as err:
            self.close()
            if address is None:
                hint = "Add --one-by-one, which needs no Ray; a path that is too long gets shorter with TMPDIR=/tmp."
                raise UsageError(f"Ray cannot be started here: {first_line(err)}", hint=hint) from err
            hint = "Start it there (ray start --head), and the search in a folder that is small enough to be sent."
            raise UsageError(f"Ray cannot be used at {address}: {first_line(err)}", hint=hint) from err

    def check_needs(self, needs: Sequence[Needs]) -> None:
        """Refuses what would wait forever.

        Raises:
            UsageError: No machine has what one of them takes.
        """
        nodes = [one["Resources"] for one in self._ray.nodes() if one["Alive"]]
        for need in needs:
            wanted = _wanted(need)
            if any(_has(node, wanted) for node in nodes):
                continue
            told = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
            if need.device is not None:
                hint = f"On the machine that reaches it: ray start --resources '{{\"{_resource(need.device)}\": 1}}'."
            else:
                hint = "Ask for less with --cpus and --gpus, or start a machine that has them."
            raise UsageError(f"No machine of the cluster has {told}.", hint=hint)

    def __enter__(self) -> OnRay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is running and leaves Ray; where it was started here it ends, too."""
        for running in self._running:
            with suppress(Exception):  # it has ended, or its machine has gone
                self._ray.cancel(running, force=True)
        self._running.clear()
        self._ray.shutdown()
        self._folder.close()

    def submit(self, step: Step, avoid: Collection[str]) -> None:
        """See `Workers.submit`."""
        wanted = _wanted(step.needs)
        more: dict[str, Any] = {}
        if avoid and (other := self._elsewhere(wanted, avoid)) is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            more["scheduling_strategy"] = NodeAffinitySchedulingStrategy(other, soft=True)
        task = self._task.options(
            name=str(step),
            max_retries=0,
            num_cpus=wanted.pop("CPU"),
            num_gpus=wanted.pop("GPU", 0),
            resources=wanted,
            **more,
        )
        contents = [self._there(sha256) for sha256 in step.inputs.values()]
        self._running[task.remote(step, self._project_there, list(step.inputs), *contents)] = step

    def _there(self, sha256: str) -> Any:
        if sha256 not in self._known:
            self._known[sha256] = self._ray.put(self._store.content(sha256))
        return self._known[sha256]

    def _elsewhere(self, wanted: dict[str, float], avoid: Collection[str]) -> str | None:
        for one in self._ray.nodes():
            if one["Alive"] and one["NodeID"] not in avoid and _has(one["Resources"], wanted):
                return str(one["NodeID"])
        return None

    def wait(self) -> Sequence[Ended]:
        """See `Workers.wait`."""
        running = list(self._running)
        ended, _ = self._ray.wait(running, num_returns=len(running), timeout=0)
        while not ended:
            ended, _ = self._ray.wait(running, num_returns=1, timeout=_LOOKED_AFTER_S)
        return [self._of(one) for one in ended]

    def _of(self, running: Any) -> Ended:
        step = self._running.pop(running)
        try:
            done: Done = self._ray.get(running)
        except self._ray.exceptions.RayError as err:
            gone = SpliteError(
                f"The machine or the process that did it went away: {first_line(err)}",
                hint="Look whether it has enough memory; the search goes on with the others.",
            )
            return Ended(step, "", error=gone, lost=True)
        if done.made is None:
            return Ended(step, done.node, error=SpliteError(done.message, hint=done.hint))
        return Ended(step, done.node, made=done.made)


def _resource(device: str) -> str:
    """What Ray calls a machine that can be measured on."""
    return f"device:{device}"


def _wanted(needs: Needs) -> dict[str, float]:
    wanted = {"CPU": float(needs.cpus), **({"GPU": float(needs.gpus)} if needs.gpus else {})}
    return wanted if needs.device is None else {**wanted, _resource(needs.device): 1.0}


def _has(node: dict[str, float], wanted: dict[str, float]) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in wanted.items())
