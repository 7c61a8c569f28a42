"""The interface of the runtime: a loaded artifact that maps named arrays to named float32 arrays, and how to load one.

A *format* is what kind of file an artifact is; a *backend* runs the files of one or several formats. Which backends
there are says `splite_deploy.runtime.backends`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import Artifact, Bundle, TensorSpec
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import UsageError
from splite_deploy.files import is_file
from splite_deploy.runtime.backends import BUILT_IN, all_backends, find_backend
from splite_deploy.runtime.backends.base import Backend, BackendOptions, IoSignature, ModelFile, check_signature
from splite_deploy.runtime.backends.onnx_file import check_onnx
from splite_deploy.runtime.backends.placement import Placement
from splite_deploy.runtime.backends.plug_in import held, held_traced, misbehaving
from splite_deploy.runtime.backends.precision import check_precision
from splite_deploy.runtime.view import TracedViewedSession, ViewedSession
from splite_deploy.spec import ModelSpec, Precision, View
from splite_deploy.spec.reading import ReadError, read_bytes, refuse_stand_in

_Self = TypeVar("_Self")
OptionSet = BackendOptions | Collection[BackendOptions]
"""One object is for the backend that is chosen, and has to be of its type. Of several each is for another backend, and
those of backends that are not chosen are left alone."""


MOST_THREADS = min(1024, max(64, 8 * (os.cpu_count() or 1)))
"""Threads that a backend is asked for at most: more than this machine has use for, and fewer than bring it down."""
_MOST_BYTES = 1 << 31
"""Of a file without a bundle: neither protobuf nor FlatBuffers can be larger."""


class Session(Protocol):
    """One loaded artifact, closed at the end of a ``with`` block. One serves one thread: open another for the next."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Input tensors."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Output tensors."""

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        """Runs the network; the results are on the host on return and stay valid until the next call.

        Args:
            feeds: Every input by name: C-contiguous, batch first, float32 and NCHW unless its spec says otherwise.

        Returns:
            Every output by name, float32.

        Raises:
            BackendError: A feed is missing, unknown or of the wrong shape or type, the backend failed, or another
                thread uses the session.
        """

    def close(self) -> None:
        """Frees what the session holds; a second call does nothing, and ``run`` raises from then on.

        Raises:
            BackendError: Another thread uses the session.
        """

    def __enter__(self: _Self) -> _Self:
        """The session itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """Closes it."""


