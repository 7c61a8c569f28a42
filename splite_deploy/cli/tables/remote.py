"""Tables of several machines beside each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from splite_deploy.cli.console import tick
from splite_deploy.device.environment import NOT_AVAILABLE
from splite_deploy.plain_table import Table, plain
from splite_deploy.remote.work import Outcome
from splite_deploy.runtime.verify import Verification
from splite_deploy.runtime.verify_file import FileComparison


def devices_table(outcomes: Sequence[Outcome]) -> Table:
    """The machines: a column each, and a row for each reading that one of them has."""
    rows: dict[str, dict[str, str]] = {}
    names = []
    for one in outcomes:
        if one.environment is None:
            continue
        names.append(one.device.name)
        for label, text in (("Python program", one.device.python), *one.environment.rows()):
            if text != NOT_AVAILABLE:
                rows.setdefault(label, {})[one.device.name] = text
    grid = Table(title="Machines")
    for header in ("", *names):
        grid.add_column(header)
    for label, values in rows.items():
        grid.add_row(label, *(values.get(name, "") for name in names))
    return grid


def verified_table(found: Sequence[tuple[Outcome, Sequence[Verification | FileComparison]]]) -> Table:
    """How far each artifact moves keypoints on each machine, one row each."""
    grid = Table(title="Difference to the original network, in pixels of the input")
    for header in ("machine", "processor", "artifact"):
        grid.add_column(header)
    for header in ("p50 px", "p95 px", "max px", "by the crop alone p95 px"):
        grid.add_column(header, justify="right")
    grid.add_column("", no_wrap=True)
    for one, results in found:
        for result in results:
            deviation = result.parity.deviation_px
            figures = [f"{value:.2g}" for value in (deviation.p50, deviation.p95, deviation.max)]
            figures.append(f"{result.image.crop_px.p95:.2g}" if isinstance(result, Verification) else "")
            mark = plain("over the limit", "red") if result.violations else tick(sys.stdout)
            grid.add_row(one.device.name, _machine(one), _label(result), *figures, mark)
    return grid


def found_table(found: Sequence[tuple[Outcome, object]]) -> Table:
    """How many pictures or frames each machine looked at, and how many hands or people it found, one row each."""
    grid = Table(title="Found")
    for header in ("machine", "processor"):
        grid.add_column(header)
    for header in ("pictures or frames", "hands or people"):
        grid.add_column(header, justify="right")
    for one, result in found:
        pictures = [each for each in (result if isinstance(result, list) else [result]) if isinstance(each, dict)]
        poses = [pose for each in pictures if isinstance(several := each.get("poses"), list) for pose in several]
        grid.add_row(one.device.name, _machine(one), str(len(pictures)), str(len(poses)))
    return grid


def _machine(one: Outcome) -> str:
    environment = one.environment
    return "" if environment is None else environment.board or environment.cpu_model or environment.architecture or ""


def _label(result: Verification | FileComparison) -> str:
    return f"{result.backend} {result.precision if isinstance(result, FileComparison) else result.artifact.precision}"
