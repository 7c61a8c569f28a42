"""Networks that take and give their tensors as strangers' networks do: small, seeded, written to ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from splite_deploy.export.log_output import quiet


@dataclass(frozen=True)
class Out:
    """One output.

    Attributes:
        shape: Behind the batch.
        low: Least value, about.
        high: Largest value, about.
    """

    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0


class Strange(nn.Module):
    """Shrinks the picture to 4 x 4 and makes of it numbers of any shape, between the limits of each output."""

    def __init__(self, outs: Mapping[str, Out], *, layout: str = "NCHW", scale: float = 1.0) -> None:
        super().__init__()
        self.outs, self.layout, self.scale = dict(outs), layout, scale
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.heads = nn.ModuleList(nn.Linear(48, int(torch.Size(out.shape).numel())) for out in outs.values())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = image.to(torch.float32) * self.scale
        if self.layout == "NHWC":
            x = x.permute(0, 3, 1, 2)
        features = nn.functional.interpolate(x, (4, 4), mode="nearest").flatten(1)
        made = [torch.sigmoid(3 * head(features)) for head in self.heads]
        return tuple(
            (out.low + (out.high - out.low) * values).reshape(-1, *out.shape)
            for out, values in zip(self.outs.values(), made, strict=True)
        )


def write_onnx(path: Path, network: nn.Module, image: Tensor, names: list[str], *, opset: int = 17) -> Path:
    """The network as the older exporter writes it, batch of one."""
    with quiet():
        torch.onnx.export(
            network.eval(),
            (image,),
            str(path),
            input_names=["input"],
            output_names=names,
            opset_version=opset,
            dynamo=False,
        )
    return path


def heatmaps(path: Path) -> Path:
    """As most published networks: unit peaks, or nearly so."""
    outs = {"heatmaps": Out((17, 16, 12), -0.02, 0.9)}
    return write_onnx(path, Strange(outs), torch.zeros(1, 3, 64, 48), list(outs))


def integral_heatmaps(path: Path) -> Path:
    """As AlphaPose's networks of joint regression: logits, which get a sigmoid."""
    outs = {"heatmaps": Out((136, 16, 12), -6, 4)}
    return write_onnx(path, Strange(outs), torch.zeros(1, 3, 64, 48), list(outs))


def posenet(path: Path) -> Path:
    """As PoseNet for TensorFlow Lite: logits of 5 x 5 cells 32 pixels apart on 129 x 129, and offsets in pixels."""
    outs = {"heatmap": Out((5, 5, 17), -6, 3), "short_offset": Out((5, 5, 34), -20, 20)}
    return write_onnx(path, Strange(outs, layout="NHWC"), torch.zeros(1, 129, 129, 3), list(outs))


def integral(path: Path) -> Path:
    """As AlphaPose's integral: coordinates between -0.5 and 0.5."""
    return write_onnx(path, Strange({"out": Out((17, 2), -0.5, 0.5)}), torch.zeros(1, 3, 64, 48), ["out"])


def movenet(path: Path) -> Path:
    """As MoveNet: int32 NHWC of 0 to 255, one output (1, 1, 17, 3) of y, x and score."""
    outs = {"output_0": Out((1, 17, 3), 0.05, 0.95)}
    image = torch.zeros(1, 64, 64, 3, dtype=torch.int32)
    return write_onnx(path, Strange(outs, layout="NHWC", scale=1 / 255), image, list(outs))


def volume_net(path: Path) -> Path:
    """As networks of Sun et al. 2018 give their volumes in torch: 8 bins of 21 keypoints, in five axes."""
    outs = {"out": Out((21, 8, 4, 4), -8, 8)}
    return write_onnx(path, Strange(outs), torch.zeros(1, 3, 64, 64), list(outs))


def mediapipe_hand(path: Path) -> Path:
    """As MediaPipe's hand landmarks: NHWC of 0 to 1, 63 numbers in pixels, presence, handedness, 63 in metres."""
    outs = {"Identity": Out((63,), -20, 80), "Identity_1": Out((1,)), "Identity_2": Out((1,))}
    outs["Identity_3"] = Out((63,), -0.1, 0.1)
    return write_onnx(path, Strange(outs, layout="NHWC"), torch.zeros(1, 64, 64, 3), list(outs))


def simcc(path: Path) -> Path:
    """As RTMPose: bins along x and y."""
    outs = {"simcc_x": Out((17, 96), -2, 4), "simcc_y": Out((17, 128), -2, 4)}
    return write_onnx(path, Strange(outs), torch.zeros(1, 3, 64, 48), list(outs))


class Candidates(nn.Module):
    """As YOLOv8-pose exported by ultralytics: boxes and keypoints in pixels, scores between 0 and 1."""

    def __init__(self, side: int) -> None:
        super().__init__()
        count = sum((side // stride) ** 2 for stride in (8, 16, 32))
        outs = {"points": Out((51, count), 0, float(side)), "boxes": Out((4, count), 4, float(side) / 2)}
        self.inner = Strange({**outs, "scores": Out((1, count), 0.05, 0.95)})

    def forward(self, image: Tensor) -> Tensor:
        points, boxes, scores = self.inner(image)
        return torch.cat([boxes, scores, points], 1)


def yolo(path: Path) -> Path:
    """Of one output (1, 56, A)."""
    return write_onnx(path, Candidates(64), torch.zeros(1, 3, 64, 64), ["output0"])
