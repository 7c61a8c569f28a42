"""One command on several machines at once: each is checked, gets what it lacks, works, and gives its results back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from splite_deploy.device.environment import Environment
from splite_deploy.doctor import Diagnosis
from splite_deploy.errors import RemoteError, SpecError, SpliteError, told_failure
from splite_deploy.files import writing
from splite_deploy.remote.connection import Connection
from splite_deploy.remote.devices import Device
from splite_deploy.remote.gather import Gathering
from splite_deploy.remote.push import Sent, push, runtime_wheel
from splite_deploy.spec.plain import structure, to_plain
from splite_deploy.spec.reading import MIB, ReadError, read_json
from splite_deploy.text import shown

MOST_RESULTS_BYTES = 256 * MIB
"""Of results that are text."""
NO_RESULTS_HINT = "Something else than splite-deploy answers there, or its disk is full."
_MOST_FACTS_BYTES = 4 * MIB
_KEPT_LINES, _MOST_SAID = 200, 500
Tell = Callable[[str, str], None]
"""Called with the name of a machine and what happens there."""


@dataclass(frozen=True)
class Facts:
    """A machine, as `splite_deploy.remote.facts` finds it there.

    Attributes:
        missing: Packages that every command needs and that are not there.
        broken: What a package says that cannot be imported; empty for nothing.
        diagnosis: What works there, as far as networks are run; None where something is missing or broken.
        environment: What it is.
    """

    missing: tuple[str, ...]
    broken: str
    diagnosis: Diagnosis | None
    environment: Environment


@dataclass(frozen=True)
class Job:
    """What a command is, for each machine the same.

    Attributes:
        arguments: Of ``splite-deploy``, as they are over there.
        files: What it reads there.
        backends: Backends that it needs, by name; any that works where there are none.
        writes: Whether it writes to what it reads, and so needs files of its own.
        collect: The folders whose files come back.
        most_bytes: Of what comes back.
    """

    arguments: tuple[str, ...]
    files: tuple[Sent, ...]
    backends: tuple[str, ...] = ()
    writes: bool = False
    collect: tuple[str, ...] = ("out",)
    most_bytes: int = MOST_RESULTS_BYTES


@dataclass
class Outcome:
    """What became of it on one machine.

    Attributes:
        device: The machine.
        folder: Here, with what came back.
        environment: What the machine is; None where it could not be told.
        status: How the command ended; None where it did not.
        said: The last lines that it wrote to standard error.
        sent_bytes: How much was sent there.
        error: Why there is no result; None where the command came to its end, whatever its status.
    """

    device: Device
    folder: Path
    environment: Environment | None = None
    status: int | None = None
    said: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    error: SpliteError | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The machine as plain data, for the head of its results."""
        return {"device": self.device.name, "environment": to_plain(self.environment)}

    def failure(self) -> RemoteError:
        """What the command said about its failure, as an error of this machine."""
        message, hint = told_failure(self.said)
        return RemoteError(
            f"{self.device.name}: {message or f'the command ended with status {self.status} and said nothing'}",
            hint=hint or "The message is of that machine: run the command there to see all of it.",
        )


def work_on(devices: Sequence[Device], job: Job, folder: Path, tell: Tell) -> list[Outcome]:
    """Does a job on several machines at once.

    Args:
        devices: The machines.
        job: What to do.
        folder: Gets a folder for each machine, named like it.
        tell: Called with what happens, by several threads.

    Returns:
        What became of it on each; nothing that a machine does is raised.
    """
    workers = [_Worker(device, job, folder / device.name, tell) for device in devices]
    try:
        for one in workers:
            one.start()
        for one in workers:
            while one.is_alive():
                one.join(0.2)  # in pieces, so that Ctrl-C is noticed
    finally:
        for one in workers:
            one.stop()
    for one in workers:
        if one.bug is not None:
            raise one.bug
    return [one.outcome for one in workers]


