"""Decoders of several people: vectors, suppression, what is asked of the parameters, and published encoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from decode_vectors import FOLDER, PEOPLE, PEOPLE_CASES, PEOPLE_GENERATOR, people_outputs, people_spec
from numpy.typing import NDArray

from splite_deploy.decoders import Anchors, Decoded, Decoding, PeopleDecoder, YoloPose, decode
from splite_deploy.decoders.anchors import grid
from splite_deploy.decoders.people import overlaps, suppress
from splite_deploy.errors import BackendError, SpecError
from splite_deploy.spec import ModelSpec

by_case = pytest.mark.parametrize("case", PEOPLE_CASES, ids=lambda case: str(case["name"]))


def test_vectors_are_what_the_generator_writes() -> None:
    assert (FOLDER / "people.json").read_text(encoding="utf-8") == PEOPLE_GENERATOR["text"]()


def assert_people(found: Decoded, people: list[list[list[float]]]) -> None:
    assert found.people is not None and found.depth is None
    assert found.people.crops.tolist() == [crop for crop, its in enumerate(people) for _ in its]
    wanted = np.reshape([one for its in people for one in its], (-1, 5 + 3 * found.scores.shape[1]))
    its_keypoints = wanted[:, 5:].reshape(*found.scores.shape, 3)
    for values, expected in (
        (found.people.boxes, wanted[:, :4].reshape(-1, 4)),
        (found.people.scores, wanted[:, 4:5].reshape(-1)),
        (found.keypoints, its_keypoints[..., :2]),
        (found.scores, its_keypoints[..., 2]),
    ):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected, rtol=0, atol=PEOPLE["tolerance"])


@by_case
def test_vector(case: dict[str, Any]) -> None:
    spec, outputs = people_spec(case), people_outputs(case)
    assert ModelSpec.from_dict(spec.to_dict()) == spec and isinstance(spec.decoder, PeopleDecoder)
    candidates = spec.decoder.candidates(outputs, spec.input)
    np.testing.assert_allclose(candidates, case["expected"]["candidates"], rtol=0, atol=PEOPLE["tolerance"])
    assert_people(decode(outputs, spec), case["expected"]["people"])
    assert_people(decode({"candidates": candidates}, spec), case["expected"]["people"])


@by_case
def test_torch_module(case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")

    from splite_deploy.decoders.torch import make_module

    spec, outputs = people_spec(case), people_outputs(case)
    module = make_module(spec.decoder, spec.keypoint_count, spec.input)
    with torch.no_grad():
        (candidates,) = module(*(torch.from_numpy(outputs[role]) for role in spec.decoder.roles))
    np.testing.assert_allclose(candidates, case["expected"]["candidates"], rtol=0, atol=PEOPLE["tolerance"])


@by_case
def test_the_best_is_one_for_each_crop_whatever_its_score(case: dict[str, Any]) -> None:
    spec, outputs = people_spec(case), people_outputs(case)
    best, people = Decoding(spec).best(outputs), case["expected"]["people"]
    candidates = np.array(case["expected"]["candidates"])
    assert best.people is not None and best.people.crops.tolist() == list(range(len(candidates)))
    np.testing.assert_allclose(best.people.scores, candidates[..., 4].max(axis=1), atol=1e-4)
    for crop, its in enumerate(people):
        if its:
            np.testing.assert_allclose(best.keypoints[crop].ravel(), np.delete(its[0][5:], np.s_[2::3]), atol=0.01)


def test_layers_of_mediapipe_have_the_anchors_of_its_calculator() -> None:
    spec = people_spec(next(case for case in PEOPLE_CASES if case["decoder"]["type"] == "anchors"))
    decoder = spec.decoder
    assert isinstance(decoder, Anchors)
    published = Anchors(**{**decoder.__dict__, "strides": (8, 16, 16, 16), "scale": 128.0})
    face, palm = grid(published, 128, 128), grid(published, 192, 192)
    assert face.shape == (896, 4) and palm.shape == (2016, 4)
    np.testing.assert_allclose(face[[0, 2, 512, -1]], [[4, 4, 128, 128], [12, 4, 128, 128], [8, 8, 128, 128],
                                                       [120, 120, 128, 128]])  # fmt: skip


def rows(*people: tuple[float, float, float, float, float]) -> NDArray[np.float32]:
    """Candidates with a keypoint in the middle of the box."""
    return np.array([[*one, (one[0] + one[2]) / 2, (one[1] + one[3]) / 2, one[4]] for one in people], np.float32)


def test_of_those_that_overlap_the_highest_score_stays() -> None:
    near = rows((0, 0, 10, 10, 0.6), (1, 0, 11, 10, 0.9), (30, 0, 40, 10, 0.7), (2, 0, 12, 10, 0.5))
    assert suppress(near, 0.5, 9, "greedy")[:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert suppress(near, 0.5, 1, "greedy")[:, 4].tolist() == pytest.approx([0.9])
    assert suppress(near, 1.0, 9, "greedy")[:, 4].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5])
    assert suppress(near, 0.5, 3, "none")[:, 4].tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert suppress(near[:0], 0.5, 3, "weighted").shape == (0, 8)


def test_weighted_suppression_means_what_overlaps() -> None:
    (person,) = suppress(rows((0, 0, 10, 10, 0.6), (2, 0, 12, 10, 0.9)), 0.5, 9, "weighted")
    assert person == pytest.approx([1.2, 0, 11.2, 10, 0.9, 6.2, 5, 0.78])


def test_a_box_without_an_area_ends() -> None:
    flat = rows((5, 5, 5, 9, 0.9), (5, 5, 5, 9, 0.8), (9, 9, 1, 1, 0.7))
    assert len(suppress(flat, 0.5, 9, "greedy")) == 3
    assert overlaps(flat[:, :4], flat[:, :4]).max() == 0


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("decoded, xywh", {"strides": [8, 16]}, 'form = "decoded" does not take decoder.strides'),
        ("decoded, xywh", {"boxes": None}, 'form = "decoded" needs decoder.boxes'),
        ("anchor-free, one", {"bins": None}, 'form = "anchor-free" needs decoder.bins'),
        ("anchor-free, one", {"strides": [8, 20]}, "decoder.strides 20 does not divide input.height 32"),
        ("anchor-based, levels", {"anchors": [[6, 9, 12], [20, 24]]}, "decoder.anchors must be pairs"),
        ("anchor-based, levels", {"anchors": [[6, 9]]}, "decoder.anchors must have a list for each stride"),
        ("anchor-based, levels", {"heads": "parts"}, 'decoder.heads = "parts" is for'),
        ("decoded, xywh", {"min_score": 25}, "decoder.min_score must lie between 0 and 1"),
        ("decoded, xywh", {"max_people": 0}, "decoder.max_people must be positive"),
        ("anchors of sizes", {"max_scale": None}, "give both"),
        ("centernet, logits", {"offsets": True}, 'with decoder.boxes = "distances" they are false'),
        ("centernet, logits", {"keypoints": False}, "decoder.keypoints is false, and the skeleton has 2 keypoints"),
        ("centernet, boxes alone", {"keypoints": True}, "decoder.keypoints is true, and the skeleton has 0 keypoints"),
        ("centernet, logits", {"stride": 5}, "decoder.stride 5 does not divide input.height 32"),
        ("boxes, xywh", {"label": -1}, "decoder.label must be the number of a class"),
        ("anchor-free, levels, boxes alone", {"heads": "parts"}, "the skeleton has none"),
    ],
)
def test_wrong_parameters_are_named(form: str, change: dict[str, Any], message: str) -> None:
    data = people_spec(next(case for case in PEOPLE_CASES if case["name"].startswith(form))).to_dict()
    data["decoder"].update(change)
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_dict(data)
    assert message in caught.value.message and "models/README.md" in caught.value.hint


def test_a_letterbox_is_asked_for() -> None:
    data = people_spec(PEOPLE_CASES[0]).to_dict()
    data["input"]["letterbox"] = None
    with pytest.raises(SpecError, match=r"input\.letterbox is missing"):
        ModelSpec.from_dict(data)


def test_a_wrong_shape_is_told_with_what_is_open() -> None:
    spec = people_spec(PEOPLE_CASES[0])
    with pytest.raises(BackendError, match=r"has shape \(1, 9, 50\); the spec says \(1, 11, any number\)"):
        decode({"people": np.zeros((1, 9, 50), np.float32)}, spec)
    with pytest.raises(BackendError, match=r"The network's output 'people' is not finite"):
        decode({"people": np.full((1, 11, 50), np.nan, np.float32)}, spec)


def peaks(*tops: tuple[int, int, float]) -> dict[str, NDArray[np.float32]]:
    """Maps of 12 x 12 cells: a peak of a score at column, row; boxes of 3 cells around every cell."""
    x, y = np.meshgrid(np.arange(12), np.arange(12))
    heat = np.max([top * 0.9 ** ((x - i) ** 2 + (y - j) ** 2) for i, j, top in tops], axis=0)
    return {"heatmap": heat[None, None].astype(np.float32), "boxes": np.full((1, 2, 12, 12), 3, np.float32)}


def middles(**changes: Any) -> ModelSpec:
    case = next(case for case in PEOPLE_CASES if case["name"] == "centernet, boxes alone, in pixels")
    data = people_spec({**case, "input": {"width": 96, "height": 96}}).to_dict()
    data["decoder"] |= {"heatmap": "probabilities", "unit": "cell", "max_people": 9, "min_score": 0.3, **changes}
    return ModelSpec.from_dict(data)


def test_cells_around_a_peak_are_nobody() -> None:
    found = decode(peaks((3, 3, 0.9), (7, 3, 0.8)), middles(overlap=1.0)).people
    assert found is not None and found.scores.tolist() == pytest.approx([0.9, 0.8])
    np.testing.assert_allclose(found.boxes, [[16, 16, 40, 40], [48, 16, 72, 40]])
    assert len(decode(peaks((3, 3, 0.9), (7, 3, 0.2)), middles()).scores) == 1
    single = decode({**peaks((3, 3, 0.25))}, middles())
    assert single.keypoints.shape == (0, 0, 2) and Decoding(middles()).best(peaks((3, 3, 0.25))).scores.shape == (1, 0)


def test_two_cells_of_one_score_are_one_where_their_boxes_overlap() -> None:
    flat = peaks((4, 4, 0.9))
    flat["heatmap"][0, 0, 4, 5] = flat["heatmap"][0, 0, 4, 4]
    for overlap, count in ((0.45, 1), (0.55, 2)):  # 2 of 4 columns
        people = decode(flat, middles(overlap=overlap)).people
        assert people is not None and len(people.boxes) == count


def test_boxes_and_scores_of_other_candidates_are_refused() -> None:
    spec = people_spec(next(case for case in PEOPLE_CASES if case["name"].startswith("boxes, xywh")))
    with pytest.raises(BackendError, match="12 of 'boxes', 9 of 'scores', and 2 classes") as caught:
        decode({"boxes": np.zeros((1, 12, 4), np.float32), "scores": np.zeros((1, 9, 2), np.float32)}, spec)
    assert "[outputs]" in caught.value.hint


def test_only_detectors_have_no_keypoints() -> None:
    data = people_spec(PEOPLE_CASES[0]).to_dict()
    data["decoder"] = {"type": "argmax", "stride": 4.0, "alignment": "corner", "offset": "quarter"}
    data["skeleton"] = {"keypoint_names": [], "edges": [], "flip_pairs": []}
    with pytest.raises(SpecError, match="keypoint_names is empty, as only of detectors"):
        ModelSpec.from_dict(data)


# --- published encoders ---------------------------------------------------------------------------------------------

BOX, POINTS = np.array([37.3, 22.8, 108.6, 101.2]), np.array([[51.2, 40.9], [101.7, 83.4], [66.6, 99.1]])
WIDTH, HEIGHT = 160, 128


def model(**decoder: Any) -> ModelSpec:
    grey = [127.5, 127.5, 127.5]
    image = {"height": HEIGHT, "width": WIDTH, "color": "rgb", "mean": grey, "std": grey, "box_padding": 1.0}
    return ModelSpec.from_dict(
        {
            "name": "encoded",
            "input": {**image, "pad_value": 114, "letterbox": "centre"},
            "decoder": {"min_score": 0.3, "overlap": 0.6, "max_people": 9, **decoder},
            "skeleton": {"keypoint_names": ["a", "b", "c"], "edges": []},
        }
    )


def logit(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(share / (1 - share))


def assert_truth(outputs: dict[str, NDArray[Any]], spec: ModelSpec) -> None:
    """One person, whose box and keypoints are within 0.05 px of those that were encoded."""
    found = decode({role: values.astype(np.float32) for role, values in outputs.items()}, spec)
    assert found.people is not None and len(found.people.boxes) == 1
    np.testing.assert_allclose(found.people.boxes[0], BOX, atol=0.05)
    np.testing.assert_allclose(found.keypoints[0], POINTS, atol=0.05)


def test_targets_of_yolov8_are_decoded_to_the_truth() -> None:
    """ultralytics' v8PoseLoss: anchors inside the box; ltrb in strides as two neighbouring bins; (kpt - anchor) / 2."""
    bins, levels = 16, {}
    for level, stride in enumerate((8, 16, 32)):
        rows, columns = HEIGHT // stride, WIDTH // stride
        target = np.zeros((1, 4 * bins + 1 + 9, rows, columns))
        target[:, 4 * bins] = -9
        for j in range(rows):
            for i in range(columns):
                centre = np.array([i + 0.5, j + 0.5])
                sides = np.concatenate([centre - BOX[:2] / stride, BOX[2:] / stride - centre])
                if sides.min() <= 0 or sides.max() > bins - 1.01:
                    continue
                lower = np.floor(sides).astype(int)
                share = np.full((4, bins), 1e-7)  # what the distribution focal loss is least at
                share[range(4), lower], share[range(4), lower + 1] = 1 - (sides - lower) + 1e-7, sides - lower + 1e-7
                target[0, : 4 * bins, j, i] = np.log(share).ravel()
                target[0, 4 * bins, j, i] = 3 - abs(centre * stride - (BOX[:2] + BOX[2:]) / 2).sum() / 99
                points = (POINTS / stride - (centre - 0.5)) / 2
                target[0, 4 * bins + 1 :, j, i] = np.column_stack([points, np.full(3, 4.0)]).ravel()
        levels[f"level_{level}"] = target
    strides = {"strides": [8, 16, 32], "bins": bins, "visibility": True}
    assert_truth(levels, model(type="yolo-pose", form="anchor-free", heads="levels", **strides))
    joined = np.concatenate([level.reshape(1, -1, level[0, 0].size) for level in levels.values()], axis=2)
    assert_truth({"people": joined}, model(type="yolo-pose", form="anchor-free", heads="one", **strides))


