"""Installs a bundle into a store: put together beside what runs, verified on this machine, and then switched to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from splite_deploy.bundle import MANIFEST, REPORT, Artifact, Bundle
from splite_deploy.errors import BundleError, SpliteError, UpdateError
from splite_deploy.files import is_folder, sha256_of
from splite_deploy.runtime.session import OptionSet
from splite_deploy.runtime.verify import Verification, check, verify
from splite_deploy.spec import ModelSpec, Precision
from splite_deploy.text import command
from splite_deploy.updates import BundleFolder, State, Store, UpdateFile
from splite_deploy.updates.update_file import SIGN_HINT


@dataclass(frozen=True)
class Installed:
    """What came of an installation.

    Attributes:
        state: Of the store.
        results: The checks of the artifacts on this machine; empty where the bundle was the current one already.
    """

    state: State
    results: tuple[Verification, ...]


def install(
    store: Store,
    update: Path,
    *,
    public_key: str = "",
    allow_older: bool = False,
    backend: str | Sequence[str] | None = None,
    precision: Precision | Sequence[Precision] | None = None,
    threads: int | None = None,
    options: OptionSet = (),
    absent: Callable[[Artifact, SpliteError], None] = lambda artifact, reason: None,
    progress: Callable[[str], None] = lambda message: None,
) -> Installed:
    """Installs a bundle; whenever this ends, or is ended, the store has a valid bundle as its current one.

    A bundle that is the current one already is not installed again. Where the current one is damaged a whole one takes
    its place, whatever it finds.

    Args:
        store: The store; it is made where it does not exist.
        update: A file that `make_update` wrote, or a bundle's folder.
        public_key: In hex; where it is given, or the store has one already, only what it has signed is installed, now
            and later.
        allow_older: Whether it may have been made before what is installed, or not tell when.
        backend: Verifies with this backend alone or with these; None with every artifact that this machine runs.
        precision: Only this precision or these.
        threads: CPU threads.
        options: How the backends work.
        absent: Called with an artifact that is not verified, since nothing here runs it, and why.
        progress: Called with each step as it begins.

    Raises:
        UpdateError: The update is damaged, unsigned, older, or for another bundle; it finds other things than the
            current one; nothing of it runs here; or what is there is no store.
        BundleError: The bundle is damaged.
        ParityError: An artifact differs on this machine by more than its limits.
        UsageError: The bundle has no artifact of that backend or precision.
        MissingDependencyError: A backend that was named, or what checks signatures, is not installed.
        BackendError: An artifact cannot be loaded or run.
        OutputError: The store cannot be written to, or another process installs.
    """
    with store.adding() as folder:
        state = store.read_if_any()
        key = store.required_key(state, public_key)
        source = _open(update, key)
        current = None if state is None else _current(store, source)
        if state is not None:
            if current is not None and sha256_of(current.path / MANIFEST) == source.manifest_sha256:
                return Installed(store.require_signatures(key) if key else state, ())
            if not allow_older:
                _check_newer(update, source.made, state, store)
        progress("copy")
        source.write_to(folder, current)
        with _as_update(folder, update):
            new = _checked(folder, update)
            if current is not None:
                check_same_task(new.model, current.model, update, store)
            results = verify(
                new, backend, precision, threads=threads, options=options, absent=absent, progress=progress
            )
        if not results:
            raise UpdateError(
                f"No artifact of {update} runs on this machine, so that it cannot be verified here.",
                hint="'splite-deploy doctor' says what is missing.",
            )
        check(results)
        return Installed(store.switch(folder, source.made, key), tuple(results))


@contextmanager
def _as_update(folder: Path, update: Path) -> Iterator[None]:
    """Has errors name what is installed, and not the folder of its parts, which is gone before they are read."""
    try:
        yield
    except SpliteError as err:
        message, hint = (type(text)(text.replace(str(folder), str(update))) for text in (err.message, err.hint))
        raise type(err)(message, hint=hint) from err


def _open(update: Path, key: str) -> UpdateFile | BundleFolder:
    """Opens what is to be installed, once its signature was found right where one is required.

    Raises:
        SpliteError: See `install`.
    """
    if not is_folder(update):
        return UpdateFile.open(update, key)
    if key:
        raise UpdateError(
            f"{update} is a folder, which has no signature, and only signed updates are installed here.",
            hint=SIGN_HINT,
        )
    return BundleFolder(Bundle.open(update))


def _current(store: Store, source: UpdateFile | BundleFolder) -> Bundle | None:
    """The bundle that is installed; None where it is damaged, and a whole one comes to take its place.

    Raises:
        UpdateError: It is damaged, and the update needs it.
    """
    try:
        return store.open()
    except BundleError as err:
        if source.is_whole:
            return None
        raise UpdateError(
            f"The current bundle of {store.path} is damaged, and the update was made for it: {err.message}",
            hint=f"Install a whole one: {command('delta', 'NEW', '-o', 'UPDATE')}. To go back to the other one: "
            f"{command('install', store.path, '--rollback')}.",
        ) from err


def _check_newer(update: Path, made: str, state: State, store: Store) -> None:
    """Refuses what was made before the newer one of what is installed.

    Raises:
        UpdateError: It was, or does not tell.
    """
    if made < state.newest:
        told = f"was made on {made}" if made else "does not tell when it was made"
        raise UpdateError(
            f"{update} {told}, and what is installed in {store.path} on {state.newest}.",
            hint="Install the newest one. To go back on purpose, add --allow-older, or --rollback without an update.",
        )


def _checked(folder: Path, update: Path) -> Bundle:
    """Opens what was put together, with every hash checked.

    Raises:
        UpdateError: It is no bundle, or holds files that its manifest does not name.
    """
    again = "Make the update anew, of a bundle that 'splite-deploy verify' passes."
    try:
        new = Bundle.open(folder)
    except BundleError as err:
        raise UpdateError(f"What {update} makes is no bundle: {err.message}", hint=again) from err
    own = {MANIFEST, REPORT, *(held.file for held in new.manifest.files)}
    if more := sorted(file.name for file in folder.iterdir() if file.name not in own):
        raise UpdateError(f"{update} holds {', '.join(more)}, which its manifest does not name.", hint=again)
    return new


def check_same_task(new: ModelSpec, current: ModelSpec, update: Path, store: Store) -> None:
    """Refuses a network for another task: what an application gets of it after the switch is what it got before.

    Raises:
        UpdateError: It is for another one; see `ModelSpec.task`.
    """
    if new.task != current.task:
        raise UpdateError(
            f"{update} ('{new.name}') finds other things than the bundle in {store.path} ('{current.name}'): its "
            "keypoints, heads, unit of depth, the number of people, or how crops are turned differ.",
            hint="Install it into a store of its own.",
        )
