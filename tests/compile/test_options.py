"""What `compile_tflite` refuses before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from splite_deploy.compile.tflite.compiler import compile_tflite
from splite_deploy.errors import UsageError
from splite_deploy.metrics.parity import limits_of
from splite_deploy.spec import LimitSpec, load_model_toml

CROPS = np.zeros((2, 64, 48, 3), np.uint8)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"precisions": ()}, r"The precisions are \[\]", "at least one"),
        ({"precisions": ("fp16", "fp16")}, "The precisions are", "once"),
        ({"recipe": "int4"}, "There is no int8 recipe 'int4'", "full-integer, dynamic-range"),
        ({"precisions": ("int8",), "calibration": None}, "int8 needs images to calibrate with", "folder"),
        ({"precisions": ("int8",), "calibration": CROPS[:0]}, "int8 needs images to calibrate with", "folder"),
        ({"integer_io": True}, "Only full-integer int8 has integer inputs and outputs", "Leave them out"),
        ({"precisions": ("int8",), "recipe": "dynamic-range", "integer_io": True}, "integer inputs", "Leave them out"),
        ({"calibration": CROPS[:, :, :47]}, r"uint8 of shape \(2, 64, 47, 3\), not uint8 \(N, 64, 48, 3\)", "crop"),
        ({"calibration": CROPS.astype(np.float32)}, r"crops are float32 of shape", "Preprocessor"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, tiny_model: Path, options: dict[str, Any], message: str, hint: str
) -> None:
    spec, _ = load_model_toml(tiny_model)
    given = {"precisions": ("fp32",), "calibration": CROPS, **options}
    with pytest.raises(UsageError, match=message) as caught:
        compile_tflite(tmp_path / "model.onnx", spec, tmp_path, log=tmp_path / "log", **given)
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_limits_grow_with_the_box_and_never_shrink(tiny_model: Path) -> None:
    spec, _ = load_model_toml(tiny_model)  # 64 x 48 px, a box of 51.2 px
    assert limits_of("fp32", spec) == spec.limits
    int8, fp16 = limits_of("int8", spec), limits_of("fp16", spec)
    assert (int8.shift_p95_px, int8.shift_max_px, int8.depth_p95) == pytest.approx((0.256, 1.536, 0.05))
    assert (fp16.shift_p95_px, fp16.shift_max_px, fp16.depth_p95) == pytest.approx((0.0256, 0.1536, 0.005))
    wide = LimitSpec(1.0, 9.0, 1.0)
    object.__setattr__(spec, "limits", wide)
    int8 = limits_of("int8", spec)
    assert (int8.shift_p95_px, int8.shift_max_px, int8.depth_p95) == (1.0, 9.0, 1.0)