class _Worker(threading.Thread):
    """One machine's part."""

    def __init__(self, device: Device, job: Job, folder: Path, tell: Tell) -> None:
        super().__init__(name=device.name, daemon=True)
        self.outcome = Outcome(device, folder / "results")
        self.bug: BaseException | None = None
        self._job = job
        self._tell: Callable[[str], None] = partial(tell, device.name)
        self._far: Connection | None = None
        self._stopped = self._in_trace = False

    def run(self) -> None:
        """Does all of it."""
        try:
            self._work()
        except SpliteError as err:
            self.outcome.error = err
        except Exception as err:
            self.bug = err

    def stop(self) -> None:
        """Ends the connection, if there is one."""
        self._stopped = True
        if self._far is not None:
            self._far.stop()

    def _work(self) -> None:
        device, outcome = self.outcome.device, self.outcome
        self._tell("connecting")
        with Connection(device) as far:
            self._far = far
            if self._stopped:
                return
            wheel = runtime_wheel()
            outcome.sent_bytes += push(far, [wheel], "the runtime", self._tell)
            far.request("runtime", "the runtime was unpacked", sha256=wheel.sha256)
            far.answer("unpacked", wait_s=600.0)
            self._tell("doctor")
            facts = self._facts(far)
            outcome.environment = facts.environment
            _check(facts, device, self._job.backends)
            outcome.sent_bytes += push(far, self._job.files, "what the command reads", self._tell)
            self._tell(self._job.arguments[0])
            job = self._job
            self._run(far, "splite_deploy", job.arguments, outcome.folder, job.files, job.most_bytes)
        self._tell("done")

    def _facts(self, far: Connection) -> Facts:
        folder = self.outcome.folder.with_name("facts")
        self._run(far, "splite_deploy.remote.facts", ("out/facts.json",), folder, (), _MOST_FACTS_BYTES)
        if self.outcome.status:
            raise self.outcome.failure()
        facts: Facts = read_results(far, folder / "out" / "facts.json", Facts)
        self.outcome.status, self.outcome.said = None, []
        return facts

    def _run(
        self,
        far: Connection,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        files: Sequence[Sent],
        most_bytes: int,
    ) -> None:
        """Runs a module over there and takes what it wrote."""
        with writing(folder):
            folder.mkdir(parents=True)
        ours = module == "splite_deploy"
        far.request(
            "job",
            f"{arguments[0]} ran there" if ours else "it was checked",
            module=module,
            arguments=list(arguments),
            files={one.name: one.sha256 for one in files},
            own=ours and self._job.writes,
            collect=list(self._job.collect) if ours else ["out"],
        )
        gathering = Gathering(far, folder, most_bytes, {one.sha256: one for one in files})
        while "done" not in (message := far.answer("said", "ended", "file", "done")):
            if "said" in message:
                self._hear(str(message["said"]))
            elif "ended" in message:
                status = message["ended"]
                if type(status) is not int:
                    raise far.wrong("tells no status of the command")
                self.outcome.status = status
            else:
                gathering.take(message)
        if self.outcome.status is None:
            raise far.wrong("tells no status of the command")

    def _hear(self, line: str) -> None:
        text = shown(line.rstrip()[:_MOST_SAID])
        if text.strip():
            self.outcome.said = [*self.outcome.said[1 - _KEPT_LINES :], text]
            self._in_trace = text.startswith("Traceback ") or (self._in_trace and not text.startswith("error: "))
            if not self._in_trace and not text.startswith(("error: ", "hint:  ")):  # see `Outcome.failure`
                self._tell(text.strip())


def _check(facts: Facts, device: Device, backends: Sequence[str]) -> None:
    """Refuses a machine that cannot do it, with what has to be done there.

    Raises:
        RemoteError: A package is missing or broken, or it is in another power mode than it has to be.
    """
    name, diagnosis = device.name, facts.diagnosis
    if facts.missing:
        names, are = ", ".join(facts.missing), "are" if len(facts.missing) > 1 else "is"
        raise RemoteError(
            f"{name}: {names} {are} not installed for {device.python} there.",
            hint=f"Install there: {device.python} -m pip install {' '.join(facts.missing)}.",
        )
    broken = [one for stage in diagnosis.stages for one in stage.checks] if diagnosis is not None else []
    why = facts.broken or next((f"{one.name} {one.detail}" for one in broken if one.status == "failed"), "")
    if diagnosis is None or (why and not diagnosis.can_run):
        message = f"{name}: a package is broken there: {why}."
        raise RemoteError(message, hint=f"Install it there again: {device.python} -m pip install --force-reinstall ...")
    stages = {one.name: one for one in diagnosis.stages}
    wanted = [stages.get(f"run with {backend}") for backend in backends]
    lacking = [one for one in wanted if one is not None and not one.works]
    if lacking or not diagnosis.can_run:
        fixes = [fix for one in lacking or diagnosis.stages for fix in one.fixes]
        what = f"what '{lacking[0].name}' needs" if lacking else "a backend that works"
        raise RemoteError(f"{name}: {what} is not installed there.", hint=f"Install it there: {' or '.join(fixes)}.")
    mode = facts.environment.nvpmodel or facts.environment.governor
    if device.power_mode is not None and mode != device.power_mode:
        is_jetson = facts.environment.nvpmodel is not None
        how = "sudo nvpmodel -m NUMBER" if is_jetson else f"sudo cpupower frequency-set -g {device.power_mode}"
        raise RemoteError(
            f"{name}: it is in the power mode {mode or 'that cannot be read'}, and devices.toml requires "
            f"{device.power_mode}.",
            hint=f"Set it there ({how}), or correct power_mode.",
        )


def read_results(far: Connection | Outcome, file: Path, cls: Any) -> Any:
    """What a machine wrote, as an object of a dataclass.

    Raises:
        RemoteError: It wrote nothing, or something else.
    """
    try:
        return structure(cls, read_json(file), "")
    except (ReadError, SpecError) as err:
        raise RemoteError(
            f"{far.device.name}: its results cannot be used: {err.message}",
            hint=NO_RESULTS_HINT,
        ) from err
