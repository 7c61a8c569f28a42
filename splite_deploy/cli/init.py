"""The command init."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from splite_deploy.cli.app import FilePath, check_place, json_option, main
from splite_deploy.cli.console import STDOUT, put_json, say, show, working
from splite_deploy.decoders.heatmap import ALIGNMENTS
from splite_deploy.files import check_writable, refuse_existing, writing
from splite_deploy.init.kinds import Kind
from splite_deploy.spec.bounds import LONGEST_INPUT_PX
from splite_deploy.spec.model import InputColor
from splite_deploy.spec.presets import SKELETONS
from splite_deploy.spec.recipes import RECIPES
from splite_deploy.text import command as typed

_FILL = {
    "color": "channels of training",
    "mean": "three numbers on the 0-255 scale, or one of a grey image, with commas",
    "std": "likewise",
    "box_padding": "factor on the box",
    "pad_value": "grey value outside the picture",
    "alignment": "where the cells of a heatmap lie",
}
"""Fields of model.toml that may be given as options."""


class InputSize(click.ParamType):  # type: ignore[type-arg]  # click 8.1 knows none
    """``HxW``."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(height, width)."""
        height, _, width = str(value).lower().partition("x")
        sides = height.lstrip("0"), width.lstrip("0")
        if not all(side.isascii() and side.isdecimal() for side in sides):
            self.fail(f"{value!r} is not HxW in pixels, for example 256x192.", param, ctx)
        # Python reads no number of thousands of digits
        if any(len(side) > len(str(LONGEST_INPUT_PX)) or int(side) > LONGEST_INPUT_PX for side in sides):
            self.fail(f"{value[:40]!r}: a side has at most {LONGEST_INPUT_PX} pixels.", param, ctx)
        return int(height), int(width)


class Numbers(click.ParamType):  # type: ignore[type-arg]  # click 8.1 knows none
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """As floats."""
        try:
            return [float(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers, for example 123.675,116.28,103.53.", param, ctx)


trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Load a torch.export program or a TorchScript archive. It can run code: only use files whose maker you know.",
)


def description_options(command: Any) -> Any:
    """The options that say what a source cannot tell, for `init` and `inspect`."""
    options = (
        click.option(
            "--like", type=click.Choice(list(RECIPES)), help="Fill in what this family of networks is known for."
        ),
        click.option(
            "--skeleton", type=click.Choice(list(SKELETONS)), help="The keypoints; by their number without it."
        ),
        click.option(
            "--input", "size", type=InputSize(), metavar="HxW", help="Size of the input, where no file tells it."
        ),
        click.option("--arch", metavar="FILE.PY:SYMBOL", default="", help="For weights: what builds the network."),
        click.option(
            "--arch-arg",
            "arch_args",
            multiple=True,
            metavar="KEY=VALUE",
            help="A keyword argument of --arch; may be given several times.",
        ),
        click.option(
            "--kind",
            type=click.Choice(get_args(Kind)),
            help="What the network gives, where its outputs do not show it: depth, for two maps of one size.",
        ),
        click.option("--images", type=FilePath, help="Run the network on these, too: a folder or a labels.json."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _default_output(given: Mapping[str, Any]) -> Path:
    """Where model.toml goes without ``--output``."""
    source: Path = given["source"]
    return source.parent / "model.toml"


@main.command(
    short_help="Write model.toml for a network: look at its file, and run it.", default_output=_default_output
)
@click.argument("source", type=FilePath)
@click.option(
    "--output",
    "-o",
    type=FilePath,
    callback=check_place,
    help="The file to write; model.toml beside the source without it.",
)
@description_options
@click.option("--name", help="Name of the model; that of the source without it.")
@click.option("--color", type=click.Choice(get_args(InputColor)), help=f"Fill in color: {_FILL['color']}.")
@click.option("--mean", type=Numbers(), help=f"Fill in mean: {_FILL['mean']}.")
@click.option("--std", type=Numbers(), help=f"Fill in std: {_FILL['std']}.")
@click.option(
    "--box-padding", type=click.FloatRange(0, min_open=True), help=f"Fill in box_padding: {_FILL['box_padding']}."
)
@click.option("--pad-value", type=click.IntRange(0, 255), help=f"Fill in pad_value: {_FILL['pad_value']}.")
@click.option("--alignment", type=click.Choice(list(ALIGNMENTS)), help=f"Fill in alignment: {_FILL['alignment']}.")
@click.option("--weights", help="Key of the weights to use, where a checkpoint holds several.")
@trust_option
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@json_option("Write what was learnt, and the text of the file, as JSON.")
def init(source: Path, output: Path | None, overwrite: bool, json_file: Path | None, **options: Any) -> None:
    """Writes model.toml for a network: what its file tells, and what running it on a few pictures shows.

    SOURCE is an .onnx or a .tflite file, weights with --arch, or with --trust a torch.export program or a TorchScript
    archive. What can be learnt is the size, layout and type of the input, which outputs are what, the number of
    keypoints, the stride, and what heatmaps hold. How the network was trained (normalisation, box, where heatmap cells
    lie) is known for a family with --like, or from the other options; the rest is written as "?", each with a comment,
    for you to fill in.

    Only the Python file that you name with --arch is run, with your rights, and with --trust the code that a program
    brings. An arch.py that happens to lie beside the source, or that a model.toml there names, is not.
    """
    from splite_deploy.init.command import describe, too_old, write_model_toml

    target = output or _default_output({"source": source})
    with writing(target):
        check_writable(target)
    refuse_existing(target, overwrite=overwrite)
    with working("init") as progress:
        described = describe(source, target.parent, told_of(options), progress=progress)
    write_model_toml(described, target, overwrite=overwrite)
    unknown = described.draft.unknown
    put_json(json_file, {"model": str(target), **described.to_plain()})
    if json_file == STDOUT:
        return
    from splite_deploy.cli.tables.described import described_tables

    show(*described_tables(described))
    say(f"{target}: written.")
    if unknown:
        say(f'Fill in what is written as "?" there: {", ".join(unknown)}. Then:')
    else:
        say("Next:")
    old = bool(too_old(described.facts))
    say(f"  {next_command(source, target, trust=bool(options['trust']), bundled=not old)}")


def told_of(options: dict[str, Any]) -> Any:
    """What the user says on the command line; see `splite_deploy.init.command.Told`."""
    from splite_deploy.init.command import Told
    from splite_deploy.init.network import Asked
    from splite_deploy.spec.toml import parse_value

    pairs = [text.partition("=") for text in options["arch_args"]]
    asked = Asked(
        options["arch"],
        {key: parse_value(value) for key, _, value in pairs},
        bool(options.get("trust")),
        options.get("weights"),
        options["size"],
    )
    given = {key: options[key] for key in _FILL if options.get(key) is not None}
    return Told(
        options["like"],
        options["skeleton"],
        options["size"],
        options["images"],
        options.get("name"),
        options["kind"],
        given,
        asked,
    )


def next_command(source: Path, model: Path, *, trust: bool, bundled: bool = True) -> str:
    """What to type when model.toml is filled in: ``export``, or ``verify`` of what no bundle is made of."""
    if not bundled:
        return typed("verify", source, "--model", model, "--images", "PICTURES")
    trusted = ["--trust"] if trust else []
    made = Path(f"{source.stem}.splite")
    return typed("export", source, "--model", model, "-o", made, *trusted, "--images", "PICTURES")
