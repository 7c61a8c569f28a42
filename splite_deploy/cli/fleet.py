"""The command fleet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from splite_deploy.cli.app import FilePath, check_place, json_option, main, not_empty
from splite_deploy.cli.console import STDOUT, put_json, put_text, say, show, warn
from splite_deploy.errors import OptionError
from splite_deploy.files import check_outputs
from splite_deploy.text import counted

if TYPE_CHECKING:
    from splite_deploy.bench.fleet import Fleet
    from splite_deploy.plain_table import Table


@main.command(short_help="Show results of many machines over time, and check the latest.")
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True, callback=not_empty)
@click.option(
    "--html",
    metavar="FILE",
    type=FilePath,
    callback=check_place,
    help="Write a page with a chart for each device to a file, which may be -; it loads nothing from a network.",
)
@click.option(
    "--fail-if",
    "fail_if",
    metavar="LIMIT",
    multiple=True,
    help="Fail if the latest result of a device exceeds a limit: 'jetson: p50_ms > 1.1x' (1.1 times the previous "
    "result) or 'pi*: p99_ms > 33'; without a device it is for all. Metrics are those of bench. May be given several "
    "times.",
)
@json_option("Write the latest and the previous result of every series as JSON.")
def fleet(results: tuple[str, ...], html: Path | None, fail_if: tuple[str, ...], json_file: Path | None) -> None:
    """Shows what 'bench --json' measured on many machines over time: the latest result of each against the previous.

    RESULTS are files of results, folders of them, or addresses of an object store that fsspec reads
    (s3://bucket/results). Lines that are cut off or of another version are passed over with a warning, and what is
    there twice counts once. Results belong together that are of one device, artifact, and number of threads and crops;
    their order is that of the device's own clock.
    """
    from splite_deploy.bench.fleet import FleetGate, broken_limits, check_fleet, read_fleet
    from splite_deploy.bench.report.fleet import fleet_page
    from splite_deploy.bench.report.html import check_available

    if html is not None:
        check_available()
    if html == STDOUT and json_file == STDOUT:
        raise OptionError("--json and --html name standard output, -.", hint="Name a file for one of them.")
    gates = [FleetGate.parse(text) for text in fail_if]
    read = read_fleet(results)
    for note in read.notes:
        warn(note)
    named = ("--html", html), ("--json", json_file)
    outputs = [(name, file) for name, file in named if file is not None and file != STDOUT]
    check_outputs([("RESULTS", file) for file in read.files], outputs)
    broken = broken_limits(gates, read)
    put_json(json_file, _plain(read, broken))
    if html is not None:
        put_text(html, fleet_page(read, broken, fail_if))
    if STDOUT not in (html, json_file):
        show(*_tables(read))
        count = sum(len(one.results) for one in read.series)
        say(f"{counted(len(read.devices), 'device')}, {counted(count, 'result')}.")
    check_fleet(broken)


def _tables(read: Fleet) -> list[Table]:
    from splite_deploy.bench.fleet import datetime_of
    from splite_deploy.plain_table import Table

    tables = []
    for device, several in read.devices.items():
        table = Table(title=device)
        for heading in ("artifact", "latest", "p50 ms", "previous ms", "change", "p99 ms", "results"):
            table.add_column(heading, justify="left" if heading == "artifact" else "right")
        for one in several:
            now = one.latest.stages[one.latest.headline]
            before = None if one.previous is None else one.previous.stages[one.previous.headline].p50_ms
            compared = ("", "") if before is None else (f"{before:.2f}", f"{now.p50_ms / before - 1:+.1%}")
            figures = f"{now.p50_ms:.2f}", *compared, f"{now.p99_ms:.2f}", str(len(one.results))
            table.add_row(one.name, f"{datetime_of(one.latest):%Y-%m-%d %H:%M}", *figures)
        tables.append(table)
    return tables


def _plain(read: Fleet, broken: list[str]) -> dict[str, object]:
    return {
        "series": [
            {
                "device": one.device,
                "name": one.name,
                "results": len(one.results),
                "latest": one.latest.to_dict(),
                "previous": None if one.previous is None else one.previous.to_dict(),
                "changes": one.changes,
            }
            for one in read.series
        ],
        "notes": list(read.notes),
        "exceeded": broken,
    }
