"""Recorded outputs in the place of a device, so that applications can be tested anywhere. Needs numpy alone.

A golden input gives its recorded output; any other input gives one of the recorded outputs, always the same one for
the same input.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import Artifact, Golden, TensorSpec
from splite_deploy.decoders import decode, decoded_by_role, layouts_of
from splite_deploy.errors import UsageError
from splite_deploy.runtime.backends.base import ANY_FORMAT, Backend, BackendOptions, BaseSession, ModelFile
from splite_deploy.spec import ModelSpec
from splite_deploy.spec.view import IMAGE


class ReplaySession(BaseSession):
    """Plays back golden outputs.

    Args:
        golden: What is played back.
        spec: The model: its input tells golden crops, its decoder stands in for a graph that decodes.
        artifact: The artifact whose place it takes.
    """

    def __init__(self, golden: Golden, spec: ModelSpec, artifact: Artifact) -> None:
        from splite_deploy.runtime.preprocess import Preprocessor

        super().__init__(artifact)
        tensors = Preprocessor(spec.input, spec.input.color).feed(golden.crops, artifact.inputs[0])
        self._known = {_key(tensor): index for index, tensor in enumerate(tensors)}
        decodes = spec.decoder.decodes([tensor.role for tensor in artifact.outputs])
        decode(golden.outputs, spec)  # checks them
        self._recorded = dict(decoded_by_role(golden.outputs, spec) if decodes else golden.outputs)

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        keys = [_key(tensor) for tensor in feeds[self.artifact.inputs[0].name]]
        chosen = [self._known.get(key, key % len(self._known)) for key in keys]
        return {spec.name: self._recorded[spec.role][chosen] for spec in self.artifact.outputs}

    def _release(self) -> None:
        self._recorded = {}


def _key(tensor: Feed) -> int:
    return zlib.crc32(np.ascontiguousarray(tensor).tobytes())


def _open(file: ModelFile, options: BackendOptions) -> ReplaySession:
    """Plays back the golden outputs of the file's bundle; nothing is computed, so the options are none."""
    if file.bundle is None or file.artifact is None:
        raise UsageError(
            f"{file.name} is in no bundle whose recorded outputs could be replayed.", hint="Name a bundle."
        )
    golden, model, artifact = file.bundle.golden(), file.bundle.model, file.artifact
    if artifact.view is not None:  # what was recorded is what the view makes of the file's outputs
        batch = artifact.inputs[0].shape[0]
        image = TensorSpec("image", (batch, *model.input.planes), "float32", IMAGE, "image")
        layouts = layouts_of(model.decoder)
        outputs = tuple(
            TensorSpec(role, (batch, *values.shape[1:]), "float32", layouts[role], role)
            for role, values in golden.outputs.items()
        )
        artifact = replace(artifact, inputs=(image,), outputs=outputs)
    return ReplaySession(golden, model, artifact)


BACKEND = Backend(
    name="replay",
    label="Replay",
    open=_open,
    formats=(ANY_FORMAT,),
    computes=False,
)
