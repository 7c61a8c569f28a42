"""Engines of every graph that export makes, built by TensorRT-RTX, which needs no GPU for it; and builds that fail."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx  # noqa: TID253
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253
from trt_graphs import needs_rtx, with_graphs

from splite_deploy.bundle import Bundle, Typing
from splite_deploy.compile.child_process import Child, module_command
from splite_deploy.compile.tensorrt.engines import EngineOptions, compile_trt
from splite_deploy.compile.tensorrt.job import Built, Job
from splite_deploy.device.cuda_driver import gpu
from splite_deploy.errors import CompileError, UsageError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.graph.walk import load, named_nodes
from splite_deploy.runtime.backends.trt.module import MODULES
from splite_deploy.spec import Precision

pytestmark = pytest.mark.usefixtures("logs")
BOTH: tuple[Typing, ...] = ("weak", "strong")
without_gpu = pytest.mark.skipif(gpu() is not None, reason="there is a GPU here")


def exported(checkpoint: Path, output: Path, model: Path | None, **options: Any) -> Bundle:
    """A bundle with graphs of every precision."""
    chosen = ExportOptions(backends=("trt",), precisions=("fp32", "fp16", "int8"), crops=8, **options)
    return export_bundle(checkpoint, output, model=model, options=chosen)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Read only: copy it before compiling."""
    return exported(tiny_checkpoint, tmp_path_factory.mktemp("tiny") / "tiny.splite", tiny_model)


@pytest.fixture
def bundle(tiny: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(tiny.path, tmp_path / "tiny.splite"))


def files(bundle: Bundle) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.path.iterdir()}


# --- builds ---


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "fused"),
    [("splite_hand", False), ("splite_hand", True), ("splite_hand_dense", True)],
    ids=["compacted-plain", "compacted-fused", "dense-fused"],
)
def test_every_graph_of_the_models_that_come_along(root: Path, tmp_path: Path, checkpoint: str, fused: bool) -> None:
    file = root / "models" / "splite_hand" / f"{checkpoint}.safetensors"
    bundle = exported(file, tmp_path / "hand.splite", None, fuse_input=fused, fuse_decode=fused, max_shift_px=4.0)
    engines = compile_trt(bundle, ("fp32", "fp16", "int8"))
    made = Bundle.open(bundle.path)  # every hash is checked
    assert {graph.typing for graph in bundle.manifest.graphs} == set(BOTH)
    assert [engine.label for engine in engines] == ["trt fp32", "trt fp16", "trt int8"]
    assert made.manifest.artifacts == (*bundle.manifest.artifacts, *engines)
    for engine in engines:
        assert engine.inputs[0].dtype == ("uint8" if fused else "float32")
        assert {spec.role for spec in engine.outputs} >= ({"keypoints", "scores"} if fused else {"heatmap"})
        assert engine.target["typing"] == "strong" and engine.target["batch"] == "1,1,1"


@needs_rtx
def test_the_command(bundle: Bundle, splite: Callable[..., Result]) -> None:
    result = splite("compile", bundle.path, "-p", "fp16", "-p", "int8", "--optimization-level", 2, "--low-memory")
    assert result.exit_code == 0, result.stderr
    assert "TensorRT-RTX" in result.stdout and "strongly typed" in result.stdout
    assert f"splite-deploy verify {bundle.path} -b trt" in result.stdout
    again = splite("compile", bundle.path, "-p", "fp16", "--workspace-mib", 64, "--json", "-")
    (engine,) = json.loads(again.stdout)
    assert engine["file"] == Bundle.open(bundle.path).find("trt", "fp16").file
    assert engine["target"]["workspace_mib"] == "64" and float(engine["target"]["build_s"]) > 0
    trt = importlib.import_module("tensorrt_rtx_bindings")
    assert (engine["target"]["flavour"], engine["target"]["tensorrt"]) == ("rtx", trt.__version__)
    assert len(list(bundle.path.glob("*.engine"))) == 2