class TracedSession(Session, Protocol):
    """A session that can tell what it is made of as it runs. It is as fast as any other once it has told."""

    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order in which they ran, and the median time of each over all runs until the first call.

        A backend that times no layers leaves their times out, and needs no run.

        Raises:
            CompileError: The file is not what the backend reads.
        """


@runtime_checkable
class StageTimed(Protocol):
    """A session that can tell how long the parts of an inference took on its device."""

    def stage_ms(self) -> Mapping[str, float] | None:
        """Milliseconds of the last `Session.run` by the device's own clock.

        Returns:
            ``h2d`` (inputs to the device), ``compute`` and ``d2h`` (outputs to the host); copies take next to nothing
            where memory is mapped. None without the option ``stage_timing``, and before the first run.
        """


@runtime_checkable
class Placed(Protocol):
    """A session that can tell what ran the nodes of its network, where that may be more than one device."""

    def placements(self) -> tuple[Placement, ...]:
        """What ran how many nodes, the most first; with times where the session is one that traces its layers.

        None before the first run, and where nothing else than the backend's usual device was asked for
        (`BackendOptions.runs_on`).
        """


def pick_artifact(
    bundle: Bundle, backend: str = "auto", precision: Precision | None = None
) -> tuple[Backend, Artifact]:
    """The backend to use and the artifact it loads.

    Artifacts that were made for a backend and measured with it come first, in the order of the manifest; then those of
    other backends whose format it reads. Among these an int8 graph comes last: its quantisation is placed for the
    kernels of the backend that it was made for, and may be slow or inexact in another. A precision that is named is the
    precision that is run.

    Args:
        bundle: The bundle.
        backend: A backend's name, or ``auto``: the first that is installed and that an artifact was made for, plug-ins
            before those of `splite_deploy.runtime.backends.BUILT_IN`; failing that, the first of `all_backends` that is
            installed and reads one.
        precision: Which precision; None takes the first artifact of the backend.

    Raises:
        UsageError: The backend is unknown, or the bundle has no such artifact.
        MissingDependencyError: The backend's dependency is not installed.
        BackendError: The backend is a plug-in that could not be loaded.
    """
    if backend != "auto":
        chosen = find_backend(backend)
        found = _readable(bundle, chosen, precision)
        if not found:
            bundle.find(chosen.name if chosen.computes else None, precision)  # raises with what there is
            raise UsageError(
                f"The backend '{chosen.name}' reads no artifact of the bundle {bundle.path}.",
                hint=f"It reads: {', '.join(chosen.formats)}. The bundle holds: {_held(bundle)}.",
            )
        chosen.require()
        return chosen, found[0]
    if precision is not None:
        bundle.find(None, precision)  # raises where there is none
    computing = [one for one in all_backends().values() if one.computes]
    fitting = [(one, artifact) for one in computing for artifact in _readable(bundle, one, precision)[:1]]
    fitting.sort(key=lambda pair: _preference(*pair))
    if not fitting:
        if not bundle.manifest.artifacts:
            bundle.find()  # raises
        raise UsageError(
            f"The bundle {bundle.path} holds no artifact that this version of splite-deploy runs.",
            hint=f"It holds: {_held(bundle)}. Upgrade splite-deploy on this machine.",
        )
    chosen, artifact = next((pair for pair in fitting if pair[0].installed), fitting[0])
    chosen.require()
    return chosen, artifact


def _readable(bundle: Bundle, backend: Backend, precision: Precision | None) -> list[Artifact]:
    """The artifacts that a backend may run, the best first."""
    artifacts = [
        one for one in bundle.manifest.artifacts if backend.reads(one.format) and precision in (None, one.precision)
    ]
    return sorted(artifacts, key=lambda one: (not backend.made(one), _int8_of_another(backend, one)))


def _preference(backend: Backend, artifact: Artifact) -> tuple[bool, bool, bool]:
    """The least of these is what ``auto`` takes. Whoever has artifacts made for a plug-in wants it; others may not."""
    made = backend.made(artifact)
    return not made, _int8_of_another(backend, artifact), made and backend in BUILT_IN


def _int8_of_another(backend: Backend, artifact: Artifact) -> bool:
    return backend.computes and artifact.precision == "int8" and not backend.made(artifact)


def _held(bundle: Bundle) -> str:
    return ", ".join(sorted({f"{one.backend} ({one.format})" for one in bundle.manifest.artifacts}))


def configured(
    backend: Backend,
    options: OptionSet = (),
    *,
    threads: int | None = None,
    stage_timing: bool = False,
    reference: bool = False,
) -> BackendOptions:
    """The options of a backend among those given.

    Args:
        backend: The backend.
        options: See `OptionSet`.
        threads: CPU threads; a backend that computes elsewhere takes no notice.
        stage_timing: Whether stages are timed where the backend can.
        reference: Whether it computes with its plainest kernels, see `Backend.reference`.

    Raises:
        UsageError: The options are for another backend, or name a number of threads twice or one that is none.
    """
    if isinstance(options, BackendOptions):
        if type(options) is not backend.options:
            raise UsageError(
                f"{type(options).__name__} is for another backend than '{backend.name}', which takes "
                f"{backend.options.__name__}.",
                hint="Give options of the backend that runs, or a list with options for each that may run.",
            )
        chosen = options
    else:
        chosen = _only(backend, [one for one in options if type(one) is backend.options])
    has = {one.name: getattr(chosen, one.name) for one in fields(chosen)}
    changes: dict[str, Any] = {}
    for number in (threads, has.get("threads")):
        if number is not None and (type(number) is not int or not 1 <= number <= MOST_THREADS):
            raise UsageError(
                f"{number} is not a number of threads.", hint=f"Give 1 to {MOST_THREADS}, or leave it out."
            )
    if threads is not None and "threads" in has:
        if has["threads"] not in (None, threads):
            raise UsageError(f"Both {has['threads']} and {threads} threads were requested.", hint="Give one number.")
        changes["threads"] = threads
    if stage_timing and "stage_timing" in has:
        changes["stage_timing"] = True
    if reference:
        changes["reference"] = True
    return replace(chosen, **changes)


def _only(backend: Backend, options: list[BackendOptions]) -> BackendOptions:
    if len(options) > 1:
        raise UsageError(f"The backend '{backend.name}' got options twice.", hint="Give one object.")
    return options[0] if options else backend.options()


def open_session(
    bundle: Bundle,
    backend: str = "auto",
    precision: Precision | None = None,
    *,
    threads: int | None = None,
    options: OptionSet = (),
) -> Session:
    """Loads an artifact of the bundle; see `pick_artifact` for the choice.

    Args:
        bundle: An opened bundle.
        backend: A backend's name, or ``auto``.
        precision: Which precision, or None.
        threads: CPU threads; None is the backend's own default.
        options: How the backend works.

    Raises:
        BundleError: The artifact's file is missing or damaged.
        UsageError: The bundle has no such artifact, or the options do not fit.
        MissingDependencyError: The backend's dependency is not installed.
        BackendError: The backend cannot load the artifact.
    """
    chosen, artifact = pick_artifact(bundle, backend, precision)
    return open_artifact(bundle, artifact, chosen, threads=threads, options=options)


def open_artifact(
    bundle: Bundle, artifact: Artifact, backend: Backend, *, threads: int | None = None, options: OptionSet = ()
) -> Session:
    """Loads this artifact of the bundle by this backend; see `open_session`."""
    settings = configured(backend, options, threads=threads)
    return _load(backend, ModelFile.of(bundle, artifact), settings)


def open_bytes(
    data: bytes,
    artifact: Artifact,
    *,
    backend: str | None = None,
    model: ModelSpec | None = None,
    threads: int | None = None,
    options: OptionSet = (),
) -> Session:
    """Loads an artifact that is in no bundle yet, from memory.

    Args:
        data: The content of its file.
        artifact: Its description. The file it names is for messages: it need not exist.
        backend: What runs it; None is the backend that it was made for.
        model: What it belongs to; an artifact with a view needs it.
        threads: CPU threads; None is the backend's own default.
        options: How the backend works.

    Raises:
        UsageError: There is no such backend, it does not read the format, or the options do not fit.
        MissingDependencyError: The backend's dependency is not installed.
        BackendError: The backend cannot load it.
    """
    chosen = find_backend(backend or artifact.backend)
    settings = configured(chosen, options, threads=threads)
    file = ModelFile(data, artifact.file, artifact.format, artifact, view=artifact.view, model=model)
    return _load(chosen, file, settings)


def open_traced(
    backend: Backend, file: ModelFile, *, threads: int | None = None, options: OptionSet = ()
) -> TracedSession:
    """Loads a file so that the session can tell its layers.

    Args:
        backend: What runs it.
        file: The file.
        threads: CPU threads; None is the backend's own default.
        options: How the backend works.

    Raises:
        UsageError: The backend cannot tell layers, does not read the format, or the options do not fit.
        MissingDependencyError: The backend's dependency is not installed.
        BackendError: The backend cannot load it.
    """
    if backend.open_traced is None:
        able = [one.name for one in all_backends().values() if one.open_traced is not None]
        raise UsageError(f"The backend '{backend.name}' has no profile.", hint=f"These do: {', '.join(able)}.")
    settings = configured(backend, options, threads=threads)
    _check(backend, file, settings)
    if backend in BUILT_IN:
        session = backend.open_traced(file, settings)
    else:
        with misbehaving(backend, f"to load {file.name}"):
            session = held_traced(backend, backend.open_traced(file, settings), file.name)
    return session if file.view is None else TracedViewedSession(session, file.view, _model_of(file))


def open_file(
    path: Path,
    backend: str = "auto",
    *,
    threads: int | None = None,
    options: OptionSet = (),
    view: View | None = None,
    model: ModelSpec | None = None,
) -> Session:
    """Loads a file without a bundle into its backend.

    Without a view its inputs and outputs have the file's own layout. Where the file takes integers for quantised
    numbers, the session takes float32 and quantises.

    Args:
        path: The file.
        backend: See `backend_of`.
        threads: CPU threads; None is the backend's default.
        options: How the backend works.
        view: How its tensors lie, see `ViewedSession`: the session takes the image and gives the decoder's outputs.
        model: The model; a view needs it.

    Raises:
        UsageError: No backend runs such a file, or it does not exist, or the options do not fit.
        MissingDependencyError: The backend's dependency is not installed.
        BackendError: The backend cannot load the file, or the file is not what the view says.
    """
    chosen = backend_of(path, backend)
    return open_model_file(chosen, read_file(path, chosen, view=view, model=model), threads=threads, options=options)


def read_file(
    path: Path,
    backend: Backend,
    *,
    view: View | None = None,
    model: ModelSpec | None = None,
    data: bytes | None = None,
) -> ModelFile:
    """A file without a bundle, as a backend is given it.

    Args:
        path: The file.
        backend: Of `backend_of`.
        view: See `open_file`.
        model: See `open_file`.
        data: What `read_content` has read; None reads the file.

    Raises:
        UsageError: It cannot be read.
    """
    content = read_content(path) if data is None else data
    return ModelFile(content, path.name, backend.suffixes[path.suffix.lower()], view=view, model=model)


def read_content(path: Path) -> bytes:
    """The bytes of a file without a bundle. Whoever needs them several times reads them once, and keeps them.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        data = read_bytes(path, most_bytes=_MOST_BYTES)
    except ReadError as err:
        raise UsageError(f"{path} cannot be read: {err.reason}.", hint="Check its permissions.") from err
    refuse_stand_in(data[:64], str(path))
    return data


