"""What failed beside what passed: one artifact that fails is recorded and does not discard the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from splite_deploy.bundle import Bundle, Failure
from splite_deploy.errors import BackendError, ExportError, OutputError, ParityError, SpliteError


class PartialExportError(ExportError):
    """Some of what was requested failed; the bundle holds the rest.

    Attributes:
        bundle: The bundle, written and checked.
        failures: What it lacks.
    """

    def __init__(self, bundle: Bundle, failures: Sequence[Failure]) -> None:
        told = "; ".join(f"{', '.join(labels)}: {one.message}" for labels, one in grouped(failures))
        held = ", ".join(artifact.label for artifact in bundle.manifest.artifacts)
        super().__init__(
            f"Not all that was requested could be exported: {told}",
            hint=f"{bundle.path} holds what passed: {held}. {failures[0].hint}",
        )
        self.bundle = bundle
        self.failures = tuple(failures)


class Failures:
    """Collects the expected errors of an export, each for the artifact that it concerns.

    Args:
        all_or_nothing: Raises every error at once instead.
    """

    def __init__(self, all_or_nothing: bool) -> None:
        self._all_or_nothing = all_or_nothing
        self._first: SpliteError | None = None
        self.found: list[Failure] = []

    @contextmanager
    def kept(self, *artifacts: str) -> Iterator[None]:
        """Records an expected error of the block; nothing after it in the block is done.

        A file that cannot be written is no matter of one artifact: that error passes through, like unexpected ones.

        Args:
            artifacts: Labels of what fails with it.
        """
        try:
            yield
        except OutputError:
            raise
        except SpliteError as err:
            self.keep(err, *artifacts)

    def keep(self, err: SpliteError, *artifacts: str) -> None:
        """Records an expected error.

        Args:
            err: The error.
            artifacts: Labels of what fails with it.

        Raises:
            SpliteError: The error, where nothing is written if one artifact fails.
        """
        if self._all_or_nothing:
            raise err
        self._first = self._first or err
        self.found += [Failure(label, _stage(err), err.message, err.hint) for label in artifacts]

    def check(self, source: str) -> None:
        """Refuses to go on with what is made from an artifact that failed.

        Args:
            source: Its label.

        Raises:
            ExportError: It failed.
        """
        for failure in self.found:
            if failure.artifact == source:
                raise ExportError(f"It is made from {source}, which failed.", hint=failure.hint)

    def raise_first(self) -> None:
        """Raises the first error, if there was one: nothing passed."""
        if self._first is not None:
            raise self._first


def grouped(failures: Sequence[Failure]) -> list[tuple[list[str], Failure]]:
    """Failures with the labels of all artifacts that failed for the same reason."""
    found: dict[tuple[str, str], tuple[list[str], Failure]] = {}
    for one in failures:
        found.setdefault((one.message, one.hint), ([], one))[0].append(one.artifact)
    return list(found.values())


def _stage(err: SpliteError) -> str:
    if isinstance(err, ParityError):
        return "comparison"
    return "run" if isinstance(err, BackendError) else "conversion"
