"""The command run on other machines: its pictures go there, keypoints and drawn pictures come back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splite_deploy.cli.console import STDOUT, put_json, remark, show
from splite_deploy.cli.remote import RESULT, Kept, Remote, check_all, read_each
from splite_deploy.errors import OptionError, RemoteError, UsageError
from splite_deploy.remote.work import MOST_RESULTS_BYTES, Outcome
from splite_deploy.spec.reading import parse_json, read_bytes

_MOST_PICTURES_BYTES = 4 << 30
_SAVED = "out/saved"


def run_there(
    remote: Remote, source: Sequence[str], backend: str | None, json_file: Path, save: Path | None, *, video: bool
) -> None:
    """Runs it on all machines.

    Args:
        remote: The machines.
        source: What to look at: files of this machine.
        backend: That was named; None for any.
        json_file: Where the keypoints go, `STDOUT` for standard output.
        save: The folder that gets a folder of drawn pictures for each machine; None for none.
        video: Whether the source is a video.

    Raises:
        OptionError: The source is a camera.
        SpliteError: One of the machines failed.
    """
    places = [Path(one) for one in source]
    if video and not places[0].is_file():
        raise OptionError(
            f"{source[0]} is no file of this machine, and --device names another.",
            hint="Log in there, and run a camera of that machine on it.",
        )
    one_file = len(places) == 1 and places[0].is_file() and places[0].suffix.lower() != ".json"
    drawn = f"{_SAVED}/{places[0].stem}{'.mp4' if video else '.png'}" if one_file else _SAVED
    kept = None if save is None else Kept(save, remote.devices)
    most_bytes = MOST_RESULTS_BYTES if save is None else _MOST_PICTURES_BYTES

    def read(one: Outcome) -> Any:
        try:
            content = read_bytes(one.folder / RESULT, most_bytes=MOST_RESULTS_BYTES)
            lines = content.splitlines() if video else [content]
            found = [parse_json(line, RESULT) for line in lines]
        except UsageError as err:
            raise RemoteError(f"{one.device.name}: its results cannot be used: {err.message}", hint=err.hint) from err
        if kept is not None and (one.folder / _SAVED).is_dir():
            kept.keep(one, one.folder / _SAVED)
        return found if video else found[0]

    with remote.outcomes(
        backends=() if backend is None else (backend,),
        places={"source": places},
        more=() if save is None else ("--save", drawn),
        most_bytes=most_bytes,
    ) as outcomes:
        results = read_each(outcomes, read)
    if results:
        put_json(json_file, [{**one.about, "result": result} for one, result in results])
        if json_file != STDOUT:
            from splite_deploy.cli.tables.remote import devices_table, found_table

            show(devices_table(outcomes), found_table(results))
            remark(f"keypoints: {json_file}")
    if save is not None:
        remark(f"pictures: {save}")
    check_all(outcomes)
