"""The command from a checkpoint to a page, with everything real: compaction, training, export, verify and bench."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

pytest.importorskip("torch")
pytest.importorskip("jinja2")


from splite_deploy.bundle import Bundle
from splite_deploy.cli import main

TUNE = Path(__file__).with_name("tune.py")
TRAIN = f"{sys.executable} {TUNE} --init {{checkpoint}} --steps {{steps}} --out {{out}} --model {{model}}"


def line(checkpoint: Path, model: Path, folder: Path, *more: str) -> list[str]:
    """A search with one network to train, in the size of a stamp."""
    options = ["--speed-up", "2", "--round-to", "2", "-p", "fp32", "--steps", "8", "--crops", "4", "--frames", "10"]
    given = ["--model", str(model), "--threads", "1", "--train", TRAIN, "-o", str(folder)]
    return ["fit", str(checkpoint), *given, *options, "--one-by-one", *more]


@pytest.fixture(scope="module")
def searched(
    tiny_checkpoint: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    from click.testing import CliRunner

    folder = tmp_path_factory.mktemp("fit") / "search"
    result = CliRunner().invoke(main, line(tiny_checkpoint, tiny_model, folder))
    assert result.exit_code == 0, result.output
    assert (
        "train x2-r2-64x48 to 8 steps: done" in result.stderr and "Ship x2-r2-64x48 ort fp32 on here" in result.stdout
    )
    return folder, json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_a_search_ends_with_a_bundle_and_the_command_that_makes_it(searched: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = searched
    bundle = Bundle.open(folder / "here.splite")
    assert [one.label for one in bundle.manifest.artifacts] == ["ort fp32"]
    (point,) = figures["points"]
    assert (point["network"], point["place"]) == ("x2-r2-64x48", "here")
    assert 0 < point["measured"]["p50_ms"] <= point["measured"]["p99_ms"] and point["measured"]["against"] == []
    network = figures["networks"]["x2-r2-64x48"]
    assert network["rungs"]["8"] == pytest.approx(point["error"], abs=1e-3) and network["predicted_ms"]["here"] > 0
    assert figures["parent_error"] == 0 and figures["against"] == "parent"
    (shipped,) = figures["shipped"]
    assert str(folder / "networks" / "x2-r2-64x48.safetensors") in shipped["again"]
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "Ship x2-r2-64x48 ort fp32 on here" in page and "Make it again" in page
    assert "px from the parent" in page and "In the median of 1 they are off by" in page


@pytest.mark.slow
def test_the_same_search_again_trains_nothing(
    searched: tuple[Path, dict[str, Any]], tiny_checkpoint: Path, tiny_model: Path, splite: Callable[..., Result]
) -> None:
    folder, figures = searched
    result = splite(*line(tiny_checkpoint, tiny_model, folder, "--quiet"))
    assert result.exit_code == 0 and result.output == ""
    again = json.loads((folder / "results.json").read_text())
    assert again["steps"]["done"] == {} and again["steps"]["found"]["train"] == 1
    assert again["points"] == figures["points"]
    slower = splite(*line(tiny_checkpoint, tiny_model, folder, "--budget", "0.0001ms"))
    assert slower.exit_code == 1 and "No network can keep the budget of 0.0001 ms" in slower.stderr
    assert (folder / "here.splite").is_dir()


def test_what_cannot_be_is_refused_before_anything_is_done(
    tiny_checkpoint: Path, tiny_model: Path, splite: Callable[..., Result], tmp_path: Path
) -> None:
    for more, said in (
        (["--on", "attic"], "Write ssh://user@host or ssh://user@host:port"),
        (["--on", "here", "--on", "here"], "--on names here twice"),
        (["--address", "auto"], "--one-by-one needs no cluster"),
        (["--budget", "soon"], "'soon' is not a time"),
    ):
        refused = splite(*line(tiny_checkpoint, tiny_model, tmp_path / "out", *more))
        assert refused.exit_code == 2 and said in refused.stderr, refused.output
    untrained = splite("fit", tiny_checkpoint, "--model", tiny_model, "-o", tmp_path / "out", "--steps", "8")
    assert untrained.exit_code == 2 and "--steps is of fine-tuning, and without --train" in untrained.stderr
    (tmp_path / "labels.json").write_text("[]")
    (tmp_path / "none").mkdir()
    for option, named, said in (
        ("--labels", "labels.json", "labels.json"),
        ("--images", "none", "none holds no image."),
        ("--images", "absent", "for example with --images"),
        ("--calibration", "absent", "absent is not a folder of images, a labels.json or an .npz."),
        ("--calibration", "absent", "for example with --calibration"),
    ):
        refused = splite(*line(tiny_checkpoint, tiny_model, tmp_path / "out", option, str(tmp_path / named)))
        assert refused.exit_code == 1 and said in " ".join(refused.stderr.split()) and "hint:" in refused.stderr, (
            refused.output
        )
        assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cache").mkdir()  # as browsers and build tools have one
    (tmp_path / "out" / "index.html").touch()
    refused = splite(*line(tiny_checkpoint, tiny_model, tmp_path / "out"))
    assert (tmp_path / "out" / "index.html").read_bytes() == b""
    assert refused.exit_code == 1 and "is not the folder of a search" in refused.stderr
