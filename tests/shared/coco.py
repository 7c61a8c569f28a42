"""What pycocotools, the judge of COCO, says."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


def coco_ap(truth: dict[str, Any], results: list[dict[str, Any]], sigmas: NDArray[np.float64] | None = None) -> float:
    """What pycocotools makes of results."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        judge = COCOeval(known, known.loadRes(results), "keypoints")
        if sigmas is not None:
            judge.params.kpt_oks_sigmas = sigmas
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])
