"""A session of another package's backend, held to what a session is: else there is an error that names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError, SpliteError, first_line
from splite_deploy.runtime.backends.base import Backend, BaseSession, IoSignature

if TYPE_CHECKING:
    from splite_deploy.runtime.session import Session, TracedSession

_HINT = "That is a fault of the package that brings it: upgrade or remove it, or choose another backend with -b."


@contextmanager
def misbehaving(backend: Backend, doing: str) -> Iterator[None]:
    """Turns what a plug-in raises, and should not, into an error that names it.

    Args:
        backend: The plug-in.
        doing: What it does meanwhile, for the message.

    Raises:
        BackendError: It raises something that is no `SpliteError`.
    """
    try:
        yield
    except SpliteError:
        raise
    except (Exception, SystemExit) as err:  # another package's code may raise anything
        raise BackendError(
            f"The backend '{backend.name}' failed {doing}: {first_line(err, named=True)}", hint=_HINT
        ) from err


class PlugInSession(BaseSession):
    """A session of a plug-in.

    Args:
        backend: The plug-in.
        session: What it opened.
        file: The name of the file, for messages.

    Raises:
        BackendError: It is no session.
    """

    def __init__(self, backend: Backend, session: Session, file: str) -> None:
        self._backend, self._session, self._file = backend, session, file
        sides = []
        for side in ("inputs", "outputs"):
            with misbehaving(backend, f"to tell its {side}"):
                tensors = getattr(session, side)
            if not isinstance(tensors, tuple) or not all(isinstance(one, TensorSpec) for one in tensors) or not tensors:
                raise self._fault(f"opens something whose {side} are no tuple of TensorSpec")
            sides.append(tensors)
        super().__init__(IoSignature(*sides))

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        with misbehaving(self._backend, f"while it ran {self._file}"):
            given = self._session.run(feeds)
        if not isinstance(given, Mapping) or set(given) != {spec.name for spec in self.outputs}:
            what = f"the outputs {sorted(map(str, given))}" if isinstance(given, Mapping) else type(given).__name__
            raise self._fault(f"gives {what} instead of {sorted(spec.name for spec in self.outputs)}")
        return {spec.name: self._checked(spec, given[spec.name]) for spec in self.outputs}

    def _release(self) -> None:
        with misbehaving(self._backend, f"while it closed {self._file}"):
            self._session.close()

    def _checked(self, spec: TensorSpec, values: Any) -> FloatArray:
        """An output that is what the session said it would be."""
        if not isinstance(values, np.ndarray) or values.dtype != np.float32:
            kind = f"{values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
            raise self._fault(f"gives '{spec.name}' as {kind} instead of a float32 array")
        fits = values.ndim == len(spec.shape) and all(
            want in (None, have) for want, have in zip(spec.shape, values.shape, strict=True)
        )
        if not fits and spec.shape:
            wanted = "x".join("N" if size is None else str(size) for size in spec.shape)
            raise self._fault(f"gives '{spec.name}' in the shape {values.shape} instead of {wanted}")
        if not np.isfinite(values).all():
            raise self._fault(f"gives '{spec.name}' with values that are not finite (NaN or infinity)")
        return values

    def _fault(self, what: str) -> BackendError:
        return BackendError(f"The backend '{self._backend.name}' {what}, for {self._file}.", hint=_HINT)


class _StageTimedPlugInSession(PlugInSession):
    """One whose plug-in times the parts of an inference."""

    def stage_ms(self) -> Mapping[str, float] | None:
        """See `splite_deploy.runtime.session.StageTimed`."""
        with misbehaving(self._backend, "to tell its stages"):
            told: Mapping[str, float] | None = self._session.stage_ms()  # type: ignore[attr-defined]
        return told


class TracedPlugInSession(PlugInSession):
    """One whose plug-in tells its layers."""

    def layers(self) -> tuple[Layer, ...]:
        """See `splite_deploy.runtime.session.TracedSession.layers`."""
        with misbehaving(self._backend, "to tell its layers"):
            layers: Any = self._session.layers()  # type: ignore[attr-defined]
        if not isinstance(layers, tuple) or not all(isinstance(one, Layer) for one in layers):
            raise self._fault("tells layers that are no tuple of Layer")
        return layers


def held(backend: Backend, session: Session, file: str) -> PlugInSession:
    """A plug-in's session, with all that it can do."""
    kind = _StageTimedPlugInSession if hasattr(session, "stage_ms") else PlugInSession
    return kind(backend, session, file)


def held_traced(backend: Backend, session: TracedSession, file: str) -> TracedPlugInSession:
    """The same of one that tells its layers."""
    return TracedPlugInSession(backend, session, file)
