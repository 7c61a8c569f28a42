"""Commands of the developer's machine: export, compact, inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from splite_deploy.cli.app import FilePath, main
from splite_deploy.cli.console import show, working
from splite_deploy.compile.precision import INT8_RECIPES
from splite_deploy.errors import BundleError, UsageError
from splite_deploy.spec import PRECISIONS

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".tar", ".ckpt", ".bin")
"""What `inspect` takes for a checkpoint; all else for a bundle."""


@main.command(short_help="Make a bundle of a checkpoint, every step compared.")
@click.argument("checkpoint", type=FilePath)
@click.option("--output", "-o", type=FilePath, required=True, help="The bundle to make, by custom NAME.splite.")
@click.option("--model", type=FilePath, help="The model spec; model.toml beside the checkpoint without it.")
@click.option(
    "--backend",
    "-b",
    "backends",
    type=click.Choice(("ort", "tflite", "trt")),
    multiple=True,
    default=("ort",),
    show_default=True,
    help="What will run it: ONNX Runtime, LiteRT (phones), or TensorRT, whose engines 'compile' builds on the device. "
    "May be given several times.",
)
@click.option(
    "--precision",
    "-p",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=("fp32",),
    show_default=True,
    help="What it computes in, for each backend. May be given several times; the first is what runs by default.",
)
@click.option(
    "--calibration",
    type=FilePath,
    help="Images that show int8 and fp16 how large values become: a folder, a labels.json with boxes, or an .npz of "
    "crops. Without it the model's own renderer makes some. Without --images a part of it is compared on, and left out "
    "here: the split 'val', or every fourth image.",
)
@click.option(
    "--allow-random-calibration",
    is_flag=True,
    help="Calibrate on random noise where there are neither images nor a renderer; expect wrong keypoints.",
)
@click.option(
    "--max-shift-px",
    type=float,
    help="How far int8 may move the keypoints (95th percentile, pixels of the input; one may move six times as far). "
    "Where it moves them further, the layers that cost most go back to float. Not in TFLite.",
)
@click.option("--max-shift-mm", type=float, help="The same for the depth, in millimetres.")
@click.option(
    "--int8-recipe",
    type=click.Choice(INT8_RECIPES),
    default="full-integer",
    show_default=True,
    help="int8 in TFLite: weights and activations, or the weights alone.",
)
@click.option(
    "--eval",
    "evaluation",
    type=FilePath,
    help="A labels.json, or its folder, to measure the accuracy of every artifact on (its split 'val' if it has one).",
)
@click.option(
    "--images",
    type=FilePath,
    help="Images to compare the conversions on: a folder, or a labels.json with boxes. Without it a part of the "
    "calibration images, or what the model's own renderer makes.",
)
@click.option("--crops", type=click.IntRange(1), default=64, show_default=True, help="How many images to compare on.")
@click.option(
    "--fuse-input",
    is_flag=True,
    help="Let the graph take uint8 crops (height, width, RGB or BGR) and normalise them itself; not for tflite.",
)
@click.option("--fuse-decode", is_flag=True, help="Let the graph give keypoints instead of heatmaps; not for tflite.")
@click.option("--dynamic-batch", is_flag=True, help="Let the graph run several crops at once.")
@click.option("--opset", type=int, help="ONNX operator set; 18 without it, or that of a given ONNX graph.")
@click.option("--weights", help="Key of the weights to take, where the checkpoint holds several.")
@click.option(
    "--trust",
    is_flag=True,
    help="Load a torch.export program or a TorchScript archive: that can run code, so know who made it.",
)
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON instead of tables.")
def export(checkpoint: Path, output: Path, model: Path | None, as_json: bool, **options: Any) -> None:
    """Makes a bundle of a checkpoint: torch to ONNX to simplified ONNX, and from that fp16, int8 and TFLite.

    The checkpoint holds weights (.safetensors, .pt), or is a torch.export program (.pt2), a TorchScript archive or an
    ONNX graph; the last is compared with itself, in ONNX Runtime.

    After each step the keypoints are compared with those of the torch network, on real or rendered images; a step
    that moves them by more than the limits fails the export and nothing is written. Where several artifacts are made
    they are timed side by side, and one line says which to ship.
    """
    from splite_deploy.cli.tables.bundle import measured_tables
    from splite_deploy.cli.tables.layers import types_tables
    from splite_deploy.export import ExportOptions, export_bundle

    with working("export") as progress:
        bundle = export_bundle(checkpoint, output, model=model, options=ExportOptions(**options), progress=progress)
    if as_json:
        from splite_deploy.spec.plain import to_plain

        names = ("parity", "calibration", "budget", "verdict")
        click.echo(json.dumps({name: to_plain(getattr(bundle.manifest, name)) for name in names}, indent=1))
        return
    for note in bundle.manifest.source.notes:
        click.echo(f"note: {note}", err=True)
    several = len(bundle.manifest.artifacts) > 1
    show(*measured_tables(bundle), *(types_tables(bundle.manifest) if several else ()))
    size = sum(file.stat().st_size for file in output.iterdir())
    click.echo(f"{output}: {size / 1e6:.2f} MB. Next:")
    click.echo(f"  splite-deploy bench {output}\n  splite-deploy run {output} IMAGE --save overlay.png")


@main.command(short_help="Remove channels from a checkpoint, and prove it.")
@click.argument("checkpoint", type=FilePath)
@click.option("--output", "-o", type=FilePath, required=True, help="The OUT.safetensors to write.")
@click.option("--model", type=FilePath, help="The model spec; model.toml beside the checkpoint without it.")
@click.option(
    "--method",
    type=click.Choice(("bn-scale", "group-norm", "l1", "taylor")),
    required=True,
    help="What says how much a channel matters.",
)
@click.option("--speed-up", type=float, help="At least this many times fewer multiply-accumulates.")
@click.option("--ratio", type=float, help="At least this share of the removable channels.")
@click.option("--threshold", type=float, help="Channels of less importance than this.")
@click.option("--round-to", type=click.IntRange(1), default=8, show_default=True, help="Widths stay multiples of this.")
@click.option("--images", type=FilePath, help="Images for the proof and for taylor; rendered ones without it.")
@click.option("--crops", type=click.IntRange(1), default=16, show_default=True, help="How many images.")
@click.option("--weights", help="Key of the weights to take, where the checkpoint holds several.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of tables.")
def compact(checkpoint: Path, output: Path, as_json: bool, **given: Any) -> None:
    """Removes the least important channels of a network, physically.

    Exactly one of --speed-up, --ratio and --threshold says how many. Channels that belong together go together; the
    outputs stay. The result is compared with the network whose channels are set to zero instead: the two have to be
    equal up to float32's rounding, or nothing is written. Accuracy is lost all the same: fine-tune the result.
    """
    from splite_deploy.cli.tables.bundle import compaction_tables
    from splite_deploy.compact import CompactOptions, compact_checkpoint

    measure = {name: given.pop(name) for name in ("method", "speed_up", "ratio", "threshold", "round_to")}
    with working("compact") as progress:
        result = compact_checkpoint(checkpoint, output, CompactOptions(**measure), progress=progress, **given)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=1))
        return
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    show(*compaction_tables(result))
    spec = given["model"] or checkpoint.parent / "model.toml"
    click.echo(f"{output}: {output.stat().st_size / 1e6:.2f} MB. Next: fine-tune it, then")
    click.echo(f"  splite-deploy export {output} --model {spec} -o NAME.splite")


@main.command(short_help="Show what a bundle or checkpoint holds, and which widths waste work.")
@click.argument("path", type=FilePath)
@click.option("--model", type=FilePath, help="The model spec of a checkpoint; model.toml beside it without it.")
@click.option("--weights", help="Key of the weights to take, where a checkpoint holds several.")
@click.option(
    "--measure", is_flag=True, help="Time the layers that do not fit, as they are and rounded up, on this CPU."
)
@click.option("--layers", is_flag=True, help="List every layer of a bundle's artifacts, not how many of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: of a bundle its manifest, of a checkpoint all.")
def inspect(path: Path, model: Path | None, weights: str | None, measure: bool, layers: bool, as_json: bool) -> None:
    """Shows what a bundle or a checkpoint holds, and which of its widths cost more than they should.

    FP16 and INT8 hardware takes channels in blocks of 8, 16 or 32 and pads the rest: what that costs is predicted for
    those targets, and with --measure the layers are timed on this CPU in fp32. A checkpoint without a model spec is
    judged by its tensors alone. Of a bundle it shows too what each artifact is made of as it runs: how many layers of
    which kind, in which types, and what they take.
    """
    from splite_deploy.bundle import Bundle
    from splite_deploy.cli.tables.bundle import bundle_tables, checkpoint_tables, width_tables
    from splite_deploy.cli.tables.layers import histogram_tables, layer_tables

    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        if layers:
            raise UsageError(f"--layers is for a bundle, and {path} is a checkpoint.", hint="Leave it out.")
        from splite_deploy.compact.inspection import inspect_checkpoint
        from splite_deploy.spec.plain import to_plain

        with working("inspect") as progress:
            report = inspect_checkpoint(path, model=model, weights=weights, timed=measure, progress=progress)
        if as_json:
            click.echo(json.dumps(to_plain(report), indent=1))
        else:
            show(*checkpoint_tables(report))
        return
    try:
        bundle = Bundle.open(path)
    except BundleError as err:
        other = "" if path.suffix == ".splite" else " Or name a checkpoint: .safetensors or .pt."
        raise BundleError(err.message, hint=err.hint + other) from err
    if model or weights or (measure and as_json):
        what = "--model and --weights are" if model or weights else "--json with --measure is"
        raise UsageError(f"{what} for a checkpoint, and {path} is a bundle.", hint="Leave it out.")
    if as_json:
        click.echo(bundle.manifest.to_json(), nl=False)
        return
    if layers and not bundle.manifest.layers:
        raise UsageError(f"The bundle {path} has no record of its layers.", hint="Export it again.")
    with working("inspect") as progress:
        tables = width_tables(bundle, timed=measure, progress=progress)
    made_of = (layer_tables if layers else histogram_tables)(bundle.manifest)
    show(*bundle_tables(bundle), *made_of, *tables)
