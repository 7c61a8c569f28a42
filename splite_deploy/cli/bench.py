"""The command bench."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from splite_deploy.cli.app import (
    CommandFunction,
    FilePath,
    backend_options,
    json_option,
    main,
    output_file,
    tuning_options,
)
from splite_deploy.cli.console import STDOUT, bar_console, put_json, put_text, show
from splite_deploy.cli.network_file import is_network_file, model_option, reject_bundle_options, reject_model
from splite_deploy.errors import UsageError
from splite_deploy.spec import InputSpec, Precision

if TYPE_CHECKING:
    from splite_deploy.bench import BenchResult
    from splite_deploy.bench.gates import Gate
    from splite_deploy.bench.report.pictures import Picture
    from splite_deploy.bench.result import Angles, HandLabels
    from splite_deploy.runtime.backends.base import BackendOptions

BENCH_IMAGES = 64
"""Largest number of images that are kept in memory and used in turn."""
_MOST_AT_ONCE = 1024
"""Crops or streams: far more are a slip of the finger, which would take all memory, or hours."""


@dataclass(frozen=True)
class Output:
    """The files to write and the limits to check.

    Attributes:
        json: The JSON lines, if any; they are not written here.
        csv: The CSV file, if any.
        markdown: The Markdown file, if any.
        html: The page, if any.
        gates: The limits.
    """

    json: Path | None
    csv: Path | None
    markdown: Path | None
    html: Path | None
    gates: tuple[Gate, ...]

    @classmethod
    def requested(
        cls, json: Path | None, csv: Path | None, markdown: Path | None, html: Path | None, fail_if: Sequence[str]
    ) -> Output:
        """Checks the options before anything is measured, which may take minutes.

        Raises:
            UsageError: A limit is malformed, or standard output is named twice.
            MissingDependencyError: The page needs a package that is not installed.
        """
        from splite_deploy.bench.gates import Gate
        from splite_deploy.bench.report.html import check_available

        if html is not None:
            check_available()
        made = cls(json, csv, markdown, html, tuple(Gate.parse(text) for text in fail_if))
        if len(made._printed) > 1:
            raise UsageError(
                f"{' and '.join(made._printed)} name standard output, -.", hint="Name a file for all but one of them."
            )
        return made

    @property
    def _printed(self) -> list[str]:
        named = {"--json": self.json, "--csv": self.csv, "--markdown": self.markdown, "--html": self.html}
        return [option for option, file in named.items() if file == STDOUT]

    @property
    def tables(self) -> bool:
        """Whether tables are shown: a file that is printed stands alone."""
        return not self._printed

    def finish(
        self,
        results: Sequence[BenchResult],
        pictures: Mapping[int, Sequence[Picture]] | None = None,
        limited: Sequence[BenchResult] | None = None,
    ) -> None:
        """Writes the files, then compares the results with the limits.

        Args:
            results: For the files.
            pictures: For the page, by index of the result.
            limited: Results that the limits are for; None for all.

        Raises:
            OutputError: A file cannot be written.
            GateError: A limit is exceeded.
            UsageError: A metric of a limit was not measured.
        """
        from splite_deploy.bench.gates import check
        from splite_deploy.bench.report.html import html_page
        from splite_deploy.bench.report.tables import csv_text, markdown_text

        for file, make in ((self.csv, csv_text), (self.markdown, markdown_text)):
            if file is not None:
                put_text(file, make(results))
        if self.html is not None:
            put_text(self.html, html_page(results, pictures))
        check(self.gates, results if limited is None else limited)


def output_options(command: CommandFunction) -> CommandFunction:
    """The options of `Output`, and ``--compare``."""
    for option in reversed(
        (
            output_file("--csv", "Write the figures to a CSV file. It may be -, as with --json."),
            output_file("--markdown", "Write a Markdown table to a file, which may be -."),
            output_file(
                "--html", "Write a page with charts to a file, which may be -; it loads nothing from a network."
            ),
            click.option(
                "--compare",
                nargs=2,
                type=FilePath,
                metavar="BEFORE AFTER",
                help="Measure nothing; compare two files of --json. Limits are for AFTER.",
            ),
            click.option(
                "--fail-if",
                multiple=True,
                metavar="LIMIT",
                help="Exit status 1 if this holds, such as 'p99_ms>33' or 'epe_box_pct>2.5'. Metrics: p50_ms, p90_ms, "
                "p99_ms, max_ms and mean_ms end to end, or inference_p99_ms and so on of a stage; epe_box_pct, "
                "pck_05, pa_mpjpe_mm, model_mb, rss_peak_mib, load_ms, frames_per_second and more, which a wrong "
                "name lists. May be given several times.",
            ),
        )
    ):
        command = option(command)
    return command


def _cores(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Numbers separated by commas."""
    if value is None:
        return None
    if not all(part.strip().isdecimal() for part in value.split(",")):
        raise click.BadParameter(f"'{value}' is not a list of core numbers, such as 0,1.", context, option)
    return tuple(int(part) for part in value.split(","))


