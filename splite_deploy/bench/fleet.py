"""Results of many machines over time: read from files, folders and object stores, in series, with limits on the latest.

A series is what one device measured of one artifact under the same number of threads, crops and streams. Within it
results are in the order of that device's clock; clocks of different devices are never compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from splite_deploy.bench.compare import differences
from splite_deploy.bench.gates import METRICS, Gate
from splite_deploy.bench.records import parse_result
from splite_deploy.bench.report.tables import machine
from splite_deploy.bench.result import BenchResult
from splite_deploy.errors import (
    GateError,
    InputError,
    MissingDependencyError,
    OptionError,
    UsageError,
    first_line,
    naming,
)
from splite_deploy.spec.reading import ReadError, read_bytes
from splite_deploy.text import Lines, counted

SUFFIXES = (".jsonl", ".json")
_MOST_BYTES = 256 << 20
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|[A-Za-z][A-Za-z0-9+.-]+::")
_WRITTEN_BY = "Name files that 'splite-deploy bench --json FILE' appended to, or folders of them."
_AHEAD = timedelta(hours=1)
"""How far a device's clock may be ahead of this one before that is said."""
_RELATIVE = re.compile(r"(.*[<>=]\s*)([^\s<>=]+)\s*x\s*")
_DEVICE = re.compile(r"\s*(.*\S)\s*:([^:]*)", re.DOTALL)
"""A device may have colons in its name, a metric has none."""
_MOST_NOTES = 3
"""Of a file; of more lines that are passed over the number is told."""


@dataclass(frozen=True)
class Series:
    """Results of one device and artifact, the oldest first.

    Attributes:
        device: Its name, or the machine in words where it was not named.
        name: The artifact: bundle, backend and precision, and threads, crops and streams where they are not the usual.
        results: In the order of the device's clock, at least one.
    """

    device: str
    name: str
    results: tuple[BenchResult, ...]

    @property
    def latest(self) -> BenchResult:
        """The last result."""
        return self.results[-1]

    @property
    def previous(self) -> BenchResult | None:
        """The one before; None where there is none."""
        return self.results[-2] if len(self.results) > 1 else None

    @property
    def changes(self) -> list[str]:
        """What is not the same as in the previous result, such as versions and files, each as text."""
        return [] if self.previous is None else differences(self.previous, self.latest)


@dataclass(frozen=True)
class Fleet:
    """Everything that was read.

    Attributes:
        series: In the order of devices and names.
        notes: What was passed over, and what is odd, each as a sentence.
        files: Files of this machine that hold results: nothing else is to be written there.
    """

    series: tuple[Series, ...]
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def devices(self) -> dict[str, list[Series]]:
        """The series of each device."""
        found: dict[str, list[Series]] = {}
        for one in self.series:
            found.setdefault(one.device, []).append(one)
        return found


