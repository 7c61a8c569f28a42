"""Writes tiny.*.ncnn.zip, the network of tests/tiny: ncnn is tested where pnnx is not installed.

    python tests/vectors/make_ncnn.py        # with the extras export and pnnx; after a change of tests/tiny

tests/runtime/test_ncnn.py converts it again and compares.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import save_file

from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.source.symbol import load_symbol

HERE = Path(__file__).parent
TINY = HERE.parent / "tiny"


def main() -> None:
    """Writes the files beside this one."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        save_file(load_symbol("arch.py:build", TINY)().state_dict(), work / "tiny.safetensors")
        options = ExportOptions(backends=("ncnn",), precisions=("fp32", "fp16"), crops=1)
        bundle = export_bundle(
            work / "tiny.safetensors", work / "tiny.splite", model=TINY / "model.toml", options=options
        )
        for precision in ("fp32", "fp16"):
            content = (bundle.path / f"model.{precision}.ncnn.zip").read_bytes()
            (HERE / f"tiny.{precision}.ncnn.zip").write_bytes(content)


if __name__ == "__main__":
    main()
