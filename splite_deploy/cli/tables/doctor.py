"""The table of what works on a machine."""

from __future__ import annotations

from rich.console import Group

from splite_deploy.doctor import Diagnosis
from splite_deploy.plain_table import Table


def diagnosis_tables(diagnosis: Diagnosis) -> Group:
    """The diagnosis for people: what can be done, then what was found."""
    stages = Table(title=f"splite-deploy {diagnosis.splite_deploy}, Python {diagnosis.python}")
    for header in ("Stage", "Works here", "What to do"):
        stages.add_column(header)
    for stage in diagnosis.stages:
        stages.add_row(stage.name, "yes" if stage.works else "no", "\n".join(stage.fixes))
    details = Table(title="Checks")
    for header in ("Check", "Status", "Found", "What to do"):
        details.add_column(header)
    tried = [check for stage in diagnosis.stages for check in stage.checks if check not in diagnosis.nvidia]
    for check in {check.name: check for check in (*tried, *diagnosis.machine, *diagnosis.nvidia)}.values():
        details.add_row(check.name, check.status, check.detail, check.fix)
    return Group(stages, details)