@dataclass(frozen=True)
class FleetGate:
    """A condition that the latest result of a series must not meet.

    Attributes:
        device: Which devices; ``*`` and ``?`` stand for other letters, and every other letter for itself.
        gate: The condition; relative ones have the factor as their limit.
        relative: Whether the limit is a multiple of the previous result.
    """

    device: str
    gate: Gate
    relative: bool = False

    @classmethod
    def parse(cls, text: str) -> FleetGate:
        """Reads ``[DEVICE: ]METRIC comparison NUMBER[x]``, for example ``jetson*: p50_ms > 1.1x``.

        Raises:
            OptionError: It has another form, or there is no such metric.
        """
        named = _DEVICE.fullmatch(text)
        device, condition = (named[1], named[2]) if named else ("*", text)
        relative = _RELATIVE.fullmatch(condition)
        try:
            gate = Gate.parse(relative[1] + relative[2] if relative else condition)
        except OptionError as err:
            if "is not METRIC" not in err.message:
                raise
            raise OptionError(
                f"The limit '{text}' is not DEVICE, colon, METRIC, comparison and number.",
                hint="Write for example --fail-if 'jetson: p50_ms > 1.1x' (1.1 times the previous result) or --fail-if "
                "'p99_ms > 33' (of every device), in quotes; comparisons are > >= < <=.",
            ) from err
        if relative and gate.limit <= 0:
            raise OptionError(f"The limit '{text}' is no multiple.", hint="Write for example 1.1x.")
        return cls(device, gate, relative is not None)

    def failures(self, fleet: Fleet) -> Iterator[str]:
        """A sentence for each series beyond the limit; one that has no previous result keeps a relative limit.

        Raises:
            OptionError: There is no such device, or nothing of it measured the metric.
        """
        pattern = self.device.replace("[", "[[]")
        chosen = [one for one in fleet.series if fnmatchcase(one.device, pattern)]
        if not chosen:
            there = ", ".join(fleet.devices)
            raise OptionError(f"No result is of a device '{self.device}'.", hint=f"There are: {there}.")
        metric = METRICS[self.gate.metric]
        measured = [one for one in chosen if metric.read(one.latest) is not None]
        if not measured:
            raise OptionError(
                f"{self.gate.metric} was not measured by '{self.device}' in its latest results.", hint=metric.needs
            )
        for one in measured:
            gate, before = self.gate, None
            if self.relative:
                before = None if one.previous is None else metric.read(one.previous)
                if before is None:
                    continue
                gate = Gate(gate.metric, gate.comparison, gate.limit * before)
            if (failure := gate.failure(one.latest, f"{one.device}, {one.name}")) is not None:
                factor = f", {self.gate.limit:g} times the previous {before:.4g}" if before is not None else ""
                yield f"{failure}{factor}"


def broken_limits(gates: Sequence[FleetGate], fleet: Fleet) -> list[str]:
    """Holds the latest result of every series against every limit that is for its device.

    Returns:
        A sentence for each that is not kept.

    Raises:
        OptionError: A limit is for a device that is not there, or for a metric that it did not measure.
    """
    return [failure for gate in gates for failure in gate.failures(fleet)]


def check_fleet(broken: Sequence[str]) -> None:
    """Raises a `GateError` with a line for each limit of `broken_limits`, if there is one."""
    if broken:
        raise GateError(Lines.of(broken), hint="The limits are those of --fail-if.")


@dataclass
class _Reading:
    """What is found while files are read."""

    results: dict[str, BenchResult] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    twice: int = 0
    others: int = 0

    def add(self, name: str, content: bytes) -> bool:
        """The results of a file, and whether it has any; lines that are none are noted."""
        found, notes = False, []
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            where = f"{name}, line {number}"
            try:
                result = parse_result(line, where)
                with naming(where):
                    datetime_of(result)
            except UsageError as err:
                if b'"kind"' in line and b'"schema_version"' not in line:
                    self.others += 1  # a record of another kind, such as those of a script
                else:
                    notes.append(f"Passed over: {err.message}")
                continue
            found = True
            key = repr(result.to_dict())
            self.twice += key in self.results
            self.results[key] = result
        more = len(notes) - _MOST_NOTES
        self.notes += notes[:_MOST_NOTES]
        self.notes += [f"Passed over: {counted(more, 'more line')} of {name}."] if more > 0 else []
        return found


