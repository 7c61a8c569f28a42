"""Recorded outputs in the place of a device, so that applications can be tested anywhere. Needs numpy alone.

A golden input gives its recorded output; any other input gives one of the recorded outputs, always the same one for
the same input.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Bundle, Golden, TensorSpec
from splite_deploy.errors import BackendError
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import check_feeds
from splite_deploy.spec import InputSpec

Array = NDArray[np.float32]


class ReplaySession:
    """Plays back the bundle's golden outputs; see `splite_deploy.runtime.session.Session`."""

    def __init__(self, golden: Golden, spec: InputSpec, artifact: Artifact) -> None:
        tensors = Preprocessor(spec, spec.color).normalise(golden.crops)
        self._known = {_key(tensor): index for index, tensor in enumerate(tensors)}
        self._recorded: Mapping[str, Array] | None = golden.outputs
        self._artifact = artifact

    @classmethod
    def open(cls, bundle: Bundle, artifact: Artifact, threads: int | None) -> ReplaySession:
        """Plays back the golden outputs of a bundle; ``threads`` is taken and ignored, since nothing is computed."""
        return cls(bundle.golden(), bundle.model.input, artifact)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._artifact.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._artifact.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._recorded is None:
            raise BackendError("The session is closed.", hint="Open a new one.")
        check_feeds(feeds, self._artifact.inputs)
        keys = [_key(tensor) for tensor in feeds[self._artifact.inputs[0].name]]
        chosen = [self._known.get(key, key % len(self._known)) for key in keys]
        return {spec.name: self._recorded[spec.role][chosen] for spec in self._artifact.outputs}

    def close(self) -> None:
        self._recorded = None


def _key(tensor: Array) -> int:
    return zlib.crc32(np.ascontiguousarray(tensor).tobytes())
