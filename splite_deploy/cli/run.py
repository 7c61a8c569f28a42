"""The command run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splite_deploy.cli.app import (
    BundlePath,
    FilePath,
    backend_options,
    complete_files,
    device_options,
    json_option,
    main,
    not_empty,
    tuning_options,
)
from splite_deploy.cli.console import STDOUT, progress_bar, put_json, remark
from splite_deploy.cli.network_file import is_network_file, model_option, reject_bundle_options, reject_model
from splite_deploy.cli.run_follow import Following, follow_options
from splite_deploy.errors import InputError, OptionError, UsageError, naming
from splite_deploy.files import is_folder, is_pattern, writing
from splite_deploy.spec import Precision

if TYPE_CHECKING:
    from splite_deploy.cli.remote import Remote
    from splite_deploy.runtime import Pose, PoseEstimator
    from splite_deploy.runtime.backends.base import BackendOptions
    from splite_deploy.runtime.topdown import TopDown
    from splite_deploy.spec import ModelSpec


FORMATS = ("json", "coco")


@dataclass
class Picture:
    """An image, where to look in it, and what was found there.

    Attributes:
        file: The image file.
        boxes: xyxy boxes in pixels; None is the whole image.
        image_id: Number of the image in a COCO file; None where it is of none.
        box_scores: How sure a detector was of each box; None where it was given without.
        size: Height and width in pixels, when it has been read.
        poses: One for each box.
    """

    file: Path
    boxes: list[Sequence[float] | None]
    image_id: int | None = None
    box_scores: list[float | None] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    poses: list[Pose] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What is printed of it."""
        height, width = self.size
        poses = [pose.to_dict() for pose in self.poses]
        return {"image": self.file.name, "width": width, "height": height, "poses": poses}


