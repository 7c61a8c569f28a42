"""INT8 by TensorRT's own calibrators, where the installed one has any (8.5 to 10)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from engines import build_on_gpu

from splite_deploy.bench import golden_inputs
from splite_deploy.bundle import Bundle
from splite_deploy.compile.tensorrt.job import Calibrator
from splite_deploy.compile.tensorrt.typing_mode import typing_mode_of
from splite_deploy.runtime.backends.trt.module import load_tensorrt
from splite_deploy.runtime.io.images import write_image
from splite_deploy.runtime.verify import check, verify


def as_photos(bundle: Bundle, folder: Path) -> Path:
    """The golden crops as image files, with boxes that make the same crops of them again."""
    folder.mkdir()
    color = bundle.model.input.color
    samples = []
    for index, (crop, box) in enumerate(golden_inputs(bundle)):
        file = folder / f"{index:03}.png"
        write_image(file, crop if color == "bgr" else cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))  # type: ignore[arg-type]
        samples.append({"image": file.name, "keypoints": [box[:2]], "box": box})
    (folder / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["compacted", "compacted-fused"])
@pytest.mark.parametrize("calibrator", ["entropy", "minmax"])
def test_an_engine_that_tensorrt_calibrates(
    tmp_path: Path, noted: Callable[..., None], name: str, calibrator: Calibrator
) -> None:
    trt = load_tensorrt()
    if not typing_mode_of(trt.module, trt.flavour).calibrators:
        pytest.skip(f"{trt.label} has no calibrators")
    path = Path(shutil.copytree(Path(os.environ["SPLITE_GPU_BUNDLES"]) / f"{name}.splite", tmp_path / f"{name}.splite"))
    bundle = Bundle.open(path)
    photos = as_photos(bundle, tmp_path / "photos")
    (engine,) = build_on_gpu(bundle, ["int8"], batch=(1, 1, 8), calibration=photos, calibrator=calibrator)
    made = Bundle.open(path)
    (result,) = results = verify(made, "trt", "int8")
    shift = result.parity.deviation_px
    layers = [layer.types for layer in made.report().layers["trt int8"]]
    noted(shift_p50_px=shift.p50, shift_p95_px=shift.p95, shift_max_px=shift.max, crops=result.parity.crops)
    noted(int8_layers=sum("int8" in types for types in layers), layers=len(layers))
    assert engine.target["calibrator"] == calibrator and "labelled images of photos" in engine.target["calibration"]
    check(results)
