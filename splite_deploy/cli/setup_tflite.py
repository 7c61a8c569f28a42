"""The command setup-tflite."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from splite_deploy.cli.app import FilePath, json_option, main
from splite_deploy.cli.console import STDOUT, put_json, say, working
from splite_deploy.text import quoted


@main.command("setup-tflite", short_help="Make the environment that converts to TFLite.")
@click.option(
    "--python",
    type=FilePath,
    metavar="PATH",
    help="Make it with this Python; without it the first 3.12 or later that is found, else 3.10 or 3.11.",
)
@click.option(
    "--folder",
    type=FilePath,
    metavar="DIR",
    help="Make it there; beside this Python's packages without it.",
)
@click.option(
    "--tensorflow",
    is_flag=True,
    help="Take the converter that works through TensorFlow, with Python 3.10 or 3.11: for networks that the other one "
    "converts wrongly.",
)
@json_option("Write what was made as JSON.")
def setup_tflite(python: Path | None, folder: Path | None, tensorflow: bool, json_file: Path | None) -> None:
    """Makes the environment that 'export -b tflite' converts with.

    The converter, onnx2tf, needs other versions of numpy, onnx and protobuf than the rest. From Python 3.12 on it takes
    0.7 GB; with Python 3.10 or 3.11 it works through TensorFlow, 2.6 GB. Where it is there already nothing is done.
    """
    from splite_deploy.compile.tflite.environment import SETTING, default_folder, make_environment
    from splite_deploy.spec.plain import to_plain

    with working("setup-tflite") as progress:
        made = make_environment(folder, python, tensorflow=tensorflow, progress=progress)
    put_json(json_file, to_plain({**asdict(made), "python": str(made.python)}))
    if json_file == STDOUT:
        return
    say(f"{made.label}: {made.python}")
    if folder is not None and folder.absolute() != default_folder():
        say(f"It is used where {SETTING}={quoted(made.python)} is set.")