@main.command(short_help="Find the keypoints in images, a video or a camera.")
@click.argument("bundle", metavar="BUNDLE|FILE", type=BundlePath)
@click.argument(
    "source", metavar="SOURCE...", nargs=-1, required=True, callback=not_empty, shell_complete=complete_files
)
@model_option
@click.option(
    "--box",
    "boxes",
    metavar="X0,Y0,X1,Y1[,ANGLE]",
    multiple=True,
    help="Box in pixels around the hand or person, in a video at its start; the whole image without it. May be given "
    "several times for images. For a network whose crops are turned (rotate_by) the angle in degrees may follow, by "
    "which the box is turned clockwise about its centre; without it images are looked at two to six times to find it.",
)
@follow_options
@click.option(
    "--intrinsics",
    metavar="FX,FY,CX,CY",
    help="Of the camera, in pixels; with --bone-length-mm the 3D keypoints are absolute, in mm.",
)
@click.option("--bone-length-mm", type=float, help="Length in mm of the palm, or of the scale bone in the model spec.")
@backend_options
@tuning_options
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="json",
    show_default=True,
    help="Of the result for images. coco: for boxes of a COCO file COCO's results, which pycocotools scores; for other "
    "images a COCO data set.",
)
@json_option("Write the keypoints to FILE instead of printing them.")
@click.option(
    "--save",
    type=FilePath,
    help="Write the picture with the skeleton drawn: a file, a folder for a folder, .mp4 or .avi for a video.",
)
@click.option(
    "--view",
    is_flag=True,
    help="Of a video or camera: show the picture with the skeleton, frames per second and times on a page at "
    "http://127.0.0.1:8090/ (pip install 'splite-deploy[view]').",
)
@click.option("--port", type=click.IntRange(0, 65535), help="For --view; 8090 without it, 0 takes one that is free.")
@click.option(
    "--host",
    help="For --view: the address of this machine to serve the page at; 127.0.0.1 without it, which no other machine "
    "can reach. With any other everybody in the network can watch, without a password.",
)
@device_options
def run(
    bundle: Path,
    source: tuple[str, ...],
    model: Path | None,
    boxes: tuple[str, ...],
    detector: Path | None,
    max_hands: int | None,
    detect_every: int | None,
    smooth: bool,
    intrinsics: str | None,
    bone_length_mm: float | None,
    backend: str | None,
    precision: Precision | None,
    threads: int | None,
    tuning: tuple[BackendOptions, ...],
    form: str,
    json_file: Path | None,
    save: Path | None,
    view: bool,
    port: int | None,
    host: str | None,
    remote: Remote | None,
) -> None:
    """Finds the keypoints in SOURCE, with a bundle, or with a file (.onnx, .tflite, .engine) and its model.toml.

    SOURCE is an image, a folder of images, a pattern of images ('photos/*.jpg'), several of these, the boxes of a
    labels.json or of COCO's JSON (keypoints, or a detector's results), a video (.mp4, .avi, ...), a USB camera (0), a
    Jetson's camera (csi://0), a network camera (rtsp://...) or a GStreamer pipeline that ends in appsink. A video is
    turned as its file says; of one that is damaged or cut what can be read is delivered, with exit status 1; likewise
    of a damaged image, and of a folder in which an image cannot be read.

    The result is JSON: for each image its name, size and poses, one for each --box (box, keypoints in pixels, scores,
    3D keypoints with their unit and origin; of networks that have them "presence", "handedness", 1 for a right hand,
    and "angle_deg", by which the box was turned). One object for an image, a list for several or labels; for a video
    or camera one line for each frame, where "found" tells whether the hand or person was found. A camera runs until
    Ctrl-C.

    Of a folder or labels the result is written when the last image is done: a run that is stopped before writes none,
    so give many images in several folders. Of a video or camera each line is printed at once; a FILE of --json is there
    when the video ends.

    With --view a page shows a video or camera while it runs, to several browsers if need be; a video file then plays in
    its own time. It never waits for a browser.

    A network that finds people itself (decoder yolo-pose or anchors) gives a pose for each of them, with the box that
    it found and its "box_score"; with --box it looks inside that box alone, in every frame of a video. With --detector
    any other network does so, too: the detector finds the boxes, of labels as well, whose boxes are passed over.

    In a video hands and people are followed, and each has an "id", the same from frame to frame. Without --detector a
    network that takes a box follows one, from --box on.

    With --device the pictures, or a video file, are sent to other machines and looked at there. The JSON is a list with
    an object for each machine, its "device", its "environment", and as "result" what is printed otherwise; --save names
    a folder, which gets a folder for each machine.
    """
    from splite_deploy.runtime import PoseEstimator
    from splite_deploy.runtime.io.camera import is_video
    from splite_deploy.runtime.io.images import DAMAGED
    from splite_deploy.runtime.io.notes import taken

    json_file = STDOUT if json_file is None else json_file
    first, several = source[0], len(source) > 1
    if several:
        _check_images(source)
    video, path = is_video(first), Path(first)
    page = None
    if view or port is not None or host is not None:
        from splite_deploy.cli.run_view import view_of

        page = view_of(view, host, port, first, video=video)
    labels = not video and path.suffix.lower() == ".json"
    folder = labels or several or (not video and (is_folder(path) or is_pattern(path)))
    if video and form != "json":
        raise OptionError("COCO's format is for images, not for a video.", hint="Leave out --format.")
    if labels and boxes:
        raise OptionError(f"{path} has boxes of its own, and --box was given.", hint="Leave out --box.")
    if folder and save is not None and save.suffix and remote is None:
        what = (
            f"{path} has many images" if labels else f"{path} is a folder" if is_folder(path) else "there are several"
        )
        raise OptionError(f"--save {save} names a file, but {what}.", hint="Name a folder with --save.")
    following = Following(detector, max_hands, detect_every, smooth)
    following.check(video=video, boxes=boxes)
    corners = [box_numbers(box) for box in boxes]
    if video and len(corners) > 1:
        message = f"A video is followed from one box, and --box was given {len(corners)} times."
        raise OptionError(message, hint="Give it once: where to look at first.")
    options: dict[str, Any] = {"bone_length_mm": bone_length_mm}
    if intrinsics is not None:
        fx, fy, cx, cy = four_numbers("intrinsics", intrinsics, "fx,fy,cx,cy")
        options["intrinsics"] = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    if remote is not None:
        from splite_deploy.cli.run_remote import run_there

        if page is not None:
            raise OptionError("--view shows what this machine sees, and --device names another.", hint="Leave it out.")
        run_there(remote, source, backend, json_file, save, video=video)
        return
    if is_network_file(bundle):
        reject_bundle_options(bundle, {"--precision": precision})
        estimator = PoseEstimator.open_file(bundle, model, backend or "auto", threads, options=tuning)
    else:
        reject_model(bundle, model)
        estimator = PoseEstimator.open(bundle, backend or "auto", precision, threads, options=tuning)
    failed: list[UsageError] = []
    pictures: list[Picture] = []
    network = following.network(estimator, backend, precision, threads, tuning)
    with network:
        estimator.check_options(**options)
        if video:
            from splite_deploy.cli.run_video import run_video

            start = corners[0] if corners else None
            run_video(network, first, start, options, json_file, save, following=following, view=page)
        else:
            if labels:
                pictures = _labelled(path, whole=estimator.finds_people or network is not estimator)
            else:
                pictures = _pictures(map(Path, source), [*corners] or [None])
            done: list[Picture] = []
            targets: dict[Path, Path] = {}
            if save is not None:
                files = [picture.file for picture in pictures]
                targets = _targets(save, files) if folder else {path: save}
                _check_targets(targets, json_file, many=folder)
            for picture in progress_bar(pictures, "images"):
                target = targets.get(picture.file)
                try:
                    _run_image(network, picture, options, target, max_hands)
                    done.append(picture)
                except UsageError as err:
                    failed.append(err)
            if not done:
                raise _told(failed, len(pictures))
            if form == "coco":
                put_json(json_file, _coco(done, estimator.spec))
            else:
                put_json(json_file, [one.to_dict() for one in done] if folder else done[0].to_dict())
    if json_file != STDOUT:
        remark(f"keypoints: {json_file}")
    if save is not None:
        remark(f"{'video' if video else 'pictures' if folder else 'picture'}: {save}")
    damaged = taken(DAMAGED)
    if failed:
        raise _told(failed, len(pictures))
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise InputError(
            f"{damaged[0]}{more} can be read, but {'are' if more else 'is'} damaged: parts may be wrong, and so may "
            "the keypoints, which were delivered.",
            hint="Copy it again from where it was taken.",
        )


