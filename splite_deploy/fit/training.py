"""Fine-tuning by a command of the user's, or by a function: what it is given, and what it has to leave."""

from __future__ import annotations

import importlib
import platform
import shlex
import string
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from splite_deploy.children import Child
from splite_deploy.errors import OptionError, UsageError, how_it_ended, reading_hint
from splite_deploy.files import cache_folder, is_file
from splite_deploy.fit.digest import digest_of
from splite_deploy.fit.imports import module_file
from splite_deploy.text import shown

PLACES = ("checkpoint", "steps", "out", "model", "height", "width", "python", "cache")
"""What a command may name in braces: the first three have to be there. ``python`` is that of splite-deploy, ``cache`` a
folder that trainings share: what they write there is no part of the key of their results."""
_REQUIRED = PLACES[:3]
_LINES, _LAST_BYTES = 12, 1 << 16
_CALLER = "splite_deploy.fit.training"
_FORM = "Write it as 'python train.py --init {checkpoint} --steps {steps} --out {out}'."


@dataclass(frozen=True)
class TrainingCommand:
    """A command that fine-tunes a checkpoint.

    Attributes:
        words: Of the command, with places in braces.
    """

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> TrainingCommand:
        """Reads a command with places in braces, or ``module:function``.

        A function is called as ``function(checkpoint, steps, out, model)`` with three paths and a number, in a process
        of its own.

        Raises:
            OptionError: It is no such command.
        """
        try:
            words = shlex.split(text)
        except ValueError as err:
            raise OptionError(f"--train cannot be read: {err}.", hint=_FORM) from err
        if len(words) == 1 and ":" in words[0]:
            words = ["{python}", "-m", _CALLER, words[0], "{checkpoint}", "{steps}", "{out}", "{model}"]
        try:
            named = {name for word in words for _, name, *_ in string.Formatter().parse(word) if name is not None}
        except ValueError as err:
            raise OptionError(
                f"--train cannot be read: {err}.", hint="Braces that stand for themselves are {{ }}."
            ) from err
        if unknown := named - set(PLACES):
            raise OptionError(
                f"--train names {{{min(unknown)}}}, which is nothing.",
                hint=f"It may name {', '.join(f'{{{one}}}' for one in PLACES)}; braces that stand for themselves are "
                "{{ }}.",
            )
        if missing := [one for one in _REQUIRED if one not in named]:
            raise OptionError(f"--train does not name {{{missing[0]}}}.", hint=_FORM)
        return cls(tuple(words))

    def with_places(self, places: Mapping[str, object]) -> list[str]:
        """The words of the command with everything in its place."""
        return [word.format_map(places) for word in self.words]

    def digest(self) -> str:
        """SHA-256 of the words, of the files and modules that they name, and of the code that these import.

        What it reads besides is not known.
        """
        named = [Path(word.rpartition("=")[2]) for word in self.words if "{" not in word]
        for before, word in pairwise(self.words):
            if before in ("-m", _CALLER) and word != _CALLER:
                named += filter(None, [module_file(word.partition(":")[0], Path())])
        return digest_of([path for path in named if path.exists()], repr(self.words))

    def run(self, checkpoint: Path, steps: int, out: Path, model: Path, size: tuple[int, int]) -> Path:
        """Fine-tunes.

        Args:
            checkpoint: To begin with.
            steps: How many.
            out: A path in an empty folder: for the checkpoint, or for a folder with one ``.safetensors`` in it.
            model: Its ``model.toml``.
            size: Height and width of the input, pixels.

        Returns:
            The new checkpoint.

        Raises:
            UsageError: It cannot be started, fails, or leaves no checkpoint.
        """
        places: dict[str, object] = {
            "checkpoint": checkpoint,
            "steps": steps,
            "out": out,
            "model": model,
            "python": sys.executable,
        }
        places["cache"] = (cache_folder() or out.parent) / "fit"
        words = self.with_places({**places, "height": size[0], "width": size[1]})
        log = out.with_name("training.log")
        with log.open("wb") as stream:
            try:
                with Child(words, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT) as child:
                    status = child.process.wait()
            except OSError as err:
                hint = reading_hint(err, "Name a program that is there.")
                raise UsageError(f"The training cannot be started: {words[0]}: {err.strerror}.", hint=hint) from err
        if status:
            said = [shown(line)[:300] for line in _end_of(log).splitlines() if line.strip()]
            last = f" It said last: {' | '.join(said[-_LINES:])}" if said else " It said nothing."
            raise UsageError(
                f"The training failed: {how_it_ended(status)}.{last}",
                hint=f"Run it by hand, with files of your own in place of the braces: {shlex.join(self.words)}",
            )
        made = sorted(filter(is_file, out.glob("*.safetensors"))) if out.is_dir() else [out] if out.is_file() else []
        if len(made) != 1:
            raise UsageError(
                f"The training left {len(made) or 'no'} checkpoint{'s' if made else ''} at {{out}}.",
                hint="It has to write one file of that name, or a folder with one .safetensors file in it.",
            )
        return made[0]


def _end_of(log: Path) -> str:
    """The last 64 KiB, whatever the training wrote."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LAST_BYTES))
        return stream.read().decode(errors="replace")


def _call(name: str, checkpoint: str, steps: str, out: str, model: str) -> None:
    """Calls the function that ``--train module:function`` names; the working folder is on the path as in ``python``."""
    sys.path.insert(0, str(Path.cwd()))
    module, _, function = name.partition(":")
    try:
        called = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as err:
        traceback.print_exc()
        sys.exit(
            f"{name} cannot be imported on {platform.node()} by {sys.executable}: {err}. What a training imports has "
            "to lie below the working folder, which machines of a cluster are sent, or be installed on each of them."
        )
    called(Path(checkpoint), int(steps), Path(out), Path(model))


if __name__ == "__main__":
    _call(*sys.argv[1:])
