"""Files of detectors: another number of candidates in each picture, or none, and boxes that are none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from splite_deploy.bundle import Bundle
from splite_deploy.decoders import Boxes, decode
from splite_deploy.decoders.people import evened, joined
from splite_deploy.errors import BackendError, ExportError
from splite_deploy.export import ExportOptions, PartialExportError, export_bundle
from splite_deploy.metrics.parity import compare, limits_of, violations
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.verify import check, verify
from splite_deploy.runtime.verify_file import verify_file
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

TOML = """name = "filtered"
[input]
height = 64
width = 64
color = "rgb"
mean = [0.0, 0.0, 0.0]
std = [255.0, 255.0, 255.0]
box_padding = 1.0
pad_value = 114
letterbox = "centre"
[outputs.boxes]
source = "dets"
[outputs.scores]
source = "scores"
[decoder]
type = "boxes"
boxes = "xyxy"
scale = "pixel"
scores = "SCORES"
nms = "none"
min_score = 0.3
overlap = 0.5
max_people = 100
[skeleton]
keypoint_names = []
edges = []
"""
ROWS = np.array([[6 * x, 6 * y + 10, 6 * x + 5, 6 * y + 15] for x in range(10) for y in range(7)], np.float32)


def network(folder: Path, rows: np.ndarray = ROWS, *, logits: bool = False) -> Path:
    """A detector that gives of its rows those with a score over twice the mean of the picture, of 0 to 1."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    (folder / "model.toml").write_text(TOML.replace("SCORES", "logits" if logits else "probabilities"))
    sure = np.linspace(0.95, 0.05, len(rows), dtype=np.float32)
    given = np.log(sure / (1 - sure)) if logits else sure
    arrays = {"rows": rows, "sure": sure, "given": given, "two": np.float32(1.9)}
    constants = [numpy_helper.from_array(np.asarray(values), name) for name, values in arrays.items()]
    constants += [
        numpy_helper.from_array(np.array(axes, np.int64), name) for name, axes in (("a0", [0]), ("a02", [0, 2]))
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "two"], ["least"]),
        helper.make_node("Greater", ["sure", "least"], ["shown"]),
        helper.make_node("Compress", ["rows", "shown"], ["its_rows"], axis=0),
        helper.make_node("Compress", ["given", "shown"], ["its_scores"], axis=0),
        helper.make_node("Unsqueeze", ["its_rows", "a0"], ["dets"]),
        helper.make_node("Unsqueeze", ["its_scores", "a02"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "filtered",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 64, 64))],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, "n", k))
            for name, k in (("dets", 4), ("scores", 1))
        ],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "net.onnx")
    return folder / "net.onnx"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """From dark ones, in which it finds many, to light ones, in which it finds none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, value in enumerate((200, 10, 40, 80, 120, 60, 30, 90, 50, 20)):
        noise = np.random.default_rng(number).integers(-20, 21, (64, 64, 3))
        cv2.imwrite(str(folder / f"{number}.png"), np.clip(noise + value, 0, 255).astype(np.uint8))
    return folder


@pytest.mark.parametrize("logits", [False, True], ids=["probabilities", "logits"])
def test_a_varying_number_of_candidates_is_exported_and_verified(tmp_path: Path, pictures: Path, logits: bool) -> None:
    net = network(tmp_path / "net", logits=logits)
    export_bundle(net, tmp_path / "net.splite", options=ExportOptions(images=pictures))
    bundle = Bundle.open(tmp_path / "net.splite")
    (parity,) = bundle.report().parity
    assert parity.people is not None and parity.people.found > 100 and parity.people.missed == parity.people.new == 0
    assert parity.deviation_px.max == 0 and parity.people.boxes is not None and parity.people.boxes.iou_min == 1
    check(verify(bundle))
    with PoseEstimator.open(bundle.path) as opened:
        found = [len(opened.detect(cv2.imread(str(pictures / f"{number}.png")))) for number in range(4)]
    assert found[0] == 0 and found[1] > found[3] > 0
    alone = verify_file(NetworkFile.read(net), images=pictures, reference=NetworkFile.read(net))
    assert alone and not any(one.violations for one in alone)


def test_no_candidates_at_all_cannot_be_compared(tmp_path: Path) -> None:
    net = network(tmp_path / "net")
    cv2.imwrite(str(tmp_path / "white.png"), np.full((64, 64, 3), 255, np.uint8))
    with pytest.raises(ExportError, match="gives no candidates on the crops of the comparison") as caught:
        export_bundle(net, tmp_path / "net.splite", options=ExportOptions(images=tmp_path))
    assert caught.value.hint == "Name pictures that show what it finds, with --images."
    assert not (tmp_path / "net.splite").exists()
    with pytest.raises(BackendError, match="gives no candidates"):
        verify_file(NetworkFile.read(net), images=tmp_path, reference=NetworkFile.read(net))


def spec_of(scores: str = "probabilities", nms: str = "none") -> ModelSpec:
    decoder = Boxes(0.3, 0.5, 100, "xyxy", "pixel", scores, nms)  # type: ignore[arg-type]
    image = InputSpec(64, 64, "rgb", (0.0,) * 3, (255.0,) * 3, 1.0, 114, "centre")
    return ModelSpec("filtered", image, decoder, SkeletonSpec((), ()))


def outputs_of(*counts: int, scores: str = "probabilities") -> dict[str, np.ndarray]:
    """Of crops with so many candidates each."""
    sure = np.linspace(0.95, 0.05, len(ROWS), dtype=np.float32)[None, :, None]
    return joined([{"boxes": ROWS[None, :n], "scores": sure[:, :n]} for n in counts], spec_of(scores).decoder)


def test_rows_that_are_nobody_fill_up() -> None:
    for scores, fill in (("probabilities", 0.0), ("logits", -1e4)):
        found = outputs_of(0, 3, 2, scores=scores)
        assert {role: values.shape for role, values in found.items()} == {"boxes": (3, 3, 4), "scores": (3, 3, 1)}
        assert (found["boxes"][0] == 0).all() and (found["scores"][0] == fill).all() and found["scores"][2, 2] == fill
        decoder = spec_of(scores).decoder
        assert isinstance(decoder, Boxes)
        assert [
            len(one) for one in decoder.people_among(decoder.candidates(found, spec_of().input), spec_of().input)
        ] == [0, 3, 2]
        ours, theirs = evened(found, outputs_of(5, 1, scores=scores), decoder)
        assert ours["boxes"].shape == (3, 5, 4) and theirs["scores"].shape == (2, 5, 1)
    assert outputs_of(0, 0)["boxes"].shape == (2, 1, 4), "one at least"


@pytest.mark.parametrize("nms", ["none", "greedy"])
def test_who_is_missing_in_a_conversion_is_missed_and_moves_nobody(nms: str) -> None:
    spec, before = spec_of(nms=nms), outputs_of(40, 30)
    limits = limits_of("fp32", spec)
    assert violations(compare("same", before, outputs_of(40, 30), spec, ""), limits, spec) == []
    fewer = compare("fewer", before, outputs_of(39, 30), spec, "")
    assert fewer.deviation_px.max == 0 and fewer.people is not None
    nobody = compare("none", before, outputs_of(0, 0), spec, "")
    assert any("nan px" in one for one in violations(nobody, limits, spec))
    if nms == "none":
        assert (fewer.people.missed, fewer.people.new) == (1, 0)
        assert any("70 people missed" in one for one in violations(nobody, limits, spec))


def test_layers_of_such_a_detector_are_searched(tmp_path: Path, pictures: Path) -> None:
    options = ExportOptions(images=pictures, calibration=pictures, precisions=("fp32", "int8"))
    with pytest.raises(PartialExportError, match="no layer with weights remains to quantise"):
        export_bundle(network(tmp_path / "net"), tmp_path / "net.splite", options=options)
    check(verify(Bundle.open(tmp_path / "net.splite")))


def test_boxes_that_are_not_finite_in_the_image_are_refused(tmp_path: Path) -> None:
    """Those of the network are: the image is ten times as large."""
    net = network(tmp_path / "net", np.array([[0, 20, 3e38, 3e38], [5, 15, 20, 30]], np.float32))
    with PoseEstimator.open_file(net) as opened:
        assert opened.detect(np.zeros((64, 64, 3), np.uint8))[0].box[:2].tolist() == [0, 20]
        with pytest.raises(BackendError, match=r"^The boxes in the image are not finite") as caught:
            opened.detect(np.zeros((640, 640, 3), np.uint8))
    assert "look at its weights" in caught.value.hint


def test_boxes_that_are_inside_out_are_told(tmp_path: Path, pictures: Path) -> None:
    inverted = network(tmp_path / "net", ROWS[:, [2, 3, 0, 1]])
    black = np.zeros((64, 64, 3), np.uint8)
    with PoseEstimator.open_file(inverted) as opened:
        with pytest.raises(
            BackendError, match="50 of the 50 boxes over the threshold have no area on the first"
        ) as caught:
            opened.detect(black)
        assert 'Write boxes = "xywh" in [decoder]' in caught.value.hint
    with pytest.raises(ExportError, match="boxes over the threshold have no area on the crops of the comparison"):
        export_bundle(inverted, tmp_path / "net.splite", options=ExportOptions(images=pictures))
    few = ROWS.copy()
    few[3] = few[3, [2, 3, 0, 1]]  # a slip of a network
    with PoseEstimator.open_file(network(tmp_path / "few", few)) as opened:
        assert len(opened.detect(black)) == 50


def test_scores_of_people_lie_in_0_to_1() -> None:
    outputs = {"boxes": ROWS[None, :2], "scores": np.array([[[1.5], [0.4]]], np.float32)}
    people = decode(outputs, spec_of()).people
    assert people is not None and people.scores.tolist() == pytest.approx([1.0, 0.4])
