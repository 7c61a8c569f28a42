"""What every backend is made of: its description, its options, the file it is given, and what all sessions share.

Importing this, or the description of a backend, imports no inference engine and no OpenCV: `splite-deploy --help` and
`splite-deploy doctor` read the descriptions of all backends, whatever of them is installed or broken.
"""

from __future__ import annotations

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import Artifact, Bundle, TensorSpec
from splite_deploy.bundle.manifest import REEXPORT, Part
from splite_deploy.errors import BackendError, BundleError, MissingDependencyError
from splite_deploy.runtime.backends.placement import Placement
from splite_deploy.runtime.closing import Closing
from splite_deploy.spec import ModelSpec, View

if TYPE_CHECKING:
    from splite_deploy.runtime.session import Session, TracedSession

Recipe = Literal["ort", "tflite", "ncnn", "trt"]
"""How ``export`` makes something for a backend: ``ort`` graphs, quantised as CPU kernels take it; ``tflite`` files;
``ncnn`` networks; or ``trt`` graphs that engines are built from on the device."""
FAILED_HINT = "Copy or export the file again; if it fails here alone, 'splite-deploy doctor' says which version it is."
"""Where an engine fails on a file that it has loaded."""
ANY_FORMAT = "*"
"""The format of a backend that looks into no file."""


@dataclass(frozen=True)
class ModelFile:
    """What a backend loads: the bytes of one file, read once, so that what was checked is what is loaded.

    Attributes:
        data: The bytes; those of a bundle have the hash that the manifest names.
        name: The file's name, for messages.
        format: What kind of file it is, see `Artifact.format`.
        artifact: What the manifest says of it; None for a file without a bundle, which has to tell by itself.
        bundle: Whose artifact it is; None for a file without a bundle and for one that is still being made.
        view: How its tensors become what the decoder reads; None where they are that already, or nobody decodes.
        model: What it belongs to; a view needs it.
        read_part: Reads and checks a part, of an artifact of several; ``data`` is empty then. None of one file.
    """

    data: bytes
    name: str
    format: str
    artifact: Artifact | None = None
    bundle: Bundle | None = None
    view: View | None = None
    model: ModelSpec | None = None
    read_part: Callable[[Part], bytes] | None = None

    @classmethod
    def of(cls, bundle: Bundle, artifact: Artifact) -> ModelFile:
        """Reads and checks the file of an artifact; parts are read when they are needed.

        Raises:
            BundleError: It is missing, unreadable, or not what the manifest describes.
        """
        if artifact.parts:
            about = artifact.file, artifact.format, artifact, bundle, artifact.view, bundle.model
            return cls(b"", *about, read_part=bundle.read)
        return cls(bundle.read(artifact), artifact.file, artifact.format, artifact, bundle, artifact.view, bundle.model)

    def each(self) -> Iterator[ModelFile]:
        """The file, or each part as a file of its own, one after the other: no two need be in memory.

        Raises:
            BundleError: A part is missing, unreadable, or not what the manifest describes.
        """
        if self.read_part is None or self.artifact is None:
            yield self
            return
        for part in self.artifact.parts:
            yield ModelFile(self.read_part(part), part.file, "onnx")

    @property
    def said(self) -> Artifact | None:
        """What a manifest says that the file has to keep; None while that is still being found out."""
        return None if self.bundle is None else self.artifact


@dataclass(frozen=True)
class BackendOptions:
    """How a backend works. Each derives its own, with `option` for every field; they go to other processes as JSON.

    Three fields mean the same wherever a backend has them: ``threads``, CPU threads (None is the backend's default);
    ``stage_timing``, whether `splite_deploy.runtime.session.StageTimed.stage_ms` measures; and ``reference``, whether
    it computes with its plainest kernels, which say what a file means where faster ones are in doubt.
    """

    @property
    def runs_on(self) -> str:
        """What was asked to run the network instead of the backend's usual device, as results call it; else empty."""
        return ""


@dataclass(frozen=True)
class OptionHelp:
    """What the command line says of an option.

    Attributes:
        help: What it does, in one sentence.
        flag: Its name there; empty where only the library offers it.
        choices: What it takes; empty for anything of its type.
        sets: What it is set to where the flag alone is given, without a value; None where it takes one.
        type: Of its value.
        names_backend: Whether the command line takes it only beside ``-b``: it says what runs, so that it must not be
            passed over where another backend is chosen.
        needs: Options one of which has to be given with it, by their names.
    """

    help: str
    flag: str = ""
    choices: tuple[str, ...] = ()
    sets: bool | None = None
    type: type = str
    names_backend: bool = False
    needs: tuple[str, ...] = ()


def option(
    default: Any,
    help: str,
    *,
    flag: str = "",
    choices: Iterable[str] = (),
    sets: bool | None = None,
    type: type = str,
    names_backend: bool = False,
    needs: Iterable[str] = (),
) -> Any:
    """A field of `BackendOptions`; see `OptionHelp`."""
    about = OptionHelp(help, flag, tuple(choices), sets, type, names_backend, tuple(needs))
    return field(default=default, metadata={"option": about})


