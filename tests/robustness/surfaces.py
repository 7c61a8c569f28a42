"""What is spoilt, and what a user then does with it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from good import BUNDLES, PICTURES, ROOT, VECTORS, VIDEOS
from mutate import (
    TEXTS,
    Rng,
    spoil_bytes,
    spoil_floats,
    spoil_json,
    spoil_lines,
    spoil_objects,
    spoil_png,
    spoil_protobuf,
    spoil_safetensors,
    spoil_text,
    spoil_tokens,
    spoil_zip,
)

Command = tuple[str, ...]
Weighted = Sequence[tuple[float, Command]]


@dataclass
class Case:
    """One spoilt input.

    Attributes:
        note: What was done to it.
        commands: What is run, in the folder of the case.
        spoilt: Files that no command may change, relative to that folder.
        must_fail: Whether every command has to notice it.
    """

    note: str
    commands: Sequence[Command]
    spoilt: Sequence[str] = ()
    must_fail: bool = False


@dataclass(frozen=True)
class Surface:
    """A kind of input.

    Attributes:
        share: Of all inputs, relative to the others.
        spoil: Fills a folder with a spoilt input; it is given the good files.
    """

    share: float
    spoil: Callable[[Rng, Path, Path], Case]


SURFACES: dict[str, Surface] = {}


def surface(share: float) -> Callable[[Callable[[Rng, Path, Path], Case]], Callable[[Rng, Path, Path], Case]]:
    """Registers a surface under the name of its function."""

    def register(spoil: Callable[[Rng, Path, Path], Case]) -> Callable[[Rng, Path, Path], Case]:
        SURFACES[spoil.__name__.replace("_", "-")] = Surface(share, spoil)
        return spoil

    return register


def drawn(rng: Rng, weighted: Weighted) -> list[Command]:
    """One or two of the commands, those of more weight more often."""
    picked = rng.choices([one for _, one in weighted], [weight for weight, _ in weighted], k=rng.choice((1, 1, 2)))
    return list(dict.fromkeys(picked))


def bundle_commands(bundle: str, good: Path) -> Weighted:
    """What is done with a bundle."""
    hand, labels = str(good / "hand.png"), str(good / "labels" / "labels.json")
    return (
        (3, ("inspect", bundle, "--json", "inspect.json")),
        (3, ("verify", bundle, "--json", "verify.json")),
        (3, ("run", bundle, hand, "--json", "run.json", "--save", "run.png")),
        (1, ("inspect", bundle, "--layers", "--json", "inspect.json")),
        (1, ("run", bundle, labels, "--json", "labels.json", "--format", "coco")),
        (0.3, ("run", bundle, str(good / "videos" / "v.avi"), "--json", "video.jsonl", "--save", "video.avi")),
        (0.15, ("bench", bundle, "--frames", "10", "--warmup", "0", "--json", "bench.jsonl", "--html", "bench.html")),
        (0.1, ("bench", bundle, "--frames", "10", "--warmup", "0", "--eval", labels, "--json", "bench.jsonl")),
    )


def checkpoint_commands(checkpoint: str, good: Path, model: str = "") -> Weighted:
    """What is done with weights."""
    spec = ("--model", model or str(good / "tiny" / "model.toml"))
    arch = ("--arch", f"{good / 'tiny' / 'arch.py'}:build")
    photographs = str(good / "photographs")
    return (
        (3, ("inspect", checkpoint, *spec, "--trust", "--json", "inspect.json")),
        (1, ("inspect", checkpoint, "--json", "inspect.json")),
        (1, ("inspect", checkpoint, *arch, "--input", "64x48", "--json", "inspect.json")),
        (1, ("init", checkpoint, *arch, "--input", "64x48", "-o", "made.toml", "--json", "init.json")),
        (1, ("compact", checkpoint, *spec, "--crops", "2", "--speed-up", "1.2", "-o", "small.safetensors")),
        (0.5, ("export", checkpoint, *spec, "--crops", "2", "-o", "new.splite", "--json", "export.json")),
        (0.3, ("calibrate", checkpoint, *spec, "--images", photographs, "-o", "new.ranges.json")),
    )


def file_commands(file: str, good: Path, model: str) -> Weighted:
    """What is done with a file without a bundle."""
    spec = ("--model", model)
    return (
        (3, ("inspect", file, "--json", "inspect.json")),
        (2, ("init", file, "-o", "made.toml", "--json", "init.json")),
        (3, ("run", file, str(good / "hand.png"), *spec, "--json", "run.json", "--save", "run.png")),
        (2, ("verify", file, *spec, "--json", "verify.json")),
        (0.2, ("bench", file, *spec, "--frames", "10", "--warmup", "0", "--json", "bench.jsonl")),
        (0.5, ("export", file, *spec, "--crops", "2", "-o", "new.splite", "--json", "export.json")),
    )


def model_of(good: Path, folder: Path, *, layout: str = "") -> str:
    """A model spec without what only a checkpoint has; returns its path."""
    text = (good / "tiny" / "model.toml").read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith(("arch", "samples", "channels", "keypoints ="))]
    views = "".join(f'\n[{one}]\nlayout = "NHWC"\n' for one in ("inputs.image", "outputs.heatmap", "outputs.depth"))
    (folder / "spec.toml").write_text("\n".join(kept) + "\n" + (views if layout else ""), encoding="utf-8")
    return "spec.toml"


# --- bundles ---


def signed(data: dict[str, Any] | str) -> bytes:
    """A manifest with its own checksum at the end; see docs/bundle-format.md."""
    text = json.dumps({key: one for key, one in data.items() if key != "checksum"}) if isinstance(data, dict) else data
    text = text.rstrip().removesuffix("}").rstrip() + ",\n "
    return f'{text}"checksum": "{hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()}"\n}}\n'.encode(
        "utf-8", "replace"
    )


def copied_bundle(rng: Rng, folder: Path, good: Path, *names: str) -> tuple[Path, dict[str, Any]]:
    """A bundle to spoil, and its manifest."""
    name = rng.choice(names or BUNDLES)
    bundle = folder / f"{name}.splite"
    shutil.copytree(good / bundle.name, bundle)
    return bundle, json.loads((bundle / "manifest.json").read_bytes())


def sign_file(bundle: Path, manifest: dict[str, Any], name: str) -> None:
    """Makes the hash of a file right again."""
    digest = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    for held in (*manifest["artifacts"], *manifest.get("graphs", ()), manifest["golden"]):
        if held["file"] == name:
            held["sha256"] = digest
    (bundle / "manifest.json").write_bytes(signed(manifest))


@surface(16)
def manifest(rng: Rng, folder: Path, good: Path) -> Case:
    """Its text; the checksum right in most cases."""
    bundle, data = copied_bundle(rng, folder, good)
    file = bundle / "manifest.json"
    old = file.read_bytes()
    if rng.random() < 0.15:
        new, note, must_fail = spoil_bytes(rng, old), "bytes", True
        must_fail = new.strip() != old.strip()
    else:
        del data["checksum"]
        ways = (spoil_json, spoil_json, spoil_json, spoil_tokens)
        part = rng.choice((None, None, "model", "artifacts", "golden"))
        if part is None:
            text = spoil_text(rng, json.dumps(data), *ways).decode("utf-8", "replace")
        else:  # the model and the artifacts are where values matter most
            text = json.dumps({**data, part: "\ue000"})
            new_part = spoil_text(rng, json.dumps(data[part]), *ways).decode("utf-8", "replace")
            text = text.replace(json.dumps("\ue000"), new_part)
        new, note, must_fail = signed(text), f"signed {part or 'all'}", False
    file.write_bytes(new)
    name = bundle.name
    return Case(note, drawn(rng, bundle_commands(name, good)), (f"{name}/manifest.json",), must_fail)


@surface(6)
def report(rng: Rng, folder: Path, good: Path) -> Case:
    """What was measured, which no runtime needs."""
    bundle, _ = copied_bundle(rng, folder, good)
    file = bundle / "report.json"
    file.write_bytes(spoil_text(rng, file.read_text(encoding="utf-8"), spoil_json, spoil_json, spoil_tokens))
    commands = (
        (3, ("inspect", bundle.name, "--json", "inspect.json")),
        (1, ("inspect", bundle.name, "--layers")),
        (1, ("verify", bundle.name, "--json", "verify.json")),
        (0.1, ("compile", bundle.name)),
    )
    return Case("report", drawn(rng, commands), (f"{bundle.name}/report.json",))


@surface(8)
def golden(rng: Rng, folder: Path, good: Path) -> Case:
    """Golden data whose hash is right; or not, which has to be noticed."""
    bundle, data = copied_bundle(rng, folder, good)
    file = bundle / "golden.bin"
    old = file.read_bytes()
    way = rng.random()
    if way < 0.35:
        new, note = _golden_values(rng, old, data), "values"
    elif way < 0.6:
        new, note = spoil_bytes(rng, old), "bytes"
    else:
        described = data["golden"]["tensors"]
        tensors = spoil_json(rng, json.dumps(described), first=2)
        text = json.dumps({**data, "golden": {**data["golden"], "tensors": "\ue000"}})
        (bundle / "manifest.json").write_bytes(signed(text.replace(json.dumps("\ue000"), tensors)))
        return Case("described", drawn(rng, bundle_commands(bundle.name, good)), (f"{bundle.name}/golden.bin",))
    file.write_bytes(new)
    must_fail = rng.random() < 0.1 and new != old
    if not must_fail:
        sign_file(bundle, data, file.name)
    note = "unsigned" if must_fail else note
    return Case(note, drawn(rng, bundle_commands(bundle.name, good)), (f"{bundle.name}/golden.bin",), must_fail)


def _golden_values(rng: Rng, old: bytes, data: dict[str, Any]) -> bytes:
    """Floats of one tensor that are not finite, or huge."""
    floats = [one for one in data["golden"]["tensors"].values() if one["dtype"] == "float32"]
    one = rng.choice(floats)
    end = one["offset"] + 4 * int(np.prod(one["shape"]))
    return old[: one["offset"]] + spoil_floats(rng, old[one["offset"] : end]) + old[end:]


def _artifact(rng: Rng, folder: Path, good: Path, suffix: str, spoil: Callable[[Rng, bytes], bytes], *of: str) -> Case:
    bundle, data = copied_bundle(rng, folder, good, *of)
    file = bundle / rng.choice([one["file"] for one in data["artifacts"] if one["file"].endswith(suffix)])
    old = file.read_bytes()
    new = spoil(rng, old)
    file.write_bytes(new)
    must_fail = rng.random() < 0.1 and new != old
    if not must_fail:
        sign_file(bundle, data, file.name)
    note = "unsigned" if must_fail else "signed"
    return Case(note, drawn(rng, bundle_commands(bundle.name, good)), (f"{bundle.name}/{file.name}",), must_fail)


def _spoil_onnx(rng: Rng, data: bytes) -> bytes:
    return spoil_bytes(rng, data) if rng.random() < 0.3 else spoil_protobuf(rng, data)


def _spoil_tflite(rng: Rng, data: bytes) -> bytes:
    way = rng.random()
    return spoil_bytes(rng, data, words=way < 0.3) if way < 0.5 else _spoil_tflite_tables(rng, data)


def _spoil_tflite_tables(rng: Rng, data: bytes) -> bytes:
    """A FlatBuffer that is one, of tables whose values are wrong."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for _ in range(20):
        spoil_objects(rng, model)
        builder = flatbuffers.Builder(len(data))
        try:
            builder.Finish(model.Pack(builder), b"TFL3")
        except (TypeError, ValueError, AttributeError, OverflowError, struct.error):  # no number of that field's type
            model = schema.ModelT.InitFromPackedBuf(data, 0)
        else:
            return bytes(builder.Output())
    return data[:100]


