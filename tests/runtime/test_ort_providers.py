"""ONNX Runtime's execution providers: what really ran, read back; and no silent fall-back to the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from splite_deploy.bench.result import BenchResult
from splite_deploy.bundle import Bundle
from splite_deploy.bundle.report import NOT_TOLD, Layer
from splite_deploy.errors import BackendError
from splite_deploy.runtime import open_session
from splite_deploy.runtime.backends.ort import OrtOptions, read_trace
from splite_deploy.runtime.backends.ort_providers import CPU, PROVIDERS, find_provider, reason_of
from splite_deploy.runtime.backends.placement import Placement, placements_of, refuse_fall_back
from splite_deploy.runtime.session import Placed
from tests.shared.other_runtimes import ROOT, run_with

ort = pytest.importorskip("onnxruntime")
Run = Callable[..., Result]
OPENVINO = "OpenVINOExecutionProvider"
LACKING = sorted(name for name, one in PROVIDERS.items() if not one.available())
INSTALLS = {
    "cuda": "pip install onnxruntime-gpu, without onnxruntime beside it.",
    "tensorrt": "pip install onnxruntime-gpu, without onnxruntime beside it, and TensorRT.",
    "openvino": "pip install onnxruntime-openvino, without onnxruntime beside it.",
    "xnnpack": "build ONNX Runtime with --use_xnnpack, since no wheel on PyPI has it.",
    "qnn": "pip install onnxruntime-qnn.",
    "coreml": "pip install onnxruntime on macOS, whose wheel has it.",
    "dml": "pip install onnxruntime-directml on Windows, without onnxruntime beside it.",
}


def test_every_provider_has_its_test() -> None:
    assert set(INSTALLS) == set(PROVIDERS)


@pytest.mark.parametrize("name", LACKING)
def test_a_provider_that_this_onnx_runtime_lacks(name: str, tiny_bundle: Path) -> None:
    with pytest.raises(BackendError) as caught:
        open_session(Bundle.open(tiny_bundle), "ort", "fp32", options=OrtOptions(provider=name))
    assert caught.value.message.startswith(
        f"ONNX Runtime {ort.__version__} has no provider '{name}' ({PROVIDERS[name].name}) here; it has "
    )
    assert caught.value.hint == f"Install it: {INSTALLS[name]}"


def test_a_name_that_no_provider_has() -> None:
    with pytest.raises(BackendError, match="There is no execution provider 'tpu'") as caught:
        find_provider("tpu")
    assert caught.value.hint == "Choose one of: cuda, tensorrt, openvino, xnnpack, qnn, coreml, dml."


@pytest.mark.parametrize("command", ["verify", "bench", "run"])
def test_commands_that_run_networks_take_it(splite: Run, command: str, tiny_bundle: Path) -> None:
    if not LACKING:
        pytest.skip("this ONNX Runtime has every provider")
    source = ["absent.png"] if command == "run" else []
    done = splite(command, tiny_bundle, *source, "-b", "ort", "--provider", LACKING[0])
    assert done.exit_code == 1
    assert f"has no provider '{LACKING[0]}'" in done.stderr
    assert INSTALLS[LACKING[0]].partition(",")[0] in done.stderr
    done = splite(command, tiny_bundle, *source, "--provider", LACKING[0])
    assert done.exit_code == 2
    assert "--provider is for ort, and no backend is named." in done.stderr and "Add -b ort." in done.stderr
    done = splite(command, tiny_bundle, *source, "-b", "ort", "--allow-cpu")
    assert done.exit_code == 2
    assert "--allow-cpu says nothing without --provider or --delegate." in done.stderr
    done = splite(command, tiny_bundle, *source, "-b", "tflite", "--provider", LACKING[0])
    assert done.exit_code == 2 and "--provider is for ort, and -b names tflite." in done.stderr


def test_the_cpu_alone_tells_nothing(tiny_bundle: Path) -> None:
    with open_session(Bundle.open(tiny_bundle), "ort", "fp32") as session:
        assert isinstance(session, Placed) and session.placements() == ()


def event(name: str, kind: str, provider: str, duration_us: int, start_us: int) -> dict[str, Any]:
    tensors = [{"float": [1, 3, 8, 8]}]
    facts = {"op_name": kind, "provider": provider, "node_index": name, "input_type_shape": tensors}
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "dur": duration_us,
        "ts": start_us,
        "args": {**facts, "output_type_shape": tensors},
    }


TRACE = [
    event("all", "OpenVINO-EP-subgraph_1", OPENVINO, 30, 1),
    event("end", "Det", CPU, 5, 2),
    event("all", "OpenVINO-EP-subgraph_1", OPENVINO, 20, 3),
    event("end", "Det", CPU, 7, 4),
]


def test_layers_tell_what_ran_them() -> None:
    layers = read_trace(TRACE, by_provider=True)
    assert layers == (
        Layer("all", "OpenVINO-EP-subgraph_1", NOT_TOLD, 25.0, OPENVINO),
        Layer("end", "Det", "float32", 6.0, CPU),
    )
    assert placements_of(layers) == (Placement(OPENVINO, 1, 25.0), Placement(CPU, 1, 6.0))
    assert placements_of(layers, timed=False)[0] == Placement(OPENVINO, 1, None)
    assert placements_of(read_trace(TRACE)) == ()
    assert str(Placement(CPU, 2, 6.4)) == f"{CPU} (2 nodes, 6 µs)"


def refused(kinds: str, allow_cpu: bool) -> BackendError | None:
    """What is said of layers by the first letter of what ran each: O for OpenVINO, the CPU otherwise."""
    layers = [Layer(str(index), kind, "", None, OPENVINO if kind == "O" else CPU) for index, kind in enumerate(kinds)]
    about = {"file": "a.onnx", "label": "The provider 'openvino'", "flag": "--provider"}
    try:
        refuse_fall_back(layers, OPENVINO, allow_cpu=allow_cpu, **about)
    except BackendError as err:
        return err
    return None


def test_a_fall_back_is_refused_unless_it_is_allowed() -> None:
    assert refused("OO", allow_cpu=False) is None
    some = refused("OOABBCDEF", allow_cpu=False)
    assert some is not None and some.message == (
        "The provider 'openvino' runs 2 of the 9 nodes of a.onnx, and the CPU runs the others (2 B, 1 A, 1 C, 1 D, "
        "...)."
    )
    assert some.hint.startswith("Allow that with --allow-cpu")
    assert refused("OOAB", allow_cpu=True) is None
    for allowed in (False, True):  # then it is not what was asked for at all
        none = refused("AB", allow_cpu=allowed)
        assert none is not None and "runs nothing of a.onnx: the CPU runs all of its 2 nodes." in none.message
        assert none.hint == "Leave --provider out to run it on the CPU."


def test_the_reason_in_what_onnx_runtime_logs() -> None:
    cuda = (
        "\x1b[1;31m2026-11-27 07:52:25.592 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
        "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
        "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
        "libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared object file"
    )
    openvino = (
        "\x1b[1;31m2026-11-27 07:45:41.913 [E:onnxruntime:Default, provider_bridge_ort.cc:2310 Create] "
        "/onnxruntime/onnxruntime/core/providers/openvino/openvino_provider_factory.cc:141 std::string "
        "onnxruntime::openvino_ep::ParseDeviceType(std::shared_ptr<OVCore>, const onnxruntime::ProviderOptions&) "
        "[ERROR] [OpenVINO] Device GPU is not available\x1b[m"
    )
    assert reason_of(["# something", cuda]) == (
        "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared "
        "object file"
    )
    assert reason_of([openvino]) == "[OpenVINO] Device GPU is not available"
    assert reason_of(["2026 [W:onnxruntime:Default, a.cc:1 B] careful"]) == ""


# --- with other builds of ONNX Runtime ---


def measured(done: Any) -> list[BenchResult]:
    assert done.returncode == 0, done.stderr
    return [BenchResult.from_dict(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_openvino_runs_a_bundle(tiny_bundle: Path) -> None:
    quick = ("--frames", "12", "--warmup", "0", "--json", "-")
    (result,) = measured(
        run_with(
            "onnxruntime-openvino",
            *("bench", tiny_bundle, "-b", "ort", "-p", "fp32", "--provider", "openvino", "--threads", "1", *quick),
        )
    )
    assert result.label == "ort/openvino fp32" and result.provider == "openvino"
    assert "onnxruntime-openvino" in result.environment.versions["onnxruntime"]
    (placed,) = result.placements
    assert (placed.provider, placed.nodes) == (OPENVINO, 1) and placed.time_us is not None and placed.time_us > 0
    assert [(layer.provider, layer.types) for layer in result.layers] == [(OPENVINO, NOT_TOLD)]
    assert result.deviation is not None and result.deviation.origin == "measured"
    assert 0 < result.deviation.deviation_px.max < 1e-3  # float32, but not the CPU provider's bits
    assert not result.deviation.violations


@pytest.mark.slow
def test_openvino_leaves_an_operator_to_the_cpu(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [make.make_node("Relu", ["image"], ["plain"]), make.make_node("Det", ["plain"], ["points"])]
    ends = [
        make.make_tensor_value_info(name, kind, shape) for name, shape in (("image", [1, 3, 8, 8]), ("points", None))
    ]
    graph = make.make_graph(nodes, "g", ends[:1], ends[1:])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    command = ("bench", tmp_path / "a.onnx", "-b", "ort", "--provider", "openvino", "--frames", "12", "--warmup", "0")
    done = run_with("onnxruntime-openvino", *command)
    assert done.returncode == 1
    assert "'openvino' runs 1 of the 2 nodes of a.onnx, and the CPU runs the others (1 Det)." in done.stderr
    assert "Allow that with --allow-cpu" in done.stderr
    (result,) = measured(run_with("onnxruntime-openvino", *command, "--allow-cpu", "--json", "-"))
    assert sorted((one.provider, one.nodes) for one in result.placements) == [(CPU, 1), (OPENVINO, 1)]
    assert all(one.time_us is not None for one in result.placements)


@pytest.mark.slow
def test_qnn_runs_what_its_simulator_takes(tiny_bundle: Path) -> None:
    command = ("verify", "-b", "ort", "-p", "fp32", "--provider", "qnn")
    done = run_with("onnxruntime-qnn", *command, tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert "ort fp32: ran by QNNExecutionProvider (1 node)" in done.stdout
    done = run_with("onnxruntime-qnn", *command, "--allow-cpu", ROOT / "splite_deploy" / "demo" / "hand.splite")
    assert done.returncode == 1
    assert "The provider 'qnn' runs nothing of model.onnx: the CPU runs all of its " in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("provider", "said"),
    [
        (
            "cuda",
            "cannot start its provider 'cuda', and would run model.onnx on the CPU instead: Failed to load library",
        ),
        ("tensorrt", "cannot load model.onnx by its provider 'tensorrt': Failed to load library"),
    ],
)
def test_cuda_without_its_libraries(tiny_bundle: Path, provider: str, said: str) -> None:
    done = run_with("onnxruntime-gpu", "verify", tiny_bundle, "-b", "ort", "-p", "fp32", "--provider", provider)
    if done.returncode == 0:
        pytest.skip("CUDA works here")
    assert done.returncode == 1 and said in done.stderr
    assert "Without --provider the file runs on the CPU." in done.stderr