def test_targets_of_yolov5_are_decoded_to_the_truth() -> None:
    """YOLO-Pose's ComputeLoss: the anchor within a factor of 4, the cell and its two nearest neighbours."""
    anchors = [[19, 27, 44, 40, 38, 94], [96, 68, 86, 152, 180, 137]]
    centre, size, levels = (BOX[:2] + BOX[2:]) / 2, BOX[2:] - BOX[:2], {}
    for level, stride in enumerate((16, 32)):
        target = np.zeros((1, 3, 6 + 9, HEIGHT // stride, WIDTH // stride))
        target[:, :, 4:6] = -9
        at = centre / stride
        cells = [np.floor(at).astype(int)]
        cells += [cells[0] + np.eye(2, dtype=int)[a] * (1 if at[a] % 1 > 0.5 else -1) for a in range(2)]
        for a, anchor in enumerate(np.reshape(anchors[level], (3, 2))):
            ratio = size / anchor
            if np.maximum(ratio, 1 / ratio).max() >= 4:
                continue
            for order, (i, j) in enumerate(cells):
                target[0, a, :2, j, i] = logit((at - (i, j) + 0.5) / 2)
                target[0, a, 2:4, j, i] = logit(np.sqrt(ratio) / 2)
                target[0, a, 4:6, j, i] = 5 - order - a / 9
                points = (POINTS / stride - (i, j) + 0.5) / 2
                target[0, a, 6:, j, i] = np.column_stack([points, np.full(3, 4.0)]).ravel()
        levels[f"level_{level}"] = target.reshape(1, -1, *target.shape[3:])
    form = {"type": "yolo-pose", "form": "anchor-based", "heads": "levels", "visibility": True}
    assert_truth(levels, model(**form, strides=[16, 32], anchors=anchors))


def test_targets_of_ssd_are_decoded_to_the_truth() -> None:
    """MediaPipe's TensorsToDetectionsCalculator turned around: offsets from the anchor, on the scale of the input."""
    published = {"strides": [8, 16, 16, 16], "aspect_ratios": [1.0], "interpolated_scale_aspect_ratio": 1.0}
    published |= {"anchor_offset": 0.5, "fixed_anchor_size": True, "scale": 128.0, "score_clipping": 100.0}
    spec = model(type="anchors", **published, nms="weighted")
    assert isinstance(spec.decoder, Anchors)
    anchors = grid(spec.decoder, HEIGHT, WIDTH)
    points = np.concatenate([[(BOX[:2] + BOX[2:]) / 2], [BOX[2:] - BOX[:2]], POINTS])[None]
    away = points - anchors[:, None, :2] * (np.arange(5) != 1)[None, :, None]
    boxes = (away / anchors[:, None, 2:] * 128.0).reshape(1, len(anchors), -1)
    inside = ((anchors[:, :2] > BOX[:2]) & (anchors[:, :2] < BOX[2:])).all(axis=1)
    assert_truth({"boxes": boxes, "logits": np.where(inside, 5.0, -900.0)[None, :, None]}, spec)


def test_what_exporters_write_is_decoded_to_the_truth() -> None:
    """The pixels of ultralytics' export, and shares of the input as its TFLite files have them, after suppression."""
    box = [*(BOX[:2] + BOX[2:]) / 2, *(BOX[2:] - BOX[:2])]
    row = np.concatenate([box, [0.9], np.column_stack([POINTS, [0.5, 0.6, 0.7]]).ravel()])
    empty = np.zeros_like(row)
    people = np.stack([row, row - [*[0.1] * 4, 0.2, *[0] * 9], empty])
    decoded = {"type": "yolo-pose", "form": "decoded", "visibility": True, "objectness": False, "boxes": "xywh"}
    assert_truth({"people": people.T[None]}, model(**decoded, scale="pixel"))
    shares = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT, 1, *[WIDTH, HEIGHT, 1] * 3])
    assert_truth({"people": (people / shares).T[None]}, model(**decoded, scale="unit"))
    final = np.stack([np.concatenate([BOX, [0.9, 0.0], row[5:]]), np.zeros(15)])
    form = {"type": "yolo-pose", "form": "final", "boxes": "xyxy", "scale": "pixel", "visibility": True}
    assert_truth({"people": final[None]}, model(**form))


def test_a_decoder_is_what_model_toml_says() -> None:
    spec = people_spec(PEOPLE_CASES[0])
    assert isinstance(spec.decoder, YoloPose) and spec.decoder.layouts == {"people": "NCA"}