def open_model_file(
    backend: Backend, file: ModelFile, *, threads: int | None = None, options: OptionSet = ()
) -> Session:
    """Loads a file that was read; see `open_file`."""
    return _load(backend, file, configured(backend, options, threads=threads))


def file_suffixes() -> list[str]:
    """What files end in that some backend runs without a bundle."""
    return list(dict.fromkeys(suffix for one in all_backends().values() for suffix in one.suffixes))


def backend_of(path: Path, backend: str = "auto") -> Backend:
    """The backend that runs a file without a bundle.

    Args:
        path: The file.
        backend: A backend's name, or ``auto``: the first of `all_backends` that is installed and whose files have this
            suffix.

    Raises:
        UsageError: There is none, or the file does not exist.
        MissingDependencyError: Its dependency is not installed.
        BackendError: It is a plug-in that could not be loaded.
    """
    suffix = path.suffix.lower()
    among = list(all_backends().values()) if backend == "auto" else [find_backend(backend)]
    running = [one for one in among if suffix in one.suffixes]
    if not running:
        known = dict.fromkeys(suffix for one in among for suffix in one.suffixes)
        what = "is neither a bundle nor a file that a backend runs"
        raise UsageError(
            f"{path} {what}." if backend == "auto" else f"The backend '{backend}' does not run {path.name}.",
            hint=f"Files end in {', '.join(known)}." if known else "It runs bundles alone.",
        )
    if not is_file(path):
        raise UsageError(f"There is no file {path}.", hint="Name a bundle or a file of a backend.")
    chosen = next((one for one in running if one.installed), running[0])
    chosen.require(path.name)
    return chosen


