"""The command doctor."""

from __future__ import annotations

import json

import click

from splite_deploy.cli.app import main
from splite_deploy.cli.console import show, working
from splite_deploy.errors import UsageError


@main.command(short_help="Say what works on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def doctor(as_json: bool) -> None:
    """Says what works on this machine, what is missing, and what to type to get it.

    Exit status 1 if nothing here can run a bundle.
    """
    from splite_deploy.doctor import diagnose, table
    from splite_deploy.spec.plain import to_plain

    with working("doctor") as progress:
        progress("trying every backend")
        diagnosis = diagnose()
    if as_json:
        click.echo(json.dumps(to_plain(diagnosis), indent=1))
    else:
        show(table(diagnosis))
    if not diagnosis.can_run:
        raise UsageError("Nothing here can run a bundle.", hint="Install a backend; the table says how.")
