"""The command doctor."""

from __future__ import annotations

from pathlib import Path

from splite_deploy.cli.app import json_option, main
from splite_deploy.cli.console import STDOUT, put_json, show, working
from splite_deploy.errors import UsageError


@main.command(short_help="Show what works on this machine.")
@json_option("Write what was found as JSON.")
def doctor(json_file: Path | None) -> None:
    """Shows what works on this machine, what is missing, and the command that installs it.

    The exit status is 1 if nothing here can run a bundle.
    """
    from splite_deploy.cli.tables.doctor import diagnosis_tables
    from splite_deploy.doctor import diagnose
    from splite_deploy.spec.plain import to_plain

    with working("doctor") as progress:
        progress("trying every backend")
        diagnosis = diagnose()
    put_json(json_file, to_plain(diagnosis))
    if json_file != STDOUT:
        show(diagnosis_tables(diagnosis))
    if not diagnosis.can_run:
        raise UsageError("Nothing here can run a bundle.", hint="Install a backend; the table shows how.")
