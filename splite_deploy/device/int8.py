"""Which instructions for int8 a CPU has, and what ONNX Runtime makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_X86 = ("amx_int8", "avx512_vnni", "avx_vnni", "avx_vnni_int8")
_ARM = ("i8mm", "asimddp")
INT8_INSTRUCTIONS = (*_X86, *_ARM)
"""Those that add products of 8 bits in 32 bits at once, as Linux names them: VNNI, AMX, dot products of ARM."""
_MISCOUNTING = ((1, 21), (1, 25))
"""Versions of ONNX Runtime, from the first to before the second, whose kernel for AMX is wrong. Its repair is in
github.com/microsoft/onnxruntime/pull/27671; versions found by trying them."""
RIGHT_ONNXRUNTIME = "pip install 'onnxruntime>=1.25' (on Python 3.10, which has none, take fp32)"


@dataclass(frozen=True)
class Int8Instructions:
    """What a CPU multiplies int8 with.

    Attributes:
        known: Whether the CPU tells its instructions; macOS and Windows have no ``/proc/cpuinfo``.
        x86: Whether it is an Intel or AMD CPU.
        names: Those that add products of 8 bits in 32 bits at once, as the kernel names them.
    """

    known: bool
    x86: bool
    names: tuple[str, ...]

    @property
    def saturates(self) -> bool:
        """Whether ONNX Runtime adds pairs of int8 products in 16 bits, which can saturate with weights of 8 bits.

        It does with AVX2 and AVX-512 (VPMADDUBSW) where neither VNNI nor AMX is there; ARM's instructions do not
        saturate. See "When and why do I need to try U8U8?" in ONNX Runtime's documentation of quantisation.
        """
        return self.known and self.x86 and not self.names

    def miscounts(self, onnxruntime: str) -> bool:
        """Whether this version of ONNX Runtime computes some int8 layers wrongly; see `miscounted`."""
        version = re.match(r"(\d+)\.(\d+)", onnxruntime)
        if version is None or "amx_int8" not in self.names:
            return False
        first, repaired = _MISCOUNTING
        return first <= (int(version[1]), int(version[2])) < repaired


def miscounted(widths: Iterable[int]) -> list[int]:
    """Those numbers of output channels that ONNX Runtime's kernel gets wrong where it `Int8Instructions.miscounts`.

    Tried with products of 1 to 256 rows and 1 to 100 columns, and with convolutions: wrong are 17 to 31 columns, or as
    many more than a multiple of 32, in one row of 32; fewer rows, which are positions times batch, are right.
    """
    return sorted({width for width in widths if width % 32 > 16})


def read_int8_instructions(root: Path = Path("/")) -> Int8Instructions:
    """What ``/proc/cpuinfo`` of a file system says of its first CPU."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, values = line.partition(":")
        if key.strip() in ("flags", "Features"):
            x86, listed = key.strip() == "flags", set(values.split())
            return Int8Instructions(True, x86, tuple(name for name in (_X86 if x86 else _ARM) if name in listed))
    return Int8Instructions(False, False, ())