def _load(backend: Backend, file: ModelFile, options: BackendOptions) -> Session:
    _check(backend, file, options)
    if backend in BUILT_IN:
        session = backend.open(file, options)
    else:
        with misbehaving(backend, f"to load {file.name}"):
            session = held(backend, backend.open(file, options), file.name)
        if file.said is not None:
            own = IoSignature(session.inputs, session.outputs)
            check_signature(file.name, file.said, own, names_alone=True)
    if file.view is None or not backend.computes:  # a recording is of what the decoder reads
        return session
    return ViewedSession(session, file.view, _model_of(file))


def _model_of(file: ModelFile) -> ModelSpec:
    if file.model is None:
        raise UsageError(f"{file.name} has a view, which needs its model.", hint="Give the model that it belongs to.")
    return file.model


def _check(backend: Backend, file: ModelFile, options: BackendOptions) -> None:
    """Checks all that can be checked before a backend sees a file.

    Raises:
        UsageError: The backend does not read such files.
        MissingDependencyError: The backend is not installed.
        BackendError: The file is damaged, or keeps weights elsewhere; or, without a bundle, ends the process.
        BundleError: It has another precision than its manifest says.
    """
    if not backend.reads(file.format):
        raise UsageError(
            f"The backend '{backend.name}' reads no artifact of the format '{file.format}'.",
            hint=f"It reads: {', '.join(backend.formats)}.",
        )
    backend.require()
    check_content(file)
    if file.artifact is None:
        from splite_deploy.runtime.first_load import first_load

        first_load(backend, file, reference=getattr(options, "reference", False))


def check_content(file: ModelFile) -> None:
    """Checks the bytes of a file as far as its format is known here, before native code sees them.

    Raises:
        BackendError: It is damaged, or keeps weights elsewhere.
        BundleError: It has another precision than its manifest says.
    """
    if file.format in ("onnx", "onnx-parts"):
        for one in file.each():
            check_onnx(one.data, one.name)
    elif file.format == "tflite":
        from splite_deploy.runtime.backends.tflite_model import read_tflite  # 50 ms, which others need not wait for

        read_tflite(file.data, file.name)
    check_precision(file)
