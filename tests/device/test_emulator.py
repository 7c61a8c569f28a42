"""An emulator is recognised by the program that the kernel runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from splite_deploy.device.emulator import UNNAMED, read_emulator

X86_64, I386, AARCH64, ARM, RISCV = 62, 3, 183, 40, 243


def _running(root: Path, machine: int, *, big: bool = False, name: str = "qemu-aarch64") -> Path:
    program = root / "usr/bin" / name
    program.parent.mkdir(parents=True)
    order = bytes([2 if big else 1])
    program.write_bytes(b"\x7fELF\x02" + order + bytes(12) + machine.to_bytes(2, "big" if big else "little") + bytes(9))
    link = root / "proc/thread-self/exe"
    link.parent.mkdir(parents=True)
    link.symlink_to(program)
    return root


@pytest.mark.parametrize(
    ("program", "machine", "emulated"),
    [
        (X86_64, "aarch64", True),
        (X86_64, "armv7l", True),
        (X86_64, "riscv64", True),
        (AARCH64, "x86_64", True),
        (X86_64, "x86_64", False),
        (X86_64, "AMD64", False),
        (I386, "x86_64", False),  # Python of 32 bits
        (X86_64, "i686", False),  # linux32
        (AARCH64, "aarch64", False),
        (ARM, "aarch64", False),
        (AARCH64, "armv8l", False),
        (RISCV, "riscv64", False),
    ],
)
def test_the_kernel_runs_a_program_for_another_processor(
    tmp_path: Path, program: int, machine: str, emulated: bool
) -> None:
    assert read_emulator(_running(tmp_path, program), machine) == ("qemu-aarch64" if emulated else None)


def test_a_program_in_the_other_byte_order(tmp_path: Path) -> None:
    assert read_emulator(_running(tmp_path, AARCH64, big=True, name="qemu-x86_64"), "x86_64") == "qemu-x86_64"


def test_what_cannot_be_read_is_no_emulator(tmp_path: Path) -> None:
    assert read_emulator(tmp_path, "aarch64") is None
    (tmp_path / "proc/thread-self").mkdir(parents=True)
    (tmp_path / "proc/thread-self/exe").write_bytes(b"MZ")
    assert read_emulator(tmp_path, "aarch64") is None


def test_a_program_without_a_name(tmp_path: Path) -> None:
    link = _running(tmp_path, X86_64) / "proc/thread-self/exe"
    content = link.read_bytes()
    link.unlink()
    link.write_bytes(content)
    assert read_emulator(tmp_path, "aarch64") == UNNAMED


def test_this_machine_is_none() -> None:
    assert read_emulator() is None
