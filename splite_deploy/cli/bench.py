"""The command bench."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from splite_deploy.cli.app import (
    BundlePath,
    CommandFunction,
    FilePath,
    device_options,
    json_option,
    main,
    output_file,
    several_backends,
    threads_option,
    tuning_options,
)
from splite_deploy.cli.bench_targets import Targets
from splite_deploy.cli.console import STDOUT, bar_console, detail, put_json, put_text, remark, say, show, warn
from splite_deploy.cli.inputs import line_of
from splite_deploy.cli.network_file import model_option
from splite_deploy.errors import OptionError
from splite_deploy.spec import Precision
from splite_deploy.text import shown

if TYPE_CHECKING:
    from splite_deploy.bench import BenchResult, Recommendation
    from splite_deploy.bench.gates import Gate
    from splite_deploy.bench.report.pictures import Picture
    from splite_deploy.bench.result import Angles, HandLabels
    from splite_deploy.cli.remote import Remote
    from splite_deploy.runtime.backends.base import BackendOptions

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
            OptionError: A limit is malformed, or standard output is named twice.
            MissingDependencyError: The page needs a package that is not installed.
        """
        from splite_deploy.bench.gates import Gate
        from splite_deploy.bench.report.html import check_available

        if html is not None:
            check_available()
        made = cls(json, csv, markdown, html, tuple(Gate.parse(text) for text in fail_if))
        if len(made._printed) > 1:
            raise OptionError(
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
        *,
        recommendation: Recommendation | None = None,
        compared: Sequence[str] = (),
        left_out: Sequence[str] = (),
        limited: Sequence[BenchResult] | None = None,
    ) -> None:
        """Writes the files, then compares the results with the limits.

        Args:
            results: For the files.
            pictures: For the page, by index of the result.
            recommendation: For the page.
            compared: For the page, the outcome of a comparison.
            left_out: For the page, what could not be measured.
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
            page = html_page(results, pictures, recommendation, compared=compared, left_out=left_out)
            put_text(self.html, page)
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
                help="Measure nothing; compare two files of --json, or two lines, such as a.jsonl:1 and a.jsonl:2, and "
                "tell what differs. Limits are for AFTER.",
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


def milliseconds(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """A time in milliseconds, with its unit or without."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s)?\s*", value)
    time_ms = float(found.group(1)) * (1e3 if found.group(2) == "s" else 1) if found else 0.0
    if not 0 < time_ms < math.inf:
        raise click.BadParameter(f"'{value}' is not a time, such as 33ms.", context, option)
    return time_ms


