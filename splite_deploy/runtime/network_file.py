"""A file of a network without a bundle, of any maker, with the ``model.toml`` that says how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from splite_deploy.bundle.new import is_bundle
from splite_deploy.errors import SpecError
from splite_deploy.runtime.backends.base import Backend, ModelFile
from splite_deploy.runtime.session import (
    OptionSet,
    Session,
    backend_of,
    configured,
    open_model_file,
    read_content,
    read_file,
)
from splite_deploy.spec import MODEL_TOML, HostSpec, ModelSpec, load_model_toml
from splite_deploy.text import command, quoted

if TYPE_CHECKING:
    from splite_deploy.runtime.file_facts import FileFacts


@dataclass(frozen=True)
class NetworkFile:
    """A file of a network and what ``model.toml`` says of it.

    Attributes:
        path: The file.
        spec: The model.
        host: How its tensors lie, among other things.
    """

    path: Path
    spec: ModelSpec
    host: HostSpec

    @classmethod
    def read(
        cls, path: Path, model: Path | None = None, backend: str = "auto", option: str | None = "--model"
    ) -> NetworkFile:
        """Reads the model spec of a file.

        Args:
            path: The file.
            model: Its model spec; None is the ``model.toml`` beside it.
            backend: What is to run it: nobody needs a model spec of what cannot be run.
            option: Of the command line, that names the model spec, for the hint; None where there is none.

        Raises:
            UsageError: The file does not exist, or no backend runs such files.
            MissingDependencyError: The backend that does is not installed.
            SpecError: There is no model spec, or it is wrong.
        """
        backend_of(path, backend)
        beside = path.with_name(MODEL_TOML)
        if model is None and not beside.exists():
            hint = f"This writes one: {command('init', path)}." + (f" Or name it with {option}." if option else "")
            if is_bundle(path.parent):  # into which init writes nothing
                hint = f"The file belongs to a bundle: name that, {quoted(path.parent)}."
            raise SpecError(f"No model spec of {path.name}: there is no {beside}.", hint=hint)
        return cls(path, *load_model_toml(model or beside, option))

    @cached_property
    def facts(self) -> FileFacts:
        """What the file says of itself; see `describe_file`."""
        from splite_deploy.runtime.file_facts import describe_file  # with the readers of TFLite, which few need

        return describe_file(self.path, self.data)

    @cached_property
    def data(self) -> bytes:
        """Its bytes, read once: what was described, hashed and checked is what is run.

        Raises:
            UsageError: It cannot be read.
        """
        return read_content(self.path)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """What the file takes for one image of the model's size, batch left out."""
        return self.host.view.input.shape(self.spec.input.planes)

    def content(self, backend: Backend) -> ModelFile:
        """Its bytes, and how they are read, for a backend."""
        return read_file(self.path, backend, view=self.host.view, model=self.spec, data=self.data)

    def open(
        self, backend: Backend, *, threads: int | None = None, options: OptionSet = (), reference: bool = False
    ) -> Session:
        """Loads it, so that it takes the image and gives the decoder's outputs.

        Args:
            backend: What runs it.
            threads: CPU threads; None is the backend's default.
            options: How the backend works.
            reference: Whether by its plainest kernels, see `Backend.reference`.

        Raises:
            UsageError: The options do not fit.
            BackendError: The backend cannot load the file, or it is not what ``model.toml`` says.
        """
        settings = configured(backend, options, threads=threads, reference=reference)
        return open_model_file(backend, self.content(backend), options=settings)
