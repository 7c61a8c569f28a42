"""Text of others made safe to show, and commands safe to type. Standard library only.

Names of files, bundles, layers and keypoints, notes and metadata come from whoever made them. What shows them calls
`shown` in the one place where it writes: the console, tables, pages.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Iterable

_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Unicode's categories of what has no glyph of its own: control and format characters, halves, other line breaks."""
_JOINERS = "\u200c\u200d"  # they shape letters of Persian and Hindi, and emoji
_LATIN = re.compile(r"[ -~]*")


def shown(text: str, *, lines: bool = False) -> str:
    r"""A text with everything replaced that a terminal would obey or hide: escape codes, line breaks, bidi overrides.

    Such a character becomes what Python writes for it, for example ``\x1b``; a byte of a file's name that is no UTF-8
    becomes ``\xe9``.

    Args:
        text: Any string.
        lines: Whether it may have several lines; then line breaks and tabs stay.
    """
    if _LATIN.fullmatch(text):
        return text
    kept = f"{_JOINERS}\n\t" if lines else _JOINERS
    return "".join(one if one in kept or unicodedata.category(one) not in _UNSEEN else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


_USER = re.compile(r"(?<=://)(?:(?<!ssh://)|(?=\S*:\S*@))\S+@")
"""Of ssh a name alone is no secret: whom to log in as is what has to be typed and mended."""
_SECRET = re.compile(r"\b((?:[a-z]+[-_])?(?:password|passwd|pwd|pass|pw|token|secret)=)[^&\s'\"]+", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """A text without the names and passwords in addresses, and passwords in their queries and pipelines.

    Logs and results are read by more people than may see through a camera.
    """
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


class Lines(str):
    """Lines of ours as one text: what others wrote in them was made safe before they were joined."""

    __slots__ = ()

    @classmethod
    def of(cls, lines: Iterable[str]) -> Lines:
        """Joins lines; a line break within one is of others, and shown as what it is."""
        return cls("\n".join(map(shown, lines)))

    def __add__(self, more: str) -> Lines:
        """The text with more at the end of its last line."""
        return Lines(super().__add__(more if isinstance(more, Lines) else shown(more)))


class Part(str):
    """How far a step of a longer work is, as a message of progress: it belongs to the line of the step before it."""

    __slots__ = ()


def whole(text: str) -> str:
    """A text that can be encoded: halves of characters are replaced as `shown` does; all else stays."""
    return "".join(_escaped(one) if "\ud800" <= one <= "\udfff" else one for one in text)


def counted(count: int, what: str) -> str:
    """A number with what it counts, in the singular or with an s: 1 result, 2 results."""
    return f"{count} {what}{'s'[: count != 1]}"


def command(*words: str | os.PathLike[str]) -> str:
    """What to type to run a command of ours.

    Args:
        words: The command's name, options and arguments. A path, given as such, that begins with a dash is no option.
    """
    return " ".join(["splite-deploy", *map(quoted, words)])


def quoted(word: str | os.PathLike[str]) -> str:
    """A word or path as a shell takes it; what cannot be shown is written as bytes, in the way of bash and zsh."""
    text = os.fspath(word)
    if not isinstance(word, str) and text.startswith("-"):
        text = f"./{text}"
    if shown(text) == text:
        return shlex.quote(text)
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a character, which no file's name holds
        content = whole(text).encode()
    parts = (chr(one) if 32 <= one < 127 and one not in b"\\'" else f"\\x{one:02x}" for one in content)
    return f"$'{''.join(parts)}'"
