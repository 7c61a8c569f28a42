"""Results of steps, kept by what they are a function of: a search that was killed goes on, and a second one reuses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from splite_deploy.errors import OutputError, SpecError
from splite_deploy.files import is_file, sha256_of, write_file, writing
from splite_deploy.fit.steps import Result, Step
from splite_deploy.spec.plain import json_text, structure, to_plain
from splite_deploy.spec.reading import ReadError, read_json

_FILES, _RESULTS = "files", "results"


def is_store(folder: Path) -> bool:
    """Whether results of searches are kept there: many a project has a folder called cache."""
    return all((folder / name).is_dir() for name in (_FILES, _RESULTS))


class Store:
    """A folder of files by their hash, and of results by the key of their step.

    A result is written after the files that it names, and each of them whole: whoever is killed, or finds the disk
    full, leaves fewer results, never half of one. What is damaged, such as by a loss of power, counts as absent, and is
    made again.

    Args:
        folder: Made where it is not there.

    Raises:
        OutputError: It cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._files, self._results = folder / _FILES, folder / _RESULTS
        self._whole: set[str] = set()
        for one in (self._files, self._results):
            with writing(one):
                one.mkdir(parents=True, exist_ok=True)

    def find(self, step: Step) -> Result | None:
        """What came of this very step before; None where nothing did, or a file of it is lost or damaged."""
        read = self._read(self._results / f"{step.key}.json")
        return None if read is None or not all(map(self._has, read[1].files.values())) else read[1]

    def keep(
        self, step: Step, files: Mapping[str, bytes], facts: Mapping[str, Any], seconds: float, node: str
    ) -> Result:
        """Writes what came of a step.

        Raises:
            OutputError: It cannot be written.
        """
        result = Result({name: self.add(content) for name, content in files.items()}, facts, seconds, node)
        record = {"kind": step.kind, "about": step.about, "options": step.options, "result": to_plain(result)}
        text, _ = json_text(record, indent=1)
        write_file(self._results / f"{step.key}.json", f"{text}\n".encode())
        return result

    def add(self, content: bytes) -> str:
        """Keeps a content; gives its hash.

        Raises:
            OutputError: It cannot be written.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        if not self._has(sha256):
            write_file(self._files / sha256, content)
            self._whole.add(sha256)
        return sha256

    def _has(self, sha256: str) -> bool:
        """Whether a content is there, whole; read once."""
        file = self._files / sha256
        if not is_file(file):
            return False
        if sha256 not in self._whole and sha256_of(file) == sha256:
            self._whole.add(sha256)
        return sha256 in self._whole

    def content(self, sha256: str) -> bytes:
        """A content by its hash.

        Raises:
            OutputError: It was changed since it was written.
        """
        content = (self._files / sha256).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise OutputError(
                f"{self._files / sha256} is not what was written there.", hint="Delete it: it will be made again."
            )
        return content

    def all_of(self, kind: str) -> Iterator[tuple[Mapping[str, Any], Result]]:
        """Options and result of every step of a kind, those of earlier searches too, in no order."""
        for file in self._results.glob("*.json"):
            read = self._read(file)
            if read is not None and read[0].get("kind") == kind:
                yield read[0]["options"], read[1]

    @staticmethod
    def _read(file: Path) -> tuple[Mapping[str, Any], Result] | None:
        try:
            record = read_json(file)
            return record, structure(Result, record["result"], "")
        except (ReadError, SpecError, KeyError, TypeError):
            return None
