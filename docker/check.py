"""Runs the COPY and RUN lines of a Dockerfile in a clean root folder, where there is no Docker engine.

As root of a Linux machine, at the root of the repository, for example:

    debootstrap --variant=minbase --include=python3,python3-pip bookworm clean
    python docker/check.py docker/runtime/Dockerfile clean

It stops at the first line that fails, and ends with the image's own command. The base image is not there: the folder
stands in for it, with its distribution's Python. What is copied from another image (COPY --from=NAME) comes from the
folder that --stage NAME=FOLDER names. Variables of pip (PIP_*) are passed on; files change in the first folder alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

INSTRUCTIONS = ("FROM", "ARG", "ENV", "COPY", "RUN", "USER", "WORKDIR", "ENTRYPOINT", "CMD")
"""What our Dockerfiles are made of."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined.

    Attributes:
        name: For example ``RUN``.
        argument: All that follows.
        line: Number of its first line.
    """

    name: str
    argument: str
    line: int


def parse(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile.

    Raises:
        ValueError: One of them is not among `INSTRUCTIONS`, or the last line is continued.
    """
    found: list[Instruction] = []
    parts: list[str] = []
    first = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        first = first if parts else number
        parts.append(line.removesuffix("\\").strip())
        if line.endswith("\\"):
            continue
        name, _, argument = " ".join(parts).partition(" ")
        if name not in INSTRUCTIONS:
            raise ValueError(f"line {first}: {name} is not one of {', '.join(INSTRUCTIONS)}")
        found.append(Instruction(name, argument.strip(), first))
        parts = []
    if parts:
        raise ValueError(f"line {first}: the last line is continued")
    return found


def copy(argument: str, root: Path, stages: Mapping[str, Path]) -> None:
    """Does what COPY does: files into a folder, or one folder to a folder.

    Args:
        argument: What follows COPY.
        root: The folder that stands for the image.
        stages: The folders that stand for others, by the names that ``--from`` has for them.

    Raises:
        ValueError: One of them is not known.
    """
    *sources, target = argument.split()
    folder = None
    if sources[0].startswith("--from="):
        stage = sources.pop(0).removeprefix("--from=")
        if stage not in stages:
            raise ValueError(f"COPY --from={stage}: name the folder that stands for it, --stage {stage}=FOLDER")
        folder = stages[stage]
    place = root / target.lstrip("/")
    for source in (Path(name) if folder is None else folder / name.lstrip("/") for name in sources):
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)


def run(dockerfile: Path, root: Path, stages: Mapping[str, Path]) -> int:
    """Runs a Dockerfile in a root folder; returns the exit status of the first line that failed, or 0.

    Args:
        dockerfile: The file; a stage that is only copied from has no lines but FROM.
        root: The folder that stands for the image.
        stages: See `copy`.
    """
    variables = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    variables |= {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    user, folder, command = "root", "/", []
    for instruction in parse(dockerfile.read_text(encoding="utf-8")):
        name, argument = instruction.name, instruction.argument
        print(f"==> {name} {argument}", flush=True)
        if name in ("ENV", "ARG"):
            key, equals, value = argument.partition("=")
            if equals and (name == "ENV" or value.strip('"')):
                variables[key] = value.strip('"')
        elif name == "COPY":
            copy(argument, root, stages)
        elif name == "USER":
            user, variables["HOME"] = argument, f"/home/{argument}"
        elif name == "WORKDIR":
            folder = argument
            (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name in ("ENTRYPOINT", "CMD"):
            command += json.loads(argument)
        elif name == "RUN":
            status = _inside(root, user, folder, ["/bin/sh", "-c", argument], variables)
            if status != 0:
                print(f"line {instruction.line} failed with status {status}", file=sys.stderr)
                return status
    print(f"==> as {user}: {' '.join(command)}", flush=True)
    return _inside(root, user, folder, command, variables)


def _inside(root: Path, user: str, folder: str, command: list[str], variables: dict[str, str]) -> int:
    # /proc and /dev are there for this one command, in a mount namespace of its own
    script = 'mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && user="$1" folder="$2" && shift 2 && '
    script += 'exec chroot --userspec="$user" "$0" /bin/sh -c \'cd "$0" && exec "$@"\' "$folder" "$@"'
    line = ["unshare", "--mount", "/bin/sh", "-c", script, os.fspath(root), user, folder, *command]
    return subprocess.run(line, env=variables, check=False).returncode


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("root", type=Path, help="a folder with a whole distribution in it")
    parser.add_argument(
        "--stage", action="append", default=[], metavar="NAME=FOLDER", help="stands for an image that is copied from"
    )
    options = parser.parse_args()
    stages = {name: Path(folder) for name, _, folder in (stage.partition("=") for stage in options.stage)}
    return run(options.dockerfile, options.root, stages)


if __name__ == "__main__":
    raise SystemExit(main())
