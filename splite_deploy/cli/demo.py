"""The command demo."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splite_deploy.cli.app import FilePath, json_option, main, not_empty, threads_option
from splite_deploy.cli.console import STDOUT, put_json, remark, say, show, tick, working
from splite_deploy.errors import InputError, MissingDependencyError, OptionError, OutputError, UsageError
from splite_deploy.files import anything_at, names_like, write_beside, writing
from splite_deploy.text import command

if TYPE_CHECKING:
    from splite_deploy.bench import Measurement
    from splite_deploy.bundle import Bundle
    from splite_deploy.plain_table import Table
    from splite_deploy.runtime import Pose
    from splite_deploy.runtime.preprocess import Image
    from splite_deploy.runtime.topdown import TopDown
    from splite_deploy.runtime.verify import Verification

FOLDER = Path("splite-demo")
FRAMES, WARMUP_FRAMES, WARMUP_S, MOST_WINDOWS = 60, 10, 0.2, 3
"""Of each measurement: a user waits for five of them. ``bench`` takes its time."""


@dataclass(frozen=True)
class Drawn:
    """A picture with its hands.

    Attributes:
        file: The picture.
        image: (H, W, 3) uint8 BGR.
        poses: Of its hands.
        overlay: Where they are drawn.
    """

    file: Path
    image: Image
    poses: list[Pose]
    overlay: Path

    def to_dict(self) -> dict[str, Any]:
        """What is printed of it."""
        height, width = self.image.shape[:2]
        poses = [pose.to_dict() for pose in self.poses]
        return {
            "image": str(self.file),
            "width": width,
            "height": height,
            "overlay": str(self.overlay),
            "poses": poses,
        }


@dataclass
class Checked:
    """An artifact of the package on this machine.

    Attributes:
        bundle: Whose it is.
        verified: How far it lies from the original.
        times: On the golden crops; None until it is timed.
    """

    bundle: Bundle
    verified: Verification
    times: Measurement | None = None

    def to_dict(self) -> dict[str, Any]:
        """What is printed of it."""
        from splite_deploy.spec.plain import to_plain

        times = {} if self.times is None else _plain_times(self.times)
        return {"bundle": str(self.bundle.path), "verification": to_plain(self.verified), **times}


def _default_output(given: Mapping[str, Any]) -> Path:
    return FOLDER


@main.command(
    short_help="Find hands with the networks of this package: in its picture, in yours, or before a camera.",
    default_output=_default_output,
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...", callback=not_empty)
@click.option(
    "--camera",
    help="Follow hands before a camera until Ctrl-C: 0 is the first USB camera, csi://0 a Jetson's, rtsp://... one in "
    "the network. They are shown on a page (pip install 'splite-deploy[view]'), without that written as a video.",
)
@click.option(
    "--output",
    "-o",
    type=FilePath,
    help="Write into this folder; splite-demo without it. What lies there is not replaced.",
)
@threads_option
@json_option("Write what was found and measured as JSON, of a video or camera a line for each frame.")
def demo(
    sources: tuple[str, ...],
    camera: str | None,
    output: Path | None,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Finds hands with two small networks that come with this package, a detector and a network of keypoints.

    Without SOURCE it takes a rendered picture from the package; SOURCE is a photograph of yours, a folder of them, or a
    video. It draws what it found, checks both networks on this machine against the recorded results of the originals,
    times them, and says what to try next. A video or camera is followed instead.

    The networks and pictures are written to the folder splite-demo, where every other command can use them.
    """
    from splite_deploy.bundle.packaged import HAND, PALM, PICTURE, copy_packaged, packaged
    from splite_deploy.runtime.io.images import named_images
    from splite_deploy.runtime.verify import check

    video = _video(sources, camera)
    folder = _made(FOLDER if output is None else output)
    pictures = [] if video else named_images(map(Path, sources))
    with working("demo") as progress:
        progress(f"copying the networks of this package to {folder}")
        palm, hand = (copy_packaged(name, folder) for name in (PALM, HAND))
        if not sources and not video:
            pictures = [write_beside(folder / PICTURE, packaged(PICTURE).read_bytes())]
    if video:
        _follow(video, palm, hand, folder, threads, json_file)
        return
    failed: list[UsageError] = []
    with working("demo") as progress, _network(palm, hand, threads) as network:
        progress(f"finding the hands in {pictures[0] if len(pictures) == 1 else f'{len(pictures)} pictures'}")
        drawn = _find(network, pictures, folder, failed)
        if not drawn:
            raise _told(failed, len(pictures))
        progress("comparing both networks with the recorded results of the originals")
        checked = [one for bundle in (palm, hand) for one in _verify(bundle, threads)]
        progress("timing both networks, and the way from a picture to keypoints")
        whole = _time(network, [one.image for one in drawn], checked, threads)
    _put(json_file, drawn, checked, whole)
    if json_file != STDOUT:
        _show(drawn, checked, whole)
        _say_next(palm, hand, drawn[0].file, folder)
    check([one.verified for one in checked])
    if failed:
        raise _told(failed, len(pictures))


