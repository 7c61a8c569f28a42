"""Runs the checks with the newest and with the oldest releases that pyproject.toml allows.

    python tests/releases.py newest                     # makes the environment, lists its versions, runs everything
    python tests/releases.py oldest --folder /tmp/old   # two environments: of the developer's machine, of the device
    python tests/releases.py oldest --list              # lists the versions, and installs nothing
    python tests/releases.py newest -- tests/runtime    # these tests alone

`newest` is what pip gives today, without constraints.txt. `oldest` takes the lower bound of everything that
pyproject.toml names, twice: with torch, and without it on Python 3.10 with the oldest numpy, OpenCV and ONNX Runtime,
as a Jetson has them; that environment runs the tests of what needs no torch, on bundles that the first one exported.

Where the package index offers builds of torch for CPUs (``+cpu``), the newest and the oldest are the newest and the
oldest of these: the others for Linux bring gigabytes of CUDA. uv resolves (https://docs.astral.sh/uv), since pip has no
lowest versions.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINED = ("export", "tflite", "report", "view", "sign")
DEVICE = ("ort", "litert", "report", "view", "sign")
TESTERS = ("pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "jsonschema>=4.21")
DEVICE_TESTS = (
    "tests/bench", "tests/bundle", "tests/cli", "tests/decoders", "tests/device", "tests/metrics", "tests/runtime",
    "tests/spec", "tests/viewer", "tests/test_files.py",
)  # fmt: skip
SHARED = "SPLITE_TESTS_SHARED"


@dataclass(frozen=True)
class Environment:
    """One environment to test in.

    Attributes:
        name: Of its folder.
        python: The version of its Python.
        oldest: Whether lower bounds are taken.
        extras: Of the package.
        groups: Of pyproject.toml.
        packages: What is installed besides.
        constraints: What is chosen where two lower bounds exclude each other.
        lint: Whether import rules are checked, too.
        tests: What runs where nothing is named.
    """

    name: str
    python: str
    oldest: bool
    extras: tuple[str, ...] = TRAINED
    groups: tuple[str, ...] = ("dev",)
    packages: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    lint: bool = True
    tests: tuple[str, ...] = ("tests",)


ENVIRONMENTS = {
    "newest": (Environment("newest", "3.11", oldest=False),),
    "oldest": (
        # What comes with others (scipy) would have a newer numpy.
        Environment("oldest", "3.11", oldest=True, constraints=("numpy<1.25",)),
        Environment("oldest-device", "3.10", True, DEVICE, (), packages=TESTERS, lint=False, tests=DEVICE_TESTS),
    ),
}


def call(*command: str | Path, **environment: str) -> int:
    """Runs a command in the repository; its exit status."""
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode


def output_of(*command: str | Path, **environment: str) -> str:
    """What a command prints.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} failed:\n{done.stderr}")
    return done.stdout


def tool(folder: Path) -> Path:
    """uv, in an environment of its own."""
    found = folder / "uv" / "bin" / "uv"
    if not found.exists():
        output_of(sys.executable, "-m", "venv", folder / "uv")
        output_of(folder / "uv" / "bin" / "python", "-m", "pip", "install", "--quiet", "uv")
    return found


def cpu_builds(listed: str) -> list[str]:
    """Versions of torch for CPUs in what ``pip index versions`` prints, the oldest first."""
    versions = re.findall(r"\b\d+(?:\.\d+)+\+cpu\b", listed)
    return sorted(set(versions), key=lambda one: [int(part) for part in one.removesuffix("+cpu").split(".")])


def resolve(uv: Path, environment: Environment, folder: Path) -> Path:
    """Writes the file of exact versions of an environment, and prints it."""
    settings = {"UV_FIND_LINKS": ",".join(os.environ.get("PIP_FIND_LINKS", "").split())}
    constraints = list(environment.constraints)
    if "export" in environment.extras:
        listed = subprocess.run(
            [folder / "uv" / "bin" / "python", "-m", "pip", "index", "versions", "torch"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if builds := cpu_builds(listed.stdout):
            constraints.append(f"torch=={builds[0] if environment.oldest else builds[-1]}")
        print(f"==> torch: {', '.join(builds) or 'no builds for CPUs alone in this index: as pyproject.toml says'}")
    limits, asked, exact = (folder / f"{environment.name}.{kind}.txt" for kind in ("limits", "asked", "exact"))
    limits.write_text("\n".join(constraints) + "\n", encoding="utf-8")
    asked.write_text("\n".join(environment.packages) + "\n", encoding="utf-8")
    command = [uv, "pip", "compile", "pyproject.toml", asked, "--constraint", limits, "--python-version"]
    command += [environment.python, "--no-header", "--no-annotate", "--upgrade", "--quiet", "--output-file", exact]
    command += ["--resolution", "lowest-direct" if environment.oldest else "highest"]
    command += [word for extra in environment.extras for word in ("--extra", extra)]
    command += [word for group in environment.groups for word in ("--group", group)]
    output_of(*command, **settings)
    print(f"==> {environment.name}: Python {environment.python} with")
    print(exact.read_text(encoding="utf-8"), flush=True)
    return exact


def interpreter(version: str) -> str:
    """A Python of this version that runs: on the path, or of pyenv, whose shims may not; else uv looks for one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python3"))]
    for python in filter(None, found):
        try:
            if not subprocess.run([python, "-I", "-c", ""], capture_output=True, check=False).returncode:
                return str(python)
        except OSError:
            continue
    return version


def install(uv: Path, environment: Environment, exact: Path, folder: Path) -> Path:
    """Makes the environment; its Python."""
    place = folder / environment.name
    python = place / "bin" / "python"
    settings = {"UV_FIND_LINKS": ",".join(os.environ.get("PIP_FIND_LINKS", "").split())}
    if not python.exists():
        output_of(uv, "venv", "--quiet", "--seed", "--python", interpreter(environment.python), place)
    print(f"==> Installing {environment.name}", flush=True)
    output_of(uv, "pip", "install", "--quiet", "--python", python, "--requirement", exact, **settings)
    output_of(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--editable", ".", **settings)
    return python


def check(environment: Environment, python: Path, folder: Path, tests: Sequence[str]) -> list[str]:
    """Runs the checks; those that failed.

    Style and types are those of `make lint` with the releases of constraints.txt: a formatter's style and numpy's types
    change with every release, and nobody who installs the package meets them.
    """
    tools = python.parent
    steps: dict[str, list[str | Path]] = {}
    if environment.lint and not tests:
        steps["import rules"] = [tools / "lint-imports", "--no-cache"]
    options = ["-n", "auto", "--dist", "worksteal"] if not tests else []
    steps["tests"] = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *(tests or environment.tests)]
    failed = []
    for name, command in steps.items():
        print(f"==> {environment.name}: {name}", flush=True)
        if call(*command, **{SHARED: str(folder / "shared")}):
            failed.append(f"{environment.name}: {name}")
    return failed


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(ENVIRONMENTS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "releases", help="where environments are made")
    parser.add_argument("--list", action="store_true", help="list the versions, and install nothing")
    parser.add_argument("tests", nargs="*", help="run these tests alone, in one process")
    options = parser.parse_intermixed_args()  # tests may stand behind options
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    uv = tool(folder)
    exact = {one: resolve(uv, one, folder) for one in ENVIRONMENTS[options.kind]}
    if options.list:
        return
    shutil.rmtree(folder / "shared", ignore_errors=True)
    pythons = {one: install(uv, one, versions, folder) for one, versions in exact.items()}
    failed = [failure for one, python in pythons.items() for failure in check(one, python, folder, options.tests)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
