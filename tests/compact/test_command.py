"""The command: from a checkpoint to a thinner one that the exporter takes, or two lines and no file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

pytest.importorskip("torch")


@pytest.fixture
def compact(
    splite: Callable[..., Result], tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path
) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        base = ("compact", tiny_checkpoint, "--model", tiny_model, "--round-to", 1, "--crops", 2)
        return splite(*base, *arguments, "-o", tmp_path / "thin.safetensors")

    return run


def test_what_it_writes_is_exported(
    compact: Callable[..., Result], splite: Callable[..., Result], tiny_model: Path, tmp_path: Path
) -> None:
    done = compact("--method", "group-norm", "--ratio", 0.4, "--json", "-")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["macs_after"] < result["macs_before"]
    assert result["max_difference"] < 1e-4
    assert result["latency"]["dense"]["p50_ms"] > 0
    thin = tmp_path / "thin.safetensors"
    exported = splite("export", thin, "--model", tiny_model, "--crops", 2, "-o", tmp_path / "thin.splite")
    assert exported.exit_code == 0, exported.output
    assert "note: reshaped" in exported.stderr


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("--method", "l1", "--ratio", 0.5, "--speed-up", 2), "speed_up and ratio are given.", "exactly one of"),
        (("--method", "l1", "--ratio", 1.5), "The ratio is 1.5.", "between 0 and 1"),
        (("--method", "l1", "--speed-up", 900), "The speed-up 900 cannot be reached", "Ask for at most --speed-up "),
        (("--method", "bn-scale", "--threshold", 1e-9), "No channel can go below the threshold", "--threshold"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_written(
    compact: Callable[..., Result], tmp_path: Path, arguments: tuple[object, ...], message: str, hint: str
) -> None:
    done = compact(*arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert hint in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_unasked(compact: Callable[..., Result], tmp_path: Path) -> None:
    tuned = tmp_path / "thin.safetensors"
    tuned.write_bytes(b"for days")
    done = compact("--ratio", 0.4)
    assert done.exit_code == 1 and f"{tuned} exists." in done.stderr and "Add --overwrite" in done.stderr
    assert tuned.read_bytes() == b"for days"
    done = compact("--ratio", 0.4, "--overwrite")
    assert done.exit_code == 0 and tuned.read_bytes() != b"for days"


@pytest.mark.parametrize("name", [".", "/"])
def test_a_folder_is_no_checkpoint(splite: Callable[..., Result], name: str) -> None:
    done = splite("compact", name)
    assert done.exit_code == 1 and f"Cannot read the checkpoint {name}: Is a directory." in done.stderr
    assert "Name a .safetensors or .pt file" in done.stderr


def test_more_images_than_memory_holds_are_refused(splite: Callable[..., Result]) -> None:
    done = splite("compact", "net.safetensors", "--ratio", 0.4, "--crops", 10**9)
    assert done.exit_code == 2 and "1000000000 is not in the range 1<=x<=10000." in done.stderr


def test_the_methods_offered_are_those_there_are() -> None:
    """The command names them itself, since its help imports no torch."""
    from splite_deploy.cli import main
    from splite_deploy.compact.importance import METHODS

    (option,) = [parameter for parameter in main.commands["compact"].params if parameter.name == "method"]
    assert tuple(option.type.choices) == METHODS
