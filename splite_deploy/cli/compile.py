"""The command compile, for the device that a bundle is built for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splite_deploy.cli.app import FilePath, json_option, main
from splite_deploy.cli.console import STDOUT, bar_console, put_json, say, show
from splite_deploy.compile.tensorrt.typing_mode import CALIBRATORS
from splite_deploy.errors import UsageError
from splite_deploy.files import check_writable, writing
from splite_deploy.spec import PRECISIONS, Precision
from splite_deploy.text import command, shown

if TYPE_CHECKING:
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
@click.option("--optimization-level", type=click.IntRange(0, 5), help="0 builds fast, 5 builds a fast engine.")
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
    json_file: Path | None,
) -> None:
    """Builds engines on the device that will run them, from the graphs that 'export -b trt' made.

    The engines are added to the bundle. An engine runs only with the TensorRT and on the kind of GPU that it was built
    with. The precision of its layers is read back; if it is not the requested one, nothing is written.
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
