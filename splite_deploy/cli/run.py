"""The command run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splite_deploy.cli.app import FilePath, backend_options, json_option, main, tuning_options
from splite_deploy.cli.console import STDOUT, progress_bar, put_json
from splite_deploy.cli.network_file import is_network_file, model_option, reject_bundle_options, reject_model
from splite_deploy.errors import UsageError
from splite_deploy.files import writing
from splite_deploy.spec import Precision

if TYPE_CHECKING:
    from splite_deploy.runtime import Pose, PoseEstimator
    from splite_deploy.runtime.backends.base import BackendOptions


@main.command(short_help="Find the keypoints in images, a video or a camera.")
@click.argument("bundle", metavar="BUNDLE|FILE", type=FilePath)
@click.argument("source")
@model_option
@click.option(
    "--box",
    "boxes",
    metavar="X0,Y0,X1,Y1",
    multiple=True,
    help="Box in pixels around the hand or person, in a video at its start; the whole image without it. May be given "
    "several times for images.",
)
@click.option(
    "--intrinsics",
    metavar="FX,FY,CX,CY",
    help="Of the camera, in pixels; with --bone-length-mm the 3D keypoints are absolute, in mm.",
)
@click.option("--bone-length-mm", type=float, help="Length in mm of the palm, or of the scale bone in the model spec.")
@backend_options
@tuning_options
@json_option("Write the keypoints to FILE instead of printing them.")
@click.option(
    "--save",
    type=FilePath,
    help="Write the picture with the skeleton drawn: a file, a folder for a folder, .mp4 or .avi for a video.",
)
def run(
    bundle: Path,
    source: str,
    model: Path | None,
    boxes: tuple[str, ...],
    intrinsics: str | None,
    bone_length_mm: float | None,
    backend: str | None,
    precision: Precision | None,
    threads: int | None,
    tuning: tuple[BackendOptions, ...],
    json_file: Path | None,
    save: Path | None,
) -> None:
    """Finds the keypoints in SOURCE, with a bundle, or with a file (.onnx, .tflite, .engine) and its model.toml.

    SOURCE is an image, a folder of images, a video (.mp4, .avi, ...), a USB camera (0), a Jetson's camera (csi://0) or
    a GStreamer pipeline that ends in appsink.

    The result is JSON: for each image its name, size and poses, one for each --box (box, keypoints in pixels, scores,
    3D keypoints with their unit and origin). One object for an image, a list for a folder; for a video or camera one
    line for each frame, where "found" tells whether the hand or person was found. A camera runs until Ctrl-C.

    A network that finds people itself (decoder yolo-pose or anchors) gives a pose for each of them, with the box that
    it found and its "box_score"; with --box it looks inside that box alone, in every frame of a video.
    """
    from splite_deploy.runtime import PoseEstimator
    from splite_deploy.runtime.io.camera import is_video
    from splite_deploy.runtime.io.images import image_files, is_folder

    json_file = STDOUT if json_file is None else json_file
    video, path = is_video(source), Path(source)
    folder = not video and is_folder(path)
    if folder and save is not None and save.suffix:
        raise UsageError(f"--save {save} names a file, but {path} is a folder.", hint="Name a folder with --save.")
    files = image_files(path) if folder else [path]
    corners = [four_numbers("box", box, "x0,y0,x1,y1") for box in boxes]
    if video and len(corners) > 1:
        message = f"A video is followed from one box, and --box was given {len(corners)} times."
        raise UsageError(message, hint="Give it once: where to look at first.")
    options: dict[str, Any] = {"bone_length_mm": bone_length_mm}
    if intrinsics is not None:
        fx, fy, cx, cy = four_numbers("intrinsics", intrinsics, "fx,fy,cx,cy")
        options["intrinsics"] = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    if is_network_file(bundle):
        reject_bundle_options(bundle, {"--precision": precision})
        opened = PoseEstimator.open_file(bundle, model, backend or "auto", threads, options=tuning)
    else:
        reject_model(bundle, model)
        opened = PoseEstimator.open(bundle, backend or "auto", precision, threads, options=tuning)
    with opened as estimator:
        if estimator.finds_people and any(value is not None for value in options.values()):
            raise UsageError("This model gives no depth.", hint="Leave out --intrinsics and --bone-length-mm.")
        if video:
            from splite_deploy.cli.run_video import run_video

            run_video(estimator, source, corners[0] if corners else None, options, json_file, save)
        else:
            results = []
            for file in progress_bar(files, "images"):
                target = (save / f"{file.stem}.png" if folder else save) if save is not None else None
                results.append(_run_image(estimator, file, corners or [None], options, target))
            put_json(json_file, results if folder else results[0])
    if json_file != STDOUT:
        click.echo(f"keypoints: {json_file}", err=True)
    if save is not None:
        click.echo(f"{'video' if video else 'pictures' if folder else 'picture'}: {save}", err=True)


def _run_image(
    estimator: PoseEstimator,
    file: Path,
    boxes: Sequence[Sequence[float] | None],
    options: dict[str, Any],
    save: Path | None,
) -> dict[str, Any]:
    from splite_deploy.runtime.io.draw import overlay
    from splite_deploy.runtime.io.images import read_image, write_image

    image = read_image(file)
    poses: list[Pose] = []
    for box in boxes:
        poses += estimator.detect(image, box) if estimator.finds_people else [estimator(image, box, **options)]
    if save is not None:
        with writing(save):
            save.parent.mkdir(parents=True, exist_ok=True)
        write_image(save, overlay(image, poses, estimator.spec.skeleton))
    height, width = image.shape[:2]
    return {"image": file.name, "width": width, "height": height, "poses": [pose.to_dict() for pose in poses]}


def four_numbers(name: str, text: str, form: str) -> list[float]:
    """Four numbers separated by commas.

    Raises:
        UsageError: They are not.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4:
        raise UsageError(f"The {name} '{text}' is not four numbers.", hint=f"Write it as --{name} {form}, in pixels.")
    return values
