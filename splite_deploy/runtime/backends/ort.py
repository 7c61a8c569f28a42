"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Bundle, TensorSpec
from splite_deploy.errors import BackendError
from splite_deploy.runtime.session import DEFAULT_GPU, BaseSession, Ends, Feed, GpuOptions, ModelFile, first_line

Array = NDArray[np.float32]
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in ("float16", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool")},
}
"""numpy's names of the types as ONNX Runtime names them."""


class OrtSession(BaseSession):
    """A graph loaded into ONNX Runtime's CPU provider.

    Args:
        file: The graph.
        artifact: Its description; None reads that from the file.
        threads: CPU threads; None is ONNX Runtime's default, one per core.
        trace: Prefix of the file that receives the time of every node; None times none.
    """

    def __init__(
        self, file: Path | ModelFile, artifact: Artifact | None, threads: int | None, *, trace: Path | None = None
    ) -> None:
        content = file.data if isinstance(file, ModelFile) else str(file)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(trace)
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as err:  # onnxruntime has no common base class of its errors
            raise BackendError(
                f"ONNX Runtime {ort.__version__} cannot load {file.name}: {first_line(err)}",
                hint="Upgrade onnxruntime, or export again with a lower --opset.",
            ) from err
        super().__init__(artifact or Ends(_specs(self._session.get_inputs()), _specs(self._session.get_outputs())))
        self._names = [spec.name for spec in self.outputs]

    @classmethod
    def open(cls, bundle: Bundle, artifact: Artifact, threads: int | None, gpu: GpuOptions = DEFAULT_GPU) -> OrtSession:
        """Loads an artifact of a bundle."""
        return cls(bundle.path / artifact.file, artifact, threads)

    @classmethod
    def open_file(cls, file: Path, threads: int | None, gpu: GpuOptions = DEFAULT_GPU) -> OrtSession:
        """Loads a graph without a bundle."""
        return cls(file, None, threads)

    @classmethod
    def open_content(cls, file: ModelFile, threads: int | None, gpu: GpuOptions = DEFAULT_GPU) -> OrtSession:
        """Loads a graph from memory."""
        return cls(file, file.artifact, threads)

    def end_trace(self) -> Path:
        """Writes the trace, once, and returns its file: a list of events in the trace event format of Chrome."""
        return Path(self._session.end_profiling())

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, Array]:
        try:
            values = self._session.run(self._names, feeds)
        except Exception as err:
            raise BackendError(f"ONNX Runtime failed: {first_line(err)}", hint="Run 'splite-deploy verify'.") from err
        return dict(zip(self._names, values, strict=True))

    def _release(self) -> None:
        del self._session


def _specs(values: Sequence[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    """Tensors as the graph declares them; sizes that it leaves open are None."""
    return tuple(
        TensorSpec(
            name=value.name,
            shape=tuple(size if isinstance(size, int) else None for size in value.shape),
            dtype=_DTYPES.get(value.type, value.type),
            layout="",
            role="",
        )
        for value in values
    )
