"""Which machines are meant: addresses of ssh, and the names that ``devices.toml`` gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splite_deploy.errors import InputError, OptionError, SpecError, naming
from splite_deploy.files import is_file
from splite_deploy.spec.plain import structure
from splite_deploy.spec.reading import read_toml

DEVICES_TOML = Path("devices.toml")
"""Where machines have their names, in the working folder, unless ``--devices`` names another file."""
_SCHEME = "ssh://"
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*))(?::(?P<port>\d{1,5}))?/?"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PORTS = range(1, 1 << 16)
_FORM = "Write ssh://user@host or ssh://user@host:port; user and port may be left to your ssh configuration."


@dataclass(frozen=True)
class Address:
    """Where a machine is; what is None is left to ssh and its configuration.

    Attributes:
        host: A name, a name of the user's ssh configuration, or a number.
        user: Who logs in.
        port: Of the server.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``ssh://user@host:port``.

        Raises:
            OptionError: It is no such address.
        """
        found = _ADDRESS.fullmatch(text)
        port = int(found["port"]) if found is not None and found["port"] else None
        if found is None or (port is not None and port not in _PORTS):
            raise OptionError(f"'{text}' is no address of a machine.", hint=_FORM)
        return cls(found["six"] or found["host"], found["user"], port)

    @property
    def name(self) -> str:
        """What to call a machine that has no other name, as a folder may be called."""
        port = "" if self.port is None else f"-{self.port}"
        return re.sub(r"[^A-Za-z0-9_.-]", "-", self.host).lstrip("-_.") + port


@dataclass(frozen=True)
class Device:
    """A machine.

    Attributes:
        name: What it is called in tables and results.
        address: Where it is.
        python: The Python to use there, from 3.10 on: a program, or a path that may begin with ``~/``.
        power_mode: What it has to be in: nvpmodel's name of a mode on a Jetson, elsewhere the frequency governor; None
            for any.
    """

    name: str
    address: Address
    python: str = "python3"
    power_mode: str | None = None


@dataclass(frozen=True)
class _Entry:
    """A table of ``devices.toml``."""

    address: str = field(metadata={"hint": 'Add it: address = "ssh://user@host".'})
    python: str = "python3"
    power_mode: str | None = None


def devices_of(wanted: Sequence[str], file: Path | None = None) -> list[Device]:
    """The machines that were asked for, each by its address or by its name in a file.

    Args:
        wanted: Addresses and names.
        file: A ``devices.toml``; None is that of the working folder, if there is one. A machine that is given by its
            address has what the file says of this address.

    Raises:
        OptionError: One is no address and has no such name, or is meant twice.
        InputError: The file holds something else.
        ReadError: It cannot be read.
    """
    place = DEVICES_TOML if file is None else file
    known = read_devices(place) if file is not None or is_file(place) else {}
    found: list[Device] = []
    for text in wanted:
        if text.startswith(_SCHEME):
            address = Address.parse(text)
            named = [one for one in known.values() if one.address == address]
            device = named[0] if len(named) == 1 else Device(address.name, address)
        elif text in known:
            device = known[text]
        else:
            hint = f"It has: {', '.join(known)}." if known else _FORM
            where = f"in {place}" if known or file is not None else f"since there is no {place} here"
            raise OptionError(f"No machine is called '{text}' {where}.", hint=hint)
        if device.name in (one.name for one in found):
            hint = "Name each machine once; two that would have one name need a name each in devices.toml."
            raise OptionError(f"'{text}' is the second machine called {device.name}.", hint=hint)
        found.append(device)
    return found


def read_devices(file: Path) -> dict[str, Device]:
    """The machines of a ``devices.toml``, by their names.

    Raises:
        InputError: It holds something else.
        ReadError: It cannot be read.
    """
    tables = read_toml(file)
    with naming(file):
        return {name: _device(name, data) for name, data in tables.items()}


def _device(name: str, data: Any) -> Device:
    if not _NAME.fullmatch(name):
        raise InputError(f"'{name}' is no name for a machine.", hint="Use letters, digits, '.', '_' and '-'.")
    if not isinstance(data, dict):
        raise InputError(f"'{name}' is not a table.", hint=f'Write [{name}], and below it address = "ssh://user@host".')
    try:
        entry = structure(_Entry, data, name, every=True)
    except SpecError as err:
        raise InputError(err.message, hint=err.hint) from err
    if not entry.python.strip() or "\n" in entry.python or entry.python.startswith("-"):
        raise InputError(f"{name}.python is '{entry.python}'.", hint="Name a Python: python3, or a path there.")
    try:
        address = Address.parse(entry.address)
    except OptionError as err:
        raise InputError(f"{name}.address: {err.message}", hint=err.hint) from err
    return Device(name, address, entry.python, entry.power_mode)
