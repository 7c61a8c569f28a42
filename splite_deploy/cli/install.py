"""The command install."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splite_deploy.cli.app import (
    BundlePath,
    FilePath,
    json_option,
    main,
    several_backends,
    threads_option,
    tuning_options,
)
from splite_deploy.cli.console import STDOUT, put_json, remark, say, show, warn, working
from splite_deploy.errors import OptionError
from splite_deploy.spec import Precision

if TYPE_CHECKING:
    from splite_deploy.runtime.backends.base import BackendOptions
    from splite_deploy.updates import State, Store


@main.command(short_help="Install a bundle into a store on this machine.")
@click.argument("store", type=FilePath)
@click.argument("update", metavar="[UPDATE|BUNDLE]", type=BundlePath, required=False)
@click.option("--rollback", is_flag=True, help="Go back to the other bundle of the store; twice is there and back.")
@click.option(
    "--require-signature",
    "public_key_file",
    metavar="KEY",
    type=FilePath,
    help="Install only what is signed by the private half of this public Ed25519 key, a PEM file; the store keeps the "
    "key, and refuses everything else from then on.",
)
@click.option("--allow-older", is_flag=True, help="Install it though it was made before what is installed.")
@several_backends
@threads_option
@tuning_options
@json_option("Write the state of the store as JSON.")
def install(
    store: Path,
    update: Path | None,
    rollback: bool,
    public_key_file: Path | None,
    allow_older: bool,
    backends: tuple[str, ...],
    precisions: tuple[Precision, ...],
    threads: int | None,
    tuning: tuple[BackendOptions, ...],
    json_file: Path | None,
) -> None:
    """Installs an update or a bundle into STORE, a folder that keeps two: the current one, and one to go back to.

    The new one is put together beside the current one, its hashes are checked, and every artifact that runs here is
    verified on this machine, as 'verify' does it. Only then it becomes the current one, in one step: whenever this
    command is ended, by a loss of power too, the store has a valid current bundle. A program that follows the store
    (PoseEstimator.follow) goes on with the new one from the next frame on.

    Refused is what is damaged, was made for another bundle than the current one, is older than what is installed, or
    finds other things (keypoints, people); and what is not signed where the store requires it.

    Without an update it shows what is installed.
    """
    from splite_deploy.spec.plain import to_plain
    from splite_deploy.updates import Store
    from splite_deploy.updates.signature import public_key_of

    place = Store(store)
    if rollback and update is not None:
        raise OptionError("--rollback installs nothing, and an update was named.", hint="Leave one of them out.")
    if update is None and (allow_older or backends or precisions or threads):
        raise OptionError(
            "--allow-older, --backend, --precision and --threads are about an update, and none was named.",
            hint="Name an update or a bundle, or leave them out.",
        )
    key = "" if public_key_file is None else public_key_of(public_key_file)
    if update is not None:
        given: dict[str, Any] = {"public_key": key, "allow_older": allow_older}
        given |= {"backend": backends, "precision": precisions, "threads": threads, "options": tuning}
        state = _install(place, update, given, tables=json_file != STDOUT)
    else:
        state = place.require_signatures(key) if key else place.read()
        state = place.roll_back() if rollback else state
    put_json(json_file, {**to_plain(state), "folder": str(place.folder(state.current))})
    if json_file != STDOUT:
        _say(place, state)


def _install(store: Store, update: Path, given: dict[str, Any], *, tables: bool) -> State:
    """Installs, and shows how the artifacts were verified.

    Args:
        store: The store.
        update: What is installed.
        given: Options of `splite_deploy.runtime.install.install`.
        tables: Whether to show them.
    """
    from splite_deploy.cli.tables.bundle import parity_table
    from splite_deploy.runtime import install as installing

    with working("install") as progress:
        done = installing.install(
            store,
            update,
            **given,
            absent=lambda artifact, reason: warn(f"{artifact.label} is not verified: {reason.message}"),
            progress=progress,
        )
    if not done.results:
        remark(f"{update} is the current bundle already.")
    elif tables:
        rows = [(result.parity, result.violations) for result in done.results]
        show(parity_table(rows, store.open().model))
    for warning in dict.fromkeys(f"{one.label}: {text}" for one in done.results for text in one.warnings):
        warn(warning)
    return done.state


def _say(store: Store, state: State) -> None:
    """Which bundles the store has."""
    say(f"The current bundle is {store.folder(state.current)}.")
    if state.public_key:
        say(f"It takes only what the key {state.public_key[:16]}... has signed.")
    if state.other is not None:
        failed = f", which failed: {state.other.failed.removesuffix('.')}" if state.other.failed else ""
        say(f"The other one is {store.folder(state.other)}{failed}.")