@needs_rtx
def test_a_damaged_engine_is_built_anew_by_the_command_that_the_error_names(
    bundle: Bundle, splite: Callable[..., Result]
) -> None:
    compile_trt(bundle, ["fp16"])
    (bundle.path / "model.fp16.engine").write_bytes(b"damaged")
    refused = splite("inspect", bundle.path)
    assert refused.exit_code == 1
    command = shlex.split(refused.stderr.partition("splite-deploy ")[2].splitlines()[0].rstrip("."))
    assert command == ["compile", str(bundle.path), "-b", "trt", "-p", "fp16"]
    assert splite(*command).exit_code == 0
    assert splite("inspect", bundle.path).exit_code == 0


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_layers_that_were_asked_for_are_those_of_the_graph(
    bundle: Bundle, tmp_path: Path, precision: Precision
) -> None:
    graph = next(g for g in bundle.manifest.graphs if (g.precision, g.typing) == (precision, "strong"))
    file = bundle.path / graph.file
    Job(precision, {"strong": str(file)}, None, None, False, None, None, "off").write(tmp_path)
    command = module_command("splite_deploy.compile.tensorrt.child")
    with Child(command, tmp_path, log=tmp_path / "log", environment={}) as child:
        child.finish(timeout_s=100, progress=lambda line: None)
    nodes = named_nodes(load(file).graph)
    convolutions = {name: node for name, node in nodes.items() if node.op_type in ("Conv", "ConvTranspose")}
    makers = {name: node.inputs[0].producer() for name, node in convolutions.items()}
    quantised = {name for name, maker in makers.items() if maker is not None and maker.op_type == "DequantizeLinear"}
    expected = {"fp32": {}, "fp16": dict.fromkeys(convolutions, "float16"), "int8": dict.fromkeys(quantised, "int8")}
    assert quantised or precision != "int8"
    assert Built.read(tmp_path).requested == expected[precision]


@needs_rtx
def test_progress_grows_to_the_end(bundle: Bundle) -> None:
    told: list[tuple[str, float]] = []
    compile_trt(bundle, ["fp32"], progress=lambda step, share: told.append((step, share)))
    shares = [share for _, share in told if share >= 0]
    assert told[0] == ("fp32: starting TensorRT", -1)
    assert len(shares) > 10 and shares == sorted(shares) and 0.5 < shares[-1] <= 1


@needs_rtx
def test_a_dynamic_batch(tiny_dynamic_bundle: Path, tmp_path: Path, splite: Callable[..., Result]) -> None:
    bundle = with_graphs(
        tiny_dynamic_bundle, tmp_path / "t.splite", [("fp32", BOTH, tiny_dynamic_bundle / "model.onnx")]
    )
    missing = splite("compile", bundle.path, "-p", "fp32")
    assert missing.exit_code == 1
    assert "The graph has a dynamic batch" in missing.stderr and "--batch 1,1,8" in missing.stderr
    assert splite("compile", bundle.path, "-p", "fp32", "--batch", "1,2,8").exit_code == 0
    engine = Bundle.open(bundle.path).find("trt")
    assert engine.target["batch"] == "1,2,8" and engine.inputs[0].shape[0] is None
    assert splite("compile", bundle.path, "-p", "fp32", "--batch", "4,4,4").exit_code == 0
    engine = Bundle.open(bundle.path).find("trt")
    assert {spec.shape[0] for spec in (*engine.inputs, *engine.outputs)} == {4}


@needs_rtx
def test_a_precision_that_the_graph_does_not_have(bundle: Bundle) -> None:
    fp32 = next(graph for graph in bundle.manifest.graphs if graph.precision == "fp32")
    for precision in ("fp16", "int8"):
        wrong = replace(fp32, precision=precision, typing="strong")
        mixed = Bundle(bundle.path, replace(bundle.manifest, graphs=(wrong,)))
        with pytest.raises(CompileError, match=f"{precision} was requested, but no layer with weights of model.trt"):
            compile_trt(mixed, [precision])
    assert not list(bundle.path.glob("*.engine"))


@needs_rtx
def test_all_engines_or_none(bundle: Bundle) -> None:
    before = files(bundle)
    fp32 = next(graph for graph in bundle.manifest.graphs if graph.precision == "fp32")
    graphs = (
        *bundle.manifest.graphs[:4],
        replace(fp32, precision="int8"),
        replace(fp32, precision="int8", typing="strong"),
    )
    with pytest.raises(CompileError, match="int8 was requested"):
        compile_trt(Bundle(bundle.path, replace(bundle.manifest, graphs=graphs)), ["fp32", "int8"])
    assert files(bundle) == before


# --- what cannot be had ---


def test_the_options_have_ranges() -> None:
    for options, message in (
        ({"batch": (2, 1, 4)}, "The batch is"),
        ({"batch": (0, 1, 4)}, "The batch is"),
        ({"workspace_mib": 0}, "A workspace of 0 MiB"),
        ({"optimization_level": 6}, "There is no optimization level 6"),
        ({"best_of": 0}, "best_of is 0, which is not a number of builds."),
    ):
        with pytest.raises(UsageError, match=message):
            EngineOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--batch", "1,8"], "--batch is '1,8'.", "Give MIN,OPT,MAX"),
        (["--batch", "1,1,8"], "The graph has a fixed batch of 1.", "Leave --batch out"),
        (["--dla", "0", "-p", "fp16"], "offers no DLA core 0 here.", "Leave --dla out"),
        (["--timing-cache", "timings"], "has no use for --timing-cache: it times no kernels.", "Leave it out."),
    ],
)
@needs_rtx
def test_an_option_that_is_not_to_be_had(
    bundle: Bundle, options: list[str], message: str, hint: str, splite: Callable[..., Result]
) -> None:
    result = splite("compile", bundle.path, *options)
    assert result.exit_code == 1
    assert message in result.stderr and hint in result.stderr


