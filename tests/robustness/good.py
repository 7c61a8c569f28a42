"""Good files of every kind, small and quick to use, which the surfaces spoil; made by the product's own commands."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.cli import main

ROOT = Path(__file__).parents[2]
TINY, VECTORS = ROOT / "tests" / "tiny", ROOT / "tests" / "vectors"
KEYPOINTS = 5
BUNDLES = ("tiny", "dynamic", "int8", "lite", "figures")
PICTURES = ("grey.png", "rgb.png", "alpha.png", "deep.png", "rgb.jpg", "turned.jpg", "grey.jpg", "rgb.tiff", "deep.tif")
PICTURES = (*PICTURES, "rgb.bmp", "rgb.webp", "lossless.webp", "palette.png")
VIDEOS = {"v.mp4": "mp4v", "v.avi": "MJPG", "x.avi": "XVID", "v.mkv": "mp4v", "m.mkv": "MJPG", "v.webm": "VP80"}
VIDEO_FRAMES = 6


def make_good(folder: Path) -> None:
    """Fills an empty folder."""
    shutil.copytree(TINY, folder / "tiny", ignore=shutil.ignore_patterns("__pycache__"))
    _weights(folder / "tiny")
    _pictures(folder)
    _videos(folder / "videos")
    _labels(folder / "labels")
    for options in (
        ("-o", folder / "tiny.splite"),
        ("-o", folder / "dynamic.splite", "--dynamic-batch", "--fuse-input"),
        ("-o", folder / "int8.splite", "-p", "int8", "-p", "fp16", "--calibration", folder / "photographs"),
    ):
        _command("export", folder / "tiny" / "tiny.safetensors", "--crops", 2, *options)
    figures = ROOT / "tests" / "people" / "figures.safetensors"
    _command("export", figures, "-o", folder / "figures.splite", "--crops", 2)
    ranges, photographs = folder / "tiny" / "tiny.ranges.json", folder / "photographs"
    _command("calibrate", folder / "tiny" / "tiny.safetensors", "-o", ranges, "--images", photographs)
    _lite_bundle(folder)
    _crops(folder)
    _results(folder)
    _networks(folder / "networks")
    foreign = load(ROOT / "tests" / "shared" / "foreign_tflite.py")
    text = foreign.MODEL.format(decoder=foreign.HEATMAP) + foreign.READ_HEATMAP
    (folder / "foreign.toml").write_text(text, encoding="utf-8")


def _command(*arguments: object) -> None:
    main([str(one) for one in arguments], standalone_mode=False)


def load(path: Path) -> Any:
    """A Python file as a module, by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _weights(folder: Path) -> None:
    network = load(folder / "arch.py").build()
    weights = network.state_dict()
    safetensors.torch.save_file(weights, folder / "tiny.safetensors")
    torch.save(weights, folder / "tiny.pt")
    training = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in weights.items()}, "best": 0.5}
    torch.save(training, folder / "training.pt")
    torch.save(weights, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.trace(network.eval(), torch.zeros(1, 3, 64, 48)), folder / "script.pt")


def _pictures(folder: Path) -> None:
    pictures, photographs = folder / "pictures", folder / "photographs"
    pictures.mkdir()
    photographs.mkdir()
    drawn = [image for image, _ in load(TINY / "samples.py").samples(14, seed=5)]
    for index, image in enumerate(drawn):
        cv2.imwrite(str(photographs / f"{index}.png"), image[..., ::-1])
    image, grey = drawn[0], cv2.cvtColor(drawn[0], cv2.COLOR_RGB2GRAY)
    alpha, deep = np.dstack([image, grey]), image.astype(np.uint16) * 257
    for name, pixels in (
        *(("rgb.png", image), ("grey.png", grey), ("alpha.png", alpha), ("deep.png", deep), ("rgb.jpg", image)),
        *(("grey.jpg", grey), ("rgb.tiff", image), ("deep.tif", deep), ("rgb.bmp", image), ("lossless.webp", image)),
        ("palette.png", grey // 255 * 255),
    ):
        cv2.imwrite(str(pictures / name), pixels)
    cv2.imwrite(str(pictures / "rgb.webp"), image, [cv2.IMWRITE_WEBP_QUALITY, 70])
    black = np.zeros((9, 17), np.uint8)
    cv2.imwrite(str(pictures / "palette.png"), black, [cv2.IMWRITE_PNG_BILEVEL, 1])
    plain = (pictures / "rgb.jpg").read_bytes()
    # an Exif segment whose only tag is the orientation, a quarter turn: CIPA DC-008, 4.6.2
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (pictures / "turned.jpg").write_bytes(plain[:2] + segment + plain[2:])
    shutil.copy(photographs / "0.png", folder / "hand.png")


def _videos(folder: Path) -> None:
    folder.mkdir()
    for name, codec in VIDEOS.items():
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*codec), 10.0, (64, 48))
        assert writer.isOpened(), name
        for image, _ in load(TINY / "samples.py").samples(VIDEO_FRAMES):
            writer.write(np.ascontiguousarray(image[:48, :64]))
        writer.release()