def _video(sources: Sequence[str], camera: str | None) -> str:
    """The one video or camera that is to be followed; empty where pictures are given, or nothing.

    Raises:
        OptionError: There are several sources, and one of them is followed.
    """
    from splite_deploy.runtime.io.camera import is_live, is_video

    if camera is not None:
        if sources:
            raise OptionError(f"--camera is followed alone, and {sources[0]} was given.", hint="Leave out one of them.")
        if not is_live(camera):
            raise OptionError(
                f"--camera {camera} names no camera.",
                hint="Give its number, as in --camera 0. A picture or video is given without --camera.",
            )
        return camera
    videos = [source for source in sources if is_video(source)]
    if videos and len(sources) > 1:
        raise OptionError(
            f"{videos[0]} is a video or camera, which is followed alone, and {len(sources)} sources were given.",
            hint="Give it alone.",
        )
    return videos[0] if videos else ""


def _made(folder: Path) -> Path:
    """The folder, which is made where it is missing.

    Raises:
        OutputError: It cannot be written to.
    """
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OutputError as err:
        raise OutputError(
            err.message, hint=f"Name a folder that can be written to: {command('demo', '-o', 'FOLDER')}."
        ) from err
    return folder


def _network(palm: Bundle, hand: Bundle, threads: int | None, *, smooth: bool = False) -> TopDown:
    """The detector and the hand network, open."""
    from splite_deploy.runtime import PoseEstimator
    from splite_deploy.runtime.smoothing import OneEuro
    from splite_deploy.runtime.topdown import TopDown
    from splite_deploy.runtime.tracks import Tracker

    with ExitStack() as stack:
        detector, estimator = (
            stack.enter_context(PoseEstimator.open(bundle.path, threads=threads)) for bundle in (palm, hand)
        )
        network = TopDown(detector, estimator, Tracker(smoothing=OneEuro() if smooth else None))
        stack.pop_all()
        return network


def _find(network: TopDown, pictures: Sequence[Path], folder: Path, failed: list[UsageError]) -> list[Drawn]:
    """Finds and draws the hands of each picture; what cannot be read comes to ``failed``."""
    from splite_deploy.runtime.io.draw import overlay
    from splite_deploy.runtime.io.images import encode_image, read_image

    drawn = []
    for file in pictures:
        try:
            image = read_image(file)
        except UsageError as err:
            failed.append(err)
            continue
        poses = network.detect(image)
        target = folder / f"{file.stem}-overlay.jpg"
        data = encode_image(target, overlay(image, poses, network.estimator.spec.skeleton))
        drawn.append(Drawn(file, image, poses, write_beside(target, data)))
    return drawn


def _told(failed: Sequence[UsageError], count: int) -> UsageError:
    """One error for all pictures that could not be read: the others are drawn."""
    if count == 1:
        return failed[0]
    message = f"{len(failed)} of {count} pictures could not be read. {failed[0].message}"
    return InputError(message, hint=failed[0].hint)


def _verify(bundle: Bundle, threads: int | None) -> list[Checked]:
    from splite_deploy.runtime.verify import verify

    return [Checked(bundle, one) for one in verify(bundle, threads=threads)]


def _time(network: TopDown, images: Sequence[Image], checked: Sequence[Checked], threads: int | None) -> Measurement:
    """Times the way from a picture to its keypoints, and each artifact on the golden crops of its bundle.

    Returns:
        The whole way; those of the artifacts are added to them.
    """
    from splite_deploy.bench import EstimatorSubject, Options, golden_inputs, measure
    from splite_deploy.bench.whole_pictures import time_pictures
    from splite_deploy.runtime import PoseEstimator

    options = Options(frames=FRAMES, warmup_frames=WARMUP_FRAMES, warmup_min_s=WARMUP_S, max_windows=MOST_WINDOWS)
    for one in checked:
        artifact, model = one.verified.artifact, one.bundle.model
        color = model.input.picture_color
        with PoseEstimator.open(one.bundle.path, artifact.backend, artifact.precision, threads, color) as estimator:
            one.times = measure(EstimatorSubject(estimator, golden_inputs(one.bundle), 1), options)
    return time_pictures(network, images, options)


def _put(json_file: Path | None, drawn: Sequence[Drawn], checked: Sequence[Checked], whole: Measurement) -> None:
    from splite_deploy.bench import read_environment
    from splite_deploy.spec.plain import to_plain

    put_json(
        json_file,
        {
            "images": [one.to_dict() for one in drawn],
            "artifacts": [one.to_dict() for one in checked],
            "whole_picture": _plain_times(whole),
            "environment": to_plain(read_environment()),
        },
    )


