"""The command calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from splite_deploy.cli.app import FilePath, Images, check_place, json_option, main, model_option
from splite_deploy.cli.console import STDOUT, put_json, say, warn, working
from splite_deploy.text import command


@main.command(short_help="Measure the ranges that int8 needs, to travel with a checkpoint.")
@click.argument("checkpoint", type=FilePath)
@click.option(
    "--output",
    "-o",
    type=FilePath,
    required=True,
    callback=check_place,
    help="The file to write, usually NAME.ranges.json.",
)
@click.option(
    "--images",
    type=FilePath,
    required=True,
    help="Images of what the network will see: a folder, a labels.json with boxes (its split 'train' if it has one), "
    "or an .npz of crops.",
)
@click.option("--count", type=Images, default=128, show_default=True, help="Number of images, picked evenly.")
@model_option
@click.option("--eval", "evaluation", type=FilePath, help="Images of the evaluation, which should not be among these.")
@click.option("--weights", help="Key of the weights to use, where the checkpoint holds several.")
@click.option(
    "--trust",
    is_flag=True,
    help="Load a torch.export program or a TorchScript archive. It can run code: only use files whose maker you know.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@json_option("Write what was measured and checked as JSON.")
def calibrate(checkpoint: Path, output: Path, json_file: Path | None, **options: Any) -> None:
    """Measures the ranges of a network's activations on images, once, for everybody who exports it.

    fp16 and int8 need to know how large activations become. Where model.toml names the file as calibration, 'export'
    takes the ranges from there and needs no images. They are those of exactly these weights behind exactly this
    preprocessing; for others 'export' says so and stops. The file holds no pixels and no names of files.

    The Python file that model.toml names as arch is code that is run with your rights.
    """
    from splite_deploy.export.calibrate import calibrate_checkpoint

    with working("calibrate") as progress:
        made = calibrate_checkpoint(checkpoint, output, progress=progress, **options)
    ranges = made.ranges
    summary = {"images": ranges.images, "kind": ranges.kind, "images_sha256": ranges.images_sha256}
    put_json(
        json_file,
        {**summary, "checked": list(made.checked), "warnings": list(made.warnings), "activations": len(ranges.tensors)},
    )
    if json_file == STDOUT:
        return
    for warning in made.warnings:
        warn(warning)
    say(f"{made.origin}. Checked: {', '.join(made.checked)}; {_found(len(made.warnings))}.")
    size = output.stat().st_size
    say(f"{output}: {size / 1e6:.2f} MB, ranges of {len(ranges.tensors)} activations.")
    if made.is_named:
        say(f"{made.model} names it already. Next:")
    else:
        say(f"Write this into {made.model}, above its first [table]:")
        say(f"  {made.line}")
        say("Next:")
    say(f"  {command('export', checkpoint, '--model', made.model, '-p', 'int8', '-o', 'NAME.splite')}")


def _found(warnings: int) -> str:
    return "nothing was found" if warnings == 0 else f"{warnings} warning{'s'[: warnings != 1]} above"