def _targets(folder: Path, files: Sequence[Path]) -> dict[Path, Path]:
    """Where the picture of each image goes: NAME.png, with its suffix and its folder where names are not unique."""
    top = Path(os.path.commonpath([file.absolute().parent for file in files])) if files else folder
    inside = {file: file.absolute().relative_to(top) for file in files}
    for names in (
        {file: f"{file.stem}.png" for file in files},
        {file: f"{file.name}.png" for file in files},
        {file: f"{inside[file]}.png" for file in files},
    ):
        if len({name.casefold() for name in names.values()}) == len(names):
            break
    return {file: folder / name for file, name in names.items()}


def _check_targets(targets: Mapping[Path, Path], json_file: Path, *, many: bool) -> None:
    """Refuses to draw over an image, or over the result.

    Args:
        targets: Where the picture of each image goes.
        json_file: Where the result goes.
        many: Whether the command, not the user, gave the pictures their names: in a folder of images those may be names
            of others, which labels leave out.

    Raises:
        UsageError: A picture would go there.
    """
    there = {place: file for file in targets if (place := _identity(file)) is not None}
    read = {place for folder in {file.parent for file in targets} if many and (place := _identity(folder)) is not None}
    for folder in {target.parent for target in targets.values()}:
        if _identity(folder) in read:
            message = f"--save would draw into the folder of the images, {folder}."
            raise UsageError(message, hint="Name another folder with --save.")
    for target in targets.values():
        image = there.get(_identity(target) or (0, 0))
        if image is not None:
            message = f"--save would draw over the image {image}."
            raise UsageError(message, hint="Name another folder with --save.")
        if json_file != STDOUT and os.path.realpath(json_file) == os.path.realpath(target):
            raise UsageError(f"--json and --save would both write {target}.", hint="Name another file with --json.")


