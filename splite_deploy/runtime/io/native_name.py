"""Names of files as OpenCV and FFmpeg take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splite_deploy.files import work_folder


@contextmanager
def native_name(file: Path) -> Iterator[str]:
    """A name by which OpenCV's videos reach a file, whatever it is called; good until the block ends.

    FFmpeg takes what stands before a colon for a protocol, unless a slash comes first: the name is made absolute. On
    one that is not UTF-8 every OpenCV (4.7 to 5.0) crashes: there it is reached through a link in a folder of ours.

    Raises:
        OutputError: That folder cannot be made.
    """
    name = str(file.absolute())
    if is_utf8(name):
        yield name
        return
    with work_folder("video") as folder:
        link = folder / f"video{file.suffix if file.suffix.isascii() else ''}"
        link.symlink_to(name)
        yield str(link)


def is_utf8(text: str) -> bool:
    """Whether a name can be given to native code, which takes UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
