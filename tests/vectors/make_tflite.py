"""Writes tiny.*.tflite, the network of tests/tiny: LiteRT is tested where its converter is not installed.

    python tests/vectors/make_tflite.py        # with the extras export and tflite; after a change of tests/tiny

tests/compile/test_tflite.py converts it again and compares.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from splite_deploy.compile.tflite.compiler import compile_tflite
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.spec import load_model_toml

HERE = Path(__file__).parent
TINY = HERE.parent / "tiny"
sys.path.insert(0, str(HERE.parent / "shared"))
from tiny_tflite import pictures


def main() -> None:
    """Writes the files beside this one."""
    spec = load_model_toml(TINY / "model.toml")[0]
    crops = pictures(*spec.input.planes[1:])
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        save_file(load_symbol("arch.py:build", TINY)().state_dict(), work / "tiny.safetensors")
        options = ExportOptions(crops=1)
        bundle = export_bundle(
            work / "tiny.safetensors", work / "tiny.splite", model=TINY / "model.toml", options=options
        )
        graph, log = bundle.path / "model.onnx", work / "log"
        compile_tflite(graph, spec, work, ("fp32", "fp16", "int8"), calibration=crops, log=log)
        for precision in ("fp32", "fp16", "int8"):
            (work / f"model.{precision}.tflite").replace(HERE / f"tiny.{precision}.tflite")
        compile_tflite(graph, spec, work, ("int8",), calibration=crops, integer_io=True, log=log)
        (work / "model.int8.tflite").replace(HERE / "tiny.int8-ends.tflite")


if __name__ == "__main__":
    main()
