"""The command export."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from splite_deploy.cli.app import BackendName, FilePath, Images, json_option, main, model_option
from splite_deploy.cli.console import STDOUT, put_error, put_json, remark, say, show, working
from splite_deploy.compile.precision import INT8_RECIPES
from splite_deploy.errors import ParityError, UsageError
from splite_deploy.runtime.backends import exportable_backends
from splite_deploy.spec import PRECISIONS
from splite_deploy.text import command, quoted

if TYPE_CHECKING:
    from splite_deploy.bundle import Bundle, Report

PARTIAL = 3
"""Exit status where the bundle lacks an artifact that was requested."""


@main.command(short_help="Make a bundle from a checkpoint, and compare every step.")
@click.argument("checkpoint", type=FilePath)
@click.option("--output", "-o", type=FilePath, required=True, help="The bundle to make, usually NAME.splite.")
@model_option
@click.option(
    "--backend",
    "-b",
    "backends",
    type=BackendName(exportable_backends()),
    multiple=True,
    default=("ort",),
    show_default=True,
    help="The backend that will run it: ONNX Runtime, LiteRT (phones), or TensorRT, whose engines 'compile' "
    "builds on the device. "
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
    help="The precision, for each backend. May be given several times; the first runs by default.",
)
@click.option(
    "--calibration",
    type=FilePath,
    help="Images from which int8 and fp16 learn the range of values: a folder, a labels.json or COCO JSON with boxes, "
    "or an .npz of crops. Without it the model's own renderer makes some. Without --images a part of them serves for "
    "the comparison instead: the split 'val', or every fourth image.",
)
@click.option(
    "--allow-random-calibration",
    is_flag=True,
    help="Calibrate on random noise where there are neither images nor a renderer; expect wrong keypoints.",
)
@click.option(
    "--max-shift-px",
    type=float,
    help="How far int8 may move the keypoints (95th percentile, pixels of the input; one may move six times as far), "
    "instead of half a percent of the box. Where it moves them further, the layers that cost most go back to float.",
)
@click.option("--max-shift-mm", type=float, help="The same for the depth, in millimetres.")
@click.option(
    "--reduce-range",
    is_flag=True,
    help="int8 in ONNX Runtime with weights of 7 bits, for x86 CPUs without VNNI or AMX, where sums saturate with 8; "
    "by default where 8 break the limits on such a CPU. 'doctor' tells whether a CPU is one.",
)
@click.option(
    "--int8-recipe",
    type=click.Choice(INT8_RECIPES),
    default="full-integer",
    show_default=True,
    help="int8 in TFLite: weights and activations, or weights only.",
)
@click.option(
    "--eval",
    "evaluation",
    type=FilePath,
    help="A labels.json, its folder, or COCO's JSON of keypoints, on which to measure the accuracy of every artifact "
    "(its split 'val' if it has one).",
)
@click.option(
    "--flip-test",
    is_flag=True,
    help="With --eval: run each crop and its mirror image, and take the mean, as many published accuracies do.",
)
@click.option(
    "--images",
    type=FilePath,
    help="Images on which to compare the conversions: a folder, or a labels.json with boxes. Without it a part of the "
    "calibration images, or images of the model's own renderer.",
)
@click.option("--crops", type=Images, default=64, show_default=True, help="Number of images to compare.")
@click.option(
    "--fuse-input",
    is_flag=True,
    help="Put the normalisation into the graph, which then takes uint8 crops (height, width, RGB or BGR).",
)
@click.option(
    "--fuse-decode",
    is_flag=True,
    help="Put the decoder into the graph, which then gives keypoints instead of heatmaps.",
)
@click.option("--dynamic-batch", is_flag=True, help="Make a graph that runs several crops at once.")
@click.option(
    "--parts",
    type=int,
    default=1,
    show_default=True,
    help="For devices with little memory: cut each graph of ONNX Runtime into so many files, of which one at a time is "
    "in memory. Gives the same to the bit, and loads them anew in every inference, which takes longer.",
)
@click.option("--opset", type=int, help="ONNX operator set; 18 without it, or that of an imported ONNX graph.")
@click.option("--weights", help="Key of the weights to use, where the checkpoint holds several.")
@click.option(
    "--trust",
    is_flag=True,
    help="Load a torch.export program or a TorchScript archive. It can run code: only use files whose maker you know.",
)
@click.option(
    "--reference",
    type=FilePath,
    help="Of a .tflite source: another file of the same network, such as the float one, whose outputs are the golden "
    "ones. Without it the most precise file given, by LiteRT's reference kernels.",
)
@click.option("--reference-model", type=FilePath, help="The model spec of --reference; that of the file without it.")
@click.option(
    "--also",
    type=FilePath,
    multiple=True,
    help="Of a .tflite source: a further file of the same network in another precision, for the same bundle. May be "
    "given several times.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the bundle if it exists; files of yours in its folder move into the new one.",
)
@click.option(
    "--all-or-nothing",
    is_flag=True,
    help="Write no bundle where one artifact fails. Without it the bundle holds those that passed, and the exit status "
    "is 3.",
)
@json_option("Write what was measured and what failed as JSON.")
def export(checkpoint: Path, output: Path, model: Path | None, json_file: Path | None, **options: Any) -> None:
    """Makes a bundle from a checkpoint: torch to ONNX to simplified ONNX, and from that fp16, int8 and TFLite.

    The checkpoint holds weights (.safetensors, .pt), or is a torch.export program (.pt2), a TorchScript archive or an
    ONNX graph. The reference of an ONNX graph is the graph itself, run by ONNX Runtime. A .tflite file stays as it is
    and becomes an artifact of the bundle, compared with LiteRT's reference kernels or with --reference.

    After each step the keypoints are compared with those of the torch network, on real or rendered images. An artifact
    that moves them by more than its limits, or cannot be made, fails: the bundle holds the others, the last lines say
    what failed and why, and the exit status is 3. If nothing passes, nothing is written and it is 1. Several artifacts
    are timed side by side, and one line recommends which to ship.

    The Python files that model.toml names as arch and samples (arch.py beside the checkpoint, for example) are code
    that is run with your rights: read them before you export the checkpoint of somebody you do not know.
    """
    from splite_deploy.export.adopt import is_ready_file
    from splite_deploy.export.failures import PartialExportError
    from splite_deploy.spec.plain import to_plain

    make: Callable[[Callable[[str], None]], Bundle]
    if is_ready_file(checkpoint):
        make, first = _adopting(checkpoint, output, model, options)
    else:
        make, first = _exporting(checkpoint, output, model, options)
    try:
        with working("export") as progress:
            bundle = make(progress)
    except PartialExportError as err:
        bundle = err.bundle
    except ParityError as err:
        raise ParityError(err.message, hint=f"Nothing was written. {err.hint}") from err
    report = bundle.report()
    names = ("parity", "calibration", "searches", "recommendation", "failures")
    put_json(json_file, {name: to_plain(getattr(report, name)) for name in names})
    if json_file != STDOUT:
        _show(bundle, report)
    if report.failures:
        _tell_failures(bundle, report, first=first)
        sys.exit(PARTIAL)


_OF_READY_FILES = ("reference", "reference_model", "also")
_FOR_READY_FILES = (*_OF_READY_FILES, "backends", "precisions", "images", "crops", "overwrite", "all_or_nothing")
"""Parameters that a file which stays as it is has a use for."""
Make = Callable[[Callable[[str], None]], "Bundle"]


def _exporting(checkpoint: Path, output: Path, model: Path | None, options: dict[str, Any]) -> tuple[Make, str]:
    """What makes a bundle of a network, and the label of what is requested first.

    Raises:
        UsageError: Options do not fit together, or are for a ready file.
    """
    for name in _OF_READY_FILES:
        if options.pop(name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} is for a .tflite file, which stays as it is; {checkpoint.name} is what everything is compared "
                "with.",
                hint=f"Leave {flag} out.",
            )
    from splite_deploy.export import ExportOptions, export_bundle

    wanted = ExportOptions(**options)

    def make(progress: Callable[[str], None]) -> Bundle:
        return export_bundle(checkpoint, output, model=model, options=wanted, progress=progress)

    return make, f"{wanted.backends[0]} {wanted.precisions[0]}"


def _adopting(file: Path, output: Path, model: Path | None, options: dict[str, Any]) -> tuple[Make, str]:
    """The same for a TFLite file.

    Raises:
        UsageError: Something was requested that would convert it.
    """
    from splite_deploy.export.adopt import AdoptOptions, adopt_file
    from splite_deploy.runtime.file_facts import describe_file

    context = click.get_current_context()
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if others := [one for one in given.get("backends", ()) if one != "tflite"]:
        raise UsageError(
            f"{file.name} is a TFLite file, which LiteRT alone runs: nothing is made of it for {others[0]}.",
            hint=f"Export the checkpoint or ONNX graph that it was made from with -b {others[0]}, or make a graph of "
            f"it: python -m tf2onnx.convert --tflite {quoted(file)} --output {quoted(Path(f'{file.stem}.onnx'))}.",
        )
    parameters = {option.name: option.opts[0] for option in context.command.params}
    for name in given:
        if name not in _FOR_READY_FILES:
            flag = parameters[name]
            hint = f"Leave {flag} out, or export the network that it was made from."
            if name == "evaluation":
                hint = f"Leave it out, and evaluate the bundle: {command('bench', output, '--eval', 'LABELS')}."
            raise UsageError(f"{file.name} stays as it is, and {flag} is for what export converts.", hint=hint)
    precisions = [describe_file(one).precision for one in (file, *options["also"])]
    if unmet := [one for one in given.get("precisions", ()) if one not in precisions]:
        raise UsageError(
            f"{file.name} is {precisions[0]} and stays as it is: no {unmet[0]} is made of it.",
            hint=f"Leave -p out, or add the {unmet[0]} file of the same network with --also.",
        )
    names = ("images", "crops", "also", "reference", "reference_model", "overwrite", "all_or_nothing")
    wanted = AdoptOptions(**{name: options[name] for name in names})

    def make(progress: Callable[[str], None]) -> Bundle:
        return adopt_file(file, output, model=model, options=wanted, progress=progress)

    return make, f"tflite {precisions[0]}"


def _show(bundle: Bundle, report: Report) -> None:
    """Prints what was measured, and what to type next."""
    from splite_deploy.bundle.manifest import MANIFEST
    from splite_deploy.bundle.report import REPORT
    from splite_deploy.cli.tables.bundle import measured_tables, search_line
    from splite_deploy.cli.tables.layers import types_tables

    output = bundle.path
    for note in report.notes:
        remark(f"note: {note}")
    several = len(bundle.manifest.artifacts) > 1
    show(*measured_tables(report, bundle.model), *(types_tables(bundle.manifest, report) if several else ()))
    for search in report.searches:
        say(search_line(search))
    own = {MANIFEST, REPORT, *(held.file for held in bundle.manifest.files)}
    size = sum((output / name).lstat().st_size for name in own)
    later = "  (then)" if bundle.manifest.graphs else ""  # before there is an engine only ONNX Runtime runs
    say(f"{output}: {size / 1e6:.2f} MB. Next:")
    if bundle.manifest.graphs:
        precisions = dict.fromkeys(graph.precision for graph in bundle.manifest.graphs)
        words = [word for precision in precisions for word in ("-p", precision)]
        say(f"  {command('compile', output, *words)}  (on the device)")
    say(f"  {command('bench', output)}{later}")
    say(f"  {command('run', output, 'IMAGE', '--save', 'overlay.png')}{later}")


def _tell_failures(bundle: Bundle, report: Report, first: str) -> None:
    """Prints what failed and why, and what the bundle holds without it.

    Args:
        bundle: The bundle.
        report: Its report.
        first: Label of the artifact that was requested first.
    """
    from splite_deploy.export.failures import grouped

    for labels, failure in grouped(report.failures):
        put_error(f"{', '.join(labels)} failed: {failure.message}", failure.hint)
    held = [one.label for one in bundle.manifest.artifacts]
    held += [f"a graph for trt {one.precision} ({one.typing}ly typed)" for one in bundle.manifest.graphs]
    remark(f"{bundle.path} holds what passed: {', '.join(held)}.")
    if first in (one.artifact for one in report.failures) and bundle.manifest.artifacts:
        remark(f"{first} was to run by default; instead {held[0]} runs.")
