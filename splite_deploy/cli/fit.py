"""The command fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splite_deploy.cli.app import (
    BackendName,
    FilePath,
    Images,
    json_option,
    main,
    method_option,
    model_option,
    threads_option,
)
from splite_deploy.cli.bench import milliseconds
from splite_deploy.cli.console import STDOUT, bar_console, put_json, remark, say, show, warn
from splite_deploy.errors import GateError, OptionError, OutputError
from splite_deploy.runtime.backends import exportable_backends
from splite_deploy.spec import PRECISIONS, load_model_toml
from splite_deploy.text import counted, shown

if TYPE_CHECKING:
    from splite_deploy.fit.driver import Driver, Workers
    from splite_deploy.fit.measuring import Place
    from splite_deploy.fit.search import Network, Outcome, Settings
    from splite_deploy.fit.steps import Step
    from splite_deploy.fit.store import Store
    from splite_deploy.fit.work import Project

_SPACE = ("speed_up", "round_to", "size", "precision", "backend", "steps", "keep")


def _default_output(given: Mapping[str, Any]) -> Path:
    """Where the search lies without ``--output``."""
    checkpoint: Path = given["checkpoint"]
    return checkpoint.parent / f"{checkpoint.stem}-fit"


@main.command(
    short_help="Search for the network that keeps a latency budget at the least error.", default_output=_default_output
)
@click.argument("checkpoint", type=FilePath)
@click.option(
    "--budget",
    "budget_ms",
    metavar="TIME",
    callback=milliseconds,
    help="How long a frame may take at the 99th percentile, such as 5ms; no limit without it.",
)
@click.option(
    "--on",
    metavar="SSH|NAME",
    multiple=True,
    default=("here",),
    show_default=True,
    help="A machine to measure on: here, ssh://user@host, or its name in devices.toml. May be given several times.",
)
@click.option(
    "--devices",
    "devices_file",
    metavar="FILE",
    type=FilePath,
    help="The names and Pythons of machines; devices.toml here without it.",
)
@click.option(
    "--output",
    "-o",
    type=FilePath,
    help="Write the search into this folder; into NAME-fit beside the checkpoint without it.",
)
@model_option
@click.option(
    "--train",
    metavar="COMMAND",
    help="What fine-tunes a network: a command with {checkpoint}, {steps} and {out} in it, and {model}, {height}, "
    "{width}, {python} and {cache} where it needs them; or module:function, of a module below this folder. Nothing is "
    "trained without it.",
)
@click.option("--space", type=FilePath, help="A fit.toml with what is tried; the options below replace what it says.")
@click.option(
    "--speed-up",
    type=float,
    multiple=True,
    help="Divide the multiply-accumulates by so much; 1 for dense. May be given several times.",
)
@click.option("--round-to", type=int, multiple=True, help="Widths are multiples of this. May be given several times.")
@click.option(
    "--size",
    metavar="HxW",
    multiple=True,
    help="Height and width of the input; the model's own without it. May be given several times.",
)
@click.option(
    "--precision", "-p", type=click.Choice(PRECISIONS), multiple=True, help="A precision. May be given several times."
)
@click.option(
    "--backend",
    "-b",
    type=BackendName(exportable_backends()),
    multiple=True,
    help="A backend. May be given several times.",
)
@click.option(
    "--steps",
    type=int,
    multiple=True,
    help="Steps of fine-tuning in all after each rung, ascending. May be given several times.",
)
@click.option("--keep", type=float, help="The part of the networks that goes on after a rung.")
@method_option
@click.option("--labels", type=FilePath, help="Labels to measure errors on; the distance to the parent without them.")
@click.option("--images", type=FilePath, help="Images to compare conversions on; those of --labels without it.")
@click.option(
    "--calibration", type=FilePath, help="Images for int8 and fp16; those of --labels or --images without it."
)
@click.option("--crops", type=Images, default=32, show_default=True, help="Number of images to compare on.")
@threads_option
@click.option("--frames", type=click.IntRange(10), help="Timed frames of each measurement; as 'bench' without it.")
@click.option("--address", metavar="HOST:PORT", help="A running Ray cluster, or auto; Ray is started here without it.")
@click.option("--cpus", type=click.IntRange(1), default=1, show_default=True, help="Cores of each training.")
@click.option("--gpus", type=click.FloatRange(0), default=0.0, show_default=True, help="GPUs of each training.")
@click.option("--retries", type=click.IntRange(0), default=1, show_default=True, help="Tries after one that failed.")
@click.option("--one-by-one", is_flag=True, help="Do one step after the other in this process, without Ray.")
@json_option("Write all figures as JSON.")
def fit(
    checkpoint: Path,
    budget_ms: float | None,
    on: tuple[str, ...],
    devices_file: Path | None,
    output: Path | None,
    model: Path | None,
    train: str | None,
    space: Path | None,
    method: str,
    labels: Path | None,
    images: Path | None,
    calibration: Path | None,
    crops: int,
    threads: int | None,
    frames: int | None,
    address: str | None,
    cpus: int,
    gpus: float,
    retries: int,
    one_by_one: bool,
    json_file: Path | None,
    **given: Any,
) -> None:
    """Tries compaction, input size, precision and backend, and finds what keeps a latency budget at the least error.

    A trial compacts the network, fine-tunes it by your own command, exports and verifies it, and times it on each
    machine. Before anything is trained each machine times the layers of all networks, and what cannot keep the budget
    there is left out; after a few steps of fine-tuning only the better part goes on.

    Results are kept by what they were made of: a search that was stopped goes on when the same command is given again,
    and another one in the same folder reuses what they share. Of a training count the files and modules that its
    command names and what these import from the folders around them; where other code, packages or data change, name
    another folder. The folder then holds a page, the networks, and a bundle for each machine.

    It runs on Ray (pip install 'splite-deploy[fit]'): on this machine, or on a cluster by --address, whose machines
    get the working folder and need no other files in common. The exit status is 1 where nothing keeps the budget.

    The training command, and the Python files that model.toml names, are code that is run with your rights.
    """
    from splite_deploy.bench.evaluation import evaluation_labels
    from splite_deploy.bench.report.html import check_available
    from splite_deploy.export.crops import divide
    from splite_deploy.files import claimed, write_file
    from splite_deploy.fit.choice import choose
    from splite_deploy.fit.digest import digest_of
    from splite_deploy.fit.driver import Driver
    from splite_deploy.fit.output import Folder
    from splite_deploy.fit.page import page
    from splite_deploy.fit.score import UNITS
    from splite_deploy.fit.search import Settings, search
    from splite_deploy.fit.space import Candidate, read_space
    from splite_deploy.fit.steps import Needs
    from splite_deploy.fit.training import TrainingCommand
    from splite_deploy.fit.work import Project
    from splite_deploy.spec.reading import read_bytes

    check_available()
    if one_by_one and address is not None:
        raise OptionError("--one-by-one needs no cluster, and --address names one.", hint="Leave one of them out.")
    if train is None and given["steps"]:
        raise OptionError(
            "--steps is of fine-tuning, and without --train nothing is.", hint="Give --train, or leave it out."
        )
    tried = read_space(space, {name: given[name] for name in _SPACE})
    spec_file = model or checkpoint.parent / "model.toml"
    spec, host = load_model_toml(spec_file)
    if labels is not None:
        evaluation_labels(labels, spec.keypoint_count)  # what is wrong with them is told before hours of work
    for pictures, option in {images: "--images", calibration: "--calibration"}.items():
        if pictures is not None and pictures.suffix != ".npz":
            divide(pictures, option=option)
    places = _places(on, devices_file, threads, frames)
    training = None if train is None else TrainingCommand.parse(train)
    images = images or labels
    calibration = calibration or images
    project = Project(
        spec_file, training, method, labels, images, calibration, crops, {one.name: one for one in places}
    )
    code = [host.folder / text.rpartition(":")[0] for text in (host.arch, host.samples) if text]
    seen = [one for one in (labels, images) if one is not None]
    settings = Settings(
        tried,
        Candidate(1.0, 1, spec.input.height, spec.input.width),
        "",
        {
            "model": digest_of([spec_file, *code], method),
            "training": "" if training is None else training.digest(),
            "yardstick": digest_of(seen, f"{labels is not None} {crops}"),
            "conversion": digest_of([*seen, *([] if calibration is None else [calibration])], str(crops)),
        },
        places,
        budget_ms,
        training is not None,
        Needs(cpus, gpus),
    )
    folder = Folder(output := _default_output({"checkpoint": checkpoint}) if output is None else output)
    with claimed(output / "search", output):
        from dataclasses import replace

        settings = replace(settings, parent=folder.store.add(read_bytes(checkpoint, most_bytes=_MOST_BYTES)))
        with _workers(folder.store, project, settings, address, one_by_one) as workers, _board() as tell:
            driver = Driver(folder.store, workers, retries=retries, tell=tell)
            try:
                outcome = search(settings, driver)
            except (KeyboardInterrupt, OutputError):
                remark(f"What was done is kept in {output}: give the same command again to go on.")
                raise
        unit = UNITS[outcome.against]
        choices = [
            choose(one.name, [point for point in outcome.points if point.place == one.name], budget_ms, unit)
            for one in places
        ]
        shipped = folder.put(outcome, choices, spec_file, images, calibration)
        counts = {"done": dict(driver.done), "found": dict(driver.found), "failed": driver.failed}
        figures = folder.put_figures(outcome, shipped, counts)
        facts = _facts(checkpoint, settings, driver, train)
        rendered = page(spec.name, outcome, shipped, budget_ms, driver.failed, facts)
        write_file(output / "index.html", rendered.encode())
    for sentence in left_out(outcome.networks):
        warn(sentence)
    put_json(json_file, figures)
    if json_file != STDOUT:
        show(_table(outcome, unit))
        for one in shipped:
            say(one.choice.reason)
        say(f"{sum(driver.done.values())} steps done, {sum(driver.found.values())} known; {output / 'index.html'}")
    lacking = [one.choice.reason for one in shipped if one.bundle is None]
    if lacking:
        raise GateError(
            " ".join(lacking),
            hint="Try more: a larger --speed-up, a smaller --size, more --steps, or another --budget.",
        )


_MOST_BYTES = 4 << 30


def _places(on: tuple[str, ...], devices_file: Path | None, threads: int | None, frames: int | None) -> list[Place]:
    """The machines that were asked for.

    Raises:
        OptionError: One is not known, or is named twice.
    """
    from splite_deploy.bench.environment import read_environment
    from splite_deploy.fit.measuring import Place
    from splite_deploy.fit.steps import HERE
    from splite_deploy.remote.devices import devices_of

    if on.count(HERE) > 1:
        raise OptionError(f"--on names {HERE} twice.", hint="Name each machine once.")
    far = devices_of([one for one in on if one != HERE], devices_file)
    if any(one.name == HERE for one in far):
        raise OptionError(
            f"A machine of devices.toml is called {HERE}.", hint="That is this machine: call it otherwise."
        )
    how = f"threads {threads}, frames {frames}"
    local = [Place(HERE, f"{read_environment().cpu_model}, {how}", None, threads, frames)] if HERE in on else []
    return [*local, *(Place(one.name, f"{one.address}, {how}", one, threads, frames) for one in far)]


@contextmanager
def _workers(
    store: Store, project: Project, settings: Settings, address: str | None, one_by_one: bool
) -> Iterator[Workers]:
    """Who does the steps."""
    from splite_deploy.fit.steps import Needs

    if one_by_one:
        from splite_deploy.fit.one_by_one import OneByOne

        yield OneByOne(store, project)
        return
    from splite_deploy.fit.on_ray import OnRay

    needs = [Needs(), *(Needs(device=one.name) for one in settings.places)]
    with OnRay(store, project, address, [*needs, settings.training_needs] if settings.trains else needs) as workers:
        yield workers


@contextmanager
def _board() -> Iterator[Callable[[Step, str], None]]:
    """Shows how far the search is: in a terminal a bar for each kind of step, elsewhere a line for each that ended."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = bar_console()
    if not console.is_terminal:

        def say_line(step: Step, what: str) -> None:
            if what in ("done", "failed"):
                remark(f"{step}: {what}")

        yield say_line
        return
    known: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def tell(step: Step, what: str) -> None:
            if step.kind not in tasks:
                tasks[step.kind] = bar.add_task(step.kind, total=0)
            known[step.kind] += what in ("waits", "found")
            ended[step.kind] += what != "waits"
            told = shown(str(step))[: max(10, console.width - 50)]
            bar.update(tasks[step.kind], total=known[step.kind], completed=ended[step.kind], description=told)

        yield tell


