"""Tensors for a network whose file says nothing of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import TensorSpec
from splite_deploy.errors import UsageError
from splite_deploy.runtime.io.npz import read_npz

Feeds = list[dict[str, NDArray[Any]]]
"""Inputs by name, one after the other."""
COUNT = 8


def random_feeds(inputs: Sequence[TensorSpec], batch: int) -> Feeds:
    """Random numbers, always the same: floats from 0 to 1, whole numbers over the range of bytes.

    Args:
        inputs: Of the session.
        batch: First size where the file leaves it open.

    Raises:
        UsageError: The file leaves open more than that, or not even that, and ``batch`` is another than its own.
    """
    if batch > 1 and all(spec.shape[:1] not in ((None,), (batch,)) for spec in inputs):
        inputs_shown = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in inputs)
        raise UsageError(
            f"The file does not take a batch of {batch}: its inputs are {inputs_shown}.", hint="Leave --batch out."
        )
    rng = np.random.default_rng(0)
    shapes = {spec.name: _shape(spec, batch) for spec in inputs}
    return [{spec.name: _random(rng, shapes[spec.name], np.dtype(spec.dtype)) for spec in inputs} for _ in range(COUNT)]


def feeds_from_file(path: Path, inputs: Sequence[TensorSpec]) -> Feeds:
    """Reads a ``.npz`` with an array for each input by its name: of its shape, or several with one more axis in front.

    Raises:
        UsageError: The file cannot be read, or does not hold what the network takes.
    """
    arrays = read_npz(path, "Save an array for each input under its name, with numpy.savez.")
    names = [spec.name for spec in inputs]
    if set(arrays) != set(names):
        raise UsageError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; the network takes {', '.join(names)}.",
            hint="Save one array for each input under its name.",
        )
    stacks = {}
    for spec in inputs:
        array = arrays[spec.name]
        if not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
            raise UsageError(
                f"The array '{spec.name}' is {array.dtype}; the network takes {spec.dtype}.",
                hint="Save it as that type.",
            )
        stacks[spec.name] = (array[None] if array.ndim == len(spec.shape) else array).astype(spec.dtype)
    counts = {len(stack) for stack in stacks.values()}
    if len(counts) != 1 or 0 in counts:
        raise UsageError(
            f"The arrays of {path} have different lengths: {sorted(counts)}.", hint="Save equally many of each."
        )
    return [{name: np.ascontiguousarray(stack[i]) for name, stack in stacks.items()} for i in range(counts.pop())]


def _shape(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    sizes = tuple(batch if size is None and axis == 0 else size for axis, size in enumerate(spec.shape))
    if None in sizes:
        raise UsageError(
            f"The file does not fix the sizes of the input '{spec.name}': {list(spec.shape)}.",
            hint="Give tensors of the size that you want to time, with --inputs.",
        )
    return tuple(size for size in sizes if size is not None)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if np.issubdtype(dtype, np.floating):
        return rng.random(shape).astype(dtype)
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    return rng.integers(-128 if dtype == np.int8 else 0, 128 if dtype == np.int8 else 256, shape).astype(dtype)