@surface(6)
def artifact_onnx(rng: Rng, folder: Path, good: Path) -> Case:
    """A graph in a bundle."""
    return _artifact(rng, folder, good, ".onnx", _spoil_onnx, "tiny", "int8", "dynamic", "figures")


@surface(6)
def artifact_tflite(rng: Rng, folder: Path, good: Path) -> Case:
    """A TFLite file in a bundle."""
    return _artifact(rng, folder, good, ".tflite", _spoil_tflite, "lite")


# --- checkpoints ---


@surface(5)
def checkpoint_safetensors(rng: Rng, folder: Path, good: Path) -> Case:
    """Weights as safetensors."""
    data = (good / "tiny" / "tiny.safetensors").read_bytes()
    way = rng.random()
    new = spoil_bytes(rng, data) if way < 0.2 else spoil_safetensors(rng, data)
    (folder / "w.safetensors").write_bytes(new)
    return Case("safetensors", drawn(rng, checkpoint_commands("w.safetensors", good)), ("w.safetensors",))


@surface(7)
def checkpoint_pt(rng: Rng, folder: Path, good: Path) -> Case:
    """Weights as torch writes them: the bytes, the archive, the pickle in it, and strange objects."""
    name = rng.choice(("tiny.pt", "tiny.pt", "training.pt", "old.pt", "script.pt"))
    data = (good / "tiny" / name).read_bytes()
    way = rng.random()
    if way < 0.15 or name == "old.pt":
        new, note = spoil_bytes(rng, data), "bytes"
    elif way < 0.6:
        new, note = spoil_zip(rng, data, _spoil_member), "member"
    else:
        new, note = _strange_checkpoint(rng), "strange"
    (folder / "w.pt").write_bytes(new)
    return Case(f"{name} {note}", drawn(rng, checkpoint_commands("w.pt", good)), ("w.pt",))