def read_fleet(places: Sequence[str], *, now: datetime | None = None) -> Fleet:
    """Reads results from files, from all ``.jsonl`` and ``.json`` files of folders, and from object stores.

    What is not a whole result of a readable version is passed over with a note: a file may be written to right now.

    Args:
        places: Paths, or addresses that fsspec reads, such as ``s3://bucket/results``.
        now: What time it is; None asks the clock.

    Raises:
        InputError: A place cannot be read, or there is no result in any.
        MissingDependencyError: An address needs fsspec, or its part for that store, which is not installed.
    """
    reading, files = _Reading(), list[Path]()
    for place in places:
        if _URL.match(place):
            for name, content in _stored(place):
                reading.add(name, content)
        else:
            files += [file for file, content in _local(Path(place)) if reading.add(str(file), content)]
    if not reading.results:
        said = f" {reading.notes[0]}" if reading.notes else ""
        raise InputError(f"There is no result in {', '.join(places)}.{said}", hint=_WRITTEN_BY)
    notes = list(reading.notes)
    if reading.twice:
        notes.append(f"Read twice, and counted once: {counted(reading.twice, 'result')}.")
    if reading.others:
        notes.append(f"Of another kind: {counted(reading.others, 'record')}.")
    series = tuple(_series(list(reading.results.values())))
    ahead = (now or datetime.now(timezone.utc)) + _AHEAD
    for device, several in Fleet(series).devices.items():
        latest = max(datetime_of(one.latest) for one in several)
        if latest > ahead:
            notes.append(f"The clock of {device} is ahead: its latest result is of {latest:%Y-%m-%d %H:%M} UTC.")
    return Fleet(series, tuple(notes), tuple(files))


def datetime_of(result: BenchResult) -> datetime:
    """When it was measured, by the clock of its device, in UTC.

    Raises:
        UsageError: Its date is none.
    """
    try:
        date = datetime.fromisoformat(result.date_utc.replace("Z", "+00:00"))
        return date.replace(tzinfo=timezone.utc) if date.tzinfo is None else date.astimezone(timezone.utc)
    except (ValueError, OverflowError) as err:  # in UTC it may be of the year 0 or 10000
        raise UsageError(f"The date {result.date_utc!r} of a result is none.", hint="Measure again.") from err


def device_of(result: BenchResult) -> str:
    """The name of the machine, or what it is where nobody named it."""
    return result.device or machine(result.environment)


def _series(results: Sequence[BenchResult]) -> Iterator[Series]:
    found: dict[tuple[str, str], list[BenchResult]] = {}
    for one in results:
        found.setdefault((device_of(one), _name(one)), []).append(one)
    for (device, name), several in sorted(found.items()):
        yield Series(device, name, tuple(sorted(several, key=datetime_of)))


def _name(result: BenchResult) -> str:
    words = [result.bundle or result.artifact_file, result.label]
    words += [f"{result.threads} thread{'s'[: result.threads != 1]}"] if result.threads is not None else []
    words += [f"batch {result.batch}"] if result.batch != 1 else []
    words += [f"{result.streams.count} streams"] if result.streams is not None else []
    return ", ".join([" ".join(words[:2]), *words[2:]])


def _local(place: Path) -> Iterator[tuple[Path, bytes]]:
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    for file in files:
        try:
            yield file, read_bytes(file, most_bytes=_MOST_BYTES)
        except ReadError as err:
            raise InputError(f"Cannot read the results {file}: {err.reason}.", hint=_WRITTEN_BY) from err


def _stored(address: str) -> Iterator[tuple[str, bytes]]:
    """The files below an address.

    Raises:
        MissingDependencyError: fsspec, or what it needs for this store, is not installed.
        InputError: It cannot be read.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as err:
        raise MissingDependencyError(
            f"Reading {address} needs fsspec, which is not installed.",
            hint="Install it: pip install 'splite-deploy[fleet]', and what fsspec names for this store (s3fs, gcsfs).",
        ) from err
    try:
        store, path = url_to_fs(address)
        names: list[Any] = [path] if store.isfile(path) else sorted(store.find(path))
        for name in names:
            if name == path or str(name).endswith(SUFFIXES):
                yield str(name), store.cat_file(name)
    except ImportError as err:  # fsspec says which package the store needs
        raise MissingDependencyError(
            f"{address} cannot be read: {first_line(err)}", hint="Install the package that it names."
        ) from err
    except Exception as err:  # stores raise what their clients raise
        raise InputError(
            f"{address} cannot be read: {first_line(err, named=True)}",
            hint="Check the address and the credentials that its client reads; or copy the files, and name the folder.",
        ) from err
