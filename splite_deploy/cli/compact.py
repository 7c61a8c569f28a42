"""The command compact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from splite_deploy.cli.app import FilePath, Images, check_place, json_option, main, method_option, model_option
from splite_deploy.cli.console import STDOUT, put_json, remark, say, show, working
from splite_deploy.files import check_writable, refuse_existing, writing
from splite_deploy.text import command

_SPEED_UP = 2.0
"""What is asked for where nothing says how much."""


def _default_output(given: Mapping[str, Any]) -> Path:
    """Where the result goes without ``--output``."""
    checkpoint: Path = given["checkpoint"]
    return checkpoint.parent / f"{checkpoint.stem}-compacted.safetensors"  # "." has no name to replace


@main.command(short_help="Remove channels from a checkpoint, and prove the result.", default_output=_default_output)
@click.argument("checkpoint", type=FilePath)
@click.option(
    "--output",
    "-o",
    type=FilePath,
    callback=check_place,
    help="The OUT.safetensors to write; NAME-compacted.safetensors beside the checkpoint without it.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@model_option
@method_option
@click.option(
    "--speed-up", type=float, help="Divide the multiply-accumulates by at least this; 2 if nothing says how much."
)
@click.option("--ratio", type=float, help="Remove at least this share of the removable channels.")
@click.option("--threshold", type=float, help="Remove the channels of less importance than this.")
@click.option("--round-to", type=click.IntRange(1), default=8, show_default=True, help="Widths stay multiples of this.")
@click.option("--images", type=FilePath, help="Images for the comparison and for taylor; rendered ones without it.")
@click.option("--crops", type=Images, default=16, show_default=True, help="Number of images.")
@click.option("--weights", help="Key of the weights to use, where the checkpoint holds several.")
@json_option("Write the result as JSON.")
def compact(checkpoint: Path, output: Path | None, overwrite: bool, json_file: Path | None, **given: Any) -> None:
    """Removes the least important channels of a network from its tensors.

    One of --speed-up, --ratio and --threshold says how many. Coupled channels are removed together; the outputs
    keep all of theirs. The result is compared with the network whose channels are set to zero instead: the two have to
    be equal up to float32's rounding, or nothing is written. The network loses accuracy, so fine-tune the result.

    The Python files that model.toml names as arch and samples are code that is run with your rights.
    """
    from splite_deploy.cli.tables.checkpoint import compaction_tables
    from splite_deploy.compact import CompactOptions, compact_checkpoint

    output = _default_output({"checkpoint": checkpoint}) if output is None else output
    with writing(output):
        check_writable(output)
    refuse_existing(output, overwrite=overwrite)  # perhaps somebody has fine-tuned it for days
    if given["speed_up"] is given["ratio"] is given["threshold"] is None:
        given["speed_up"] = _SPEED_UP
    measure = {name: given.pop(name) for name in ("method", "speed_up", "ratio", "threshold", "round_to")}
    with working("compact") as progress:
        result = compact_checkpoint(checkpoint, output, CompactOptions(**measure), progress=progress, **given)
    put_json(json_file, result.to_dict())
    if json_file == STDOUT:
        return
    for note in result.notes:
        remark(f"note: {note}")
    show(*compaction_tables(result))
    spec = given["model"] or checkpoint.parent / "model.toml"
    say(f"{output}: {output.stat().st_size / 1e6:.2f} MB. Next: fine-tune it, then")
    say(f"  {command('export', output, '--model', spec, '-o', 'NAME.splite')}")