@main.command(short_help="Time bundles and files, and recommend which to ship.")
@click.argument("targets", metavar="[BUNDLE|FILE]...", type=BundlePath, nargs=-1)
@model_option
@several_backends
@threads_option
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
    type=click.Choice(("found", "labels")),
    default="found",
    show_default=True,
    help="With --eval, for a network whose crops are turned (rotate_by): the angle of a box. found: what the "
    "network finds by looking more than once, as for a user who has a box alone. labels: that of the label, which "
    "nobody has in use.",
)
@click.option(
    "--hands",
    type=click.Choice(("as-seen", "mirrored")),
    default="as-seen",
    show_default=True,
    help="With --eval: whose left and right the handedness of the labels means. mirrored: that of MediaPipe's labels, "
    "which name hands as in a mirrored picture.",
)
@click.option(
    "--budget",
    "budget_ms",
    metavar="TIME",
    callback=milliseconds,
    help="How long a frame may take, such as 33ms: the recommendation says whether the p99 keeps it. See --fail-if for "
    "an exit status.",
)
@click.option("--fps", type=click.FloatRange(0.001), help="The same as frames per second: 30 is a budget of 33.3 ms.")
@device_options
@json_option("Append each result as one line of JSON.", appends=True)
@output_options
def bench(
    targets: tuple[Path, ...],
    model: Path | None,
    backends: tuple[str, ...],
    precisions: tuple[Precision, ...],
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
    remote: Remote | None,
    json_file: Path | None,
    csv: Path | None,
    markdown: Path | None,
    html: Path | None,
    budget_ms: float | None,
    fps: float | None,
    compare: tuple[Path, Path] | None,
    fail_if: tuple[str, ...],
) -> None:
    """Times bundles on this machine, end to end and stage by stage: preprocess, inference, decode.

    Every artifact whose backend is installed is timed, all in one run and in turn, and one line recommends which to
    ship: the fastest that keeps its limits. -b and -p narrow that down. What does not run here is left out and named.

    Shows the p50, p90 and p99 after a warm-up, with the machine and the hash of the file. Frames run in three windows;
    more windows follow until the p50 of three in a row agree within 3 %, of all artifacts. If they never do, the result
    is called unstable.

    A file (.onnx, .tflite, .engine) is timed without a bundle: end to end by its model.toml, on --images or random
    pictures; where there is none the model alone, on random numbers or on --inputs.

    Of several artifacts each is evaluated by --eval, and run by --streams, one after the other; --duration is for one.
    --json has a line for each, and each has to keep the limits of --fail-if: the exit status is 1 if one does not.

    --compare shows whether one of two recorded runs is faster.

    With --device all of this happens on another machine, by ssh, or on several at once: what they lack of the bundles
    and of splite-deploy is sent there. Their results come into one table and one page, with the name of each machine.
    """
    from splite_deploy.bench import Extras

    output = Output.requested(json_file, csv, markdown, html, fail_if)
    if compare is not None:
        if targets:
            raise OptionError("--compare measures nothing.", hint=f"Leave out {targets[0]}, or --compare.")
        _check_compared()
        _compare_files(compare, output)
        return
    if flip_test and labels is None:
        raise OptionError("--flip-test belongs to the evaluation.", hint="Add --eval LABELS, or leave it out.")
    for flag, changed in (("--angles", angles != "found"), ("--hands", hands != "as-seen")):
        if changed and labels is None:
            raise OptionError(f"{flag} belongs to the evaluation.", hint="Add --eval LABELS, or leave it out.")
    if not targets:
        raise OptionError("There is nothing to measure.", hint="Name a bundle or a file, or two with --compare.")
    if budget_ms is not None and fps is not None:
        raise OptionError("--budget and --fps both say how long a frame may take.", hint="Leave one of them out.")
    source = click.get_current_context().get_parameter_source("min_s")
    if frames is not None and source is ParameterSource.ENVIRONMENT:
        min_s = None
    limit_ms = budget_ms if fps is None else 1e3 / fps
    if remote is not None:
        _bench_there(remote, output, limit_ms, backends, kept_here={"min_s"} if min_s is None else set())
        return
    timed = Targets(
        model=model,
        backends=backends,
        precisions=precisions,
        images=images,
        inputs=inputs,
        threads=threads,
        tuning=tuning,
    )
    timed.add(targets)
    extras = Extras(
        duration_s=duration_s, streams=streams, labels=labels, flip_test=flip_test, angles=angles, hands=hands
    )
    results = _measured(
        timed,
        threads=threads,
        affinity=affinity,
        frames=frames,
        min_s=min_s,
        warmup=warmup,
        batch=batch,
        extras=extras,
    )
    _report(timed, results, output, limit_ms, labels, model)


