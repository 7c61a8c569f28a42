"""Markup, escape codes and shell syntax in what others named: no command obeys any of it."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from bench_results import bench_result
from click.testing import CliRunner

from splite_deploy.bench.records import append_result
from splite_deploy.bundle import Bundle
from splite_deploy.cli import main

NASTY = "[red]a[/] [/] [link=x]b\x1b[31m\x9b2J\u202e; $(touch owned) 'q' \"r\" -x"
"""As part of a name of a model or a bundle."""
FILE = NASTY.replace("/", "")


def check(text: str) -> None:
    """Asserts that a terminal obeys nothing of it, and that nothing was taken for rich's markup."""
    found = {one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert found <= {"\n"}, found
    assert "Traceback" not in text


def invoke(*words: str | os.PathLike[str], status: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(main, [os.fspath(word) for word in words])
    assert result.exit_code == status, (result.output, result.exception)
    check(result.stdout)
    check(result.stderr)
    return result.stdout, result.stderr


@pytest.fixture
def place(tmp_path: Path, tiny_checkpoint: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint, its spec and an image with such names; the current folder."""
    folder = tmp_path / FILE
    shutil.copytree(tiny_model.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(tiny_checkpoint, folder / f"-{FILE}.safetensors")
    cv2.imwrite(str(folder / "hand.png"), np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    (folder / "hand.png").rename(folder / f"{FILE}.png")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_every_command_shows_names_as_they_are(place: Path) -> None:
    checkpoint, image, bundle = place / f"-{FILE}.safetensors", place / f"{FILE}.png", place / f"{FILE}.splite"
    out, _ = invoke("export", checkpoint, "-o", bundle, "--crops", "4")
    assert "[red]a[] [] [link=x]b\\x1b[31m\\x9b2J\\u202e" in out
    typed = [line for line in out.splitlines() if line.startswith("  splite-deploy ")]
    assert len(typed) >= 2 and all(shlex.split(line) for line in typed)
    report = json.loads((bundle / "report.json").read_text())
    (bundle / "report.json").write_text(json.dumps({**report, "notes": [NASTY]}))
    out, _ = invoke("inspect", bundle)
    assert "note" in out and "[red]a[/] [/] [link=x]b\\x1b[31m" in out
    for words in (["inspect", bundle, "--layers"], ["verify", bundle], ["inspect", checkpoint]):
        invoke(*words)
    out, _ = invoke("run", bundle, image)
    assert json.loads(out)["image"] == image.name
    _, err = invoke("run", bundle, place / f"{FILE}.jpg", status=1)
    assert len(err.splitlines()) == 2 and "[red]a[] [] [link=x]b\\x1b" in err
    for words in (("verify", f"--x\x1b[31m{FILE}"), ("verify", bundle, "-p", f"{FILE}"), (f"a{FILE}",)):
        _, err = invoke(*words, status=2)
        assert "\\x1b[31m" in err
    _, err = invoke("init", checkpoint, status=1)
    out, _ = invoke(
        "compact", checkpoint, "-o", "small.safetensors", "--crops", "2", "--ratio", "0.2", "--round-to", "1"
    )
    assert "model.toml" in shlex.split(out.splitlines()[-1])[4]


def test_results_of_others_are_shown_as_they_are(tmp_path: Path) -> None:
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    result = bench_result(bundle=f"={NASTY}|<b>\n", artifact_file=f"{NASTY}.onnx")
    for file in (before, after):
        append_result(file, result)
    files = {kind: tmp_path / f"page.{kind}" for kind in ("html", "csv", "markdown")}
    options = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    invoke("bench", "--compare", before, after, *options)
    for file in files.values():
        check(file.read_text())
    (row, _) = csv.DictReader(files["csv"].read_text().splitlines())
    assert row["bundle"].startswith("'=[red]a[/]") and row["bundle"].endswith("|<b>\\n")
    table = files["markdown"].read_text()
    assert "=\\[red\\]a\\[/\\]" in table and "\\|\\<b\\>" in table and len(table.splitlines()) == 6
    assert "&lt;b&gt;" in files["html"].read_text() and "<b>\\n" not in files["html"].read_text()


@pytest.mark.parametrize("kind", ["csv", "markdown", "html"])
def test_a_dash_is_standard_output_for_every_kind(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    append_result("a.jsonl", bench_result())
    printed, _ = invoke("bench", "--compare", "a.jsonl", "a.jsonl", f"--{kind}", "-")
    invoke("bench", "--compare", "a.jsonl", "a.jsonl", f"--{kind}", "file")
    assert printed == Path("file").read_text() and not Path("-").exists()


def test_two_files_cannot_be_printed(tmp_path: Path) -> None:
    _, err = invoke("bench", tmp_path / "x.splite", "--json", "-", "--csv", "-", status=2)
    assert err == "error: --json and --csv name standard output, -.\nhint:  Name a file for all but one of them.\n"


def test_line_breaks_of_ours_stay_and_those_of_others_are_shown(
    tmp_path: Path, tiny_model: Path, tiny_bundle: Path
) -> None:
    spec = tiny_model.read_text(encoding="utf-8")
    wrong = spec.replace("mean = ", '"me\\nan" = ').replace("std = ", "st = ")
    assert wrong.count("st = ") == 1
    (tmp_path / "model.toml").write_text(wrong, encoding="utf-8")
    shutil.copy(tiny_bundle / Bundle.open(tiny_bundle).find().file, tmp_path / "net.onnx")
    picture = tmp_path / "hand.png"
    cv2.imwrite(str(picture), np.zeros((64, 48, 3), np.uint8))
    _, err = invoke("run", tmp_path / "net.onnx", picture, status=1)
    message, *lines = err.splitlines()
    assert "me\\nan" in message and message.startswith("error: ")
    assert len(lines) > 1 and lines[0].startswith("hint:  ") and all(line.startswith("       ") for line in lines[1:])
    assert not any(": Write" in line and "\\nin" in line for line in lines)