def allow_cpu_option() -> Any:
    """The field ``allow_cpu`` of backends that can be asked to run a network elsewhere than on the CPU."""
    return option(
        False,
        "with --provider or --delegate: let the CPU run what that does not take, and say so.",
        flag="--allow-cpu",
        sets=True,
        names_backend=True,
        needs=("provider", "delegate"),
    )


def offered(options: type[BackendOptions]) -> dict[str, OptionHelp]:
    """The options that the command line offers, by the name of their field."""
    described = {one.name: one.metadata.get("option") for one in dataclasses.fields(options)}
    return {name: found for name, found in described.items() if isinstance(found, OptionHelp) and found.flag}


@dataclass(frozen=True)
class Backend:
    """All that the rest of the package knows of a backend.

    Attributes:
        name: What ``-b``, manifests and results call it.
        label: What people call it.
        open: Loads a file whose format is one of ``formats``, with options of the type ``options``.
        formats: Which formats of artifacts it reads; `ANY_FORMAT` for all.
        options: How it can be made to work.
        aliases: Other names that ``-b`` takes.
        suffixes: Format of the files that it runs without a bundle, by their suffix; another may have the same ones.
        modules: Top-level modules, any one of which it needs; none where it needs nothing.
        install: What to type where none of them is installed.
        load: Imports what its sessions need, so that a cold start can time that alone.
        computes: Whether it runs the network; ``auto`` takes no other.
        open_traced: The same as ``open``, but the session can tell its layers; None where it cannot.
        layers_from: How layers were found, in one sentence; see `splite_deploy.bundle.report.Layer`.
        export: How ``export`` makes something for it; None where it makes nothing.
        distributions: Distributions whose version belongs to a result, by the name that it has there: the first of each
            that is installed counts.
        reference: What it computes with where its option ``reference`` is set, in words; empty where it has none.
        needs_nvidia: Whether it runs on an NVIDIA GPU alone.
        self_test: ``module:function`` that `splite-deploy doctor` calls in a process of its own: it returns what is
            wrong with the device that the backend needs, or nothing. Empty where importing it tells all.
        problem: Why it cannot be used; only of a plug-in that could not be loaded.
    """

    name: str
    label: str
    open: Callable[[ModelFile, Any], Session]
    formats: tuple[str, ...]
    options: type[BackendOptions] = BackendOptions
    aliases: tuple[str, ...] = ()
    suffixes: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    install: str = ""
    load: Callable[[], object] = lambda: None
    computes: bool = True
    open_traced: Callable[[ModelFile, Any], TracedSession] | None = None
    layers_from: str = ""
    export: Recipe | None = None
    distributions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: str = ""
    needs_nvidia: bool = False
    self_test: str = ""
    problem: str = ""

    @property
    def installed(self) -> bool:
        """Whether what it needs can be found (it is not imported)."""
        return not self.problem and (not self.modules or any(map(module_is_found, self.modules)))

    def reads(self, format: str) -> bool:
        """Whether it runs artifacts of this format."""
        return ANY_FORMAT in self.formats or format in self.formats

    def made(self, artifact: Artifact) -> bool:
        """Whether an artifact was made for it and measured with it."""
        return artifact.backend in (self.name, *self.aliases) and self.reads(artifact.format)

    def require(self, purpose: str = "") -> None:
        """Raises where it cannot be used here.

        Args:
            purpose: The file that needs it, for the message.

        Raises:
            MissingDependencyError: What it needs is not installed.
            BackendError: It is a plug-in that could not be loaded.
        """
        if self.problem:
            raise BackendError(
                f"The backend '{self.name}' cannot be loaded: {self.problem}.",
                hint="Upgrade or remove the package that brings it.",
            )
        if not self.installed:
            what = f"The backend '{self.name}' needs {self.modules[0]}, which is not installed."
            if purpose:
                what = f"{purpose} needs the backend '{self.name}', which is not installed."
            raise MissingDependencyError(what, hint=f"Install it: {self.install}.")


def module_is_found(module: str) -> bool:
    """Whether a module can be imported, as far as that is seen without doing so."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a part of a package that is not there
        return False


@dataclass(frozen=True)
class IoSignature:
    """Inputs and outputs of a file without a manifest, in the place of its `Artifact`.

    Attributes:
        inputs: Input tensors, in the file's own layout; roles are empty.
        outputs: Output tensors.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def check_signature(
    file: str, artifact: Artifact | IoSignature, own: Artifact | IoSignature, *, names_alone: bool = False
) -> None:
    """Compares what a manifest says of a file's tensors with what the loaded file says.

    Sizes that the file leaves open are not compared, but for those of inputs that the manifest calls open.

    Args:
        file: Its name, for messages.
        artifact: What the manifest says.
        own: What the file says.
        names_alone: Whether layouts and types may be others, as a session gives them.

    Raises:
        BundleError: A tensor is missing, or of another type or shape; the message names it and both sides.
    """
    for side, said, found in (("input", artifact.inputs, own.inputs), ("output", artifact.outputs, own.outputs)):
        has = {spec.name: spec for spec in found}
        for spec in said:
            tensor = has.get(spec.name)
            if tensor is None:
                held = f"the {side}s {', '.join(map(_tensor, found))}"
            elif names_alone:
                continue
            elif tensor.dtype != spec.dtype or not _same_sizes(spec.shape, tensor.shape, is_input=side == "input"):
                held = f"the {side} {_tensor(tensor)}"
            else:
                continue
            raise BundleError(f"{file} has {held}; the manifest says {_tensor(spec)}.", hint=REEXPORT)
        if side == "input" and (more := set(has) - {spec.name for spec in said}):
            raise BundleError(
                f"{file} has the input {_tensor(has[min(more)])}, which the manifest lacks.", hint=REEXPORT
            )


