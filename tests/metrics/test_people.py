"""Parity of networks that find people: candidates by their number, people by overlap, and a rule near the threshold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bundle.report import PeopleParity
from splite_deploy.decoders import YoloPose
from splite_deploy.metrics.parity import compare, limits_of, share_used, violations
from splite_deploy.metrics.people import COMPARED, crops_with_people, nearest_person, same_person
from splite_deploy.spec import InputSpec, LimitSpec, ModelSpec, SkeletonSpec

Rows = NDArray[np.float32]
_INPUT = InputSpec(100, 100, "rgb", (0.0,) * 3, (255.0,) * 3, 1.0, 114, "centre")


def model(**changes: Any) -> ModelSpec:
    """Pictures of 100 x 100 pixels with people of two keypoints."""
    given = {"form": "decoded", "boxes": "xyxy", "scale": "pixel", "visibility": True, "objectness": False, **changes}
    decoder = YoloPose(**{"min_score": 0.4, "overlap": 0.6, "max_people": 5, **given})
    return ModelSpec("people", _INPUT, decoder, SkeletonSpec(("a", "b"), ()))


def crop(*people: tuple[float, float, float], count: int = 40) -> Rows:
    """Candidates (A, 11): boxes of 20 x 20 pixels at (x, y) of these scores, the others of a score of 0.1."""
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [rng.uniform(0, 100, (count, 4)), np.full((count, 1), 0.1), rng.uniform(0, 100, (count, 6))], 1
    )
    for index, (x, y, score) in enumerate(people):
        rows[index] = [x, y, x + 20, y + 20, score, x + 5, y + 5, 0.9, x + 15, y + 15, 0.8]
    return rows.astype(np.float32)


def measured(before: Rows, after: Rows, spec: ModelSpec) -> tuple[PeopleParity, float, list[str], list[str]]:
    """What became of the people, the largest deviation, and the limits that fp32 and int8 break."""
    outputs = [{"people": rows[None].swapaxes(1, 2)} for rows in (before, after)]
    parity = compare("after", *outputs, spec, "")
    assert parity.people is not None and parity.crops == 1
    broken = [violations(parity, limits_of(precision, spec), spec) for precision in ("fp32", "int8")]  # type: ignore[arg-type]
    assert (share_used(parity, limits_of("int8", spec), spec) > 1) == bool(broken[1])
    return parity.people, parity.deviation_px.max, broken[0], broken[1]


def test_the_same_is_the_same() -> None:
    people, away, *broken = measured(crop((10, 10, 0.9), (60, 60, 0.7)), crop((10, 10, 0.9), (60, 60, 0.7)), model())
    assert (people.found, people.missed, people.new, people.beyond, people.compared) == (2, 0, 0, 0, 2)
    assert away == 0 and people.deviation_px is not None and people.deviation_px.max == 0 and broken == [[], []]


def test_a_person_that_moves_is_measured() -> None:
    before, after = crop((10, 10, 0.9), (60, 60, 0.7)), crop((10, 10, 0.9), (60, 60, 0.7))
    after[1, 5] += 0.25
    people, away, fp32, int8 = measured(before, after, model())
    assert away == pytest.approx(0.25) and people.deviation_px is not None
    assert people.deviation_px.max == pytest.approx(0.25)
    assert fp32[0].startswith("keypoint deviation p95") and "deviation of people p95" in fp32[-1] and not int8


def test_a_box_that_moves_is_measured_by_overlap_and_centre() -> None:
    before, after = crop((10, 10, 0.9), (60, 60, 0.7)), crop((10, 10, 0.9), (60, 60, 0.7))
    after[1, [0, 2]] += 1
    people, _, fp32, int8 = measured(before, after, model())
    boxes = people.boxes
    assert boxes is not None and boxes.iou_min == pytest.approx(19 / 21) and 19 / 21 < boxes.iou_p05 < 1
    assert boxes.centre_px.max == pytest.approx(1) and boxes.centre_box_pct.max == pytest.approx(5)
    assert fp32 == [
        "1 - IoU of boxes p95 0.09048 (limit 0.02)",
        "deviation of box centres p95 4.75 % of the box (limit 0.2)",
    ]
    assert not int8
    strict = replace(model(), limits=LimitSpec(box_iou_p05=0.9, centre_p95_pct=5.0))
    assert measured(before, after, strict)[2:] == ([], [])
    assert limits_of("fp16", strict).box_iou_p05 == 0.9 and limits_of("int8", strict).centre_p95_pct == 5.0
    earlier = replace(limits_of("int8", model()), box_iou_p05=None, centre_p95_pct=None)
    outputs = [{"people": rows[None].swapaxes(1, 2)} for rows in (before, after)]
    assert violations(compare("", *outputs, model(), ""), earlier, model()) == []  # an earlier release exported it
    after[1, [0, 2]] += 9
    assert any(one.startswith("1 people missed and 1 new") for one in measured(before, after, model())[3])


def test_without_keypoints_corners_of_boxes_are_compared() -> None:
    spec = replace(model(visibility=False), skeleton=SkeletonSpec((), ()))
    before, after = (crop((10, 10, 0.9), (60, 60, 0.7))[:, :5] for _ in range(2))
    after[0, 2] += 0.3
    people, away, fp32, int8 = measured(before, after, spec)
    assert away == pytest.approx(0.3, abs=1e-5) and people.deviation_px is not None and not int8
    assert people.deviation_px.max == pytest.approx(0.3, abs=1e-5) and fp32
    assert people.boxes is not None and people.boxes.centre_px.max == pytest.approx(0.15, abs=1e-5)
    decoder = spec.decoder
    assert isinstance(decoder, YoloPose)
    corners = same_person(before[None], decoder)
    np.testing.assert_allclose(corners[0], [[10, 10, 0.9], [30, 30, 0.9]])


def test_a_score_that_moves_is_measured() -> None:
    people, away, fp32, int8 = measured(crop((10, 10, 0.9)), crop((10, 10, 0.85)), model())
    assert away == 0 and people.score_max == pytest.approx(0.05)
    assert fp32 == ["score deviation max 0.05 (limit 0.001)"] and not int8


def test_a_person_that_is_lost_breaks_the_limits() -> None:
    before, after = crop((10, 10, 0.9), (60, 60, 0.7)), crop((10, 10, 0.9), (60, 60, 0.1))
    people, _, _, int8 = measured(before, after, model())
    assert (people.found, people.missed, people.new) == (2, 1, 0) and people.beyond == pytest.approx(0.3)
    assert any(one.startswith("1 people missed and 0 new, one with a score over the threshold by 0.3") for one in int8)
    people, *_, int8 = measured(after, before, model())
    assert (people.found, people.missed, people.new) == (1, 0, 1) and people.beyond == pytest.approx(0.3)
    assert any(one.startswith("0 people missed and 1 new") for one in int8)


def test_close_to_the_threshold_a_person_may_be_lost() -> None:
    people, _, fp32, int8 = measured(crop((10, 10, 0.9), (60, 60, 0.43)), crop((10, 10, 0.9), (60, 60, 0.38)), model())
    assert people.missed == 1 and people.beyond == pytest.approx(0.03)
    assert len(fp32) == 2 and not int8


def test_beyond_the_most_people_the_lowest_score_is_the_threshold() -> None:
    spec = model(max_people=2)
    before = crop((0, 0, 0.9), (30, 0, 0.8), (60, 0, 0.79))
    after = crop((0, 0, 0.9), (30, 0, 0.79), (60, 0, 0.8))
    people, *_, int8 = measured(before, after, spec)
    assert (people.missed, people.new, people.beyond) == (1, 1, 0) and not int8


def test_another_candidate_may_win() -> None:
    before, after = crop((10, 10, 0.9), (12, 10, 0.89)), crop((10, 10, 0.89), (12, 10, 0.9))
    people, away, _, int8 = measured(before, after, model())
    assert (people.found, people.missed, people.new, people.compared) == (1, 0, 0, 2) and away == 0
    assert people.deviation_px is not None and people.deviation_px.max == pytest.approx(2)
    assert int8 == [
        "deviation of people p95 2 px (limit 0.5)",
        "deviation of box centres p95 10 % of the box (limit 5)",
    ]


def test_two_that_overlap_by_about_the_limit_may_become_one() -> None:
    before, after = crop((10, 10, 0.9), (15.3, 10, 0.8)), crop((10, 10, 0.9), (14.8, 10, 0.8))
    people, *_ = measured(before, after, model())
    assert (people.found, people.missed, people.new, people.beyond) == (2, 0, 0, 0)


@pytest.mark.parametrize("overlap", [0.05, 0.1, 0.11, 0.6])
def test_a_person_that_is_lost_is_told_however_little_people_may_overlap(overlap: float) -> None:
    both, one = crop((10, 10, 0.9), (60, 60, 0.8)), crop((10, 10, 0.9), (60, 60, 0.1))
    people, _, _, int8 = measured(both, one, model(overlap=overlap))
    assert (people.missed, people.new) == (1, 0) and people.beyond == pytest.approx(0.4)
    assert any(line.startswith("1 people missed and 0 new") for line in int8)
    people, *_ = measured(one, both, model(overlap=overlap))
    assert (people.missed, people.new) == (0, 1) and people.beyond == pytest.approx(0.4)
    touching = crop((10, 10, 0.9), (28, 10, 0.8)), crop((10, 10, 0.9), (30, 10, 0.1))
    people, *_ = measured(*touching, model(overlap=overlap))
    assert people.missed == int(overlap > 0.2), "what may have been left out in favour of the other is passed over"


@pytest.mark.parametrize("score", [0.2, 0.95], ids=["nobody", "everybody"])
def test_of_an_untrained_network_candidates_are_compared(score: float) -> None:
    rng = np.random.default_rng(1)
    before = crop()
    before[:, 4] = score + rng.uniform(-0.05, 0.05, 40)
    after = before.copy()
    best = before[:, 4].argmax()
    after[best, 8] += 0.4
    after[before[:, 4].argmin(), 8] += 99
    people, away, fp32, int8 = measured(before, after, model())
    assert (people.found, people.compared, people.deviation_px) == (0, COMPARED, None)
    assert away == pytest.approx(0.4, abs=1e-4) and not int8
    assert fp32 == ["keypoint deviation max 0.4 px (limit 0.3)"]


def test_people_in_the_order_of_their_scores_are_found_again() -> None:
    spec = model(form="final", objectness=None)
    rows = crop((10, 10, 0.9), (60, 60, 0.7), (60, 10, 0.7))
    before = np.insert(rows, 5, 0, axis=1)
    after = before[[0, 2, 1, *range(3, 40)]]
    outputs = [{"people": one[None]} for one in (before, after)]
    parity = compare("after", *outputs, spec, "")
    assert parity.people is not None and parity.people.found == 3 and parity.people.missed == 0
    assert parity.deviation_px.max == 0 and parity.people.score_max == 0
    assert not violations(parity, spec.limits, spec)


def test_a_graph_that_decodes_is_compared_with_one_that_does_not() -> None:
    spec = model()
    before = {"people": crop((10, 10, 0.9))[None].swapaxes(1, 2)}
    candidates = spec.decoder.by_role(before, spec.input)
    parity = compare("fused", before, candidates, spec, "")
    assert parity.tensor_max_abs == {"candidates": 0} and parity.deviation_px.max == 0


def test_golden_crops_show_people() -> None:
    spec = model()
    decoder = spec.decoder
    assert isinstance(decoder, YoloPose)
    crops = np.stack([crop(), crop((10, 10, 0.9)), crop(), crop((10, 10, 0.5))])
    assert crops_with_people(crops, decoder).tolist() == [1, 3]
    assert crops_with_people(crops[[0, 2]], decoder).tolist() == [0, 1]


def test_one_person_of_several_crops_is_the_same() -> None:
    decoder = model().decoder
    assert isinstance(decoder, YoloPose)
    first, second = crop((10, 10, 0.9), (60, 60, 0.8)), crop((10, 11, 0.8), (60, 60, 0.9))
    found = same_person(np.stack([first, second]), decoder)[..., :2]
    np.testing.assert_allclose(found[1] - found[0], [[0, 1], [0, 1]])
    final = replace(decoder, form="final", objectness=None)
    np.testing.assert_allclose(same_person(np.stack([first, second[::-1]]), final)[1, :, :2], found[1])
    np.testing.assert_allclose(nearest_person(second, found[0]), found[1])
