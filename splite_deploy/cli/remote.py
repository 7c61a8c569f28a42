"""``--device``: the same command on other machines, reached by ssh, and their results beside each other."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from splite_deploy.cli.app import OUTPUTS, TYPED
from splite_deploy.cli.console import bar_console, message_console, put_error, remark, warn
from splite_deploy.errors import OutputError, RemoteError, SpliteError, UsageError
from splite_deploy.files import anything_at, part_folder, rename_to_new, work_folder, writing
from splite_deploy.spec.plain import json_text
from splite_deploy.text import shown

if TYPE_CHECKING:
    from splite_deploy.bench import BenchResult
    from splite_deploy.remote.devices import Device
    from splite_deploy.remote.push import Sent
    from splite_deploy.remote.work import Outcome, Tell

_Result = TypeVar("_Result")
_NOT_SENT = OUTPUTS | {"devices", "devices_file", "quiet", "verbose"}
"""Parameters that are for this machine."""
RESULT = "out/result.json"


@dataclass(frozen=True)
class Remote:
    """Machines that a command is to run on.

    Attributes:
        devices: The machines.
    """

    devices: tuple[Device, ...]

    @contextmanager
    def outcomes(
        self,
        *,
        backends: Sequence[str],
        kept_here: Collection[str] = (),
        places: Mapping[str, Sequence[Path]] | None = None,
        more: Sequence[str] = (),
        **options: Any,
    ) -> Iterator[list[Outcome]]:
        """Runs the present command on all of them; what came back is there until the block ends.

        Args:
            backends: That were named.
            kept_here: Names of parameters that are not sent, besides those of results.
            places: Paths of parameters that are texts, by name.
            more: Arguments that the command has over there besides.
            options: Of `splite_deploy.remote.work.Job`.

        Raises:
            SpliteError: What is to be sent cannot be read.
        """
        from splite_deploy.remote.work import Job, work_on

        typed, files = far_line(click.get_current_context(), {*_NOT_SENT, *kept_here}, places or {})
        job = Job((*typed, "--verbose", "--json", RESULT, *more), tuple(files), tuple(backends), **options)
        with work_folder("splite-remote") as folder:
            with _board(self.devices) as tell:
                found = work_on(self.devices, job, folder, tell)
            for one in found:
                for line in one.said:
                    _pass_on(one.device.name, line)
            yield found


def _pass_on(name: str, line: str) -> None:
    """Shows what a machine says that its results do not tell."""
    if line.startswith("warning: "):
        warn(f"{name}: {line.removeprefix('warning: ')}")
    elif line.startswith(("Left out ", "note:  ")):
        remark(f"{name}: {line}")


def far_line(
    context: click.Context, left_out: Collection[str], places: Mapping[str, Sequence[Path]]
) -> tuple[list[str], list[Sent]]:
    """The command as it is typed over there, and what it reads.

    Args:
        context: Of the command.
        left_out: Names of parameters that are not sent.
        places: Paths of parameters that are texts, by name.
    """
    from splite_deploy.remote.push import read_there

    options: list[str] = []
    arguments: list[str] = []
    files: list[Sent] = []

    def there(path: Path) -> str:
        name, sent = read_there(path, f"in/{len(files)}")
        files.extend(sent)
        return name

    for parameter in context.command.params:
        name = parameter.name or ""
        source, value = context.get_parameter_source(name), context.params.get(name)
        values: list[Any] = [*value] if isinstance(value, tuple) else [value]
        typed = context.meta[TYPED].get(name) if source is ParameterSource.COMMANDLINE else value
        if name in left_out or source not in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            continue
        paths = places.get(name, values)
        if name in places or any(isinstance(one, Path) for one in paths):
            texts = [there(path) for path in paths]
        else:
            texts = [str(one) for one in (typed if isinstance(typed, list | tuple) else [typed])]
        if isinstance(parameter, click.Argument):
            arguments += texts
        elif getattr(parameter, "is_flag", False):
            options.append(parameter.opts[0])
        else:
            options += [part for text in texts for part in (parameter.opts[0], text)]
    return [str(context.info_name), *options, *arguments], files


@contextmanager
def _board(devices: Sequence[Device]) -> Iterator[Tell]:
    """Shows what happens on each machine: in a terminal a row each, elsewhere a line for each step."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console, lock = bar_console(), threading.Lock()
    if not console.is_terminal:
        plain, last = message_console(), dict[str, str]()

        def say(name: str, text: str) -> None:
            with lock:
                if text != last.get(name):
                    last[name] = text
                    plain.print(shown(f"{name}: {text}"), soft_wrap=True)

        yield say
        return
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {one.name: bar.add_task(one.name, total=None) for one in devices}

        def tell(name: str, text: str) -> None:
            bar.update(tasks[name], description=shown(f"{name}: {text}")[: console.width - 20])

        yield tell


def read_each(outcomes: Sequence[Outcome], read: Callable[[Outcome], _Result]) -> list[tuple[Outcome, _Result]]:
    """What each machine's results are; of several machines the errors of those that failed are shown.

    Args:
        outcomes: What became of the command; one gets an error where its results cannot be read, or are not all.
        read: Reads the results.
    """
    found = []
    for one in outcomes:
        try:
            if one.error is not None:
                raise one.error
            if not (one.folder / RESULT).is_file():
                raise one.failure()
            found.append((one, read(one)))
            if one.status:
                raise one.failure()
        except SpliteError as err:
            one.error = err
            if len(outcomes) > 1:
                put_error(err.message, err.hint)
    return found


class Kept:
    """A folder of the user's that gets a folder for each machine.

    Args:
        folder: The user's; made where it is not there.
        devices: The machines.

    Raises:
        OutputError: There is something of a machine's name already, or nothing can be written there.
    """

    def __init__(self, folder: Path, devices: Sequence[Device]) -> None:
        self._folder = folder
        for one in devices:
            if anything_at(place := folder / one.name):
                raise OutputError(f"{place} exists.", hint="Name another folder, or move it away.")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def keep(self, one: Outcome, source: Path) -> Path:
        """Has what a machine sent in the machine's folder, whole or not at all, with its environment.

        Raises:
            OutputError: It cannot be written.
        """
        place = self._folder / one.device.name
        with part_folder(place) as part, writing(place):
            shutil.copytree(source, part, dirs_exist_ok=True)
            text, _ = json_text(one.about, indent=1)
            (part / "environment.json").write_text(f"{text}\n", encoding="utf-8")
            part.chmod(0o755)
            rename_to_new(part, place)
        return place


def results_there(one: Outcome) -> list[BenchResult]:
    """The results of `bench` on a machine, with its name.

    Raises:
        RemoteError: It sent something else.
    """
    from splite_deploy.bench import read_results
    from splite_deploy.remote.work import NO_RESULTS_HINT

    try:
        return [replace(result, device=one.device.name) for result in read_results(one.folder / RESULT)]
    except UsageError as err:
        raise RemoteError(
            f"{one.device.name}: its results cannot be used: {err.message}", hint=NO_RESULTS_HINT
        ) from err


def check_all(outcomes: Sequence[Outcome]) -> None:
    """Raises an error where a machine failed: what there is of results is delivered by now.

    Raises:
        SpliteError: One did.
    """
    failed = [one for one in outcomes if one.error is not None]
    if len(outcomes) == 1 and outcomes[0].error is not None:
        raise outcomes[0].error
    if failed:
        names = ", ".join(one.device.name for one in failed)
        raise RemoteError(
            f"{len(failed)} of {len(outcomes)} machines failed: {names}.",
            hint="What was said of each stands above; what there is of results was delivered.",
        )
