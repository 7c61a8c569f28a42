"""The typing mode of each version of TensorRT, by the names that it has.

``trt_names.json`` holds those that the choice hangs on, read off the bindings of each version; TensorRT-RTX is here, so
that its own are compared.
"""

from __future__ import annotations

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
CLASSES = ("BuilderFlag", "NetworkDefinitionCreationFlag", "IBuilderConfig", "TacticSource")


def module_of(version: str) -> Any:
    """An object that has exactly the recorded names."""
    names = NAMES[version]
    classes = {kind: SimpleNamespace(**dict.fromkeys(names[kind])) for kind in CLASSES}
    return SimpleNamespace(**classes, **dict.fromkeys(names["module"]))


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
