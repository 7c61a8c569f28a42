"""The command inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from splite_deploy.cli.app import BundlePath, FilePath, json_option, main
from splite_deploy.cli.console import STDOUT, put_json, put_text, show, working
from splite_deploy.cli.init import description_options, told_of
from splite_deploy.errors import BundleError, UsageError
from splite_deploy.files import is_file
from splite_deploy.runtime.session import file_suffixes

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".tar", ".ckpt", ".bin")
"""Suffixes of checkpoints; `inspect` treats paths as bundles that are neither these nor files of a network."""
PROGRAM_SUFFIXES = (".pt2", ".ts", ".torchscript")
"""Suffixes of files of torch that bring their own code."""


@main.command(short_help="Show the content of a bundle, checkpoint or file.")
@click.argument("path", type=BundlePath)
@click.option(
    "--model", type=FilePath, help="With --trust: the model spec of weights, instead of model.toml beside them."
)
@click.option("--weights", help="Key of the weights to use, where a checkpoint holds several.")
@click.option(
    "--widths",
    is_flag=True,
    help="List the layers whose channel widths FP16 and INT8 hardware pads, and what that costs.",
)
@click.option(
    "--measure",
    is_flag=True,
    help="The same, and time these layers on this CPU, at their widths and at rounded ones; of a checkpoint with "
    "--trust.",
)
@click.option(
    "--layers",
    is_flag=True,
    help="List every layer of a bundle's artifacts instead of counting them by kind, and every one in float.",
)
@description_options
@click.option(
    "--trust",
    is_flag=True,
    help="Run what can be code: a torch.export program, a TorchScript archive, or the Python file that the model spec "
    "of weights names. Only use files whose maker you know.",
)
@json_option("Write the manifest of a bundle, or all about a checkpoint or a file, as JSON.")
def inspect(
    path: Path,
    model: Path | None,
    weights: str | None,
    widths: bool,
    measure: bool,
    layers: bool,
    json_file: Path | None,
    **options: Any,
) -> None:
    """Shows the content of a bundle, a checkpoint or a file.

    An .onnx or a .tflite file is run on a few pictures, and so are weights with --arch and a program with --trust: what
    goes in, what comes out, and what it may be, as 'init' writes it into a model.toml.

    The arch.py beside a checkpoint is code, which 'inspect' never runs by itself: it reads the tensors alone, and with
    --trust it builds the network as 'export' does. --arch runs the file that you name.

    For a bundle the layers of each artifact are counted by kind and type, with their times, as the backend runs them.

    FP16 and INT8 hardware works on channels in blocks of 8, 16 or 32 and pads the rest. With --widths the cost of the
    padding is predicted for those targets, layer by layer; with --measure the layers are timed on this CPU in fp32,
    too.
    """
    from splite_deploy.bundle import MANIFEST, Bundle
    from splite_deploy.cli.tables.bundle import bundle_tables
    from splite_deploy.cli.tables.checkpoint import checkpoint_tables, width_tables
    from splite_deploy.cli.tables.layers import histogram_tables, layer_tables

    runs = is_file(path) and (path.suffix.lower() in (*file_suffixes(), *PROGRAM_SUFFIXES) or _is_program(path))
    if runs or options["arch"]:
        if model or widths or measure or layers:
            raise UsageError(
                "--model, --widths, --measure and --layers are for bundles and checkpoints, and "
                f"{path} is run as it is.",
                hint="Leave them out.",
            )
        _of_network(path, json_file, {**options, "weights": weights})
        return
    if given := [name for name in ("like", "skeleton", "size", "kind", "arch_args", "images") if options[name]]:
        option = {"size": "--input", "arch_args": "--arch-arg"}.get(given[0], f"--{given[0]}")
        raise UsageError(
            f"{option} is for a network that is run, and {path} is not.",
            hint="Leave it out, or name for weights what builds their network with --arch.",
        )
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        if layers:
            raise UsageError(f"--layers is for a bundle, and {path} is a checkpoint.", hint="Leave it out.")
        from splite_deploy.compact.inspection import inspect_checkpoint
        from splite_deploy.spec.plain import to_plain

        with working("inspect") as progress:
            trust = bool(options["trust"])
            report = inspect_checkpoint(
                path, model=model, weights=weights, trust=trust, timed=measure, progress=progress
            )
        put_json(json_file, to_plain(report))
        if json_file != STDOUT:
            show(*checkpoint_tables(report, widths=widths or measure))
        return
    try:
        bundle = Bundle.open(path)
    except BundleError as err:
        other = "" if path.suffix == ".splite" else " Or name a checkpoint: .safetensors or .pt."
        raise BundleError(err.message, hint=err.hint + other) from err
    if options["trust"]:
        raise UsageError(f"--trust is for a checkpoint or a program, and {path} is a bundle.", hint="Leave it out.")
    costs = "--measure" if measure else "--widths" if widths else ""
    if model or weights or (costs and json_file is not None):
        what = "--model and --weights are" if model or weights else f"--json with {costs} is"
        raise UsageError(f"{what} for a checkpoint, and {path} is a bundle.", hint="Leave it out.")
    put_text(json_file, (bundle.path / MANIFEST).read_text(encoding="utf-8"))
    if json_file == STDOUT:
        return
    measured = bundle.report()
    if layers and not measured.layers:
        raise UsageError(f"The bundle {path} has no record of its layers.", hint="Export it again.")
    tables = []
    if costs:
        with working("inspect") as progress:
            tables = width_tables(bundle, timed=measure, progress=progress)
    made_of = (layer_tables if layers else histogram_tables)(bundle.manifest, measured)
    show(*bundle_tables(bundle, measured, every_layer=layers), *made_of, *tables)


def _is_program(path: Path) -> bool:
    """Whether a program has the suffix of weights, as torch.jit.save is often given it."""
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES[1:]:  # of a safetensors file nobody has to look
        return False
    from splite_deploy.export.source.formats import format_of

    return format_of(path) in ("program", "script")


def _of_network(path: Path, json_file: Path | None, options: dict[str, Any]) -> None:
    """Shows a network that can be run."""
    from splite_deploy.cli.tables.described import described_tables, file_tables
    from splite_deploy.init.command import describe

    with working("inspect") as progress:
        described = describe(path, path.parent, told_of(options), progress=progress)
    put_json(json_file, described.to_plain())
    if json_file != STDOUT:
        show(*file_tables(described.facts), *described_tables(described))