@main.command(short_help="Time a bundle or a file, stage by stage.")
@click.argument("target", metavar="BUNDLE|FILE", type=FilePath, required=False)
@model_option
@backend_options
@tuning_options
@click.option(
    "--affinity", metavar="CORES", callback=_cores, help="Run on these cores only, such as 0,1; needs --threads."
)
@click.option(
    "--frames",
    type=click.IntRange(10),
    help="Number of timed frames; without it 300, or as many as fill 2.5 seconds if those are more.",
)
@click.option(
    "--min-seconds",
    "min_s",
    type=click.FloatRange(0),
    envvar="SPLITE_BENCH_MIN_SECONDS",
    show_envvar=True,
    help="Time frames for at least so long; the variable counts where --frames is left out.",
)
@click.option(
    "--warmup", type=click.IntRange(0), default=50, show_default=True, help="Frames that run before the timed ones."
)
@click.option(
    "--batch",
    type=click.IntRange(1, _MOST_AT_ONCE),
    default=1,
    show_default=True,
    help="Number of crops in one inference.",
)
@click.option(
    "--images", type=FilePath, help="Images to time: a folder, or a labels.json; the golden images without it."
)
@click.option("--inputs", type=FilePath, help="For a file without a bundle: a .npz with its inputs by name.")
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(0, 100_000_000),
    default=0.0,
    help="Afterwards run for this many seconds, to see whether it slows down.",
)
@click.option("--streams", type=click.IntRange(1, _MOST_AT_ONCE), default=1, help="Afterwards run this many at once.")
@click.option(
    "--eval",
    "labels",
    type=FilePath,
    help="Afterwards measure the accuracy on this labels.json, its folder, or COCO's JSON of keypoints.",
)
@click.option(
    "--flip-test",
    is_flag=True,
    help="With --eval: run each crop and its mirror image, and take the mean, as many published accuracies do.",
)
@click.option(
    "--angles",
    type=click.Choice(("two-passes", "labels")),
    default="two-passes",
    show_default=True,
    help="With --eval, for a network whose crops are turned (rotate_by): the angle of a box. two-passes: what a first "
    "pass at angle 0 finds, as for a user who has a box alone. labels: that of the label, which nobody has in use.",
)
@click.option(
    "--hands",
    type=click.Choice(("as-seen", "mirrored")),
    default="as-seen",
    show_default=True,
    help="With --eval: whose left and right the handedness of the labels means. mirrored: that of MediaPipe's labels, "
    "which name hands as in a mirrored picture.",
)
@json_option("Append the result as one line of JSON.", appends=True)
@output_options
def bench(
    target: Path | None,
    model: Path | None,
    backend: str | None,
    precision: Precision | None,
    threads: int | None,
    tuning: tuple[BackendOptions, ...],
    affinity: tuple[int, ...] | None,
    frames: int | None,
    min_s: float | None,
    warmup: int,
    batch: int,
    images: Path | None,
    inputs: Path | None,
    duration_s: float,
    streams: int,
    labels: Path | None,
    flip_test: bool,
    angles: Angles,
    hands: HandLabels,
    json_file: Path | None,
    csv: Path | None,
    markdown: Path | None,
    html: Path | None,
    compare: tuple[Path, Path] | None,
    fail_if: tuple[str, ...],
) -> None:
    """Times a bundle on this machine, end to end and stage by stage: preprocess, inference, decode.

    Shows the p50, p90 and p99 of every stage after a warm-up, with the machine and the hash of the file. Frames run in
    three windows; more windows follow until the p50 of three in a row agree within 3 %. If they never do, the result is
    called unstable.

    A file (.onnx, .tflite, .engine) is timed without a bundle: end to end by its model.toml, on --images or random
    pictures; where there is none the model alone, on random numbers or on --inputs.

    --compare shows whether one of two recorded runs is faster. The exit status is 1 if a limit of --fail-if is
    exceeded.
    """
    from rich.progress import Progress

    from splite_deploy.bench import Extras, append_result, environment_table, table

    output = Output.requested(json_file, csv, markdown, html, fail_if)
    if compare is not None:
        if target is not None:
            raise UsageError("--compare measures nothing.", hint=f"Leave out {target}, or --compare.")
        _check_compared()
        _compare_files(compare, output)
        return
    if flip_test and labels is None:
        raise UsageError("--flip-test belongs to the evaluation.", hint="Add --eval LABELS, or leave it out.")
    for flag, changed in (("--angles", angles != "two-passes"), ("--hands", hands != "as-seen")):
        if changed and labels is None:
            raise UsageError(f"{flag} belongs to the evaluation.", hint="Add --eval LABELS, or leave it out.")
    if target is None:
        raise UsageError("There is nothing to measure.", hint="Name a bundle or a file, or two with --compare.")
    source = click.get_current_context().get_parameter_source("min_s")
    if frames is not None and source is ParameterSource.ENVIRONMENT:
        min_s = None
    common: dict[str, Any] = {
        "threads": threads,
        "affinity": affinity,
        "frames": frames,
        "min_s": min_s,
        "warmup": warmup,
        "batch": batch,
        "options": tuning,
        "extras": Extras(
            duration_s=duration_s, streams=streams, labels=labels, flip_test=flip_test, angles=angles, hands=hands
        ),
    }
    console = bar_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("bench", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if is_network_file(target):
            reject_bundle_options(target, {"--precision": precision})
            result = _bench_file(target, model, backend, inputs, images, common, progress)
        else:
            reject_model(target, model)
            if inputs is not None:
                raise UsageError("--inputs are for a file without a bundle.", hint="Name images with --images.")
            result = _bench_bundle(target, backend, precision, images, common, progress)
    if output.tables:
        show(table([result]), environment_table(result.environment))
    if json_file == STDOUT:
        put_json(json_file, result.to_dict(), line=True)
    elif json_file is not None:
        append_result(json_file, result)
    pictures = {}
    if html is not None and labels is not None and result.accuracy is not None:
        from splite_deploy.bench.report.pictures import draw_pictures

        pictures = {0: draw_pictures(result, target, labels, model)}
    output.finish([result], pictures)


def _bench_bundle(
    bundle: Path,
    backend: str | None,
    precision: Precision | None,
    images: Path | None,
    common: dict[str, Any],
    progress: Callable[[int, int], None],
) -> BenchResult:
    from splite_deploy.bench import run_bench
    from splite_deploy.bundle import Bundle

    given = _given(images, Bundle.open(bundle).model.input) if images is not None else {}
    return run_bench(bundle, backend=backend or "auto", precision=precision, progress=progress, **common, **given)


def _given(images: Path, spec: InputSpec) -> dict[str, Any]:
    """The user's images as arguments of a measurement."""
    from splite_deploy.runtime.io.images import boxed_images, read_image

    boxed, origin = boxed_images(images, BENCH_IMAGES, whole=spec.letterbox is not None, turn=spec.turn)
    return {"inputs": [(read_image(file), box) for file, box in boxed], "inputs_from": origin}


def _bench_file(
    file: Path,
    model: Path | None,
    backend: str | None,
    inputs: Path | None,
    images: Path | None,
    common: dict[str, Any],
    progress: Callable[[int, int], None],
) -> BenchResult:
    """Times a file: end to end where there is a model spec, else its network alone.

    Raises:
        UsageError: Tensors are given beside images or a model spec, or images without a model spec.
    """
    from splite_deploy.bench import run_file, run_network_file
    from splite_deploy.runtime.network_file import NetworkFile
    from splite_deploy.spec import MODEL_TOML

    if inputs is not None:
        for name, value in (("--model", model), ("--images", images)):
            if value is not None:
                raise UsageError(
                    f"--inputs are tensors of the network alone, and {name} is for a measurement end to end.",
                    hint="Leave one of them out.",
                )
    end_to_end = model is not None or images is not None or file.with_name(MODEL_TOML).is_file()
    if inputs is not None or not end_to_end:
        return run_file(file, backend=backend or "auto", tensors=inputs, progress=progress, **common)
    network = NetworkFile.read(file, model, backend or "auto")
    given = _given(images, network.spec.input) if images is not None else {}
    return run_network_file(network, backend=backend or "auto", progress=progress, **common, **given)


_OF_COMPARED = frozenset({"compare", "csv", "markdown", "html", "fail_if"})
"""Parameters that a comparison has a use for."""


def _check_compared() -> None:
    """Refuses what belongs to a measurement, beside ``--compare``: it would be left undone without a word.

    Raises:
        UsageError: There is something.
    """
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if name not in _OF_COMPARED and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = max(option.opts, key=len)
            more = " Its results go to --csv, --markdown and --html." if name == "json_file" else ""
            raise UsageError(
                f"--compare measures nothing, and {flag} is for a measurement.{more}",
                hint=f"Leave out {flag}, or --compare.",
            )


def _compare_files(files: tuple[Path, Path], output: Output) -> None:
    """Shows two files of results side by side.

    Raises:
        UsageError: A file cannot be read, or they have nothing in common.
    """
    from splite_deploy.bench import read_results
    from splite_deploy.bench.compare import compare, comparison_tables

    before, after = (read_results(file) for file in files)
    compared = compare(before, after)
    if output.tables:
        show(*comparison_tables(compared))
    output.finish([*before, *after], limited=after)
