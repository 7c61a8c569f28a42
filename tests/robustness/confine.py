"""Keeps a process from writing outside of given folders, by the kernel's Landlock.

Described in https://docs.kernel.org/userspace-api/landlock.html. Spoilt inputs hold paths such as ``/etc/passwd``,
and whoever runs the harness may be root.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on x86-64 and 64-bit ARM
_VERSION, _PATH_BENEATH, _NO_NEW_PRIVILEGES = 1, 1, 38
_WRITE_FILE = 1 << 1
_CHANGES = (1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12)  # removes and makes of all kinds
_SINCE = {2: 1 << 13, 3: 1 << 14}  # to link and rename elsewhere, to truncate


def can_confine() -> bool:
    """Whether the kernel has it."""
    return bool(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION) >= 1)


def confine(folders: Sequence[Path], files: Sequence[Path]) -> bool:
    """Forbids this process and its children to write anything but ``files`` and what lies in ``folders``.

    Returns:
        False where the kernel has no Landlock.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return False
    everything = _WRITE_FILE | sum(_CHANGES) | sum(right for since, right in _SINCE.items() if version >= since)
    ruleset = libc.syscall(_CREATE_RULESET, struct.pack("=Q", everything), ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    on_files = _WRITE_FILE | (_SINCE[3] if version >= 3 else 0)
    for paths, rights in ((folders, everything), (files, on_files)):
        for path in paths:
            handle = os.open(path, os.O_PATH)
            if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, handle), 0):
                raise OSError(ctypes.get_errno(), "landlock_add_rule", str(path))
            os.close(handle)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)
    return True
