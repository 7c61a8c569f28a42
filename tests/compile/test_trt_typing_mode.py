"""The typing mode of each version of TensorRT, by the names that it has.

``trt_names.json`` holds them, read off the bindings of each version by ``trt_names.py``; TensorRT-RTX is here, so that
its own are compared.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trt_graphs import needs_rtx

from splite_deploy.compile.tensorrt.typing_mode import TypingMode, typing_mode_of

NAMES = json.loads((Path(__file__).parent / "trt_names.json").read_text(encoding="utf-8"))
CLASSES = ("BuilderFlag", "NetworkDefinitionCreationFlag", "IBuilderConfig", "TacticSource", "PreviewFeature")


def module_of(version: str) -> Any:
    """An object that has exactly the recorded names."""
    names = NAMES[version]
    classes = {kind: SimpleNamespace(**dict.fromkeys(names[kind])) for kind in CLASSES}
    return SimpleNamespace(**{**dict.fromkeys(names["module"]), **classes})


def mode_of_version(version: str) -> TypingMode:
    return typing_mode_of(module_of(version), "rtx" if "RTX" in version else "tensorrt")


@pytest.mark.parametrize(
    ("version", "typing", "network_flags", "levels", "progress", "timings"),
    [
        ("8.5", "weak", ("EXPLICIT_BATCH",), False, False, True),
        ("8.6", "weak", ("EXPLICIT_BATCH",), True, False, True),
        ("10.3", "weak", ("EXPLICIT_BATCH",), True, True, True),
        ("10.16", "weak", ("EXPLICIT_BATCH",), True, True, True),
        ("11.4", "strong", ("STRONGLY_TYPED",), True, True, True),
        ("RTX 1.7", "strong", ("STRONGLY_TYPED",), True, True, False),
    ],
)
def test_the_typing_mode(
    version: str, typing: str, network_flags: tuple[str, ...], levels: bool, progress: bool, timings: bool
) -> None:
    found = mode_of_version(version)
    assert (found.typing, found.network_flags) == (typing, network_flags)
    assert (found.optimization_levels, found.progress, found.timing_cache) == (levels, progress, timings)
    assert bool(found.internal_tactics) == version.startswith("8.")


@pytest.mark.parametrize("version", list(NAMES))
@pytest.mark.parametrize("dla", [False, True])
def test_every_flag_that_is_set_exists(version: str, dla: bool) -> None:
    for precision in ("fp32", "fp16", "int8"):
        flags = mode_of_version(version).builder_flags(precision, dla)  # type: ignore[arg-type]
        assert set(flags) <= set(NAMES[version]["BuilderFlag"])
    assert set(mode_of_version(version).network_flags) <= set(NAMES[version]["NetworkDefinitionCreationFlag"])
    assert set(mode_of_version(version).external_tactics) <= set(NAMES[version]["TacticSource"])


def test_flags_choose_types_where_there_are_any() -> None:
    assert mode_of_version("8.5").builder_flags("fp32", False) == ()
    assert mode_of_version("8.5").builder_flags("fp16", False) == ("FP16",)
    assert mode_of_version("10.16").builder_flags("int8", False) == ("FP16", "INT8")
    assert mode_of_version("10.3").builder_flags("int8", True) == ("FP16", "INT8", "GPU_FALLBACK")
    assert mode_of_version("11.4").builder_flags("int8", False) == ()
    assert mode_of_version("11.4").builder_flags("fp16", True) == ("GPU_FALLBACK",)


@pytest.mark.parametrize("version", list(NAMES))
def test_calibrators_are_there_where_flags_are(version: str) -> None:
    found = mode_of_version(version)
    assert found.calibrators == (("entropy", "minmax") if found.typing == "weak" else ())
    if found.calibrators:
        flags = found.builder_flags("int8", False, calibrated=True)
        assert flags == ("FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS")
        assert set(flags) <= set(NAMES[version]["BuilderFlag"])


@needs_rtx
def test_the_names_of_rtx_are_its_own() -> None:
    trt = importlib.import_module("tensorrt_rtx_bindings")
    if not trt.__version__.startswith("1.7."):
        pytest.skip(f"TensorRT-RTX {trt.__version__} is installed; 1.7 is recorded")
    recorded = NAMES["RTX 1.7"]
    for kind in CLASSES:
        real = getattr(trt, kind)
        public = {name for name in dir(real) if not name.startswith("_")}
        assert set(recorded[kind]) <= public
        if hasattr(real, "__members__"):
            assert set(recorded[kind]) == set(real.__members__)
    assert typing_mode_of(trt, "rtx") == mode_of_version("RTX 1.7")


VERSIONS = [version for version in NAMES if "RTX" not in version]
_SINCE_8_6 = {"builder_optimization_level", "max_aux_streams"}
_SINCE_10 = {"IProgressMonitor", "progress_monitor", "STRONGLY_TYPED", "node_name", "node_operator"}
_UNTIL_8_6 = {"FULLY_CONNECTED", "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"}
_UNTIL_10 = {
    *("EXPLICIT_BATCH", "FP16", "PREFER_PRECISION_CONSTRAINTS", "CUBLAS", "CUBLAS_LT", "CUDNN"),
    *("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "int8_calibrator", "set_calibration_profile"),
    *("platform_has_fast_fp16", "platform_has_fast_int8", "precision"),
}
LACKING = {"8.5": _SINCE_8_6 | _SINCE_10, "8.6": _SINCE_10, "11.4": _UNTIL_8_6 | _UNTIL_10}
"""Names that code uses which a version has not: each is asked for first, or belongs to the mode of other versions."""
OTHERS = {"write", "read", "seek", "find", "free", "allocate", "format", "bfloat16", "fp8", "int4", "int64"}
"""Names of files, strings, memory and types of numpy, which mean nothing of TensorRT's where code uses them."""


@pytest.mark.parametrize("version", VERSIONS)
def test_no_version_lacks_a_name_that_is_taken_for_granted(version: str, root: Path) -> None:
    known = {one: {*NAMES[one], *(name for names in NAMES[one].values() for name in names)} for one in VERSIONS}
    used = names_used(root, set().union(*known.values())) - OTHERS
    assert len(used) > 100
    assert used - known[version] == LACKING.get(version, _UNTIL_8_6)


def names_used(root: Path, known: set[str]) -> set[str]:
    """What the modules that speak to TensorRT call attributes or texts, of the names that some version has."""
    used = set()
    for folder in ("compile/tensorrt", "runtime/backends/trt"):
        for file in (root / "splite_deploy" / folder).glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    used.add(node.attr)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    used.add(node.value)
    return used & known


@needs_rtx
def test_every_name_that_the_build_uses_is_there(root: Path) -> None:
    trt = importlib.import_module("tensorrt_rtx_bindings")
    used = set()
    for file in (root / "splite_deploy" / "compile" / "tensorrt").glob("*.py"):
        used |= set(re.findall(r"\btrt\.((?:[A-Z]\w+)(?:\.\w+)*)", file.read_text(encoding="utf-8")))
    assert {"Builder", "OnnxParser", "BuilderFlag.TF32", "ProfilingVerbosity.DETAILED", "DeviceType.DLA"} <= used
    for path in sorted(used):
        found = trt
        for name in path.split("."):
            found = getattr(found, name)
