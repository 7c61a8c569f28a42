"""The part of ``run`` that shows a video or camera on a page: where that is, and how to reach it."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from splite_deploy.cli.console import remark, warn
from splite_deploy.errors import OptionError
from splite_deploy.text import quoted

if TYPE_CHECKING:
    from splite_deploy.runtime import PoseEstimator
    from splite_deploy.runtime.preprocess import Image
    from splite_deploy.runtime.topdown import TopDown
    from splite_deploy.viewer.board import Board

HOST, PORT = "127.0.0.1", 8090  # as the help of `run` says
_MOST_OFF_S = 1.0
"""A file whose times are wrong, or hours apart, still goes on, and does not hurry where the command was halted."""


@dataclass(frozen=True)
class View:
    """Where the page is served: address and port of this machine; port 0 is one that is free."""

    host: str = HOST
    port: int = PORT


def view_of(view: bool, host: str | None, port: int | None, source: str, *, video: bool) -> View:
    """Where the page is to be, from the options.

    Raises:
        OptionError: The options contradict each other or the source.
        MissingDependencyError: What serves the page is not installed.
    """
    if not view:
        option = "--port" if host is None else "--host"
        raise OptionError(f"{option} is for --view.", hint=f"Add --view, or leave out {option}.")
    if not video:
        raise OptionError(
            f"--view shows a video or camera while it runs, and {source} is neither.",
            hint="Leave out --view, and draw into pictures with --save.",
        )
    from splite_deploy.viewer.server import check_available

    check_available()
    return View(HOST if host is None else host, PORT if port is None else port)


@contextmanager
def viewing(view: View, source: str, network: PoseEstimator | TopDown) -> Iterator[Board]:
    """Serves the page until the block ends, says where, and gives its `Board`.

    Args:
        view: Where.
        source: Name of the camera or video, without secrets.
        network: Whose poses and times are shown.

    Raises:
        UsageError: The address or port cannot be used.
    """
    from splite_deploy.runtime.topdown import TopDown
    from splite_deploy.viewer.board import Board
    from splite_deploy.viewer.server import serve

    parts = {"detector": network.detector, "": network.estimator} if isinstance(network, TopDown) else {"": network}
    board = Board(parts[""].spec.name, source, parts[""].spec.skeleton, parts)
    with serve(board, view.host, view.port) as served:
        if served.public:
            warn(
                f"with --host {view.host} everybody who reaches this machine sees what the camera sees, "
                "without a password and not encrypted; ssh -L and no --host show it to you alone"
            )
            remark(f"view: {served.address} (elsewhere perhaps with this machine's address in the place of its name)")
        else:
            tunnel = f"ssh -L {served.port}:{served.host}:{served.port} {_login()}"
            remark(f"view: {served.address} (from another machine: {tunnel}, then the same address there)")
        yield board


def _login() -> str:
    """Who is logged in here, and at which address: the one that an ssh session came to, where this is one."""
    reached = os.environ.get("SSH_CONNECTION", "").split()
    host = reached[2] if len(reached) == 4 else socket.gethostname()
    try:
        return quoted(f"{getpass.getuser()}@{host}")
    except (KeyError, OSError, ImportError):  # a container may know no name
        return quoted(host)


def in_its_time(frames: Iterator[tuple[float, Image]]) -> Iterator[tuple[float, Image]]:
    """Frames of a video file no sooner than it shows them, as a camera would give them.

    Where its clock and ours come apart by more than a second, it goes on from there.

    Args:
        frames: With their times in seconds from the first.
    """
    began_s = time.perf_counter()
    for time_s, frame in frames:
        early_s = began_s + time_s - time.perf_counter()
        pause_s = min(max(early_s, -_MOST_OFF_S), _MOST_OFF_S)
        began_s += pause_s - early_s
        if pause_s > 0:
            time.sleep(pause_s)
        yield time_s, frame
