"""The command export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splite_deploy.cli.app import BackendName, FilePath, json_option, main
from splite_deploy.cli.console import STDOUT, put_error, put_json, show, working
from splite_deploy.compile.precision import INT8_RECIPES
from splite_deploy.errors import ParityError
from splite_deploy.runtime.backends import exportable_backends
from splite_deploy.spec import PRECISIONS

if TYPE_CHECKING:
    from splite_deploy.bundle import Bundle, Report

PARTIAL = 3
"""Exit status where the bundle lacks an artifact that was requested."""


@main.command(short_help="Make a bundle from a checkpoint, and compare every step.")
@click.argument("checkpoint", type=FilePath)
@click.option("--output", "-o", type=FilePath, required=True, help="The bundle to make, usually NAME.splite.")
@click.option("--model", type=FilePath, help="The model spec; model.toml beside the checkpoint without it.")
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
    help="int8 in ONNX Runtime with weights of 7 bits, for x86 CPUs without VNNI or AMX, where sums saturate with 8. "
    "'doctor' tells whether a CPU is one.",
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
@click.option("--crops", type=click.IntRange(1), default=64, show_default=True, help="Number of images to compare.")
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
@click.option("--opset", type=int, help="ONNX operator set; 18 without it, or that of an imported ONNX graph.")
@click.option("--weights", help="Key of the weights to use, where the checkpoint holds several.")
@click.option(
    "--trust",
    is_flag=True,
    help="Load a torch.export program or a TorchScript archive. It can run code: only use files whose maker you know.",
)
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
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
    ONNX graph. The reference of an ONNX graph is the graph itself, run by ONNX Runtime.

    After each step the keypoints are compared with those of the torch network, on real or rendered images. An artifact
    that moves them by more than its limits, or cannot be made, fails: the bundle holds the others, the last lines say
    what failed and why, and the exit status is 3. If nothing passes, nothing is written and it is 1. Several artifacts
    are timed side by side, and one line recommends which to ship.
    """
    from splite_deploy.export import ExportOptions, PartialExportError, export_bundle
    from splite_deploy.spec.plain import to_plain

    wanted = ExportOptions(**options)
    try:
        with working("export") as progress:
            bundle = export_bundle(checkpoint, output, model=model, options=wanted, progress=progress)
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
        _tell_failures(bundle, report, first=f"{wanted.backends[0]} {wanted.precisions[0]}")
        sys.exit(PARTIAL)


def _show(bundle: Bundle, report: Report) -> None:
    """Prints what was measured, and what to type next."""
    from splite_deploy.cli.tables.bundle import measured_tables, search_line
    from splite_deploy.cli.tables.layers import types_tables

    output = bundle.path
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    several = len(bundle.manifest.artifacts) > 1
    show(*measured_tables(report, bundle.model), *(types_tables(bundle.manifest, report) if several else ()))
    for search in report.searches:
        click.echo(search_line(search))
    size = sum(file.stat().st_size for file in output.iterdir())
    click.echo(f"{output}: {size / 1e6:.2f} MB. Next:")
    if bundle.manifest.graphs:
        precisions = " ".join(
            f"-p {precision}" for precision in dict.fromkeys(g.precision for g in bundle.manifest.graphs)
        )
        click.echo(f"  splite-deploy compile {output} {precisions}  (on the device)")
    click.echo(f"  splite-deploy bench {output}\n  splite-deploy run {output} IMAGE --save overlay.png")


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
    click.echo(f"{bundle.path} holds what passed: {', '.join(held)}.", err=True)
    if first in (one.artifact for one in report.failures) and bundle.manifest.artifacts:
        click.echo(f"{first} was to run by default; instead {held[0]} runs.", err=True)
