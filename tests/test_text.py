"""Text of others is safe to show, and commands are safe to type."""

from __future__ import annotations

import os
import subprocess
import unicodedata
from pathlib import Path

import pytest

from splite_deploy.text import command, quoted, shown, whole, without_secrets

NASTY = "a\x1b[31mred\x1b]8;;http://x\x07 \x9b31m\u202egnp.\u2066 [red]b[/] :smile:\r\n\x7f\u2028\udcff\ud800"
"""Escape codes of both lengths, a link, bidi overrides, markup, other line breaks, a byte of a name, half a letter."""


def test_nothing_that_a_terminal_obeys_is_left() -> None:
    said = shown(NASTY)
    assert said == (
        r"a\x1b[31mred\x1b]8;;http://x\x07 \x9b31m\u202egnp.\u2066 [red]b[/] :smile:\r\n\x7f\u2028\xff\ud800"
    )
    assert said.encode() and len(said.splitlines()) == 1
    assert not {unicodedata.category(one) for one in said} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize("text", ["", "hand v2.splite", "Händchen 手 ✓ é", "می‌خواهم", "👩‍🔬"])
def test_letters_of_any_language_stay(text: str) -> None:
    assert shown(text) == text and whole(text) == text


def test_line_breaks_stay_where_lines_are_due() -> None:
    assert shown("a\nb\tc\rd", lines=True) == "a\nb\tc\\rd"
    assert shown("a\nb") == "a\\nb"


def test_halves_of_characters_can_be_encoded() -> None:
    assert whole("a\udcff\n\x1b").encode() == b"a\\xff\n\x1b"


@pytest.mark.parametrize(
    "name",
    [
        "plain.pt",
        "a b.pt",
        "it's.pt",
        'q"q',
        "a;b",
        "$(id)",
        "-rf",
        "--",
        "`id`",
        "a\nb",
        "\x1b[31m",
        "e\udce9",
        "\\",
        "*",
    ],
)
def test_a_shell_gets_the_name_back(name: str) -> None:
    typed = command("export", Path(name), "-o", "NAME")
    assert typed.isprintable()
    shell = ["bash", "-c", f"printf '%s\\0' {typed}"]
    found = subprocess.run(shell, capture_output=True, check=True).stdout.split(b"\0")
    dashed = b"./" if name.startswith("-") else b""
    assert found == [b"splite-deploy", b"export", dashed + os.fsencode(name), b"-o", b"NAME", b""]


def test_a_word_that_begins_with_a_dash_is_an_option() -> None:
    assert command("bench", "-b", Path("-b")) == "splite-deploy bench -b ./-b"
    assert quoted("\ud800'") == r"$'\x5cud800\x27'"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.2/a did not answer.", "rtsp://***@10.0.0.2/a did not answer."),
        ("rtsp://admin:s/e@cret@host:554/a", "rtsp://***@host:554/a"),
        ("rtsp://host/a?user=x&password=secret&channel=1", "rtsp://host/a?user=x&password=***&channel=1"),
        (
            "rtspsrc location=rtsp://host/a user-pw=secret ! decodebin",
            "rtspsrc location=rtsp://host/a user-pw=*** ! decodebin",
        ),
        ("rtsp://host/a and a@b", "rtsp://host/a and a@b"),
        ("Write ssh://user@host or ssh://user@host:22;", "Write ssh://user@host or ssh://user@host:22;"),
        ("'ssh://pi:se@cret@board:22' is no address", "'ssh://***@board:22' is no address"),
        ("https://host/a", "https://host/a"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