def _spoil_member(rng: Rng, name: str, content: bytes) -> bytes:
    if "/data/" in name and rng.random() < 0.6:
        return spoil_floats(rng, content)
    return spoil_bytes(rng, content)


def _strange_checkpoint(rng: Rng) -> bytes:
    """What torch.save writes of the tiny network's weights with some of them replaced by other things."""
    import torch

    weights: dict[Any, Any] = dict(_tiny_weights())
    loop: dict[Any, Any] = {}
    loop["self"] = loop
    whole: list[Any] = []
    whole.append(whole)
    one = torch.ones(8)
    strange: tuple[Callable[[], Any], ...] = (
        *(lambda: None, lambda: 3, lambda: "x", lambda: [], lambda: {}, lambda: loop, lambda: whole, lambda: (1, 2)),
        *(lambda: one.to_sparse(), lambda: torch.eye(8).to_sparse_csr(), lambda: one.to(torch.float8_e4m3fn)),
        *(lambda: one.to(torch.complex64), lambda: one.to(torch.bool), lambda: one.to(torch.bfloat16), lambda: one[:0]),
        *(lambda: torch.empty(8, device="meta"), lambda: torch.tensor(3.0), lambda: one.to(torch.int64)),
        *(lambda: torch.quantize_per_tensor(one, 0.1, 0, torch.qint8), lambda: torch.nn.Parameter(one)),
        *(
            lambda: torch.ones(1).expand(1 << 40),
            lambda: torch.ones(1).expand(8, 3, 3, 3),
            lambda: one.double() * 1e300,
        ),
        *(lambda: one * float("nan"), lambda: one * 3e38, lambda: torch.ones(2, 2, 2, 2, 2, 2), lambda: 10**400),
        *(lambda: {"a": {"b": {"c": one}}}, lambda: bytearray(b"x"), lambda: {1: one}, lambda: float("nan")),
        *(lambda: _nested(900, one), lambda: {None: one, (1, 2): one}, lambda: torch.Size([2]), lambda: torch.float32),
        *(lambda: one.to(torch.float16) * 60000, lambda: torch.ones(8, 3, 3, 3).to(memory_format=torch.channels_last)),
    )
    for _ in range(rng.choice((1, 1, 2, 5))):
        key = rng.choice(list(weights))
        way = rng.random()
        if way < 0.6:
            weights[key] = rng.choice(strange)()
        elif way < 0.7:
            weights[rng.choice((1, None, "", "x" * 3000, "a\0b", "\x1b[31m", "a..b", ".", (1, 2), b"k"))] = weights.pop(
                key
            )
        elif way < 0.8:
            del weights[key]
        elif way < 0.9:
            weights[rng.choice(("state_dict", "model", "ema", "extra", "module", "steps"))] = rng.choice(strange)()
        elif isinstance(weights[key], torch.Tensor) and weights[key].layout == torch.strided:
            weights[key] = weights[key].reshape(-1)[:1] if rng.random() < 0.5 else weights[key].reshape(-1)
    saved: Any = weights
    way = rng.random()
    if way < 0.2:
        saved = {rng.choice(("state_dict", "model", "ema_state_dict")): weights, "epoch": rng.choice(strange)()}
    elif way < 0.26:
        saved = rng.choice(strange)()
    elif way < 0.3:
        saved = list(weights.values())
    out = io.BytesIO()
    try:
        torch.save(saved, out, _use_new_zipfile_serialization=rng.random() < 0.9)
    except (RuntimeError, TypeError, AttributeError, RecursionError, NotImplementedError, OverflowError):
        return pickle.dumps({"x": 1})
    return out.getvalue()


