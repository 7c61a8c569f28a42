"""What pycocotools, the judge of COCO, says."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


def coco_ap(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    sigmas: NDArray[np.float64] | None = None,
    *,
    overlap: float | None = None,
) -> float:
    """What pycocotools makes of results: of keypoints, or of boxes at an overlap."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        judge = COCOeval(known, known.loadRes(results), "keypoints" if overlap is None else "bbox")
        if sigmas is not None:
            judge.params.kpt_oks_sigmas = sigmas
        if overlap is not None:
            judge.params.iouThrs = np.array([overlap])
        judge.evaluate()
        judge.accumulate()
        if overlap is not None:  # its summary is of COCO's own overlaps
            return float(judge.eval["precision"][0, :, 0, 0, -1].mean())
        judge.summarize()
    return float(judge.stats[0])
