"""Optimization level 0 for TensorRT 8.5, which has no levels yet: only a few kernels of each layer are timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from splite_deploy.compile.tensorrt.typing_mode import SELECTOR

TRIED = 4
"""Kernels of a layer that are timed; of a convolution TensorRT has dozens, hundreds on a new GPU."""
_BYTES = {"INT8": 1, "UINT8": 1, "BOOL": 1, "HALF": 2}


def few_kernels(trt: Any) -> Any:
    """What ``IBuilderConfig.algorithm_selector`` takes, to build fast.

    Args:
        trt: The module.
    """
    base: Any = getattr(trt, SELECTOR)

    class FewKernels(base):  # type: ignore[misc]
        """Offers TensorRT those kernels of each layer that read and write the fewest bytes, in the least memory."""

        def __init__(self) -> None:
            base.__init__(self)

        def select_algorithms(self, context: Any, choices: Sequence[Any]) -> list[int]:
            tensors = range(context.num_inputs + context.num_outputs)
            sizes = [sum(_size(choice.get_algorithm_io_info(index)) for index in tensors) for choice in choices]
            least = min(sizes, default=0)
            smallest = [index for index, size in enumerate(sizes) if size == least]
            return sorted(smallest, key=lambda index: choices[index].workspace_size)[:TRIED]

        def report_algorithms(self, contexts: Sequence[Any], choices: Sequence[Any]) -> None:
            """TensorRT asks for it; the inspector tells what was chosen."""

    return FewKernels()


def _size(tensor: Any) -> int:
    """Bytes of one element; the fast types are asked for by flags, and a slower kernel would not be what was asked."""
    return _BYTES.get(tensor.dtype.name, 4)
