"""Bundles with graphs for TensorRT, and which TensorRT is here."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from splite_deploy.bundle import MANIFEST, Bundle, Graph
from splite_deploy.export.graph.fuse import tensor_specs
from splite_deploy.export.graph.walk import load
from splite_deploy.files import sha256_of

Given = tuple[str, Sequence[str], Path]
"""Precision, whom the graph is for (``weak``, ``strong``), and its file."""

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed: the extra 'trt-rtx'"
)


def with_graphs(bundle: Path, copy: Path, given: Sequence[Given], *, planted: bool = False) -> Bundle:
    """Copies a bundle and adds graphs to it, as ``export -b trt`` does.

    Planted ones are described as the network of the bundle, whatever they hold: a manifest that contradicts its model
    is refused before TensorRT sees the graph.
    """
    folder = Path(shutil.copytree(bundle, copy))
    manifest = Bundle.open(folder).manifest
    graphs = []
    for precision, typings, file in given:
        if file.parent != folder:
            shutil.copyfile(file, folder / file.name)
        if planted:
            inputs, outputs = manifest.artifacts[0].inputs, manifest.artifacts[0].outputs
        else:
            inputs, outputs = tensor_specs(load(folder / file.name), manifest.model.decoder)
        graphs += [
            Graph(precision, typing, file.name, sha256_of(folder / file.name), inputs, outputs, manifest.model.limits)  # type: ignore[arg-type]
            for typing in typings
        ]
    (folder / MANIFEST).write_text(replace(manifest, graphs=tuple(graphs)).to_json(), encoding="utf-8")
    return Bundle.open(folder)
