"""The same crops through the same network by TensorRT, torch and ONNX Runtime, each on the GPU.

Every run begins with crops on the host and ends with its results there. TensorRT's engines normalise and decode where
their bundle is fused; torch normalises on the GPU and copies the maps back; ONNX Runtime takes the bundle's fp32 graph.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gpu_bundles import CHECKPOINTS, HAND
from numpy.typing import NDArray

from splite_deploy.bench.interleaved import Run
from splite_deploy.bundle import Bundle, TensorSpec
from splite_deploy.compile.tensorrt.engines import EngineOptions, compile_trt
from splite_deploy.errors import SpliteError
from splite_deploy.runtime.backends.trt import TrtOptions
from splite_deploy.runtime.backends.trt.module import FLAVOURS
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import open_session
from splite_deploy.runtime.verify import verify
from splite_deploy.spec import Precision

ENGINE = "engine_sha256"
"""Among the facts of a runner with TensorRT."""
TIMED_FRAMES = 300
"""Inferences whose time on the device is taken, beside those that are timed in turn."""


@dataclass(frozen=True)
class Runner:
    """One way to run one network with one batch.

    Attributes:
        network: ``dense`` or ``compacted``.
        name: For example ``TensorRT 10.3.0``, ``torch eager``.
        precision: What it computes in.
        run: One inference of a batch, from the host to the host.
        compute_ms: Milliseconds on the device, of the network alone, per inference; None where it cannot tell.
        facts: What else is known: hash of the engine, its target, its shift against the reference.
    """

    network: str
    name: str
    precision: Precision
    run: Run
    compute_ms: Callable[[], list[float]] | None
    facts: dict[str, Any]

    @property
    def label(self) -> str:
        """For example ``dense, torch eager fp16``."""
        return f"{self.network}, {self.name} {self.precision}"


def batches_of(bundle: Bundle, batch: int) -> list[NDArray[np.uint8]]:
    """Batches of golden crops, (batch, h, w, 3), to be used in turn."""
    crops = bundle.golden().crops
    return [np.stack([crops[(first + k) % len(crops)] for k in range(batch)]) for first in range(len(crops))]


def feeds_of(bundle: Bundle, image: TensorSpec, batch: int) -> list[NDArray[Any]]:
    """The same batches as this input takes them: as they are where a graph normalises, else as normalised planes."""
    spec = bundle.model.input
    preprocessor = Preprocessor(spec, spec.color)
    return [preprocessor.feed(crops, image) for crops in batches_of(bundle, batch)]


def tensorrt_runner(
    bundle: Bundle,
    network: str,
    precision: Precision,
    batch: int,
    options: EngineOptions,
    work: Path,
    stack: ExitStack,
) -> Runner:
    """An engine for exactly this batch, built in ``work``, verified and opened.

    Raises:
        SpliteError: It cannot be built, moves keypoints too far, or does not run.
    """
    path = work / f"{network}-{precision}-{batch}.splite"
    shutil.copytree(bundle.path, path)
    compile_trt(Bundle.open(path), [precision], replace(options, batch=(batch, batch, batch)))
    built = Bundle.open(path)
    artifact = built.find("trt", precision)
    facts = {ENGINE: artifact.sha256, "target": dict(artifact.target)}
    if batch == 1:  # golden crops are verified one by one
        (result,) = verify(built, "trt", precision)
        facts["shift_p95_px"] = result.parity.deviation_px.p95
        facts["violations"] = list(result.violations)
    session = stack.enter_context(open_session(built, "trt", precision))
    name = session.inputs[0].name
    feeds = feeds_of(built, session.inputs[0], batch)

    def run(index: int) -> object:
        return session.run({name: feeds[index % len(feeds)]})

    def compute_ms() -> list[float]:
        timed: Any = open_session(built, "trt", precision, options=TrtOptions(stage_timing=True))
        samples = []
        with timed:
            for index in range(50 + TIMED_FRAMES):
                timed.run({name: feeds[index % len(feeds)]})
                samples.append(timed.stage_ms()["compute"])
        return samples[50:]

    flavour = FLAVOURS[artifact.target["flavour"]]
    return Runner(network, f"{flavour} {artifact.target['tensorrt']}", precision, run, compute_ms, facts)


def torch_runners(bundle: Bundle, network: str, batch: int) -> Iterator[Runner]:
    """Eager fp32 and fp16, and ``torch.compile`` in fp16 with CUDA graphs.

    Raises:
        ImportError: torch, or what loads the checkpoint, is not installed.
        SpliteError: The checkpoint cannot be loaded.
    """
    import torch

    from splite_deploy.export.source.load import load_model

    torch._dynamo.reset()  # it compiles a function only so often, and then falls back to eager without a word
    if not torch.cuda.is_available():
        raise SpliteError("This torch has no CUDA.", hint="Install one that has.")
    spec = bundle.model.input
    crops = batches_of(bundle, batch)
    pinned = torch.empty(crops[0].shape, dtype=torch.uint8, pin_memory=True)
    mean = torch.tensor(spec.mean, device="cuda").view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device="cuda").view(1, 3, 1, 1)
    ways: list[tuple[str, Precision, bool]] = [
        ("torch eager", "fp32", False),
        ("torch eager", "fp16", False),
        ("torch.compile", "fp16", True),
    ]
    for name, precision, compiled in ways:
        dtype = torch.float16 if precision == "fp16" else torch.float32
        module = load_model(CHECKPOINTS[network], HAND / "model.toml", None).network.eval().cuda().to(dtype)
        forward: Any = torch.compile(module, mode="reduce-overhead") if compiled else module

        def ready(index: int, dtype: Any = dtype) -> Any:
            pinned.numpy()[:] = crops[index % len(crops)]
            planes = pinned.cuda(non_blocking=True).permute(0, 3, 1, 2).float()
            return ((planes - mean) / std).to(dtype)

        def run(index: int, forward: Any = forward, ready: Any = ready) -> object:
            with torch.inference_mode():
                return [output.float().cpu() for output in _listed(forward(ready(index)))]

        def compute_ms(forward: Any = forward, ready: Any = ready) -> list[float]:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            samples = []
            with torch.inference_mode():
                for index in range(50 + TIMED_FRAMES):
                    tensor = ready(index)
                    start.record()
                    forward(tensor)
                    end.record()
                    end.synchronize()
                    samples.append(start.elapsed_time(end))
            return samples[50:]

        yield Runner(network, name, precision, run, compute_ms, {"torch": torch.__version__})


def onnxruntime_runner(bundle: Bundle, network: str, batch: int) -> Runner:
    """The fp32 graph with ONNX Runtime's CUDA provider.

    Raises:
        ImportError: ONNX Runtime is not installed.
        SpliteError: It has no CUDA provider.
    """
    import onnxruntime as ort

    provider = "CUDAExecutionProvider"
    if provider in ort.get_available_providers():
        graph = bundle.path / bundle.find("ort", "fp32").file
        session = ort.InferenceSession(str(graph), providers=[provider])
        if provider in session.get_providers():  # otherwise it has gone to the CPU without a word
            image = bundle.find("ort", "fp32").inputs[0]
            feeds = feeds_of(bundle, image, batch)

            def run(index: int) -> object:
                return session.run(None, {image.name: feeds[index % len(feeds)]})

            return Runner(network, "onnxruntime CUDA", "fp32", run, None, {"onnxruntime": ort.__version__})
    raise SpliteError("This ONNX Runtime has no CUDA provider.", hint="Install onnxruntime-gpu.")


def _listed(outputs: Any) -> list[Any]:
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
