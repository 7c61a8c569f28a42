"""JSON that every reader takes, written at the speed of json where nothing has to be replaced."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest

from splite_deploy.spec import plain


def test_sound_data_is_written_without_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(plain, "_sound", refuse)
    value = [{"name": "Zürich", "keypoints": [[1.5, -2.25]] * 3, "unit": None}]
    assert plain.json_text(value, indent=1) == (json.dumps(value, indent=1), [])


@pytest.mark.parametrize(
    ("value", "text", "lost"),
    [
        ({"a": [1.0, float("nan")]}, '{"a": [1.0, null]}', ["a[1]"]),
        ({"a": float("inf"), "\ud83d": 1}, '{"a": null, "\\\\ud83d": 1}', ["a"]),
        (["\ud83d"], '["\\\\ud83d"]', []),
        (["\U0001f600"], '["\\ud83d\\ude00"]', []),
        (MappingProxyType({"a": (1, 2)}), '{"a": [1, 2]}', []),
    ],
)
def test_what_no_reader_takes_is_replaced(value: Any, text: str, lost: list[str]) -> None:
    assert plain.json_text(value) == (text, lost)