def _identity(file: Path) -> tuple[int, int] | None:
    """The same for all names of a file; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _told(failed: Sequence[UsageError], count: int) -> UsageError:
    """One error for all images that gave no result: the results of the others are delivered."""
    if count == 1:
        return failed[0]
    message = f"{len(failed)} of {count} images gave no result. {failed[0].message}"
    others = f" And: {failed[1].message}" if len(failed) > 1 else ""
    more = f" And {len(failed) - 2} more." if len(failed) > 2 else ""
    hints = list(dict.fromkeys(one.hint for one in failed[:2]))
    hint = hints[0] if len(hints) == 1 else f"Of the first: {hints[0]} Of the second: {hints[1]}"
    return InputError(f"{message}{others}{more}", hint=hint)


def _check_images(sources: Sequence[str]) -> None:
    """Refuses what is not run together with others.

    Raises:
        OptionError: One of several is a video, a camera or labels.
    """
    from splite_deploy.runtime.io.camera import is_video

    for source in sources:
        if is_video(source) or Path(source).suffix.lower() == ".json":
            raise OptionError(
                f"Several were named, and {source} is no image and no folder of images.",
                hint="Run a video, a camera or labels alone.",
            )


def _pictures(paths: Iterable[Path], boxes: list[Sequence[float] | None]) -> list[Picture]:
    from splite_deploy.runtime.io.images import named_images

    return [Picture(file, boxes) for file in named_images(paths)]


def _labelled(path: Path, *, whole: bool) -> list[Picture]:
    """The images of a labels file, each with all its boxes; or all images, whole, those without a box among them.

    What is found where nobody is counts in an average precision, too.

    Raises:
        UsageError: There are none, or the file cannot be read.
    """
    from splite_deploy.metrics.labels import read_boxes, read_images

    if whole:
        pictures = [Picture(image, [None], image_id) for image, image_id in read_images(path).items()]
        if not pictures:
            raise InputError(f"{path} names no images.", hint="Name a folder of images, or labels that name some.")
        return pictures
    found: dict[Path, Picture] = {}
    for one in read_boxes(path):
        picture = found.setdefault(one.path, Picture(one.path, [], one.image_id))
        picture.boxes.append(one.box.tolist())
        picture.box_scores.append(one.score)
    return list(found.values())


def _run_image(
    network: PoseEstimator | TopDown,
    picture: Picture,
    options: dict[str, Any],
    save: Path | None,
    max_hands: int | None,
) -> None:
    from splite_deploy.runtime import PoseEstimator
    from splite_deploy.runtime.io.draw import overlay
    from splite_deploy.runtime.io.images import read_image, write_image

    image = read_image(picture.file)
    height, width = image.shape[:2]
    picture.size = height, width
    estimator = network if isinstance(network, PoseEstimator) else network.estimator
    with naming(picture.file):
        for box in picture.boxes:
            if not isinstance(network, PoseEstimator):
                picture.poses += network.detect(image, **options)
            elif network.finds_people:
                picture.poses += network.detect(image, box)[:max_hands]
            elif box is None or len(box) == _CORNERS:
                picture.poses.append(network.at_any_angle(image, box, **options))
            else:
                picture.poses.append(network(image, box, **options))
    if save is not None:
        with writing(save):
            save.parent.mkdir(parents=True, exist_ok=True)
        write_image(save, overlay(image, picture.poses, estimator.spec.skeleton))


def _coco(pictures: Sequence[Picture], spec: ModelSpec) -> Any:
    """COCO's results where the images have COCO's numbers, else a data set that numbers them from 1."""
    from splite_deploy.metrics.coco import dataset

    results, images = [], []
    for number, picture in enumerate(pictures, 1):
        image_id = number if picture.image_id is None else picture.image_id
        height, width = picture.size
        images.append({"id": image_id, "file_name": picture.file.name, "width": width, "height": height})
        scores = picture.box_scores or [None] * len(picture.poses)
        for pose, score in zip(picture.poses, scores, strict=True):
            results.append(pose.to_coco(image_id, box_score=score))
    if pictures and all(picture.image_id is not None for picture in pictures):
        return results
    return dataset(images, results, spec.name, spec.skeleton.keypoint_names, spec.skeleton.edges)


_CORNERS = 4


def box_numbers(text: str) -> list[float]:
    """The four numbers of a box, or five with its angle.

    Raises:
        UsageError: They are not.
    """
    corners, angle = text.split(",")[:_CORNERS], text.split(",")[_CORNERS:]
    try:
        turned = [float(part) for part in angle]
    except ValueError:
        turned = [0.0, 0.0]
    if len(turned) > 1:
        raise OptionError(
            f"The box '{text}' is not four numbers, nor five with an angle.",
            hint="Write it as --box x0,y0,x1,y1 in pixels, or --box x0,y0,x1,y1,ANGLE in degrees.",
        )
    return four_numbers("box", ",".join(corners), "x0,y0,x1,y1") + turned


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
        raise OptionError(f"The {name} '{text}' is not four numbers.", hint=f"Write it as --{name} {form}, in pixels.")
    return values