_MOST_TOLD = 3


def left_out(networks: Mapping[str, Network]) -> list[str]:
    """Which networks failed and why, each as a sentence; of many the first, and how many more there are."""
    failed = [f"{name} failed and is left out. {one.reason}" for name, one in networks.items() if one.fate == "failed"]
    more = len(failed) - _MOST_TOLD
    rest = [f"{counted(more, 'more network')} failed; the page says why."] if more > 0 else []
    return [*failed[:_MOST_TOLD], *rest]


def _table(outcome: Outcome, unit: str) -> Any:
    from splite_deploy.plain_table import Table

    table = Table(title="What was measured")
    for name in ("Artifact", "Device", f"Error ({unit})", "p50 (ms)", "p99 (ms)", "Remarks"):
        table.add_column(name, justify="right" if "(" in name else "left")
    for one in sorted(outcome.points, key=lambda one: (one.place, one.error)):
        figures = (f"{value:.3g}" for value in (one.error, one.measured["p50_ms"], one.measured["p99_ms"]))
        table.add_row(one.name, one.place, *figures, "; ".join(one.measured["against"]))
    for name, why in outcome.unmeasured.items():
        table.add_row(name, "", "", "", "", why)
    return table


def _facts(checkpoint: Path, settings: Settings, driver: Driver, train: str | None) -> list[tuple[str, str]]:
    space = settings.space
    told = {
        "Parent": f"{checkpoint.name}, SHA-256 {settings.parent}",
        "Tried": f"speed-ups {_listed(space.speed_up)}; widths in {_listed(space.round_to)}; sizes "
        f"{_listed(space.size) or 'of the model'}; {_listed(space.precision)}; {_listed(space.backend)}",
        "Fine-tuned": f"{train}, {_listed(space.steps)} steps, of which {space.keep:.0%} go on" if train else "nothing",
        "Steps done": _counted(driver.done),
        "Steps known before": _counted(driver.found),
    }
    return list(told.items())


def _listed(values: Any) -> str:
    return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"
