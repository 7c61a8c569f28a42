"""The part of ``run`` that reads a video or a camera: one JSON line and one picture for each frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from splite_deploy import interruption
from splite_deploy.cli.console import STDOUT, bar_console, put_json
from splite_deploy.cli.run_follow import Following, follower
from splite_deploy.cli.run_view import View, in_its_time, viewing
from splite_deploy.errors import CameraError
from splite_deploy.files import whole_file, write_all, writing
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.io.camera import Camera, is_live, open_camera
from splite_deploy.runtime.io.draw import overlay
from splite_deploy.runtime.io.native_output import NativeOutput, native_output
from splite_deploy.runtime.io.video import check_video_name, write_video
from splite_deploy.runtime.preprocess import Image
from splite_deploy.runtime.topdown import TopDown
from splite_deploy.spec.plain import json_text
from splite_deploy.text import without_secrets

FOLLOWING = Following(detector=None, max_hands=None, detect_every=None, smooth=False)
"""Without options."""


def run_video(
    network: PoseEstimator | TopDown,
    source: str,
    start: ArrayLike | None,
    options: dict[str, Any],
    json_file: Path | None,
    save: Path | None,
    *,
    following: Following = FOLLOWING,
    view: View | None = None,
) -> None:
    """Follows hands or people through a video file, or a camera until it is interrupted or stops.

    Args:
        network: Finds them in whole frames, or one of them from a box on.
        source: See `open_camera`.
        start: xyxy box in pixels in which to look at first, and again whenever it is lost; None is the whole frame. A
            network that finds people always looks there.
        options: Of `PoseEstimator.__call__`, without ``box``.
        json_file: Where the JSON lines go; `STDOUT` for standard output, None for nowhere.
        save: Where the video with the skeleton goes, if anywhere.
        following: How many are followed, and how calm.
        view: Where the page is served that shows it, if anywhere. A file then plays in its own time.

    Raises:
        UsageError: An option cannot be used.
        CameraError: The source cannot be opened, a camera stopped, or a file is damaged or cut; what came is kept.
        OutputError: A result cannot be written.
    """
    if save is not None:
        check_video_name(save)
    follow = follower(network, start, options, following)
    skeleton = (network.estimator if isinstance(network, TopDown) else network).spec.skeleton
    name = without_secrets(source) if is_live(source) else Path(source).name
    stopped: CameraError | None = None
    with native_output() as said, ExitStack() as stack:
        try:
            camera = stack.enter_context(open_camera(source))
        except CameraError as err:
            raise _told(err, said) from err
        board = stack.enter_context(viewing(view, name, network)) if view is not None else None
        put_line = stack.enter_context(_lines(json_file))
        put_frame = stack.enter_context(write_video(save, camera.fps)) if save is not None else None
        frames = _timed(camera) if board is None or camera.live else in_its_time(_timed(camera))
        index = -1
        try:
            for index, (time_s, frame) in enumerate(frames):
                arrived_s = time.perf_counter()
                said.trim()
                poses, found = follow(frame, time_s)
                if board is not None:
                    board.show(frame, poses, found, arrived_s)
                height, width = frame.shape[:2]
                place = {"video": name, "frame": index, "time_s": round(time_s, 4), "width": width, "height": height}
                put_line({**place, "found": found, "poses": [pose.to_dict() for pose in poses]})
                if put_frame is not None:
                    put_frame(overlay(frame, poses if found else [], skeleton))
            _check_undamaged(said, source, index + 1)
        except KeyboardInterrupt:
            if not camera.live or index < 0:
                raise
            interruption.current.settle()
            if board is not None:
                board.end("The command was stopped.")
        except CameraError as err:
            stopped = _told(err, said)
            if board is not None:
                board.end(stopped.message)
            if index < 0:
                raise stopped from err
    if stopped is not None:
        raise stopped


def _check_undamaged(said: NativeOutput, source: str, frames: int) -> None:
    """FFmpeg fills the holes of damaged frames with what was there before, and gives as many as the file states.

    Raises:
        CameraError: It complained.
    """
    if said.complaints():
        raise CameraError(
            f"{source} is damaged: {frames} frames could be read, not all of them as they were recorded.",
            hint="Copy it again from where it was recorded.",
        )


def _told(err: CameraError, said: NativeOutput) -> CameraError:
    """The error, with what FFmpeg complained of first in its hint."""
    complaints = said.complaints()
    if not complaints:
        return err
    more = f", and {len(complaints) - 1} lines more" if len(complaints) > 1 else ""
    return CameraError(err.message, hint=f"{err.hint} FFmpeg says '{complaints[0]}'{more}.")


def _timed(camera: Camera) -> Iterator[tuple[float, Image]]:
    """Frames with their time in seconds from the first: of a file by its own clock, of a camera by ours."""
    from rich.progress import Progress

    console, start_s = bar_console(), 0.0
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("frames", total=camera.frames)
        for index, frame in enumerate(camera):
            bar.advance(task)
            now_s = time.perf_counter()
            start_s = start_s if index else now_s
            yield now_s - start_s if camera.time_s is None else camera.time_s, frame


@contextmanager
def _lines(file: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Takes records and writes each as a line of JSON; a file is there, whole, when the block ends."""
    if file is None or file == STDOUT:
        yield lambda record: put_json(file, record, line=True)
        return
    with whole_file(file) as partial, ExitStack() as stack:
        with writing(file):
            stream = stack.enter_context(partial.open("wb", buffering=0))

        def put(record: dict[str, Any]) -> None:
            with writing(file):
                write_all(stream, f"{json_text(record)[0]}\n".encode())

        yield put
