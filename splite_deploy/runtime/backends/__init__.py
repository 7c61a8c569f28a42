"""Which backends there are: those of this folder, and those that other packages bring along."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

from splite_deploy.errors import UsageError, first_line
from splite_deploy.runtime.backends import litert, ncnn, openvino, ort, replay, trt
from splite_deploy.runtime.backends.base import Backend, BackendOptions, ModelFile

PLUG_INS = "splite_deploy.backends"
"""Group of the entry points of plug-ins; each names an object of the type `Backend`."""
BUILT_IN: tuple[Backend, ...] = (
    trt.BACKEND,
    ort.BACKEND,
    litert.BACKEND,
    openvino.BACKEND,
    ncnn.BACKEND,
    replay.BACKEND,
)
"""In the order in which ``auto`` prefers them."""


@cache
def all_backends() -> Mapping[str, Backend]:
    """Every backend by its name: the built-in ones, then plug-ins.

    A plug-in that cannot be loaded is there too, with its problem, for `splite-deploy doctor` to tell.
    """
    taken = {name for one in BUILT_IN for name in (one.name, *one.aliases)}
    found: dict[str, Backend] = {}
    for point in sorted(set(entry_points(group=PLUG_INS)), key=lambda point: (point.name, point.value)):
        backend = _plug_in(point, taken)
        taken |= {backend.name, *backend.aliases}
        found[backend.name] = backend
    return {**{one.name: one for one in BUILT_IN}, **found}


def find_backend(name: str) -> Backend:
    """A backend by its name or an alias.

    Raises:
        UsageError: There is none.
        BackendError: It is a plug-in that could not be loaded.
    """
    for backend in all_backends().values():
        if name in (backend.name, *backend.aliases):
            if backend.problem:
                backend.require()  # raises
            return backend
    raise UsageError(f"There is no backend '{name}'.", hint=f"Choose one of: {', '.join(all_backends())}.")


def exportable_backends() -> tuple[str, ...]:
    """The names of the backends that ``export`` makes something for."""
    return tuple(sorted(name for name, backend in all_backends().items() if backend.export is not None))


def distributions() -> dict[str, tuple[str, ...]]:
    """Distributions whose versions belong to a result, of all backends; see `Backend.distributions`."""
    return {name: held for one in all_backends().values() for name, held in one.distributions.items()}


def _plug_in(point: EntryPoint, taken: set[str]) -> Backend:
    try:
        backend = point.load()
    except Exception as err:  # whatever another package trips over, ours goes on
        return _broken(point, f"{point.value}: {first_line(err, named=True)}", taken)
    if not isinstance(backend, Backend):
        return _broken(point, f"{point.value} is a {type(backend).__name__}, not a Backend", taken)
    if problem := _malformed(backend):
        return _broken(point, f"{point.value}: {problem}", taken)
    if clash := sorted(taken & {backend.name, *backend.aliases}):
        return _broken(point, f"{point.value} calls itself '{clash[0]}', as another backend does", taken)
    return backend


def _malformed(backend: Any) -> str:
    """What is wrong with the description of a plug-in, as far as what reads it would fail; empty for nothing."""
    texts = (backend.name, backend.label, backend.install, backend.layers_from, backend.reference, backend.self_test)
    if not backend.name or not all(isinstance(text, str) for text in texts):
        return "its name, label or another text is none"
    for field in ("formats", "aliases", "modules"):
        held = getattr(backend, field)
        if not isinstance(held, tuple) or not all(isinstance(one, str) for one in held):
            return f"its {field} are no tuple of texts"
    if not isinstance(backend.suffixes, Mapping) or not isinstance(backend.distributions, Mapping):
        return "its suffixes or distributions are no mapping"
    if not callable(backend.open):
        return "its open cannot be called"
    try:
        options = backend.options()
    except Exception as err:  # whatever another package trips over
        return f"its options have no defaults ({first_line(err, named=True)})"
    return "" if isinstance(options, BackendOptions) else "its options are not derived from BackendOptions"


def _broken(point: EntryPoint, problem: str, taken: set[str]) -> Backend:
    """What stands for a plug-in that cannot be used; under its own name where no other has that."""

    def refuse(file: ModelFile, options: object) -> NoReturn:
        raise AssertionError("It reads nothing, so nobody opens anything with it.")

    name = point.value if point.name in taken else point.name
    return Backend(name=name, label=point.name, open=refuse, formats=(), problem=problem)
