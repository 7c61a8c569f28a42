"""The one seam of the runtime: a loaded artifact that maps named arrays to named float32 arrays.

Inputs are float32, but for graphs that normalise: these take uint8 crops, and their `TensorSpec` says so. Layout,
quantisation and device memory stay inside a backend. A backend is one module with one class, found through `BACKENDS`;
its heavy dependency is imported at the top of that module and nowhere else.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Bundle, TensorSpec
from splite_deploy.errors import BackendError, MissingDependencyError, UsageError
from splite_deploy.spec import Precision

Array = NDArray[np.float32]
_Self = TypeVar("_Self")
Feed = NDArray[Any]
"""float32, or whatever else the `TensorSpec` of an input names."""


MEMORY_BACKENDS = ("auto", "cuda-python", "pycuda")


@dataclass(frozen=True)
class GpuOptions:
    """How a backend that runs on a GPU works; the others take no notice.

    Attributes:
        memory_backend: Which package handles its memory, of `MEMORY_BACKENDS`; ``auto`` takes the first installed.
        cuda_graph: Whether an inference is recorded once and replayed; None where memory backend and engine can.
        mapped_memory: Whether the GPU reads and writes the host's memory in place of copies, which is faster where both
            share it (a Jetson) and slower elsewhere.
        stage_timing: Whether `StageTimed.stage_ms` measures.
    """

    memory_backend: str = "auto"
    cuda_graph: bool | None = None
    mapped_memory: bool = False
    stage_timing: bool = False


DEFAULT_GPU = GpuOptions()


class Session(Protocol):
    """One loaded artifact, closed at the end of a ``with`` block. Not thread-safe: open one per thread."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Input tensors."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Output tensors."""

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, Array]:
        """Runs the network; the results are on the host on return and stay valid until the next call.

        Args:
            feeds: Every input by name: C-contiguous, batch first, float32 and NCHW unless its spec says otherwise.

        Returns:
            Every output by name, float32.

        Raises:
            BackendError: A feed is missing, unknown or of the wrong shape or type, or the backend failed.
        """

    def close(self) -> None:
        """Frees what the session holds; a second call does nothing, and ``run`` raises from then on."""

    def __enter__(self: _Self) -> _Self:
        """The session itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """Closes it."""


@runtime_checkable
class StageTimed(Protocol):
    """A session that can tell how long the parts of an inference took on its device."""

    def stage_ms(self) -> Mapping[str, float] | None:
        """Milliseconds of the last `Session.run` by the device's own clock.

        Returns:
            ``h2d`` (inputs to the device), ``compute`` and ``d2h`` (outputs to the host); copies take next to nothing
            where memory is mapped. None without `GpuOptions.stage_timing`, and before the first run.
        """


@dataclass(frozen=True)
class Ends:
    """What a file without a manifest takes and gives, in the place of its `Artifact`.

    Attributes:
        inputs: Input tensors, in the file's own layout; roles are empty.
        outputs: Output tensors.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class ModelFile:
    """What a backend loads: the bytes of one file, read once, so that what was checked is what is loaded.

    Attributes:
        data: The bytes; those of a bundle have the hash that the manifest names.
        name: The file's name, for messages.
        artifact: What the manifest says of it; None for a file without a bundle, which has to tell by itself.
        bundle: Whose artifact it is; None for a file without a bundle and for one that is still being made.
    """

    data: bytes
    name: str
    artifact: Artifact | None = None
    bundle: Bundle | None = None


class BaseSession(ABC):
    """What every backend's session shares: it checks, a subclass computes.

    Args:
        artifact: The artifact it has loaded.
    """

    def __init__(self, artifact: Artifact | Ends) -> None:
        self.artifact = artifact
        self._closed = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Input tensors."""
        return self.artifact.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Output tensors."""
        return self.artifact.outputs

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, Array]:
        """See `Session.run`."""
        if self._closed:
            raise BackendError("The session is closed.", hint="Open a new one.")
        check_feeds(feeds, self.artifact.inputs)
        return self._infer(feeds)

    def close(self) -> None:
        """See `Session.close`."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    @abstractmethod
    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, Array]:
        """Runs checked feeds."""

    @abstractmethod
    def _release(self) -> None:
        """Frees what is held; called once."""


