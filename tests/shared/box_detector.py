"""A detector as an ONNX file: it finds what is no grey wall, in the left and in the right half of a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIDE = 192
WALL = 150
_TOML = f"""name = "box-detector"
[input]
height = {SIDE}
width = {SIDE}
color = "rgb"
mean = [0.0, 0.0, 0.0]
std = [255.0, 255.0, 255.0]
box_padding = 1.0
pad_value = {WALL}
letterbox = "centre"
[decoder]
type = "yolo-pose"
form = "final"
boxes = "xyxy"
scale = "pixel"
visibility = false
min_score = 0.5
overlap = 0.5
max_people = 10
[skeleton]
keypoint_names = ["middle"]
edges = []
"""


def write(folder: Path) -> Path:
    """Writes ``boxes.onnx`` with its ``model.toml`` into a folder, and names the file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(_TOML, encoding="utf-8")
    place = np.arange(SIDE, dtype=np.float32)
    half = np.stack([place < SIDE / 2, place >= SIDE / 2]).astype(np.float32)[None, :, None, :]
    constants = {
        "wall": np.float32(WALL / 255),
        "least": np.float32(0.06),
        "half": half,
        "columns": np.broadcast_to(place, (1, 1, SIDE, SIDE)).copy(),
        "rows": np.broadcast_to(place[:, None], (1, 1, SIDE, SIDE)).copy(),
        "far": np.float32(SIDE),
        "one": np.float32(1),
        "middle": np.float32(0.5),
        "pixels": np.float32(1 / 60),
        "surest": np.float32(0.9),
        "zero": np.float32(0),
        "space": np.array([2, 3], np.int64),
        "channel": np.array([1], np.int64),
        "last": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("Sub", ["image", "wall"], ["off"]),
        helper.make_node("Abs", ["off"], ["away"]),
        helper.make_node("ReduceMax", ["away", "channel"], ["most"], keepdims=1),
        helper.make_node("Greater", ["most", "least"], ["shown"]),
        helper.make_node("Cast", ["shown"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["mask", "half"], ["masks"]),  # (N, 2, SIDE, SIDE)
        helper.make_node("ReduceSum", ["masks", "space"], ["area"], keepdims=0),
        helper.make_node("Mul", ["area", "pixels"], ["sure"]),
        helper.make_node("Clip", ["sure", "zero", "surest"], ["score"]),
    ]
    for axis in ("columns", "rows"):
        nodes += [
            helper.make_node("Add", [axis, "one"], [f"{axis}.end"]),
            helper.make_node("Mul", [f"{axis}.end", "masks"], [f"{axis}.ends"]),
            helper.make_node("ReduceMax", [f"{axis}.ends", "space"], [f"{axis}.high"], keepdims=0),
            helper.make_node("Sub", ["far", axis], [f"{axis}.rest"]),
            helper.make_node("Mul", [f"{axis}.rest", "masks"], [f"{axis}.rests"]),
            helper.make_node("ReduceMax", [f"{axis}.rests", "space"], [f"{axis}.left"], keepdims=0),
            helper.make_node("Sub", ["far", f"{axis}.left"], [f"{axis}.low"]),
            helper.make_node("Add", [f"{axis}.low", f"{axis}.high"], [f"{axis}.sum"]),
            helper.make_node("Mul", [f"{axis}.sum", "middle"], [f"{axis}.centre"]),
        ]
    nodes.append(helper.make_node("Mul", ["score", "zero"], ["class"]))
    found = ["columns.low", "rows.low", "columns.high", "rows.high", "score", "class", "columns.centre", "rows.centre"]
    nodes += [helper.make_node("Unsqueeze", [name, "last"], [f"{name}.row"]) for name in found]
    nodes.append(helper.make_node("Concat", [f"{name}.row" for name in found], ["people"], axis=2))
    graph = helper.make_graph(
        nodes,
        "boxes",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, SIDE, SIDE))],
        [helper.make_tensor_value_info("people", TensorProto.FLOAT, (1, 2, len(found)))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "boxes.onnx")
    return folder / "boxes.onnx"
