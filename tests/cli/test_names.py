"""Names that are too long for any file, and links that lead to none, in the place of arguments that name one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from splite_deploy.errors import SpecError

LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", LONG),
        ("inspect", LONG),
        ("inspect", f"{LONG}.safetensors"),
        ("init", f"{LONG}.onnx"),
        ("bench", "--compare", LONG, LONG),
        ("verify", "BUNDLE", "--json", LONG),
        ("run", "BUNDLE", LONG),
        ("run", "BUNDLE", f"{LONG}.mp4"),
        ("export", f"{LONG}.pt", "-o", "new.splite"),
        ("compact", f"{LONG}.pt", "-o", "new.safetensors", "--speed-up", "2"),
        ("calibrate", f"{LONG}.pt", "--images", ".", "-o", LONG),
    ],
    ids=" ".join,
)
def test_a_name_that_is_too_long(
    arguments: tuple[str, ...],
    splite: Callable[..., Result],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = splite(*(tiny_bundle if one == "BUNDLE" else one for one in arguments))
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, result.output
    assert "error: " in result.stderr and "\nhint:  " in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("doctor", "--json", "a"), "Cannot write a: Too many levels of symbolic links."),
        (("doctor", "--json", "a/b"), "Cannot write a/b: Too many levels of symbolic links."),
        (("run", "a", "b", "--json", "a"), "Cannot write a: Too many levels of symbolic links."),
        (("bench", "a", "--html", "b"), "Cannot write b: Too many levels of symbolic links."),
    ],
)
def test_links_that_lead_in_a_circle(
    words: tuple[str, ...], told: str, tmp_path: Path, splite: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").symlink_to("b")
    Path("b").symlink_to("a")
    result = splite(*words)
    assert result.exit_code == 1 and f"error: {told}" in result.stderr, result.output
    assert Path("a").is_symlink() and Path("b").is_symlink()


def test_code_behind_links_that_lead_in_a_circle(tmp_path: Path) -> None:
    from splite_deploy.export.source.symbol import load_symbol

    (tmp_path / "arch.py").symlink_to("arch.py")
    with pytest.raises(SpecError, match=r"'arch.py:build' in model.toml names no Python file \(.*arch.py is missing"):
        load_symbol("arch.py:build", tmp_path)