@dataclass(frozen=True)
class Backend:
    """Where a backend is and what it needs.

    Attributes:
        factory: ``module:class``; the class has ``open(bundle, artifact, threads, gpu)``.
        module: Top-level module of its dependency; empty if none.
        install: What to type where it is missing.
        others: Further modules, any of which serves as well.
    """

    factory: str
    module: str
    install: str
    others: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether its dependency can be found (it is not imported)."""
        return self.module == "" or any(find_spec(module) is not None for module in (self.module, *self.others))


BACKENDS: Mapping[str, Backend] = {
    "trt": Backend(
        "splite_deploy.runtime.backends.trt.session:TrtSession",
        "tensorrt",
        "pip install tensorrt 'splite-deploy[trt]' (on a Jetson, TensorRT comes with JetPack)",
        others=("tensorrt_rtx", "tensorrt_rtx_bindings"),
    ),
    "ort": Backend("splite_deploy.runtime.backends.ort:OrtSession", "onnxruntime", "pip install 'splite-deploy[ort]'"),
    "tflite": Backend(
        "splite_deploy.runtime.backends.litert:TfliteSession", "ai_edge_litert", "pip install 'splite-deploy[litert]'"
    ),
    "replay": Backend("splite_deploy.runtime.backends.replay:ReplaySession", "", ""),
}
"""In the order in which ``auto`` prefers them; ``replay`` is only used when asked for."""


def pick_artifact(bundle: Bundle, backend: str, precision: Precision | None) -> tuple[str, Artifact]:
    """The backend to use and the artifact it loads.

    Args:
        bundle: The bundle.
        backend: A key of `BACKENDS`, or ``auto``: the first whose dependency is installed and that has an artifact.
        precision: Which precision; None takes the first artifact of the backend.

    Raises:
        UsageError: The backend is unknown, or the bundle has no such artifact.
        MissingDependencyError: The backend's dependency is not installed.
    """
    if backend == "replay":
        return backend, bundle.find(None, precision)
    if backend == "auto":
        if precision is not None:
            bundle.find(None, precision)  # raises where there is none
        held = {a.backend for a in bundle.manifest.artifacts if precision in (None, a.precision)}
        names = [name for name in BACKENDS if name in held]
        if not names:
            raise UsageError(
                f"The bundle {bundle.path} holds no artifact that this version of splite-deploy runs.",
                hint=f"It holds: {', '.join(sorted(held)) or 'none'}. Upgrade splite-deploy on this machine.",
            )
        backend = next((name for name in names if BACKENDS[name].installed), names[0])
    if backend not in BACKENDS:
        raise UsageError(f"There is no backend '{backend}'.", hint=f"Choose one of: auto, {', '.join(BACKENDS)}.")
    artifact = bundle.find(backend, precision)
    if not BACKENDS[backend].installed:
        raise MissingDependencyError(
            f"The backend '{backend}' needs {BACKENDS[backend].module}, which is not installed.",
            hint=f"Install it: {BACKENDS[backend].install}.",
        )
    return backend, artifact


def open_session(
    bundle: Bundle,
    backend: str = "auto",
    precision: Precision | None = None,
    *,
    threads: int | None = None,
    gpu: GpuOptions = DEFAULT_GPU,
) -> Session:
    """Loads an artifact of the bundle; see `pick_artifact` for the choice.

    Args:
        bundle: An opened bundle.
        backend: A key of `BACKENDS`, or ``auto``.
        precision: Which precision, or None.
        threads: CPU threads of the backend; None is the backend's own default.
        gpu: How a backend that runs on a GPU works.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads are too few.", hint="Give 1 or more, or leave it out.")
    name, artifact = pick_artifact(bundle, backend, precision)
    module, _, symbol = BACKENDS[name].factory.partition(":")
    session: Session = getattr(importlib.import_module(module), symbol).open(bundle, artifact, threads, gpu)
    return session


def open_bytes(
    data: bytes,
    artifact: Artifact,
    *,
    backend: str | None = None,
    threads: int | None = None,
    gpu: GpuOptions = DEFAULT_GPU,
) -> Session:
    """Loads an artifact that is in no bundle yet, from memory.

    Args:
        data: The content of its file.
        artifact: Its description. The file it names is for messages: it need not exist.
        backend: What runs it; None is the backend that it was made for.
        threads: CPU threads of the backend; None is the backend's own default.
        gpu: How a backend that runs on a GPU works.

    Raises:
        UsageError: There is no such backend, or it runs nothing but bundles.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load it.
    """
    name = backend or artifact.backend
    if name not in BACKENDS:
        raise UsageError(f"There is no backend '{name}'.", hint=f"Choose one of: {', '.join(BACKENDS)}.")
    module, _, symbol = BACKENDS[name].factory.partition(":")
    factory = getattr(importlib.import_module(module), symbol)
    session: Session = factory.open_content(ModelFile(data, artifact.file, artifact), threads, gpu)
    return session


def check_feeds(feeds: Mapping[str, Feed], inputs: tuple[TensorSpec, ...]) -> None:
    """Compares the feeds of `Session.run` with the inputs of the artifact.

    Raises:
        BackendError: The message names the input, what came, and what it takes.
    """
    names = {spec.name for spec in inputs}
    if set(feeds) != names:
        raise BackendError(
            f"The inputs given are {sorted(feeds)}; the network takes {sorted(names)}.",
            hint="Feed every input by its name in Session.inputs.",
        )
    for spec in inputs:
        array = feeds[spec.name]
        if not isinstance(array, np.ndarray):
            raise BackendError(
                f"The input '{spec.name}' is a {type(array).__name__}, not a numpy array.",
                hint="Prepare it with splite_deploy.runtime.preprocess.Preprocessor.",
            )
        fits = len(array.shape) == len(spec.shape) and all(
            want is None or want == have for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or array.dtype != spec.dtype:
            shown = "x".join("N" if size is None else str(size) for size in spec.shape)
            batch = not fits and spec.shape[0] is not None and array.shape[1:] == spec.shape[1:]
            hint = "Export with --dynamic-batch to run several crops at once." if batch else ""
            raise BackendError(
                f"The input '{spec.name}' is {array.dtype} of shape {array.shape}; "
                f"the network takes {spec.dtype} {shown}.",
                hint=hint or "Prepare it with splite_deploy.runtime.preprocess.Preprocessor.",
            )


def first_line(err: Exception) -> str:
    """What a backend's own exception says, in one line."""
    return str(err).splitlines()[0][:300] if str(err) else type(err).__name__
