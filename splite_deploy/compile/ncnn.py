"""Networks for ncnn, made of ONNX graphs by pnnx in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from splite_deploy import children
from splite_deploy.bundle import TensorSpec
from splite_deploy.errors import CompileError, MissingDependencyError, how_it_ended
from splite_deploy.files import work_folder
from splite_deploy.runtime.backends.ncnn_file import NcnnLayer, pack, read_param, write_param

INSTALL = "pip install 'splite-deploy[pnnx]'"
TIMEOUT_S = 600.0
_OTHER = "Leave out -b ncnn: -b ort and -b tflite run more."
_GRAPH = "graph.onnx"


def to_ncnn(
    graph: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, half: bool, label: str
) -> bytes:
    """The archive of a network, see `splite_deploy.runtime.backends.ncnn_file`.

    Its inputs and outputs have the graph's names.

    Args:
        graph: The ONNX graph, in float32.
        inputs: Its inputs; NCHW float32, a batch of one.
        outputs: Its outputs in the graph's order.
        half: Whether weights are stored in float16.
        label: What is made, for messages.

    Raises:
        MissingDependencyError: pnnx is not installed.
        CompileError: ncnn takes no such inputs, or has no such operators, or pnnx failed.
    """
    if any(one.shape[0] != 1 or one.dtype != "float32" or len(one.shape) != 4 for one in inputs):
        raise CompileError(
            f"{label} would take {', '.join(f'{one.dtype} {one.shape}' for one in inputs)}: ncnn takes one float32 "
            "crop at a time.",
            hint="Leave out --dynamic-batch, or export ncnn's networks into a bundle of their own.",
        )
    with work_folder("pnnx") as folder:
        (folder / _GRAPH).write_bytes(graph)
        sizes = ",".join(f"[{','.join(map(str, one.shape))}]" for one in inputs)
        said = _run([_program(), _GRAPH, f"inputshape={sizes}", f"fp16={int(half)}"], folder, label)
        made = folder / "graph.ncnn.param", folder / "graph.ncnn.bin"
        if not all(one.is_file() for one in made):
            raise CompileError(f"{label} could not be made: pnnx wrote none ({_last(said)}).", hint=_OTHER)
        layers, weights = read_param(made[0].read_text(encoding="ascii"), label), made[1].read_bytes()
    if unknown := sorted({one.kind for one in layers if not one.kind.isidentifier()}):
        raise CompileError(f"{label} has operators that ncnn lacks: {', '.join(unknown)}.", hint=_OTHER)
    return pack(write_param(_named(layers, inputs, outputs)), weights)


def _program() -> Path:
    """The program of pnnx, which its package brings.

    Raises:
        MissingDependencyError: It is not installed.
    """
    found = importlib.util.find_spec("pnnx")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        for name in ("pnnx", "pnnx.exe"):
            if (Path(place) / name).is_file():
                return Path(place) / name
    raise MissingDependencyError(
        "Networks for ncnn are made with pnnx, which is not installed.", hint=f"Install it: {INSTALL}."
    )


def _run(command: Sequence[str | Path], folder: Path, label: str) -> str:
    """What the program says.

    Raises:
        CompileError: It failed or took too long.
    """
    try:
        done = children.run(command, timeout_s=TIMEOUT_S, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired as err:
        raise CompileError(f"{label} could not be made: pnnx took more than {TIMEOUT_S:g} s.", hint=_OTHER) from err
    said: str = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        how = how_it_ended(done.returncode)
        raise CompileError(f"{label} could not be made: pnnx ended ({how}): {_last(said)}.", hint=_OTHER)
    return said


def _last(said: str) -> str:
    return next((line.strip()[:300] for line in reversed(said.splitlines()) if line.strip()), "it says nothing")


def _named(
    layers: tuple[NcnnLayer, ...], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[NcnnLayer, ...]:
    """The layers with the graph's names instead of pnnx's, and inputs that tell their sizes."""
    names = {f"in{number}": one.name for number, one in enumerate(inputs)}
    names |= {f"out{number}": one.name for number, one in enumerate(outputs)}
    sizes = {}
    for one in inputs:
        _, channels, height, width = one.shape
        sizes[one.name] = (f"0={width}", f"1={height}", f"2={channels}")
    named = []
    for layer in layers:
        reads, makes = (tuple(names.get(name, name) for name in side) for side in (layer.inputs, layer.outputs))
        settings = sizes[makes[0]] if layer.kind == "Input" else layer.settings
        named.append(replace(layer, inputs=reads, outputs=makes, settings=settings))
    return tuple(named)
