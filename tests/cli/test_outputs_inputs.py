"""No command writes over what it reads: every option that takes a path is tried with every one that writes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import Result

from splite_deploy.cli import main
from splite_deploy.cli.app import OUTPUTS
from splite_deploy.errors import UsageError
from splite_deploy.files import check_outputs


def takes_path(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.Path) or parameter.name == "source"


PATHS = {name: [one for one in command.params if takes_path(one)] for name, command in main.commands.items()}
PAIRS = [
    pytest.param(name, read, written, id=f"{name} {read.name} {written.name}")
    for name, parameters in PATHS.items()
    for read, written in itertools.product(parameters, parameters)
    if read.name not in OUTPUTS and written.name in OUTPUTS
]
TWICE = [
    pytest.param(name, *pair, id=f"{name} {pair[0].name} {pair[1].name}")
    for name, parameters in PATHS.items()
    for pair in itertools.combinations([one for one in parameters if one.name in OUTPUTS], 2)
]


def typed(name: str, given: dict[str, Path], other: Path) -> list[str]:
    """A command line on which these parameters have these values, and what else is needed the other."""
    words = []
    for parameter in main.commands[name].params:
        value = given.get(str(parameter.name), other if parameter.required else None)
        if value is None:
            continue
        values = [str(value)] * parameter.nargs
        words += values if isinstance(parameter, click.Argument) else [parameter.opts[0], *values]
    return [name, *words]


def test_every_option_that_takes_a_path_reads_or_writes() -> None:
    """Who adds an option that writes adds it to `OUTPUTS`, or this fails by its help."""
    for name, parameters in PATHS.items():
        for one in parameters:
            says = str(getattr(one, "help", "") or "")
            writes = says.startswith(("Write", "Append", "The file to write", "The bundle to make", "The OUT"))
            assert writes == (one.name in OUTPUTS), f"{name} {one.name}: {says}"


@pytest.mark.parametrize("way", ["itself", "symlink", "hard link", "spelling"])
@pytest.mark.parametrize(("name", "read", "written"), PAIRS)
def test_an_output_that_is_an_input(
    name: str, read: click.Parameter, written: click.Parameter, way: str, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    mine, other = tmp_path / "mine.png", tmp_path / "other"
    mine.write_bytes(b"mine")
    output = {
        "itself": mine,
        "symlink": tmp_path / "link.png",
        "hard link": tmp_path / "hard.png",
        "spelling": Path(os.path.relpath(mine)),
    }[way]
    if way == "symlink":
        output.symlink_to(mine)
    elif way == "hard link":
        output.hardlink_to(mine)
    result = splite(*typed(name, {str(read.name): mine, str(written.name): output}, other))
    assert result.exit_code == 1 and "would overwrite the input" in result.stderr, result.output
    assert f"hint:  Name another place with {max(written.opts, key=len)}." in result.stderr
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize(("name", "one", "other"), TWICE)
def test_two_outputs_at_one_place(
    name: str, one: click.Parameter, other: click.Parameter, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    place = {str(one.name): tmp_path / "a.json", str(other.name): tmp_path / "x" / ".." / "a.json"}
    (tmp_path / "x").mkdir()
    result = splite(*typed(name, place, tmp_path / "other"))
    assert result.exit_code == 1 and "are the same file" in result.stderr, result.output
    assert not (tmp_path / "a.json").exists()


def test_what_an_input_brings_along(tmp_path: Path) -> None:
    bundle, folder = tmp_path / "a.splite", tmp_path / "photos"
    for place in (bundle, folder):
        place.mkdir()
    for file in (bundle / "manifest.json", folder / "a.jpg"):
        file.write_bytes(b"mine")
    refused = [
        (bundle, bundle / "new.json", "something in the bundle"),
        (bundle, bundle, "files of the folder"),
        (bundle / "manifest.json", bundle, "the bundle around the input"),
        (folder, folder / "a.jpg", "a picture in the folder"),
    ]
    for read, output, reason in refused:
        with pytest.raises(UsageError, match=reason) as caught:
            check_outputs([("SOURCE", read)], [("--json", output)])
        assert caught.value.hint == "Name another place with --json."
    (tmp_path / "hard.json").hardlink_to(folder / "a.jpg")
    with pytest.raises(UsageError, match="a picture in the folder"):
        check_outputs([("SOURCE", folder)], [("--json", tmp_path / "hard.json")])
    allowed = [folder / "result.json", folder / "drawn", tmp_path / "b.json", Path("/dev/null"), Path("-")]
    for output in allowed:
        check_outputs([("SOURCE", folder), ("B", tmp_path / "none")], [("--json", output)])
    check_outputs([], [("--json", Path("/dev/null")), ("--save", Path("/dev/null"))])


@pytest.mark.parametrize("name", ["model.toml", "arch.py", "net.onnx.data"])
def test_files_beside_an_input_are_read_too(name: str, tmp_path: Path, splite: Callable[..., Result]) -> None:
    network, beside = tmp_path / "net.onnx", tmp_path / name
    for file in (network, beside):
        file.write_bytes(b"mine")
    result = splite("verify", str(network), "--json", str(beside))
    assert result.exit_code == 1 and "the input that BUNDLE (beside it) names" in result.stderr, result.output
    assert beside.read_bytes() == b"mine"
    if name == "model.toml":  # which init is there to write
        result = splite("init", str(network), "-o", str(beside), "--overwrite")
        assert "would overwrite" not in result.stderr


def test_names_that_no_file_can_have(tmp_path: Path, splite: Callable[..., Result]) -> None:
    for words in (["x" * 300, "--json", "y" * 300], ["x" * 300, "--json", "x" * 300]):
        result = splite("verify", *words)
        assert result.exit_code == 1 and result.stderr.startswith("error: "), result.output


# --- pictures of a folder ---


def test_a_folder_is_not_drawn_over(tmp_path: Path, tiny_bundle: Path, splite: Callable[..., Result]) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    before = (tmp_path / "a.png").read_bytes()
    result = splite("run", str(tiny_bundle), str(tmp_path), "--save", str(tmp_path))
    assert result.exit_code == 1 and "would overwrite files of the folder" in result.stderr
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    (drawn / "a.png").hardlink_to(tmp_path / "a.png")
    result = splite("run", str(tiny_bundle), str(tmp_path), "--save", str(drawn))
    assert result.exit_code == 1 and "--save would draw over the image" in result.stderr
    assert (tmp_path / "a.png").read_bytes() == before


def test_pictures_of_one_name_are_drawn_apart(tmp_path: Path, tiny_bundle: Path, splite: Callable[..., Result]) -> None:
    folder, image = tmp_path / "in", np.zeros((40, 40, 3), np.uint8)
    folder.mkdir()
    for name in ("hand.jpg", "hand.png", "other.png"):
        cv2.imwrite(str(folder / name), image)
    assert splite("run", str(tiny_bundle), str(folder), "--save", str(tmp_path / "out")).exit_code == 0
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["hand.jpg.png", "hand.png.png", "other.png.png"]
