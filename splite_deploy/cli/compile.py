"""The command compile, for the device that a bundle is built for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splite_deploy.cli.app import FilePath, device_options, json_option, main
from splite_deploy.cli.console import STDOUT, bar_console, put_json, say, show
from splite_deploy.cli.inputs import store_around
from splite_deploy.compile.tensorrt.typing_mode import CALIBRATORS
from splite_deploy.errors import OptionError, UsageError
from splite_deploy.files import check_writable, real_path, writing
from splite_deploy.spec import PRECISIONS, Precision
from splite_deploy.text import command, shown

if TYPE_CHECKING:
    from splite_deploy.cli.remote import Remote
    from splite_deploy.compile.tensorrt.engines import Progress
    from splite_deploy.compile.tensorrt.job import Calibrator


@main.command("compile", short_help="Build TensorRT engines of a bundle on this device.")
@click.argument("bundle", type=FilePath)
@click.option(
    "--backend",
    "-b",
    type=click.Choice(("trt",)),
    default="trt",
    show_default=True,
    help="The backend that will run it.",
)
@click.option(
    "--precision",
    "-p",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=("fp16",),
    show_default=True,
    help="The precision of the engine. May be given several times.",
)
@click.option("--workspace-mib", type=click.IntRange(1), help="Memory for kernels beside the weights, MiB.")
@click.option("--low-memory", is_flag=True, help="Build with as little memory as possible; takes longer.")
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="0 builds fast, 5 builds a fast engine. From TensorRT 8.6 on.",
)
@click.option("--batch", metavar="MIN,OPT,MAX", help="Crops in one inference, for a bundle with a dynamic batch.")
@click.option(
    "--timing-cache",
    metavar="FILE|off",
    help="File that stores timings for later builds; one in your cache folder without it. Not for TensorRT-RTX.",
)
@click.option(
    "--best-of",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Build this many engines and keep the fastest.",
)
@click.option(
    "--dla", type=click.IntRange(0), metavar="CORE", help="Run the layers it supports on this DLA core of a Jetson."
)
@click.option(
    "--calibration",
    type=FilePath,
    metavar="DIR|LABELS",
    help="Let TensorRT (8.5 to 10) choose the int8 scales itself, on these images, instead of using those of the "
    "graph.",
)
@click.option(
    "--calibrator",
    type=click.Choice(tuple(CALIBRATORS)),
    help="How it chooses them: entropy (the default), which may clip rare peaks, or minmax, which covers the range "
    "that the images show.",
)
@device_options
@click.option(
    "--results",
    type=FilePath,
    metavar="DIR",
    help="With --device: the folder that gets a folder for each machine, with the bundle as it is there.",
)
@json_option("Write what was built as JSON.")
def compile_command(
    bundle: Path,
    backend: str,
    precisions: tuple[Precision, ...],
    workspace_mib: int | None,
    low_memory: bool,
    optimization_level: int | None,
    batch: str | None,
    timing_cache: str | None,
    best_of: int,
    dla: int | None,
    calibration: Path | None,
    calibrator: Calibrator | None,
    remote: Remote | None,
    results: Path | None,
    json_file: Path | None,
) -> None:
    """Builds engines on the device that will run them, from the graphs that 'export -b trt' made.

    The engines are added to the bundle. An engine runs only with the TensorRT and on the kind of GPU that it was built
    with. The precision of its layers is read back; if it is not the requested one, nothing is written.

    With --device engines are built on other machines, by ssh. The bundle here stays as it is: with --results DIR each
    machine's own is DIR/MACHINE/BUNDLE, beside the environment that it was built in.
    """
    from splite_deploy.bundle import MANIFEST, Bundle
    from splite_deploy.compile.tensorrt.engines import EngineOptions, compile_trt
    from splite_deploy.compile.tensorrt.timing_cache import check_timing_file
    from splite_deploy.spec.plain import to_plain

    options = EngineOptions(
        workspace_mib=workspace_mib,
        low_memory=low_memory,
        optimization_level=optimization_level,
        batch=_three_numbers(batch) if batch is not None else None,
        timing_cache=timing_cache,
        best_of=best_of,
        dla=dla,
        calibration=calibration,
        calibrator=calibrator,
    )
    if remote is not None:
        if results is None:
            raise OptionError(
                "--device builds elsewhere, and nothing says where results go.", hint="Add --results DIR."
            )
        if timing_cache not in (None, "off"):
            raise OptionError(
                "--timing-cache names a file of this machine, and --device another machine.", hint="Leave it out."
            )
        _compile_there(remote, bundle, results, json_file)
        return
    if results is not None:
        raise OptionError("--results is for --device, which is not given.", hint="Give both, or neither.")
    if (store := store_around(real_path(bundle))) is not None:
        raise UsageError(
            f"Engines of {bundle} would be written into the store {store}.",
            hint="Build them in a bundle of its own, and install that; into a store only 'install' writes.",
        )
    opened = Bundle.open(bundle, rebuilding=[f"{backend} {precision}" for precision in precisions])
    check_timing_file(timing_cache)
    with writing(bundle):
        check_writable(bundle / MANIFEST)
    with _building() as progress:
        engines = compile_trt(opened, precisions, options, progress)
    put_json(json_file, [to_plain(engine) for engine in engines])
    if json_file == STDOUT:
        return
    from splite_deploy.cli.tables.bundle import engine_table

    show(engine_table(Bundle.open(bundle), engines))
    say(f"{bundle}: {len(engines)} built. Check them on this device:")
    say(f"  {command('verify', bundle, '-b', backend)}")


def _compile_there(remote: Remote, bundle: Path, results: Path, json_file: Path | None) -> None:
    """Builds engines on other machines, and keeps the bundle of each.

    Raises:
        OutputError: There is a folder of that name already, or it cannot be written.
        SpliteError: One of the machines failed.
    """
    from splite_deploy.bundle import Artifact, Bundle
    from splite_deploy.cli.remote import RESULT, Kept, check_all, read_each
    from splite_deploy.cli.tables.bundle import engine_table
    from splite_deploy.cli.tables.remote import devices_table
    from splite_deploy.remote.work import Outcome, read_results
    from splite_deploy.spec.plain import to_plain

    kept = Kept(results, remote.devices)
    name = bundle.resolve().name

    def keep(one: Outcome) -> tuple[Bundle, tuple[Artifact, ...]]:
        engines = read_results(one, one.folder / RESULT, tuple[Artifact, ...])
        made = one.folder / "in" / "0" / name
        Bundle.open(made)  # every hash, before anybody takes it for a bundle
        return Bundle.open(kept.keep(one, made.parent) / name), engines

    with remote.outcomes(backends=(), writes=True, collect=("out", "in/0"), most_bytes=_MOST_BUNDLE_BYTES) as outcomes:
        found = read_each(outcomes, keep)
        if found:
            put_json(json_file, [{**one.about, "engines": to_plain(engines)} for one, (_, engines) in found])
            if json_file != STDOUT:
                show(devices_table(outcomes), *(engine_table(made, engines) for _, (made, engines) in found))
                for one, (made, engines) in found:
                    say(f"{one.device.name}: {made.path}: {len(engines)} built.")
    check_all(outcomes)


_MOST_BUNDLE_BYTES = 4 << 30


def _three_numbers(text: str) -> tuple[int, int, int]:
    try:
        low, best, high = map(int, text.split(","))
    except ValueError:
        raise UsageError(f"--batch is '{text}'.", hint="Give MIN,OPT,MAX: --batch 1,1,8.") from None
    return low, best, high


@contextmanager
def _building() -> Iterator[Progress]:
    """A bar with the time that is left, where TensorRT reports its progress."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = bar_console()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("compile", total=None)

        def tell(step: str, share: float) -> None:
            known = share >= 0
            bar.update(task, description=shown(step), total=1.0 if known else None, completed=share if known else 0.0)

        yield tell