def _plain_times(times: Measurement) -> dict[str, Any]:
    from splite_deploy.spec.plain import to_plain

    return {"stages_ms": to_plain(times.stages()), "stable": times.stable}


def _show(drawn: Sequence[Drawn], checked: Sequence[Checked], whole: Measurement) -> None:
    """Prints what was measured, and last what was found and where it is drawn."""
    show(_table(drawn, checked, whole))
    for one in drawn:
        say(f"{one.file}: {_hands(len(one.poses))}, drawn in {one.overlay}")
    if not any(one.poses for one in drawn):
        remark(
            "note: bare hands are found that measure a tenth of the picture or more; give a photograph that shows "
            "them larger"
        )


def _hands(count: int) -> str:
    return f"{count or 'no'} hand{'' if count == 1 else 's'}"


def _table(drawn: Sequence[Drawn], checked: Sequence[Checked], whole: Measurement) -> Table:
    """A row for each artifact on one crop, and one for the whole way."""
    from splite_deploy.bench import read_environment
    from splite_deploy.bench.loop import END_TO_END
    from splite_deploy.bench.whole_pictures import WHOLE_PICTURE
    from splite_deploy.plain_table import Table, plain

    machine = read_environment()
    table = Table(
        title="both networks on this machine",
        caption="px: how far keypoints, or corners of boxes, lie from those of the original network, in pixels of its "
        f"input. ms: from pixels to keypoints, on {machine.board or machine.cpu_model or 'this processor'}.",
    )
    table.add_column("network")
    table.add_column("sha256", no_wrap=True)
    for heading in ("MB", "px p95", "px max", "ms p50", "ms p90", "ms p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in checked:
        assert one.times is not None
        away, artifact = one.verified.parity.deviation_px, one.verified.artifact
        size = one.bundle.size_of(artifact)
        figures = [f"{size / 1e6:.2f}", f"{away.p95:.2g}", f"{away.max:.2g}", *_percentiles(one.times, END_TO_END)]
        broken = plain("differs", "red") if one.verified.violations else tick(sys.stdout)
        table.add_row(f"{one.bundle.path.name} {one.verified.label}", artifact.content_sha256[:8], *figures, broken)
    table.add_section()
    hands = " or ".join(dict.fromkeys(_hands(len(one.poses)) for one in drawn))
    table.add_row(f"both: a picture with {hands}", "", "", "", "", *_percentiles(whole, WHOLE_PICTURE), "")
    if not (whole.stable and all(one.times is not None and one.times.stable for one in checked)):
        table.caption = f"{table.caption} Other work disturbed the times."
    return table


def _percentiles(times: Measurement, stage: str) -> list[str]:
    stats = times.stages()[stage]
    return [f"{value:.2f}" for value in (stats.p50_ms, stats.p90_ms, stats.p99_ms)]


def _say_next(palm: Bundle, hand: Bundle, picture: Path, folder: Path) -> None:
    """Prints what to type next: what works here as it stands, and then what needs something of the user's."""
    say("Next:")
    if sys.platform != "linux" or any(Path("/dev").glob("video*")):
        say(f"  {command('demo', '--camera', '0')}")
    result = folder / f"{picture.stem}.json"
    say(f"  {command('run', hand.path, picture, '--detector', palm.path, '--json', result)}")
    say(f"  {command('bench', hand.path)}")
    say(f"  {command('inspect', hand.path)}")
    say(f"With a photograph of yours: {command('demo', 'PHOTO.jpg')}")
    say(f"With a network of yours: pip install 'splite-deploy[export]', then {command('init', 'NETWORK.onnx')}")


def _follow(source: str, palm: Bundle, hand: Bundle, folder: Path, threads: int | None, json_file: Path | None) -> None:
    """Follows the hands of a video, or before a camera, onto a page or into a video."""
    from splite_deploy.cli.run_follow import Following
    from splite_deploy.cli.run_video import run_video
    from splite_deploy.cli.run_view import View
    from splite_deploy.runtime.io.camera import is_live

    page = View() if is_live(source) and _serves_page() else None
    name = "camera" if is_live(source) else Path(source).stem
    video = next(free for free in names_like(folder / f"{name}-overlay.mp4") if not anything_at(free))
    if is_live(source):
        if page is None:
            remark("A page shows the camera with: pip install 'splite-deploy[view]'.")
        remark("Ctrl-C ends it.")
    save = None if page else video
    following = Following(detector=palm.path, max_hands=None, detect_every=None, smooth=True)
    with _network(palm, hand, threads, smooth=True) as network:
        run_video(network, source, None, {}, json_file, save, following=following, view=page)
    if save is not None:
        remark(f"video: {save}")
    remark(f"the same with options of yours: {command('run', hand.path, source, '--detector', palm.path, '--smooth')}")


def _serves_page() -> bool:
    from splite_deploy.viewer.server import check_available

    try:
        check_available()
    except MissingDependencyError:
        return False
    return True
