"""A store: the folder on a device into which bundles are installed. It keeps two, the current one and the other.

    store.json      which bundle is the current one, what is known of both, and the policy
    7.splite        a slot, with the bundle that was installed as the seventh
    6.splite        the other one, to which one can go back

``store.json`` decides, and is replaced in one step: until then both slots stay as they are, and from then on the new
one is the current one. A slot that it does not name is a leftover of an installation that was cut short, or has been
replaced; the next installation removes it. Numbers are not used twice, so that who looks at ``store.json`` now and
then sees every switch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from splite_deploy.bundle import Bundle
from splite_deploy.bundle.manifest import STORE
from splite_deploy.bundle.new import is_bundle
from splite_deploy.errors import BundleError, SpecError, SpliteError, UpdateError, reading_hint
from splite_deploy.files import (
    claimed,
    held,
    hidden_name,
    is_file,
    is_folder,
    is_hidden,
    locked,
    part_file,
    part_folder,
    remove_leftovers,
    rename_to_new,
    sync,
    write_file,
    writing,
)
from splite_deploy.spec.plain import OPTIONAL, structure, to_plain
from splite_deploy.spec.reading import MIB, MissingError, ReadError, parse_json, read_bytes
from splite_deploy.text import command
from splite_deploy.updates.update_file import is_time

STORE_VERSION = 1
_SLOT = re.compile(r"[1-9][0-9]{0,17}\.splite")
_KEY = re.compile(r"(?:[0-9a-f]{64})?")


@dataclass(frozen=True)
class Slot:
    """One of the two bundles of a store.

    Attributes:
        number: Of the installation that brought it; its folder is ``NUMBER.splite``.
        made: When the update was made, as it says, in UTC: ``2026-01-31T12:00:00Z``; empty where it tells none.
        proven: Whether its first frames were all right; see `PoseEstimator.follow`. Nobody may have followed it yet.
        starts: How many programs began to follow it that have neither proven it nor ended in an orderly way.
        failed: Why it was left for the other one; empty where it was not.
    """

    number: int
    made: str = field(default="", metadata=OPTIONAL)
    proven: bool = field(default=False, metadata=OPTIONAL)
    starts: int = field(default=0, metadata=OPTIONAL)
    failed: str = field(default="", metadata=OPTIONAL)

    def __post_init__(self) -> None:
        _require(_SLOT.fullmatch(self.folder) is not None, f"a slot has the number {self.number}")
        _require(self.starts >= 0, f"{self.folder} has {self.starts} starts")
        _require(not self.made or is_time(self.made), f"{self.folder} was made at {self.made!r}")

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.number}.splite"


@dataclass(frozen=True)
class State:
    """The content of ``store.json``.

    Attributes:
        store_version: Of this structure: 1.
        current: The slot whose bundle runs.
        other: The slot to go back to; None where only one bundle was installed.
        public_key: The 32 bytes, in hex, of the Ed25519 key that has to have signed what is installed; empty where
            unsigned updates are installed, too.
    """

    store_version: int
    current: Slot
    other: Slot | None = None
    public_key: str = field(default="", metadata=OPTIONAL)

    def __post_init__(self) -> None:
        twice = self.other is not None and self.other.number == self.current.number
        _require(not twice, f"{self.current.folder} is both of its slots")
        _require(_KEY.fullmatch(self.public_key) is not None, "its public_key is no key of 32 bytes in hex")

    @property
    def newest(self) -> str:
        """When the newer one of both was made; empty where neither tells."""
        return max(slot.made for slot in _slots(self))


@dataclass(frozen=True)
class Store:
    """A store, be it that nothing was installed into it yet.

    Attributes:
        path: Its folder.
    """

    path: Path

    def read(self) -> State:
        """What ``store.json`` says now.

        Raises:
            UpdateError: There is none, or it cannot be read.
        """
        state = self.read_if_any()
        if state is None:
            raise UpdateError(
                f"{self.path} is no store: it holds no {STORE}.",
                hint=f"Install a bundle into it: {command('install', self.path, 'NAME.splite')}.",
            )
        return state

    def read_if_any(self) -> State | None:
        """The same; None where nothing was installed yet.

        Raises:
            UpdateError: It cannot be read.
        """
        file = self.path / STORE
        again = f"Install the bundle into another store: {command('install', 'NEW_STORE', 'NAME.splite')}."
        try:
            data = parse_json(read_bytes(file, most_bytes=MIB), str(file))
        except MissingError:
            return None
        except ReadError as err:
            raise UpdateError(f"{file} cannot be read: {err.reason}.", hint=reading_hint(err, again)) from err
        version = data.get("store_version") if isinstance(data, Mapping) else None
        if version != STORE_VERSION:
            raise UpdateError(
                f"{file} has version {version}; this version of splite-deploy reads {STORE_VERSION}.",
                hint="Upgrade splite-deploy on this machine." if isinstance(version, int) else again,
            )
        try:
            return structure(State, data, "", unknown="ignore")
        except SpecError as err:
            raise UpdateError(f"{file} is damaged: {err.message}", hint=again) from err

    def folder(self, slot: Slot) -> Path:
        """The bundle's folder of a slot."""
        return self.path / slot.folder

    def current(self) -> Path:
        """The folder of the current bundle.

        Raises:
            UpdateError: This is no store, or it lacks that folder.
        """
        folder = self.folder(self.read().current)
        if not is_folder(folder):
            raise UpdateError(
                f"{self.path} lacks {folder.name}, its current bundle.",
                hint=f"Go back to the other one: {command('install', self.path, '--rollback')}. "
                f"Or install one: {command('install', self.path, 'NAME.splite')}.",
            )
        return folder

    def open(self) -> Bundle:
        """Opens the current bundle and checks every hash.

        Raises:
            UpdateError: This is no store.
            BundleError: The bundle is damaged.
        """
        state = self.read()
        while True:
            try:
                return Bundle.open(self.folder(state.current))
            except BundleError:
                before, state = state, self.read()
                if state.current.number == before.current.number:
                    raise  # else others were installed in the meantime, and this one was removed

    @contextmanager
    def adding(self) -> Iterator[Path]:
        """Yields an empty folder for a bundle, which `switch` makes the current one; it vanishes if that is not called.

        Nobody else adds to the store until the block ends. A store that does not exist is made.

        Raises:
            OutputError: Another process adds to it, which the message names; or it cannot be written to.
            UpdateError: The folder holds something else.
        """
        made = self._make()
        try:
            with claimed(self.path / STORE, self.path):
                state = self.read_if_any()
                self._remove_unnamed(state)
                with part_folder(self.folder(self._next(state))) as folder:
                    yield folder
        finally:
            if made and self.read_if_any() is None:
                with writing(self.path):
                    remove_leftovers(self.path)
                    if not os.listdir(self.path):  # noqa: PTH208 - names
                        self.path.rmdir()

    def switch(self, folder: Path, made: str = "", public_key: str = "") -> State:
        """Makes a finished bundle the current one, and the one before the other one.

        Args:
            folder: As `adding` gave it, filled.
            made: See `Slot.made`.
            public_key: See `State.public_key`.

        Raises:
            UpdateError: The store has come to require signatures since the folder was asked for.
            OutputError: It cannot be written; the current bundle is the one before.
        """
        with writing(self.path):
            for file in folder.iterdir():
                sync(file)
            sync(folder)
            folder.chmod(0o755)
            with locked(self.path):
                before = self.read_if_any()
                if before is not None and before.public_key not in ("", public_key):
                    raise UpdateError(
                        f"{self.path} takes only signed updates since a moment ago.", hint="Install it once more."
                    )
                new = replace(self._next(before), made=made)
                state = State(STORE_VERSION, new, None if before is None else before.current, public_key)
                try:
                    rename_to_new(folder, self.folder(new))
                    sync(self.path)
                    self._write(state)
                finally:
                    self._remove_unnamed(self.read_if_any())
        return state

    def roll_back(self, reason: str = "", *, of: int | None = None) -> State:
        """Makes the other bundle the current one.

        Args:
            reason: Why; where it is given the bundle counts as failed, and nobody goes back to it.
            of: The number of the slot that has to be the current one; nothing happens where it is not, since
                somebody else was faster.

        Raises:
            UpdateError: There is no other bundle, or it failed.
            BundleError: The other bundle is damaged.
            OutputError: The store cannot be written to.
        """
        self.read()
        with locked(self.path):
            state = self.read()
            if of not in (None, state.current.number):
                return state
            install = f"Install one that works: {command('install', self.path, 'NAME.splite')}."
            if state.other is None:
                raise UpdateError(f"{self.path} holds no other bundle to go back to.", hint=install)
            if state.other.failed:
                raise UpdateError(
                    f"The other bundle of {self.path} was left before: {state.other.failed.removesuffix('.')}.",
                    hint=install,
                )
            Bundle.open(self.folder(state.other))
            left = replace(state.current, failed=reason) if reason else state.current
            back = replace(state, current=state.other, other=left)
            self._write(back)
            return back

    def require_signatures(self, public_key: str) -> State:
        """Has the store take from now on only what a key has signed.

        Args:
            public_key: In hex.

        Raises:
            UpdateError: This is no store, or it requires another key.
            OutputError: It cannot be written to.
        """
        self.read()
        with locked(self.path):
            state = self.read()
            self.required_key(state, public_key)
            state = replace(state, public_key=public_key)
            self._write(state)
            return state

    def required_key(self, state: State | None, public_key: str) -> str:
        """The key that has to have signed an update; empty where none has to.

        Args:
            state: Of the store.
            public_key: That is asked for besides.

        Raises:
            UpdateError: The store requires another one.
        """
        kept = "" if state is None else state.public_key
        if kept and public_key not in ("", kept):
            raise UpdateError(
                f"{self.path} takes only what the key {kept[:16]}... has signed, and another one is asked for.",
                hint=f"Where the key has changed, begin a new store: {command('install', 'NEW_STORE', 'UPDATE')}.",
            )
        return kept or public_key

    @contextmanager
    def trying(self, number: int) -> Iterator[int]:
        """Counts a program among those that began with a bundle until the block ends, be it that it dies in it.

        Yields:
            How many died in theirs since the bundle was installed; 0 once it is proven.

        Raises:
            OutputError: The store cannot be written to.
        """
        sign = self.path / f"{number}.trial"
        with part_file(sign):
            slot = self._change(number, lambda slot: replace(slot, starts=slot.starts + 1))
            try:
                yield 0 if slot is None else max(0, slot.starts - max(1, held(sign)))
            finally:
                with suppress(SpliteError):  # it counts as one that died
                    self._change(number, lambda slot: replace(slot, starts=max(0, slot.starts - 1)))

    def note_proven(self, number: int) -> None:
        """Notes that the first frames of a bundle were all right.

        Raises:
            OutputError: The store cannot be written to.
        """
        self._change(number, lambda slot: replace(slot, proven=True, starts=0))

    def _change(self, number: int, change: Callable[[Slot], Slot]) -> Slot | None:
        """Notes something of a bundle that is neither proven nor failed.

        Returns:
            Its slot now; None where nothing was noted.
        """
        with locked(self.path):
            state = self.read()
            for slot in _slots(state):
                if slot.number == number and not (slot.proven or slot.failed):
                    changed = change(slot)
                    is_current = slot is state.current
                    self._write(replace(state, current=changed) if is_current else replace(state, other=changed))
                    return changed
        return None

    def _make(self) -> bool:
        """Makes the folder where there is none; whether it did."""
        with writing(self.path):
            if not os.path.lexists(self.path):
                self.path.mkdir(parents=True)
                sync(self.path.parent)
                return True
            names = {name for name in os.listdir(self.path) if not is_hidden(name)}  # noqa: PTH208 - names
        if hidden_name(self.path / STORE, "claim").exists():  # of a first installation that was cut short
            names.discard(_next(None).folder)
        if names and STORE not in names:
            raise UpdateError(
                f"{self.path} is no store, and holds other files.",
                hint="Name a folder that is empty or does not exist.",
            )
        return False

    def _write(self, state: State) -> None:
        write_file(self.path / STORE, (json.dumps(to_plain(state), indent=1) + "\n").encode())
        with writing(self.path):
            sync(self.path)

    def _next(self, state: State | None) -> Slot:
        """The slot of the next installation, for which no folder lies there."""
        slot = _next(state)
        while os.path.lexists(self.folder(slot)):
            slot = Slot(slot.number + 1)
        return slot

    def _remove_unnamed(self, state: State | None) -> None:
        """Removes slots that are none any more; they get a hidden name first, so that none is left in half.

        Where the current one is lacking ``store.json`` is not what it was, and nothing is removed.
        """
        if state is not None and not is_folder(self.folder(state.current)):
            return
        named = {self.folder(slot).name for slot in _slots(state)}
        for name in os.listdir(self.path):  # noqa: PTH208 - names
            place = self.path / name
            if _SLOT.fullmatch(name) and name not in named and not place.is_symlink() and is_bundle(place):
                with part_folder(place) as bin_, writing(place):
                    place.rename(bin_ / name)


def is_store(folder: Path) -> bool:
    """Whether a folder is a store, be its ``store.json`` damaged: other programs have files of that name, too."""
    file = folder / STORE
    try:
        return is_file(file) and b'"store_version"' in read_bytes(file, most_bytes=MIB)
    except ReadError:
        return False


def _require(condition: bool, said: str) -> None:
    """Raises `SpecError` where what ``store.json`` says cannot be."""
    if not condition:
        raise SpecError(f"{said}.", hint="Install into another store.")


def _next(state: State | None) -> Slot:
    return Slot(1 + max((slot.number for slot in _slots(state)), default=0))


def _slots(state: State | None) -> list[Slot]:
    return [] if state is None else [slot for slot in (state.current, state.other) if slot is not None]
