"""The command verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splite_deploy.cli.app import FilePath, backend_options, gpu_options, main
from splite_deploy.cli.console import show, working
from splite_deploy.spec import Precision

if TYPE_CHECKING:
    from splite_deploy.runtime.session import GpuOptions


@main.command(short_help="Check a bundle on this machine.")
@click.argument("bundle", type=FilePath)
@backend_options
@gpu_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def verify(
    bundle: Path,
    backend: str | None,
    precision: Precision | None,
    threads: int | None,
    gpu: GpuOptions,
    as_json: bool,
) -> None:
    """Runs the bundle's golden images on this machine and compares with the original network.

    Exit status 1 if an artifact differs by more than its limits.
    """
    from splite_deploy.bundle import Bundle
    from splite_deploy.cli.tables.bundle import parity_table
    from splite_deploy.runtime.verify import check
    from splite_deploy.runtime.verify import verify as verify_bundle
    from splite_deploy.spec.plain import to_plain

    opened = Bundle.open(bundle)
    with working("verify") as progress:
        results = verify_bundle(opened, backend, precision, threads=threads, gpu=gpu, progress=progress)
    if as_json:
        click.echo(json.dumps([to_plain(result) for result in results], indent=1))
    else:
        show(parity_table([(result.parity, result.violations) for result in results], opened.model))
    check(results)
