"""What holds a device, a file or a network, and lets go of it at the end of a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Literal, TypeVar

_Self = TypeVar("_Self")


class Closing(ABC):
    """Closes itself at the end of a ``with`` block, and passes on what was raised in it."""

    @abstractmethod
    def close(self) -> None:
        """Frees what is held."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False
