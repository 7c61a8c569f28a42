"""An aarch64 machine without one: this package's runtime on Debian's Python for arm64, run by qemu's user emulation.

    python benchmarks/arm64/machine.py                              # makes it, or says that it is there
    python benchmarks/arm64/machine.py -- -m splite_deploy doctor  # runs its Python
    python benchmarks/arm64/machine.py --cpu max -- -m pytest tests/decoders

Nothing is installed on this machine, and neither root nor binfmt, chroot or mount is needed: packages of the release
that this machine has are unpacked into a folder, pip fetches wheels for aarch64, and `bin/python-CPU` is a script
around qemu, so that child processes are emulated, too. It takes a minute and 300 MB once.

Every CPU has a root of its own for its `/proc/cpuinfo`: older releases of qemu show that of this machine, from which
LiteRT's library concludes that there is no core at all, and crashes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splite_deploy.files import locked

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "arm64"
QEMU = "qemu-aarch64"
CONSTRAINTS = ROOT / "constraints.txt"
_DEBIAN = (
    "python{0}-minimal", "libpython{0}-minimal", "libpython{0}-stdlib", "libc6", "libstdc++6", "libgcc-s1", "zlib1g",
    "libexpat1", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1",
)  # fmt: skip
"""What Python and the wheels link, and no more of what they depend on."""
_WHEELS = (
    "numpy", "opencv-python-headless", "onnxruntime", "ai-edge-litert", "backports.strenum", "typing-extensions",
    "flatbuffers", "click", "rich", "pygments", "pytest", "pluggy", "iniconfig", "packaging",
    "hypothesis", "sortedcontainers",
)  # fmt: skip
_IMPORTED = (
    "numpy", "cv2", "onnxruntime", "ai_edge_litert.interpreter", "pytest", "hypothesis", "splite_deploy.runtime.verify",
)  # fmt: skip
_PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
_NEON = "fp asimd aes pmull sha1 sha2 crc32"
_DOT = f"{_NEON} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


@dataclass(frozen=True)
class Cpu:
    """A CPU that is emulated.

    Attributes:
        name: As it is named here.
        qemu: As qemu names it.
        part: Implementer and part number.
        features: As its kernel names them: what its `/proc/cpuinfo` says.
    """

    name: str
    qemu: str
    part: tuple[str, str]
    features: str


CPUS = {
    one.name: one
    for one in (
        Cpu("cortex-a72", "cortex-a72", ("0x41", "0xd08"), f"{_NEON} cpuid"),
        Cpu("cortex-a76", "cortex-a76", ("0x41", "0xd0b"), _DOT),
        # Pointers are signed by qemu's own quick algorithm instead of the slow one that hardware has.
        Cpu(
            "max", "max,pauth-impdef=on,sve=off,sme=off", ("0x00", "0x051"),
            f"{_DOT} jscvt fcma sha3 sm3 sm4 sha512 asimdfhm ilrcpc flagm sb flagm2 frint i8mm bf16",
        ),
    )
}  # fmt: skip


class UnavailableError(Exception):
    """The machine cannot be made here; says what is missing."""


@dataclass(frozen=True)
class Machine:
    """The emulated machine, made.

    Attributes:
        folder: Where it lies.
        python: Version of its Python, for example ``3.11``.
    """

    folder: Path
    python: str

    def program(self, cpu: Cpu) -> Path:
        """Its Python on a CPU: a program that runs here as any other."""
        return self.folder / "bin" / f"python-{cpu.name}"

    def command(self, cpu: Cpu, *plugin: str | Path) -> list[str | Path]:
        """What starts its Python: qemu with options. What that starts in turn is `program`, without them."""
        interpreter = self.folder / "root" / "usr" / "bin" / f"python{self.python}"
        where: list[str | Path] = ["-L", self.folder / "cpus" / cpu.name, "-0", self.program(cpu)]
        # Bytecode is kept whatever this machine does with its own: to compile modules takes as long as to run tests.
        kept = ["-U", "PYTHONDONTWRITEBYTECODE", "-E", f"PYTHONPYCACHEPREFIX={self.folder / 'bytecode'}"]
        return [QEMU, "-cpu", cpu.qemu, *kept, *where, *plugin, interpreter]


def qemu_version() -> str:
    """For example ``7.2.22``.

    Raises:
        UnavailableError: There is no qemu.
    """
    if shutil.which(QEMU) is None:
        raise UnavailableError(f"{QEMU} is not installed (apt install qemu-user)")
    printed = subprocess.run([QEMU, "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"version (\d+\.\d+\.\d+)", printed)
    if match is None:
        raise UnavailableError(f"{QEMU} tells no version: {printed[:100]}")
    return match[1]


def machine(folder: Path = FOLDER) -> Machine:
    """The emulated machine, made where it is not there yet or was made for other packages.

    Raises:
        UnavailableError: It cannot be made here.
    """
    qemu_version()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return _made(folder / "machine")


def _made(place: Path) -> Machine:
    """The machine in its folder, made anew where what it is made of has changed, or the folder was moved."""
    asked = hashlib.sha256(CONSTRAINTS.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    stamp = place / "made"
    if stamp.is_file() and (said := stamp.read_text(encoding="utf-8").split("\n"))[:2] == [asked, str(place)]:
        return Machine(place, said[2])
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise UnavailableError("packages for arm64 come from Debian's apt, which this system does not have")
    shutil.rmtree(place, ignore_errors=True)
    (place / "root").mkdir(parents=True)
    print(f"==> Making an emulated aarch64 machine in {_short(place)} (a minute, 300 MB)", file=sys.stderr)
    python = _unpack_debian(place)
    _install_wheels(place, python)
    found = Machine(place, python)
    for cpu in CPUS.values():
        _write_cpu(found, cpu)
    _call([found.program(CPUS["cortex-a76"]), "-c", f"import {', '.join(_IMPORTED)}"])  # they work, and are compiled
    stamp.write_text(f"{asked}\n{place}\n{python}\n", encoding="utf-8")
    return found


def _unpack_debian(made: Path) -> str:
    """Unpacks the packages; the version of their Python."""
    state, root = made / "apt", made / "root"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "",
        "Dir::State": state, "Dir::State::status": state / "status", "Dir::Cache": state / "cache",
        "Acquire::Languages": "none",
    }  # fmt: skip
    options = [f"-o{name}={value}" for name, value in settings.items()]
    _call(["apt-get", "-qq", *options, "update"])
    shown = _call(["apt-cache", *options, "show", "--no-all-versions", "python3-minimal"])
    version = re.search(r"^Version: (\d+\.\d+)", shown, re.MULTILINE)
    if version is None:
        raise UnavailableError("the package sources of this machine have no packages for arm64")
    archives = state / "cache" / "archives"
    _call(["apt-get", "-qq", *options, "download", *(name.format(version[1]) for name in _DEBIAN)], cwd=archives)
    for package in sorted(archives.glob("*.deb")):
        _call(["dpkg", "-x", package, root])
    if not (root / "lib").exists():  # newer releases leave that link to another package
        (root / "lib").symlink_to("usr/lib")
    shutil.rmtree(state)
    return version[1]


def _install_wheels(made: Path, python: str) -> None:
    """Fetches the wheels with the pip of this Python; the package itself is that of this repository."""
    packages = made / "lib" / f"python{python}" / "site-packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--no-compile"]
    command += ["--disable-pip-version-check", "--target", str(packages), "--only-binary=:all:", "--no-deps"]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")]
    command += [f"--platform={platform}" for platform in _PLATFORMS]
    _call([*command, "--constraint", CONSTRAINTS, *_WHEELS])
    (packages / "repository.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    settings = f"home = {made / 'root' / 'usr' / 'bin'}\nversion = {python}\ninclude-system-site-packages = false\n"
    (made / "pyvenv.cfg").write_text(settings, encoding="utf-8")


def _write_cpu(found: Machine, cpu: Cpu) -> None:
    """The root of a CPU, which is the common one with another ``/proc/cpuinfo``, and the program that runs on it."""
    root = found.folder / "cpus" / cpu.name
    (root / "proc").mkdir(parents=True)
    for entry in (found.folder / "root").iterdir():
        (root / entry.name).symlink_to(Path("../../root") / entry.name)
    implementer, part = cpu.part
    lines = {
        "BogoMIPS": "100.00", "Features": cpu.features, "CPU implementer": implementer, "CPU architecture": "8",
        "CPU variant": "0x0", "CPU part": part, "CPU revision": "0",
    }  # fmt: skip
    cores = ("\n".join(f"{key}\t: {value}" for key, value in {"processor": core, **lines}.items())
             for core in range(os.cpu_count() or 1))  # fmt: skip
    (root / "proc" / "cpuinfo").write_text("\n\n".join(cores) + "\n\n", encoding="utf-8")
    program = found.program(cpu)
    program.parent.mkdir(exist_ok=True)
    words = " ".join(f"'{word}'" for word in found.command(cpu))
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    program.chmod(0o755)


def _call(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    """What a command prints.

    Raises:
        UnavailableError: It failed.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise UnavailableError(f"{' '.join(map(str, command))[:200]} failed:\n{done.stderr[-2000:].strip()}")
    return done.stdout


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def environment() -> dict[str, str]:
    """Environment variables of its processes: loading a file there may take its time."""
    return {**os.environ, "SPLITE_FIRST_LOAD_S": "300", "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where it is made (default: build/arm64)")
    parser.add_argument("--cpu", choices=list(CPUS), default="cortex-a76")
    parser.add_argument("arguments", nargs="*", metavar="-- ...", help="of its Python")
    options = parser.parse_args()
    try:
        program = machine(options.folder.absolute()).program(CPUS[options.cpu])
    except UnavailableError as err:
        sys.exit(f"error: {err}")
    if not options.arguments:
        print(program)
        return
    os.execve(program, [str(program), *options.arguments], environment())


if __name__ == "__main__":
    main()
