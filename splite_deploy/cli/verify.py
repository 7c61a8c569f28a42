"""The command verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splite_deploy.cli.app import FilePath, backend_options, main, tuning_options
from splite_deploy.cli.console import show, working
from splite_deploy.spec import Precision

if TYPE_CHECKING:
    from splite_deploy.runtime.backends.base import BackendOptions


@main.command(short_help="Check a bundle on this machine.")
@click.argument("bundle", type=FilePath)
@backend_options
@tuning_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def verify(
    bundle: Path,
    backend: str | None,
    precision: Precision | None,
    threads: int | None,
    tuning: tuple[BackendOptions, ...],
    as_json: bool,
) -> None:
    """Runs the bundle's golden images on this machine and compares with the original network.

    Preprocessing is compared apart: the crop that is cut here of a golden image with the recorded one, which OpenCV's
    versions round differently. Exit status 1 if an artifact differs by more than its limits, or if the crop alone moves
    keypoints too far.
    """
    from splite_deploy.bundle import Bundle
    from splite_deploy.cli.tables.bundle import image_table, parity_table
    from splite_deploy.runtime.verify import check
    from splite_deploy.runtime.verify import verify as verify_bundle
    from splite_deploy.spec.plain import to_plain

    opened = Bundle.open(bundle)
    with working("verify") as progress:
        results = verify_bundle(opened, backend, precision, threads=threads, options=tuning, progress=progress)
    if as_json:
        click.echo(json.dumps([to_plain(result) for result in results], indent=1))
    else:
        rows = [(result.parity, result.violations) for result in results]
        show(parity_table(rows, opened.model), image_table(results))
    for warning in dict.fromkeys(f"{one.artifact.label}: {text}" for one in results for text in one.warnings):
        click.echo(f"warning: {warning}", err=True)
    check(results)
