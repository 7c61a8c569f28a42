"""What ``bench`` does with a result besides showing it: files, a comparison with another, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splite_deploy.cli.app import CommandFunction, FilePath
from splite_deploy.cli.console import show
from splite_deploy.files import write_file

if TYPE_CHECKING:
    from splite_deploy.bench import BenchResult
    from splite_deploy.bench.gates import Gate
    from splite_deploy.bench.report.pictures import Picture


@dataclass(frozen=True)
class Output:
    """The files that were asked for and the limits that were set.

    Attributes:
        csv: Where to write CSV; None does not.
        markdown: The same of Markdown.
        html: The same of the page.
        gates: The limits.
    """

    csv: Path | None
    markdown: Path | None
    html: Path | None
    gates: tuple[Gate, ...]

    @classmethod
    def asked(cls, csv: Path | None, markdown: Path | None, html: Path | None, fail_if: Sequence[str]) -> Output:
        """Reads the options before anything is measured, which may take minutes.

        Raises:
            UsageError: A limit is malformed.
            MissingDependencyError: The page needs a package that is not installed.
        """
        from splite_deploy.bench.gates import Gate
        from splite_deploy.bench.report.html import check_available

        if html is not None:
            check_available()
        return cls(csv, markdown, html, tuple(Gate.parse(text) for text in fail_if))

    def finish(
        self,
        results: Sequence[BenchResult],
        pictures: Mapping[int, Sequence[Picture]] | None = None,
        limited: Sequence[BenchResult] | None = None,
    ) -> None:
        """Writes the files, then holds the results against the limits.

        Args:
            results: What the files show.
            pictures: For the page, by index of the result.
            limited: What the limits are for; all results where None.

        Raises:
            OutputError: A file cannot be written.
            GateError: A limit is not kept.
            UsageError: A metric of a limit was not measured.
        """
        from splite_deploy.bench.gates import check
        from splite_deploy.bench.report.html import html_page
        from splite_deploy.bench.report.tables import csv_text, markdown_text

        for file, make in ((self.csv, csv_text), (self.markdown, markdown_text)):
            if file is not None:
                write_file(file, make(results).encode())
        if self.html is not None:
            write_file(self.html, html_page(results, pictures).encode())
        check(self.gates, results if limited is None else limited)


def output_options(command: CommandFunction) -> CommandFunction:
    """The options of `Output`, and ``--compare``."""
    for option in reversed(
        (
            click.option("--csv", type=FilePath, help="Write the figures as CSV."),
            click.option("--markdown", type=FilePath, help="Write a Markdown table."),
            click.option("--html", type=FilePath, help="Write one page with charts; it opens without a network."),
            click.option(
                "--compare",
                nargs=2,
                type=FilePath,
                metavar="BEFORE AFTER",
                help="Measure nothing: compare two files of --json. Limits are for AFTER.",
            ),
            click.option(
                "--fail-if",
                multiple=True,
                metavar="LIMIT",
                help="Exit status 1 if this holds, such as 'p99_ms>33' or 'epe_box_pct>2.5'. Metrics: p50_ms, p90_ms, "
                "p99_ms, max_ms and mean_ms of the whole, or inference_p99_ms and so on of a stage; epe_box_pct, "
                "pck_05, pa_mpjpe_mm, model_mb, rss_peak_mib, load_ms, frames_per_second and more, which a wrong "
                "name lists. May be given several times.",
            ),
        )
    ):
        command = option(command)
    return command


def compare_files(files: tuple[Path, Path], output: Output) -> None:
    """Shows two files of results side by side.

    Raises:
        UsageError: A file cannot be read, or they have nothing in common.
    """
    from splite_deploy.bench import read_results
    from splite_deploy.bench.compare import compare, comparison_tables

    before, after = (read_results(file) for file in files)
    show(*comparison_tables(compare(before, after)))
    output.finish([*before, *after], limited=after)