@without_gpu
def test_builds_are_compared_on_a_gpu(bundle: Bundle, splite: Callable[..., Result]) -> None:
    result = splite("compile", bundle.path, "--best-of", 3)
    assert result.exit_code == 1
    assert "Comparing builds means running them, which needs a GPU." in result.stderr


def test_a_bundle_without_graphs(tiny_bundle: Path, splite: Callable[..., Result]) -> None:
    result = splite("compile", tiny_bundle, "-p", "int8")
    assert result.exit_code == 1
    assert "holds no graph for int8 engines" in result.stderr
    assert "Export it with: -b trt -p int8; where that failed, this says why: splite-deploy inspect " in result.stderr


def test_a_precision_twice(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="The precisions are"):
        compile_trt(bundle, ["fp16", "fp16"])


# --- TensorRT itself fails: a module of its name that does what the real one does there ---

FULL = "import sys\n__version__ = '10.3.0'\nclass Logger: pass\n"


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes a module ``tensorrt`` that child processes find, and none of the others."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

    def write(code: str) -> None:
        for name in MODULES:
            hidden = "raise ImportError('hidden by a test')"
            (folder / f"{name}.py").write_text(code if name == "tensorrt" else hidden)

    return write


@without_gpu
def test_tensorrt_without_a_gpu_is_not_even_asked(bundle: Bundle, tensorrt: Callable[[str], None]) -> None:
    tensorrt(FULL + "class Builder:\n    def __init__(self, logger): sys.exit('crash')\n")
    before = files(bundle)
    with pytest.raises(CompileError) as caught:
        compile_trt(bundle, ["fp16"])
    assert caught.value.message.startswith("TensorRT 10.3.0 builds engines on the GPU that will run them")
    assert "docker run --runtime nvidia" in caught.value.hint
    assert files(bundle) == before


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "The build of model.fp16.engine was ended by SIGKILL, which the system sends where memory runs out.",
            "Add --low-memory or a smaller --workspace-mib",
        ),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
            "The build of model.fp16.engine was ended by SIGSEGV, which is a crash of TensorRT.",
            "Try another --optimization-level",
        ),
        (
            "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
            "tensorrt is installed but cannot be imported: libnvinfer.so.10: cannot open shared object file.",
            "splite-deploy doctor",
        ),
        (
            "raise MemoryError",
            "There was not enough memory to build the fp16 engine.",
            "Add --low-memory",
        ),
        (
            "raise ValueError('surprise')",
            "The build of model.fp16.engine failed: ValueError: surprise",
            "Its log is",
        ),
    ],
)
def test_the_build_ends_badly(
    code: str, message: str, hint: str, bundle: Bundle, tensorrt: Callable[[str], None], logs: Path
) -> None:
    tensorrt(code)
    before = files(bundle)
    with pytest.raises(CompileError) as caught:
        compile_trt(bundle, ["fp16"])
    assert caught.value.message == message and hint in caught.value.hint
    (log,) = logs.iterdir()  # and nothing else is left of the build
    assert caught.value.hint.endswith(f"{log}.")
    assert files(bundle) == before


@needs_rtx
@pytest.mark.slow
def test_memory_runs_out(tiny_bundle: Path, tmp_path: Path) -> None:
    """The real builder, with a graph of 256 MiB and less memory than it takes."""
    columns = 1 << 23
    nodes = [helper.make_node("Reshape", ["image", "flat"], ["x"]), helper.make_node("MatMul", ["x", "w"], ["heatmap"])]
    weight = np.random.default_rng(0).standard_normal((8, columns), np.float32)
    made = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 1, 8))],
        [helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, (1, columns))],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1, 8]), "flat")],
    )
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "large.onnx"
    )
    bundle = with_graphs(tiny_bundle, tmp_path / "t.splite", [("fp32", BOTH, tmp_path / "large.onnx")], planted=True)
    command = f"ulimit -v {800 << 10}; exec {sys.executable} -m splite_deploy compile {bundle.path} -p fp32"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1
    assert "error: There was not enough memory to build" in done.stderr
    assert "Add --low-memory" in done.stderr
    assert files(bundle).keys() == {*(file.name for file in tiny_bundle.iterdir()), "large.onnx"}
