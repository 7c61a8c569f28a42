"""Trains the network of this folder on its figures: two minutes on one core.

    python tests/people/train.py        # writes figures.safetensors

Targets are those of YOLOv8-pose (see tests/decoders/test_people.py) in the cells around the middle of a figure.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch  # noqa: TID253
from safetensors.torch import save_file
from torch import Tensor  # noqa: TID253
from torch.nn import functional  # noqa: TID253

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1] / "benchmarks" / "networks")]

from figures import picture
from people import YoloPose

from splite_deploy.spec import load_model_toml

SIDE, STRIDES, BINS = 96, (8, 16), 8
LARGE_PX = 36.0  # figures of a longer side belong to the second level


def targets(index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, and for every cell whether it is positive, its box (4) and its keypoints (10) in strides."""
    one = picture(index)
    positive, boxes, points = [], [], []
    for stride in STRIDES:
        cells = SIDE // stride
        x, y = np.meshgrid(np.arange(cells), np.arange(cells))
        grid = np.stack([x, y], -1).reshape(-1, 1, 2).astype(float)
        sides = one.boxes[:, 2:] - one.boxes[:, :2]
        belongs = (sides.max(axis=1) > LARGE_PX) == (stride == STRIDES[-1])
        middle = (one.boxes[:, :2] + one.boxes[:, 2:]) / 2 / stride
        away = np.abs(grid + 0.5 - middle).max(axis=2) if len(middle) else np.full((len(grid), 1), np.inf)
        away = np.where(belongs, away, np.inf) if len(middle) else away
        which, near = away.argmin(axis=1), away.min(axis=1) < 0.9
        positive.append(near)
        chosen = which if len(middle) else np.zeros(len(grid), int)
        box = one.boxes[chosen] / stride if len(middle) else np.zeros((len(grid), 4))
        keypoints = one.keypoints[chosen] / stride if len(middle) else np.zeros((len(grid), 5, 2))
        centre = grid[:, 0] + 0.5
        boxes.append(np.concatenate([centre - box[:, :2], box[:, 2:] - centre], axis=1))
        points.append(((keypoints - grid) / 2).reshape(-1, 10))
    image = (one.image.astype(np.float32) / 255).transpose(2, 0, 1)
    arrays = image, np.concatenate(positive).astype(np.float32), np.concatenate(boxes), np.concatenate(points)
    return tuple(torch.from_numpy(array.astype(np.float32)) for array in arrays)  # type: ignore[return-value]


def loss(network: YoloPose, batch: list[Tensor]) -> Tensor:
    """Binary cross entropy of scores, distribution focal loss of sides, and distances of keypoints."""
    images, positive, boxes, points = batch
    maps = network.maps(images)
    box, score, placed = (torch.cat([level[part].flatten(2) for level in maps], 2) for part in range(3))
    focal = functional.binary_cross_entropy_with_logits(score[:, 0], positive, reduction="none")
    total = (focal * (score[:, 0].sigmoid() - positive).abs().detach()).sum() / positive.sum().clamp(1)
    chosen = positive > 0
    logits = box.transpose(1, 2)[chosen].reshape(-1, 4, BINS)
    wanted = boxes[chosen].clamp(0, BINS - 1.01)
    low, share = wanted.long(), wanted - wanted.floor()
    log = logits.log_softmax(2)
    near = log.gather(2, torch.stack([low, low + 1], 2))
    total = total - ((1 - share) * near[..., 0] + share * near[..., 1]).mean()
    keypoints = placed.transpose(1, 2)[chosen].reshape(-1, 5, 3)
    error = functional.smooth_l1_loss(keypoints[..., :2], points[chosen].reshape(-1, 5, 2), beta=0.05)
    return total + 12 * error - 0.1 * functional.logsigmoid(keypoints[..., 2]).mean()


def main() -> None:
    """Trains and writes the weights, as float16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--output", type=Path, default=FOLDER / "figures.safetensors")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    _, host = load_model_toml(FOLDER / "model.toml")
    network = YoloPose(**host.arch_args)
    known = [targets(index) for index in range(3000)]
    rate = 4e-3
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, options.steps, pct_start=0.1)
    rng = np.random.default_rng(0)
    for step in range(options.steps):
        rows = [known[i] for i in rng.integers(0, len(known), 16)]
        batch = [torch.stack(column) for column in zip(*rows, strict=True)]
        value = loss(network, batch)
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 0 or step == options.steps - 1:
            print(step, f"{value.item():.3f}", flush=True)
    state = network.state_dict().items()
    save_file({name: value.half() if value.is_floating_point() else value for name, value in state}, options.output)
    print(options.output, options.output.stat().st_size)


if __name__ == "__main__":
    main()