def _same_sizes(said: tuple[int | None, ...], found: tuple[int | None, ...], *, is_input: bool) -> bool:
    return len(said) == len(found) and all(
        have is None or want == have or (want is None and not is_input) for want, have in zip(said, found, strict=True)
    )


def _tensor(spec: TensorSpec) -> str:
    return f"'{spec.name}' {spec.dtype} {'x'.join('N' if size is None else str(size) for size in spec.shape)}"


class OneAtATime:
    """Lets one thread in at a time, in the process that made it; who comes second is told so, and does not wait.

    Who uses it as a context manager is in. Waiting would hide a mistake: what two threads share gives each the other's
    results. After a fork the threads of an inference engine are gone, for which it would wait without end.

    Args:
        what: What it guards, for messages: ``session``.
        engine: Whether an inference engine stands behind it; else a fork of this process may go on with it.
    """

    def __init__(self, what: str, *, engine: bool = True) -> None:
        self._what, self._engine = what, engine
        self._lock = Lock()
        self._forks = _forks

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one that made it."""
        return self._engine and self._forks != _forks

    def __enter__(self) -> None:
        """Begins.

        Raises:
            BackendError: Somebody is in, or this is another process.
        """
        if self.forked:
            raise BackendError(
                f"The {self._what} was opened before this process was forked.",
                hint="Open it in the process that uses it, or start that process with the method 'spawn'.",
            )
        if not self._lock.acquire(blocking=False):
            hint = "make one for each."
            if self._engine:
                hint = "open one for each, and close it when its thread has ended."
            raise BackendError(
                f"The {self._what} is in use, in another thread or further up in this one.",
                hint=f"One {self._what} serves one thread: {hint}",
            )

    def __exit__(self, *raised: object) -> None:
        self._lock.release()


_forks = 0
_left: list[object] = []
"""What was open when this process was forked: freeing it would wait for threads that are not there."""


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class BaseSession(Closing):
    """What every backend's session shares: it checks, a subclass computes.

    Layout, quantisation and device memory stay inside the subclass: named float32 arrays in and out. Inputs of graphs
    that normalise are uint8 crops, and their `TensorSpec` says so.

    Args:
        signature: The artifact it has loaded, with its tensors as the session takes and gives them.
    """

    def __init__(self, signature: Artifact | IoSignature) -> None:
        self.artifact = signature
        self._closed = False
        self._guard = OneAtATime("session")

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Input tensors."""
        return self.artifact.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Output tensors."""
        return self.artifact.outputs

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        """See `Session.run`."""
        with self._guard:
            self._check_open()
            check_feeds(feeds, self.artifact.inputs)
            return self._infer(feeds)

    def placements(self) -> tuple[Placement, ...]:
        """See `Placed.placements`; a backend that runs networks on one device alone has nothing to tell."""
        return ()

    def close(self) -> None:
        """See `Session.close`."""
        if self._closed:
            return
        if self._guard.forked:
            self._closed = True
            _left.append(vars(self).copy())
            return
        with self._guard:
            if not self._closed:
                self._closed = True
                self._release()

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("The session is closed.", hint="Open a new one.")

    @abstractmethod
    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        """Runs checked feeds."""

    @abstractmethod
    def _release(self) -> None:
        """Frees what is held; called once."""


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
        if isinstance(array, np.ndarray) and array.shape == spec.shape and array.dtype == spec.dtype:
            continue  # nearly always, and sooner known than what else would fit
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
            hint, fixed = "", spec.shape[0] if spec.shape and array.shape[1:] == spec.shape[1:] and not fits else None
            if fixed is not None:
                hint = "Export with --dynamic-batch to run several crops at once."
                if fixed > 1:
                    hint = f"Give {fixed} at once; the file takes no other number."
            raise BackendError(
                f"The input '{spec.name}' is {array.dtype} of shape {array.shape}; "
                f"the network takes {spec.dtype} {shown}.",
                hint=hint or "Prepare it with splite_deploy.runtime.preprocess.Preprocessor.",
            )


def layer_types(inputs: Iterable[str], outputs: Iterable[str], stored: str = "") -> str:
    """The text of `Layer.types`.

    Args:
        inputs: Types of what a layer reads.
        outputs: Types of what it gives.
        stored: Type in which its weights are stored, if that is another one.
    """
    before, after = (",".join(dict.fromkeys(names)) for names in (inputs, outputs))
    weights = f"[{stored}]" if stored and stored != before else ""
    return f"{before}{weights}" + (f" -> {after}" if after != before else "")
