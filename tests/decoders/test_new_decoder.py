"""Decoders of other kinds than ours need nothing but themselves: outputs of other ranks, and of different sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from through import run_through, through

from splite_deploy import decoders
from splite_deploy.arrays import FloatArray
from splite_deploy.decoders import Decoded, Decoder, InputSize, Sizes, check_shapes, decode
from splite_deploy.decoders.heatmap import softmax
from splite_deploy.decoders.torch import MODULES
from splite_deploy.errors import BackendError, ExportError, SpecError
from splite_deploy.export.graph.fuse import fuse_decode, tensor_specs
from splite_deploy.spec import ModelSpec


@dataclass(frozen=True)
class Axes(Decoder):
    """One distribution for each axis, finer than pixels, in the manner of SimCC (Li et al. 2022, arXiv 2107.03332)."""

    type: ClassVar[str] = "axes"
    layouts: ClassVar[Mapping[str, str]] = {"along_x": "NKC", "along_y": "NKC"}
    split: float

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        return {
            "along_x": (keypoints, round(size.width * self.split)),
            "along_y": (keypoints, round(size.height * self.split)),
        }

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        places = [(outputs[role].argmax(axis=-1) + 0.5) / self.split for role in self.roles]
        tops = [outputs[role].max(axis=-1) for role in self.roles]
        return Decoded(np.stack(places, -1).astype(np.float32), np.minimum(*tops), None)


class AxesModule(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, decoder: Axes, keypoints: int, size: InputSize) -> None:
        super().__init__()
        self.split = decoder.split

    def forward(self, along_x: Any, along_y: Any) -> tuple[Any, ...]:
        places = [(values.argmax(dim=-1) + 0.5) / self.split for values in (along_x, along_y)]
        return torch.stack(places, dim=-1), torch.minimum(along_x.amax(dim=-1), along_y.amax(dim=-1))


@dataclass(frozen=True)
class Layers(Decoder):
    """Soft-argmax over D layers of maps, with an axis of their own."""

    type: ClassVar[str] = "layers"
    layouts: ClassVar[Mapping[str, str]] = {"layers": "NCDHW"}
    decoded_layouts: ClassVar[Mapping[str, str]] = {"keypoints": "NKC", "scores": "NK", "depth": "NK"}
    stride: float
    depths: int

    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        return {"layers": (keypoints, self.depths, round(size.height / self.stride), round(size.width / self.stride))}

    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        weights = softmax(outputs["layers"], 1.0)
        axes = [np.arange(cells) + 0.5 for cells in weights.shape[:1:-1]]
        x, y = (weights.sum(axis=axis) @ cells * self.stride for axis, cells in (((2, 3), axes[0]), ((2, 4), axes[1])))
        depth = weights.sum(axis=(3, 4)) @ axes[2]
        keypoints = np.stack([x, y], -1).astype(np.float32)
        return Decoded(keypoints, weights.max(axis=(2, 3, 4)), (depth - depth[:, :1]).astype(np.float32))


class LayersModule(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, decoder: Layers, keypoints: int, size: InputSize) -> None:
        super().__init__()
        self.stride, self.shape = decoder.stride, decoder.shapes(keypoints, size)["layers"]

    def forward(self, layers: Any) -> tuple[Any, ...]:
        flat = torch.softmax(layers.reshape(-1, self.shape[0], int(np.prod(self.shape[1:]))), dim=-1)
        weights = flat.reshape(-1, *self.shape)
        z, y, x = (
            (weights.sum(dim=axes) * (torch.arange(cells) + 0.5)).sum(dim=-1)
            for axes, cells in zip(((3, 4), (2, 4), (2, 3)), self.shape[1:], strict=True)
        )
        return torch.stack([x, y], dim=-1) * self.stride, flat.amax(dim=-1), z - z[:, :1]


KINDS = {
    "axes": (Axes, AxesModule, {"split": 2.0}, {"along_x": (1, 3, 64), "along_y": (1, 3, 48)}),
    "layers": (Layers, LayersModule, {"stride": 4.0, "depths": 5}, {"layers": (1, 3, 5, 6, 8)}),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def spec(kind: str, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model of three keypoints and an input of 24 x 32, as its model.toml would give it."""
    decoder, module, parameters, _ = KINDS[kind]
    monkeypatch.setitem(decoders.DECODERS, kind, decoder)
    monkeypatch.setitem(MODULES, decoder, module)
    grey = [127.5, 127.5, 127.5]
    image = {"height": 24, "width": 32, "color": "rgb", "mean": grey, "std": grey, "box_padding": 1.0, "pad_value": 0}
    skeleton = {"keypoint_names": ["a", "b", "c"], "edges": []}
    return ModelSpec.from_dict(
        {"name": "new", "input": image, "decoder": {"type": kind, **parameters}, "skeleton": skeleton}
    )


@kinds
def test_outputs_are_read_and_checked(kind: str, spec: ModelSpec) -> None:
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    shapes: dict[str, tuple[int, ...]] = KINDS[kind][3]
    check_shapes(shapes, spec, crops=1, error=ExportError)
    rng = np.random.default_rng(0)
    outputs = {role: rng.uniform(size=shape).astype(np.float32) for role, shape in shapes.items()}
    found = decode(outputs, spec)
    assert found.keypoints.shape == (1, 3, 2) and (found.depth is None) == (kind == "axes")
    assert ((found.keypoints > 0) & (found.keypoints < [32, 24])).all()
    last = list(outputs)[-1]
    with pytest.raises(BackendError, match=f"The output '{last}' has shape .*; the spec says \\(1, 3, "):
        decode({**outputs, last: outputs[last][..., :-1]}, spec)


@kinds
def test_its_module_becomes_the_graph(kind: str, spec: ModelSpec) -> None:
    shapes: dict[str, tuple[int, ...]] = KINDS[kind][3]
    plain = through({role: ("n", *shape[1:]) for role, shape in shapes.items()})
    assert [tensor.layout for tensor in tensor_specs(plain, spec.decoder)[1]] == list(spec.decoder.layouts.values())
    fused = fuse_decode(plain, spec)
    assert [tensor.layout for tensor in tensor_specs(fused, spec.decoder)[1]] == list(
        spec.decoder.decoded_layouts.values()
    )

    rng = np.random.default_rng(1)
    outputs = {role: 5 * rng.normal(size=(4, *shape[1:])).astype(np.float32) for role, shape in shapes.items()}
    found = run_through(fused, outputs)
    for role, values in decode(outputs, spec).by_role().items():
        np.testing.assert_allclose(found[role], values, rtol=0, atol=1e-3, err_msg=role)


@pytest.mark.parametrize("kind", ["axes"])
def test_its_fields_are_checked_as_others(kind: str, spec: ModelSpec) -> None:
    data = spec.to_dict()
    del data["decoder"]["split"]
    with pytest.raises(SpecError, match=r"decoder\.split is missing"):
        ModelSpec.from_dict(data)
