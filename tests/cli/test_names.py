"""Names that are too long for any file, in the place of every argument that names one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

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
