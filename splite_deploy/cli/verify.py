"""The command verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from splite_deploy.cli.app import BackendName, FilePath, json_option, main, threads_option, tuning_options
from splite_deploy.cli.console import STDOUT, put_json, show, working
from splite_deploy.runtime.backends import all_backends
from splite_deploy.spec import PRECISIONS, Precision

if TYPE_CHECKING:
    from splite_deploy.runtime.backends.base import BackendOptions


@main.command(short_help="Check a bundle on this machine.")
@click.argument("bundle", type=FilePath)
@click.option(
    "--backend",
    "-b",
    "backends",
    type=BackendName(all_backends()),
    multiple=True,
    help="Only this backend; all without it. May be given several times.",
)
@click.option(
    "--precision",
    "-p",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="Only this precision; all without it. May be given several times.",
)
@threads_option
@tuning_options
@json_option("Write the differences as JSON.")
def verify(
    bundle: Path,
    backends: tuple[str, ...],
    precisions: tuple[Precision, ...],
    threads: int | None,
    tuning: tuple[BackendOptions, ...],
    json_file: Path | None,
) -> None:
    """Runs the bundle's golden images on this machine and compares the results with the original network.

    Without options it checks every artifact of the bundle. With several backends and precisions it checks each of
    these backends in each of these precisions, and the bundle has to hold them all.

    Preprocessing is compared separately: this machine's crop of a golden image with the recorded one, because versions
    of OpenCV round differently. The exit status is 1 if an artifact differs by more than its limits, or if the crop
    alone moves keypoints too far.
    """
    from splite_deploy.bundle import Bundle
    from splite_deploy.cli.tables.bundle import image_table, parity_table
    from splite_deploy.runtime.verify import check
    from splite_deploy.runtime.verify import verify as verify_bundle
    from splite_deploy.spec.plain import to_plain

    opened = Bundle.open(bundle)
    with working("verify") as progress:
        results = verify_bundle(opened, backends, precisions, threads=threads, options=tuning, progress=progress)
    put_json(json_file, [to_plain(result) for result in results])
    if json_file != STDOUT:
        rows = [(result.parity, result.violations) for result in results]
        show(parity_table(rows, opened.model), image_table(results))
    for warning in dict.fromkeys(f"{one.label}: {text}" for one in results for text in one.warnings):
        click.echo(f"warning: {warning}", err=True)
    check(results)
