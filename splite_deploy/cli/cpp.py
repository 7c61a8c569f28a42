"""The command cpp."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splite_deploy.cli.app import FilePath, json_option, main
from splite_deploy.cli.console import STDOUT, put_json, say
from splite_deploy.errors import OutputError, UsageError
from splite_deploy.files import anything_at, claimed, part_folder, rename_to_new, sync, writing
from splite_deploy.text import quoted

if TYPE_CHECKING:
    from splite_deploy.bundle import Bundle

_UNBUILT = '\\";\n\r'
"""CMake builds nothing in a folder whose path holds one of these."""
SOURCES = Path(__file__).parents[1] / "cpp"
BUNDLE = "model.splite"


@main.command(short_help="Write a C++ project with a bundle in it.")
@click.argument("folder", type=FilePath)
@click.option(
    "--bundle",
    "-m",
    type=FilePath,
    help="The bundle of the project; without it the hand network that comes with this package.",
)
@json_option("Write which files were made as JSON.")
def cpp(folder: Path, bundle: Path | None, json_file: Path | None) -> None:
    """Writes a small CMake project to FOLDER: the C++ runtime, a bundle, and a program that finds keypoints by it.

    The program reads pictures, raw frames or a camera, and writes a line of JSON for each. It needs a compiler of
    C++17, and when it runs the library of ONNX Runtime, which the wheel of onnxruntime has.
    """
    from splite_deploy.bundle import Bundle
    from splite_deploy.bundle.packaged import HAND, packaged

    opened = Bundle.open(packaged(HAND) if bundle is None else bundle)
    artifacts = opened.manifest.artifacts
    if not any(one.format == "onnx" and one.view is None for one in artifacts):
        if any(one.parts for one in artifacts):
            raise UsageError(
                f"The bundle {opened.path} holds its graph in parts, which the C++ runtime does not load.",
                hint="Export it without --parts.",
            )
        raise UsageError(
            f"The bundle {opened.path} holds no artifact of the format 'onnx', which the C++ runtime runs.",
            hint="Export it with -b ort.",
        )
    names = _write(folder, opened)
    put_json(json_file, {"folder": str(folder), "files": names})
    if json_file == STDOUT:
        return
    say(f"{folder}: {len(names)} files.")
    build = quoted(folder / "build")
    say(f"cmake -B {build} {quoted(folder)} && cmake --build {build}")
    say(f"SPLITE_ONNXRUNTIME=.../libonnxruntime.so {quoted(folder / 'build' / 'pose')} PICTURE")


def _write(folder: Path, bundle: Bundle) -> list[str]:
    """Makes the project, whole or not at all; returns the names of its files.

    Raises:
        OutputError: Something lies there, or nothing can be written there.
    """
    from splite_deploy.bundle import MANIFEST

    if set(_UNBUILT) & set(folder.absolute().as_posix()):
        raise OutputError(
            f"CMake builds nothing in {folder.absolute()}.",
            hint="Name a folder whose path has no quote, semicolon, backslash or line break.",
        )
    if anything_at(folder):
        raise OutputError(f"{folder} exists already.", hint="Name another folder.")
    with writing(folder):
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with claimed(folder), part_folder(folder) as made, writing(folder):
        for source, name in _sources():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, made / name)
        (made / BUNDLE).mkdir()
        kept = {MANIFEST, *(held.file for held in bundle.manifest.files)}
        for name in kept:
            shutil.copyfile(bundle.path / name, made / BUNDLE / name)
        type(bundle).open(made / BUNDLE)  # it may have been changed meanwhile
        made.chmod(0o755)
        for file in made.rglob("*"):
            sync(file)
        names = sorted(file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file())
        rename_to_new(made, folder)
    return names


def _sources() -> Iterator[tuple[Path, str]]:
    """The files of the package that a project takes, and their names in it."""
    for file in sorted((SOURCES / "template").iterdir()):
        yield file, file.name
    for part in ("include/splite", "third_party"):
        for file in sorted((SOURCES / part).iterdir()):
            yield file, f"splite/{part}/{file.name}"