def _nested(depth: int, inner: Any) -> Any:
    for _ in range(depth // 10):
        inner = {"a": inner}
    return inner


def _tiny_weights() -> dict[str, Any]:
    from good import TINY, load

    return load(TINY / "arch.py").build().state_dict()  # type: ignore[no-any-return]


# --- files without a bundle ---


@surface(4)
def file_onnx(rng: Rng, folder: Path, good: Path) -> Case:
    """A graph without a bundle."""
    if rng.random() < 0.3:
        source = rng.choice(sorted((good / "networks").iterdir()))
        data, model = (source / "network.onnx").read_bytes(), str(source / "model.toml")
    else:
        name = rng.choice(("tiny", "int8"))
        data, model = _first(good / f"{name}.splite", ".onnx").read_bytes(), model_of(good, folder)
    (folder / "net.onnx").write_bytes(_spoil_onnx(rng, data))
    return Case("onnx", drawn(rng, file_commands("net.onnx", good, model)), ("net.onnx",))


def _first(bundle: Path, suffix: str) -> Path:
    return sorted(bundle.glob(f"*{suffix}"))[0]


@surface(2.5)
def file_values(rng: Rng, folder: Path, good: Path) -> Case:
    """A whole graph, one for each decoder, that gives numbers which are not finite or huge."""
    import onnx

    source = rng.choice(sorted((good / "networks").iterdir()))
    model = onnx.load(source / "network.onnx")
    tensors = [one for one in model.graph.initializer if one.name.endswith(".values")]
    for one in tensors if rng.random() < 0.3 else [rng.choice(tensors)]:
        one.raw_data = spoil_floats(rng, one.raw_data)
    onnx.save(model, folder / "net.onnx")
    file, spec = "net.onnx", ("--model", str(source / "model.toml"))
    commands = (
        (3, ("run", file, str(good / "hand.png"), *spec, "--json", "run.json", "--save", "run.png")),
        (1, ("run", file, str(good / "labels" / "labels.json"), *spec, "--json", "l.json", "--format", "coco")),
        (1, ("verify", file, *spec, "--json", "verify.json")),
        (0.5, ("run", file, str(good / "videos" / "v.avi"), *spec, "--json", "v.jsonl", "--save", "v.avi")),
        (1, ("inspect", file, "--json", "inspect.json")),
        (0.3, ("export", file, *spec, "--crops", "2", "-o", "new.splite", "--json", "export.json")),
    )
    return Case(source.name, drawn(rng, commands), ("net.onnx",))


@surface(4)
def file_tflite(rng: Rng, folder: Path, good: Path) -> Case:
    """A TFLite file without a bundle."""
    names = ("tiny.fp32", "tiny.fp16", "tiny.int8", "tiny.int8-ends", "foreign.float32", "foreign.uint8")
    name = rng.choice(names)
    (folder / "net.tflite").write_bytes(_spoil_tflite(rng, (VECTORS / f"{name}.tflite").read_bytes()))
    model = model_of(good, folder, layout="NHWC") if name.startswith("tiny") else str(good / "foreign.toml")
    return Case("tflite", drawn(rng, file_commands("net.tflite", good, model)), ("net.tflite",))


# --- pictures and videos ---


@surface(10)
def pictures(rng: Rng, folder: Path, good: Path) -> Case:
    """One picture, alone or in a folder."""
    name = rng.choice(PICTURES)
    data = (good / "pictures" / name).read_bytes()
    if name.endswith(".png") and rng.random() < 0.6:
        new = spoil_png(rng, data)
    else:
        new = spoil_bytes(rng, data, words=rng.random() < 0.3)
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(new)
    if rng.random() < 0.5:
        shutil.copy(good / "hand.png", folder / "in" / "z.png")
    bundle, picture = str(good / "tiny.splite"), f"in/{name}"
    network = str(_first(good / "tiny.splite", ".onnx"))
    spec = model_of(good, folder)
    commands = (
        (4, ("run", bundle, picture, "--json", "run.json", "--save", f"out{Path(name).suffix}")),
        (2, ("run", bundle, "in", "--json", "run.json", "--save", "out")),
        (1, ("run", str(good / "figures.splite"), picture, "--json", "run.json", "--save", "out.png")),
        (1, ("run", bundle, picture, "--box", "2,3,40,50", "--box", "-9,1,90,90", "--json", "run.json")),
        (0.5, ("verify", network, "--model", spec, "--images", "in")),
        (0.1, ("bench", bundle, "--frames", "10", "--warmup", "0", "--images", "in")),
        (0.2, ("inspect", network, "--images", "in")),
    )
    return Case(name, drawn(rng, commands), (picture,))


@surface(5)
def videos(rng: Rng, folder: Path, good: Path) -> Case:
    """A video file."""
    name = rng.choice(list(VIDEOS))
    data = (good / "videos" / name).read_bytes()
    (folder / name).write_bytes(spoil_bytes(rng, data, words=rng.random() < 0.3))
    commands = (
        (3, ("run", str(good / "tiny.splite"), name, "--json", "run.jsonl")),
        (2, ("run", str(good / "tiny.splite"), name, "--json", "run.jsonl", "--save", "out.mp4")),
        (1, ("run", str(good / "figures.splite"), name, "--json", "run.jsonl", "--save", "out.avi")),
    )
    return Case(name, drawn(rng, commands), (name,))


# --- labels, calibration, settings, results ---


def _label_commands(file: str, good: Path) -> Weighted:
    bundle, weights = str(good / "tiny.splite"), str(good / "tiny" / "tiny.safetensors")
    export = ("export", weights, "--crops", "2", "-o", "new.splite")
    return (
        (5, ("run", bundle, file, "--json", "run.json", "--save", "out")),
        (2, ("run", bundle, file, "--json", "run.json", "--format", "coco")),
        (
            0.3,
            (
                "bench",
                bundle,
                "--frames",
                "10",
                "--warmup",
                "0",
                "--eval",
                file,
                "--json",
                "b.jsonl",
                "--html",
                "b.html",
            ),
        ),
        (0.2, ("bench", bundle, "--frames", "10", "--warmup", "0", "--images", file)),
        (0.4, (*export, "--images", file)),
        (0.4, (*export, "--eval", file, "--json", "export.json")),
        (1, ("calibrate", weights, "--images", file, "-o", "new.ranges.json")),
        (1, ("inspect", str(_first(good / "tiny.splite", ".onnx")), "--images", file)),
    )


@surface(5)
def labels_own(rng: Rng, folder: Path, good: Path) -> Case:
    """labels.json."""
    (folder / "images").symlink_to(good / "labels" / "images")
    text = (good / "labels" / "labels.json").read_text(encoding="utf-8")
    (folder / "labels.json").write_bytes(spoil_text(rng, text, spoil_json, spoil_json, spoil_tokens))
    return Case("labels.json", drawn(rng, _label_commands("labels.json", good)), ("labels.json",))


@surface(5)
def labels_coco(rng: Rng, folder: Path, good: Path) -> Case:
    """COCO's JSON of keypoints, and of a detector."""
    (folder / "images").symlink_to(good / "labels" / "images")
    name = rng.choice(("coco.json", "coco.json", "results.json"))
    text = (good / "labels" / name).read_text(encoding="utf-8")
    (folder / name).write_bytes(spoil_text(rng, text, spoil_json, spoil_json, spoil_tokens))
    for picture in (good / "labels").glob("*.jpg"):  # a detector's results know images by their numbers alone
        (folder / picture.name).symlink_to(picture)
    return Case(name, drawn(rng, _label_commands(name, good)), (name,))


@surface(1.5)
def calibration(rng: Rng, folder: Path, good: Path) -> Case:
    """A folder of pictures, an archive of crops, and stored ranges."""
    weights, spec = str(good / "tiny" / "tiny.safetensors"), str(good / "tiny" / "model.toml")
    way = rng.random()
    if way < 0.2:
        shutil.copytree(good / "photographs", folder / "given")
        picked = rng.sample(sorted((folder / "given").iterdir()), rng.choice((1, 2, 14)))
        for one in picked:
            one.write_bytes(
                spoil_png(rng, one.read_bytes()) if rng.random() < 0.5 else spoil_bytes(rng, one.read_bytes())
            )
        source, note = "given", "folder"
    elif way < 0.6:
        data = (good / "crops.npz").read_bytes()
        new = spoil_bytes(rng, data) if rng.random() < 0.3 else spoil_zip(rng, data, _spoil_array)
        (folder / "crops.npz").write_bytes(_strange_crops(rng) if rng.random() < 0.3 else new)
        source, note = "crops.npz", "archive"
    else:
        text = (good / "tiny" / "tiny.ranges.json").read_text(encoding="utf-8")
        (folder / "r.ranges.json").write_bytes(_spoilt_ranges(rng, text))
        export = ("export", weights, "--model", spec, "--crops", "2", "-o", "new.splite", "--images")
        command = (*export, str(good / "photographs"), "-p", "int8", "--calibration", "r.ranges.json")
        return Case("ranges", [command], ("r.ranges.json",))
    commands = (
        (4, ("calibrate", weights, "--model", spec, "--images", source, "-o", "new.ranges.json", "--json", "c.json")),
        (
            0.3,
            (
                "export",
                weights,
                "--model",
                spec,
                "--crops",
                "2",
                "-o",
                "n.splite",
                "-p",
                "int8",
                "--calibration",
                source,
            ),
        ),
        (
            0.3,
            ("compact", weights, "--model", spec, "--images", source, "--speed-up", "1.2", "-o", "small.safetensors"),
        ),
    )
    return Case(note, drawn(rng, commands))


def _spoilt_ranges(rng: Rng, text: str) -> bytes:
    """Stored ranges, with the hash of their fields right in most cases."""
    if rng.random() < 0.3:
        return spoil_text(rng, text, spoil_json, spoil_tokens)
    spoilt = spoil_json(rng, text)
    try:
        data = json.loads(spoilt)
        del data["sha256"]
        plain = json.dumps(data)
    except (ValueError, KeyError, TypeError, RecursionError):
        return spoilt.encode("utf-8", "surrogatepass")
    data["sha256"] = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps(data).encode("utf-8", "surrogatepass")


def _spoil_array(rng: Rng, name: str, content: bytes) -> bytes:
    """The header of an array, as text, or its bytes."""
    if rng.random() < 0.5:
        size = int.from_bytes(content[8:10], "little")
        header = (
            spoil_tokens(rng, content[10 : 10 + size].decode("latin-1").strip()).encode("latin-1", "replace") + b"\n"
        )
        if len(header) < 60_000:
            return content[:8] + len(header).to_bytes(2, "little") + header + content[10 + size :]
    return spoil_bytes(rng, content)


def _strange_crops(rng: Rng) -> bytes:
    arrays = (
        *(np.zeros((9, 64, 48, 3), np.uint8), np.zeros((0, 64, 48, 3), np.uint8), np.zeros((9, 3, 64, 48), np.float32)),
        *(
            np.full((9, 64, 48, 3), np.nan),
            np.full((9, 64, 48, 3), 1e30),
            np.zeros((9, 64, 48), np.uint8),
            np.float32(1),
        ),
        *(np.zeros((9, 64, 48, 3), complex), np.zeros((9, 64, 48, 3), "U3"), np.zeros((9, 64, 48, 3), "S2")),
        *(np.zeros(9, [("a", "u1")]), np.zeros((9, 64, 48, 3), "M8[s]"), np.full((9, 64, 48, 3), np.inf, np.float16)),
        *(np.random.default_rng(0).integers(0, 256, (9, 64, 48, 3)), np.zeros((9, 64, 48, 3), bool)),
    )
    colors = ("rgb", "bgr", "", "x" * 5000, 3, None, ["rgb", "bgr"], b"rgb", float("nan"))
    out = io.BytesIO()
    named = {rng.choice(("crops", "images", "x")): rng.choice(arrays)}
    if rng.random() < 0.4:
        named[rng.choice(("color", "crops", "y"))] = np.array(rng.choice(colors))
    np.savez(out, **named)  # type: ignore[arg-type]
    return out.getvalue()


@surface(1.5)
def tensors_npz(rng: Rng, folder: Path, good: Path) -> Case:
    """The tensors of bench --inputs."""
    data = (good / "inputs.npz").read_bytes()
    way = rng.random()
    if way < 0.3:
        new = spoil_bytes(rng, data)
    else:
        new = spoil_zip(rng, data, _spoil_array) if way < 0.8 else _strange_crops(rng)
    (folder / "in.npz").write_bytes(new)
    shutil.copy(_first(good / "tiny.splite", ".onnx"), folder / "net.onnx")
    command = ("bench", "net.onnx", "--inputs", "in.npz", "--frames", "10", "--warmup", "0", "--json", "b.jsonl")
    return Case("tensors", [command], ("in.npz",))


@surface(10)
def model_toml(rng: Rng, folder: Path, good: Path) -> Case:
    """A model spec: of a checkpoint, and of a file for every decoder."""
    way = rng.random()
    if way < 0.4:
        source = rng.choice([good / "tiny", ROOT / "models" / "splite_hand", ROOT / "tests" / "people"])
        text = (source / "model.toml").read_text(encoding="utf-8")
        (folder / "model.toml").write_bytes(_spoilt_toml(rng, text))
        if source == good / "tiny":
            for name in ("arch.py", "samples.py"):
                shutil.copy(source / name, folder)
        commands = checkpoint_commands(str(good / "tiny" / "tiny.safetensors"), good, "model.toml")
    else:
        if way < 0.6:
            file = str(_first(good / "tiny.splite", ".onnx"))
            model_of(good, folder, layout=rng.choice(("", "NHWC")))
            text = (folder / "spec.toml").read_text(encoding="utf-8")
        else:
            source = rng.choice(sorted((good / "networks").iterdir()))
            file, text = str(source / "network.onnx"), (source / "model.toml").read_text(encoding="utf-8")
        (folder / "model.toml").write_bytes(_spoilt_toml(rng, text))
        commands = [one for one in file_commands(file, good, "model.toml") if "--model" in one[1]]
    return Case("model.toml", drawn(rng, commands), ("model.toml",))


def _spoilt_toml(rng: Rng, text: str) -> bytes:
    return spoil_text(rng, text, spoil_lines, spoil_lines, spoil_tokens)


@surface(8)
def results(rng: Rng, folder: Path, good: Path) -> Case:
    """Recorded benchmark results."""
    lines = (good / "after.jsonl").read_text(encoding="utf-8").splitlines()
    at = rng.randrange(len(lines))
    lines[at] = spoil_text(rng, lines[at], spoil_json, spoil_json, spoil_tokens).decode("utf-8", "replace")
    lines[at] = lines[at].replace("\n", " ") if rng.random() < 0.95 else lines[at]
    (folder / "after.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
    files = (str(good / "before.jsonl"), "after.jsonl") if rng.random() < 0.7 else ("after.jsonl", "after.jsonl")
    compare = ("bench", "--compare", *files)
    commands = (
        (1, compare),
        (2, (*compare, "--html", "page.html")),
        (1, (*compare, "--csv", "t.csv", "--markdown", "t.md")),
        (1, (*compare, "--fail-if", "p99_ms>33", "--fail-if", "epe_box_pct>2.5", "--fail-if", "rss_peak_mib>1")),
    )
    return Case("results", drawn(rng, commands), ("after.jsonl",))


# --- what lies in the place of a file ---


@surface(3)
def places(rng: Rng, folder: Path, good: Path) -> Case:
    """A folder, a link, a pipe, a socket or a device where a file is expected, or a name that is unusual."""
    bundle, _ = copied_bundle(rng, folder, good)
    shutil.copytree(good / "tiny", folder / "tiny")
    shutil.copytree(good / "labels", folder / "labels")
    (folder / "in").mkdir()
    for file in (good / "hand.png", good / "after.jsonl", good / "crops.npz", good / "videos" / "v.mp4"):
        shutil.copy(file, folder / "in")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    file = rng.choice(files)
    if rng.random() < 0.4:
        name = rng.choice((*_ODD_NAMES, f"{'x' * 240}{file.suffix}")).replace("SUFFIX", file.suffix)
        file.rename(folder / name)
        return Case(
            f"{file.name} -> {name!r}", drawn(rng, _for_file(folder / name, file.name, bundle.name, good, name))
        )
    what, name = rng.choice(list(_PLACES)), str(file.relative_to(folder))
    _PLACES[what](file)
    return Case(f"{what} at {name}", drawn(rng, _for_file(file, file.name, bundle.name, good, name)))


_ODD_NAMES = ("\x1b[31mSUFFIX", "[red]aSUFFIX", "[b]SUFFIX", "a\nbSUFFIX", "-xSUFFIX", "a bSUFFIX", "a:bSUFFIX")
_ODD_NAMES = (
    *_ODD_NAMES,
    "http:SUFFIX",
    "%d%sSUFFIX",
    "~SUFFIX",
    "$(id)SUFFIX",
    "'SUFFIX",
    "é\u202eSUFFIX",
    "\udcffSUFFIX",
)
_ODD_NAMES = (*_ODD_NAMES, "0SUFFIX", ".hiddenSUFFIX", "a.splite", "SUFFIX")


def _emptied(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(file: Path) -> None:
        file.unlink()
        make(file)

    return replace


def _socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the path of a socket has room for 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(file.name)
    finally:
        os.chdir(here)


_PLACES: dict[str, Callable[[Path], None]] = {
    "folder": _emptied(Path.mkdir),
    "nothing": _emptied(lambda file: None),
    "empty file": _emptied(Path.touch),
    "pipe": _emptied(os.mkfifo),
    "socket": _emptied(_socket),
    "link to itself": _emptied(lambda file: file.symlink_to(file.name)),
    "link to nothing": _emptied(lambda file: file.symlink_to("none")),
    "link to a folder": _emptied(lambda file: file.symlink_to("/tmp")),
    "/dev/zero": _emptied(lambda file: file.symlink_to("/dev/zero")),
    "/dev/null": _emptied(lambda file: file.symlink_to("/dev/null")),
}


def _for_file(file: Path, was: str, bundle: str, good: Path, name: str) -> Weighted:
    """What is done with a file of that name."""
    weights = [(1.0, ("inspect", name)), (0.5, ("run", bundle, name, "--json", "run.json"))]
    if was.endswith(".jsonl"):
        weights.append((3, ("bench", "--compare", str(good / "before.jsonl"), name)))
    elif was.endswith(".npz"):
        tiny = "tiny/tiny.safetensors"
        weights.append((3, ("calibrate", tiny, "--images", name, "-o", "new.ranges.json")))
    elif "labels" in str(file) or was.endswith((".png", ".mp4")):
        weights.append((5, ("run", str(good / "tiny.splite"), name, "--json", "run.json", "--save", "out")))
        weights.append((1, ("run", str(good / "tiny.splite"), "labels", "--json", "run.json")))
    elif was in ("manifest.json", "report.json", "golden.bin") or was.endswith((".onnx", ".tflite")):
        weights += bundle_commands(bundle, good)
        weights.append((1, ("init", name, "-o", "made.toml")))
    else:
        weights += checkpoint_commands(name if was.endswith((".pt", ".safetensors")) else "tiny/tiny.pt", good)
        weights.append((2, ("inspect", "tiny/tiny.safetensors")))
        weights.append((1, ("export", "tiny/tiny.safetensors", "-o", "new.splite", "--crops", "2")))
    return weights


# --- what is typed ---

_TYPED = (
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e-320",
    "0",
    "-1",
    "1",
    "0.5",
    "2",
    "3.7",
    "1e9",
    "",
    "x",
    "1,2",
    " ",
)
_TYPED = (
    *_TYPED,
    "2147483648",
    "1" + "0" * 20,
    "9" * 400,
    "9" * 5000,
    "-0",
    "0x10",
    "1_0",
    "٣",
    "é",
    "\x1b[31m",
    "[/x]",
)


@surface(6)
def options(rng: Rng, folder: Path, good: Path) -> Case:
    """Good files, and values of options that are none."""
    tiny, hand, arch = str(good / "tiny.splite"), str(good / "hand.png"), f"{good / 'tiny' / 'arch.py'}:build"
    weights, spec = str(good / "tiny" / "tiny.safetensors"), str(good / "tiny" / "model.toml")
    file = str(_first(good / "tiny.splite", ".onnx"))
    bench = ("bench", tiny, "--frames", "10", "--warmup", "0", "--json", "b.jsonl")
    init = ("init", weights, "--arch", arch, "-o", "made.toml", "--json", "init.json", "--input")
    compact = ("compact", weights, "--crops", "2", "-o", "small.safetensors")
    export = ("export", weights, "--crops", "2", "-o", "new.splite")
    size, typed = (
        rng.choice(("64x48", "64x48", "0x0", "-1x3", "1x1", "99999999999x1", "64", "64x48x3", "nanx1", "")),
        "",
    )
    box = ",".join(rng.choice(("1", "5", "60", "90", *_TYPED)) for _ in range(rng.choice((4, 4, 4, 3, 5))))
    typed = rng.choice((rng.choice(_TYPED), rng.choice(_TYPED), rng.choice(TEXTS).replace("\0", "0")))
    inside = typed.replace("/", "_").replace("..", "_")  # where results are written
    metric = rng.choice(("p99_ms", "epe_box_pct", "model_mb", "x", "", "stages"))
    limit = f"{metric}{rng.choice(('>', '<', '=', '>=', ''))}{typed}"
    commands = (
        (4, ("run", tiny, hand, f"--box={box}", "--json", "run.json", "--save", "run.png")),
        (1, ("run", tiny, str(good / "videos" / "v.avi"), f"--box={box}", "--json", "run.jsonl")),
        (2, ("run", tiny, hand, f"--intrinsics={box}", f"--bone-length-mm={typed}", "--json", "run.json")),
        (1, ("run", tiny, hand, "--intrinsics=90,90,50,40", f"--bone-length-mm={typed}", "--json", "run.json")),
        (2, ("run", tiny, typed, "--json", "run.json")),
        (1, ("run", tiny, f"{typed}{rng.choice(('.mp4', '.png', ' ! appsink', '.json', '/'))}", "--json", "run.json")),
        (1, ("run", tiny, hand, f"--{rng.choice(('json', 'save', 'threads', 'format', 'backend'))}={inside}")),
        (1, (*bench[:-1], inside or ".", f"--{rng.choice(('affinity', 'streams', 'batch', 'threads'))}={typed}")),
        (0.5, (*bench, f"--duration={rng.choice(('nan', '-1', 'x', '-inf', '0', typed if typed == 'é' else ''))}")),
        (1, ("bench", "--compare", str(good / "before.jsonl"), str(good / "after.jsonl"), f"--fail-if={limit}")),
        (1, ("bench", "--compare", str(good / "before.jsonl"), str(good / "after.jsonl"), f"--html={inside}")),
        (2, (*compact, f"--{rng.choice(('speed-up', 'ratio', 'threshold'))}={typed}")),
        (1, (*compact, "--speed-up=1.2", f"--{rng.choice(('round-to', 'weights', 'method'))}={typed}")),
        (2, (*init, size, f"--{rng.choice(('mean', 'std', 'box-padding', 'pad-value', 'name', 'arch-arg'))}={typed}")),
        (1, (*init, "64x48", f"--arch-arg={rng.choice(('channels', 'keypoints', 'x', ''))}={typed}")),
        (1, ("inspect", weights, "--model", spec, f"--{rng.choice(('weights', 'input', 'json'))}={inside}")),
        (1, ("inspect", file, f"--{rng.choice(('like', 'skeleton', 'kind', 'images', 'input'))}={typed}")),
        (
            1,
            (
                *export,
                f"--{rng.choice(('opset', 'max-shift-px', 'max-shift-mm', 'weights', 'eval', 'images'))}={typed}",
            ),
        ),
        (1, ("verify", file, "--model", spec, f"--{rng.choice(('images', 'reference', 'threads'))}={typed}")),
        (1, (rng.choice(("inspect", "verify", "run", "export", "init", "compact", "bench")), typed)),
    )
    return Case("options", drawn(rng, commands))