def _labels(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    samples, images, annotations = [], [], []
    for index, (image, box) in enumerate(load(TINY / "samples.py").samples(4, seed=9)):
        name, keypoints = f"images/{index}.png", (rng.uniform(box[:2] + 5, box[2:] - 5, (KEYPOINTS, 2))).round(2)
        cv2.imwrite(str(folder / name), image[..., ::-1])
        cv2.imwrite(str(folder / f"{index + 1}.jpg"), image[..., ::-1])
        split = "val" if index % 2 else "train"
        samples.append({"image": name, "box": box.tolist(), "keypoints": keypoints.tolist(), "split": split})
        samples[-1]["world_mm"] = np.round(np.column_stack([keypoints, keypoints[:, 0]]), 1).tolist()
        images.append({"id": index + 1, "file_name": name, "width": 100, "height": 80})
        x0, y0, x1, y1 = box.tolist()
        flat = np.column_stack([keypoints, np.full(KEYPOINTS, 2)]).ravel().tolist()
        one = {"id": index + 7, "image_id": index + 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        annotations.append({**one, "area": 3000.0, "iscrowd": 0, "num_keypoints": KEYPOINTS, "keypoints": flat})
    names = ["root", "left_near", "right_near", "left_far", "right_far"]
    own = {"keypoint_names": names, "skeleton": [[0, 1]], "samples": samples}
    category = {"id": 1, "name": "hand", "keypoints": names, "skeleton": [[1, 2]]}
    coco = {"images": images, "annotations": annotations, "categories": [category]}
    found = [{"image_id": one["image_id"], "category_id": 1, "bbox": one["bbox"], "score": 0.9} for one in annotations]
    for file, data in (("labels.json", own), ("coco.json", coco), ("results.json", found)):
        (folder / file).write_text(json.dumps(data), encoding="utf-8")


def _lite_bundle(folder: Path) -> None:
    """A bundle of TFLite files, of tests/vectors."""
    artifacts = load(ROOT / "tests" / "shared" / "tiny_tflite.py").tflite_artifact
    bundle = folder / "lite.splite"
    shutil.copytree(folder / "tiny.splite", bundle)
    held = []
    for precision in ("fp32", "int8"):
        file = Path(shutil.copy(VECTORS / f"tiny.{precision}.tflite", bundle / f"model.{precision}.tflite"))
        held.append(artifacts(file, precision))
    manifest = dataclasses.replace(Bundle.open(bundle).manifest, artifacts=tuple(held))
    (bundle / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _crops(folder: Path) -> None:
    crops = np.stack([cv2.resize(one, (48, 64)) for one, _ in load(TINY / "samples.py").samples(4, seed=7)])
    np.savez(folder / "crops.npz", crops=crops, color="rgb")
    np.savez(folder / "inputs.npz", image=np.random.default_rng(0).normal(size=(2, 1, 3, 64, 48)).astype(np.float32))


def _results(folder: Path) -> None:
    make = load(ROOT / "tests" / "shared" / "bench_results.py").bench_result
    for name, count in (("before.jsonl", 2), ("after.jsonl", 4)):
        lines = [
            json.dumps(make(inputs_count=count, bundle=bundle).to_dict()) for bundle in ("hand.splite", "b.splite")
        ]
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# --- one network for each decoder ---


def _networks(folder: Path) -> None:
    """ONNX files that give what the vectors of the decoders hold, whatever the image, each with its model.toml."""
    for name in ("decode", "points", "volume", "people"):
        kinds = set()
        for case in json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))["cases"]:
            decoder = case["decoder"]
            kind = decoder["type"] + "".join(f"-{decoder[key]}" for key in ("form", "refine", "unit") if key in decoder)
            outputs = _outputs(case)
            if outputs is None or kind in kinds or next(iter(outputs.values())).shape[0] != 1:
                continue
            kinds.add(kind)
            (folder / kind).mkdir(parents=True)
            save_network(folder / kind / "network.onnx", case["input"], outputs)
            keypoints = (
                np.array(case["expected"]["keypoints"]).shape[1] if "keypoints" not in case else case["keypoints"]
            )
            (folder / kind / "model.toml").write_text(_model(kind, case["input"], decoder, keypoints), encoding="utf-8")


def _outputs(case: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    tensors = case.get("outputs") or {key: {**case[key], "shape": case["shape"]} for key in ("heatmap",) if key in case}
    if not tensors or any("values" not in one for one in tensors.values()):
        return None
    return {name: np.array(one["values"], np.float32).reshape(one["shape"]) for name, one in tensors.items()}


def save_network(file: Path, size: Mapping[str, int], outputs: Mapping[str, np.ndarray]) -> None:
    """A graph that gives constants, to which the mean of the image times 0 is added."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        *(helper.make_node("Add", [f"{name}.values", "nothing"], [name]) for name in outputs),
    ]
    constants = [numpy_helper.from_array(values, f"{name}.values") for name, values in outputs.items()]
    graph = helper.make_graph(
        nodes,
        "constants",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size["height"], size["width"]])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape) for name, values in outputs.items()],
        [*constants, numpy_helper.from_array(np.float32(0), "zero")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(file))


def _model(name: str, size: Mapping[str, int], decoder: Mapping[str, Any], keypoints: int) -> str:
    edges = [[0, 1]] if keypoints > 1 else []
    names = [f"k{index}" for index in range(keypoints)]
    sections = {
        "input": {
            **{"height": size["height"], "width": size["width"], "color": "rgb", "mean": [0.0] * 3, "std": [255.0] * 3},
            **{"box_padding": 1.25, "pad_value": 0},
            **({"letterbox": "centre"} if decoder["type"] in ("yolo-pose", "anchors") else {}),
        },
        "decoder": decoder,
        "skeleton": {"keypoint_names": names, "edges": edges},
    }
    text = f"name = {json.dumps(name)}\npalm_mm = 90.0\n"
    for section, values in sections.items():
        text += f"\n[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    return text