def _measured(timed: Targets, **options: Any) -> list[BenchResult]:
    """Times them under a bar; what cannot be loaded or run is left out, unless it is all that there is.

    Raises:
        SpliteError: Nothing of them runs here.
    """
    from rich.progress import Progress

    from splite_deploy.bench import run_targets

    console = bar_console()
    if not console.is_terminal:
        names = ", ".join(target.label for target in timed.chosen)
        remark(f"timing {names}{' in turn' if len(timed.chosen) > 1 else ''}")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("bench", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        def step(message: str) -> None:
            bar.update(task, description=shown(message))
            detail(message)

        failed = None if len(timed.chosen) == 1 else timed.failed
        results = run_targets(timed.chosen, progress=progress, step=step, failed=failed, **options)
    if not results:
        raise timed.left_out[0].error
    return results


def _report(
    timed: Targets,
    results: Sequence[BenchResult],
    output: Output,
    limit_ms: float | None,
    labels: Path | None,
    model: Path | None,
) -> None:
    """Shows and writes what was measured.

    Raises:
        SpliteError: One that should run here could not be loaded; after everything is written.
    """
    from splite_deploy.bench import environment_table, table
    from splite_deploy.bench.recommend import candidates_of, recommend
    from splite_deploy.bench.report.side_by_side import limits_broken, side_by_side_table, stages_table

    several = len(results) > 1
    recommendation = None
    if several or limit_ms is not None:
        recommendation = recommend(candidates_of(results), budget_ms=limit_ms)
    if output.tables:
        environment = environment_table(results[0].environment)
        if several and recommendation is not None:
            show(stages_table(results), environment, side_by_side_table(results, recommendation))
        else:
            show(table(results), environment)
        for line in limits_broken(results):
            say(line)
    for one in timed.left_out:
        (say if output.tables else remark)(str(one))
    _warn_of_emulators(results)
    if output.tables and recommendation is not None:
        say(recommendation.line)
    _put_lines(output.json, results)
    pictures: dict[int, list[Picture]] = {}
    if output.html is not None:
        ship = 0 if recommendation is None or recommendation.index is None else recommendation.index
        pictures = _pictures(timed, results, ship, labels, model)
    output.finish(results, pictures, recommendation=recommendation, left_out=list(map(str, timed.left_out)))
    for one in timed.left_out:
        if not one.expected:
            raise one.error


_OF_REPORTS = frozenset({"budget_ms", "fps", "fail_if"})
"""Parameters about results, which are looked at on this machine."""


def _bench_there(
    remote: Remote, output: Output, limit_ms: float | None, backends: tuple[str, ...], kept_here: set[str]
) -> None:
    """Times on other machines, and reports on all of them together.

    Raises:
        SpliteError: One of them gave no result, or a limit is exceeded.
    """
    from splite_deploy.bench import table
    from splite_deploy.bench.recommend import candidates_of, recommend
    from splite_deploy.bench.report.side_by_side import limits_broken, side_by_side_table, stages_table
    from splite_deploy.cli.remote import check_all, read_each, results_there
    from splite_deploy.cli.tables.remote import devices_table

    with remote.outcomes(backends=backends, kept_here=_OF_REPORTS | kept_here) as outcomes:
        found = read_each(outcomes, results_there)
    results = [result for _, several in found for result in several]
    chosen = [
        (one.device.name, recommend(candidates_of(several), budget_ms=limit_ms))
        for one, several in found
        if len(several) > 1 or limit_ms is not None
    ]
    if results and output.tables:
        if len(results) > 1:
            all_of_them = replace(recommend(candidates_of(results)), index=None)
            show(stages_table(results), devices_table(outcomes), side_by_side_table(results, all_of_them))
        else:
            show(table(results), devices_table(outcomes))
        for line in (*limits_broken(results), *(f"{name}: {one.line}" for name, one in chosen)):
            say(line)
    _warn_of_emulators(results)
    _put_lines(output.json, results)
    if results:
        alone = chosen[0][1] if len(outcomes) == len(chosen) == 1 else None
        output.finish(results, recommendation=alone)
    check_all(outcomes)


def _warn_of_emulators(results: Sequence[BenchResult]) -> None:
    """Says which times are no device's."""
    for emulator in sorted({one.environment.emulator for one in results} - {None}, key=str):
        warn(
            f"{emulator} emulates the processor: these times are those of no machine, and which artifact is faster "
            "here says nothing of a device."
        )


def _put_lines(file: Path | None, results: Sequence[BenchResult]) -> None:
    """Writes each result as a line of JSON."""
    from splite_deploy.bench import append_result

    for result in results:
        if file == STDOUT:
            put_json(file, result.to_dict(), line=True)
        elif file is not None:
            append_result(file, result)


_MOST_DRAWN = 12
"""Artifacts that are run once more for pictures of them."""


def _pictures(
    timed: Targets, results: Sequence[BenchResult], ship: int, labels: Path | None, model: Path | None
) -> dict[int, list[Picture]]:
    """Pictures for the page, by index: labelled ones of the artifact to ship, golden crops of all."""
    from splite_deploy.bench.report.pictures import draw_golden, draw_pictures

    pictures = {}
    for index in sorted(range(len(results)), key=lambda index: index != ship)[:_MOST_DRAWN]:
        one, drawn = results[index], []
        if index == ship and labels is not None and one.accuracy is not None:
            drawn += draw_pictures(one, timed.path_of(one), labels, model, timed.tuning)
        if one.deviation is not None:
            drawn += draw_golden(one, timed.path_of(one), timed.tuning)
        pictures[index] = drawn
    return pictures


_OF_COMPARED = frozenset({"compare", "csv", "markdown", "html", "fail_if"})
"""Parameters that a comparison has a use for."""


def _check_compared() -> None:
    """Refuses what belongs to a measurement, beside ``--compare``: it would be left undone without a word.

    Raises:
        OptionError: There is something.
    """
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if name not in context.params:  # how much is printed, which every command takes
            continue
        if name not in _OF_COMPARED and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = max(option.opts, key=len)
            more = " Its results go to --csv, --markdown and --html." if name == "json_file" else ""
            raise OptionError(
                f"--compare measures nothing, and {flag} is for a measurement.{more}",
                hint=f"Leave out {flag}, or --compare.",
            )


def _compare_files(files: tuple[Path, Path], output: Output) -> None:
    """Shows two files of results side by side.

    Raises:
        UsageError: A file cannot be read, or they have nothing in common.
    """
    from splite_deploy.bench import read_results
    from splite_deploy.bench.compare import compare, comparison_tables, outcomes

    before, after = (read_results(*line_of(file)) for file in files)
    compared = compare(before, after)
    if output.tables:
        show(*comparison_tables(compared))
    output.finish([*before, *after], compared=outcomes(compared), limited=after)
