"""Whether another program emulates this machine for this process, as qemu's user emulation does. Standard library only.

Such a process sees the kernel and the files of the machine that emulates, its clock included: it computes what the
emulated processor computes, in times that are nobody's. A whole emulated machine, with a kernel of its own, is not
recognised.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

UNNAMED = "an emulator"
_HEADER_BYTES = 20
_MACHINES = {3: "x86", 62: "x86", 40: "arm", 183: "arm"}
"""The processor that a program file is for (e_machine of ELF) as a family: one runs programs of 32 and of 64 bits."""


def read_emulator(root: Path = Path("/"), machine: str | None = None) -> str | None:
    """Name of the program that emulates this machine, for example ``qemu-aarch64``; None where none is known of.

    The kernel says which program it runs. Where that is one for another processor than this process believes to be on,
    it emulates that processor.

    Args:
        root: Where ``proc`` is looked up; tests give a folder.
        machine: The architecture as this process sees it; None asks the system.
    """
    runs = root / "proc/thread-self/exe"  # qemu shows its own program under every other name of this link
    try:
        with runs.open("rb") as stream:
            header = stream.read(_HEADER_BYTES)
    except OSError:
        return None
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF":
        return None
    order: Literal["big", "little"] = "big" if header[5] == 2 else "little"
    running = _MACHINES.get(int.from_bytes(header[18:20], order))
    if running is None or running == _family(machine or platform.machine()):
        return None
    try:
        return Path(os.readlink(runs)).name or UNNAMED  # noqa: PTH115 - nothing is opened by it
    except OSError:
        return UNNAMED


def _family(machine: str) -> str:
    name = machine.lower()
    if name in ("x86_64", "amd64") or (name.startswith("i") and name.endswith("86")):
        return "x86"
    return "arm" if name.startswith(("arm", "aarch64")) else name
