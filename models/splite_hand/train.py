"""Trains SPLite Hand on photographs and rendered hands. Runs on the developer's machine, on a GPU if there is one.

    python models/splite_hand/train.py --data HAND_DIGITS --out runs/dense

An interrupted training goes on where it stopped when the same command is given again. The result is
``OUT/splite_hand.safetensors``, the exponential moving average of the weights after the last step: no checkpoint is
picked by its accuracy on the validation split.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from splite_deploy.labels import read_labels
from splite_deploy.runtime.decode import decode
from splite_deploy.runtime.lift import weak_perspective
from splite_deploy.runtime.preprocess import Image, Preprocessor, invert, transform_points
from splite_deploy.spec import ModelSpec, SoftArgmaxDepth, load_model_toml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from arch import build
from data import Batch, Batches, load_real, render_pool
from evaluate import Accuracy, measure

HEATMAP_SIGMA_CELLS = 1.0
LOSS_WEIGHTS = {"position": 0.25, "heatmap": 1.0, "depth": 1.0}


@dataclass(frozen=True)
class Recipe:
    """What a training is a function of; stored in the checkpoint.

    Attributes:
        steps: Optimiser steps.
        batch: Crops in a step.
        learning_rate: Peak of the one-cycle schedule (5 % linear warm-up, then cosine to zero).
        weight_decay: Of AdamW.
        ema_decay: Of the averaged weights.
        real_share: Share of photographs in a batch.
        synthetic: Number of rendered hands in the pool.
        seed: Of the data order, the augmentation and the initial weights.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    ema_decay: float
    real_share: float
    synthetic: int
    seed: int


class PoseLoss(nn.Module):
    """Integral 2D position, heatmap shape and depth.

    * position: L1 of the soft-argmax in cells (Sun et al. 2018); L1, since some labels are wrong.
    * heatmap: cross-entropy between the softmax and a Gaussian around the label, which keeps maps single-peaked.
    * depth: L1 of sum(p * Z) relative to the root keypoint, in palms (Iqbal et al. 2018).

    Keypoints outside the crop count for nothing.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert isinstance(spec.decoder, SoftArgmaxDepth)
        self.decoder = spec.decoder
        self.size = (spec.input.width, spec.input.height)

    def forward(self, heatmap: Tensor, depth: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Loss terms by name, each a scalar; heatmap and depth are (B, K, H, W)."""
        height, width = heatmap.shape[2:]
        log_p = F.log_softmax(heatmap.flatten(2) * self.decoder.beta, dim=2)
        p = log_p.exp()
        xs = torch.arange(width, device=p.device, dtype=p.dtype) + 0.5
        ys = torch.arange(height, device=p.device, dtype=p.dtype) + 0.5
        target = batch.keypoints / self.decoder.stride  # cells
        grid = p.view(*heatmap.shape)
        found = torch.stack([(grid.sum(2) * xs).sum(2), (grid.sum(3) * ys).sum(2)], dim=2)
        limits = target.new_tensor([width, height])
        inside = ((target > 0) & (target < limits)).all(dim=2).to(p.dtype)
        count = inside.sum().clamp(min=1)

        gx = torch.exp(-((xs - target[..., :1]) ** 2) / (2 * HEATMAP_SIGMA_CELLS**2))
        gy = torch.exp(-((ys - target[..., 1:]) ** 2) / (2 * HEATMAP_SIGMA_CELLS**2))
        gaussian = (gy[..., :, None] * gx[..., None, :]).flatten(2)
        gaussian = gaussian / gaussian.sum(2, keepdim=True).clamp(min=1e-6)

        z = (p * depth.flatten(2)).sum(2)
        root = self.decoder.root_keypoint
        depth_error = ((z - z[:, root : root + 1]) - batch.depth).abs()
        return {
            "position": ((found - target).abs().sum(2) * inside).sum() / count,
            "heatmap": (-(gaussian * log_p).sum(2) * inside).sum() / count,
            "depth": (depth_error * inside).sum() / count,
        }


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first 5 %, then half a cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


class TorchEstimator:
    """The runtime's path with the torch network in the session's place."""

    def __init__(self, model: nn.Module, spec: ModelSpec, device: torch.device) -> None:
        self.model, self.spec, self.device = model.eval(), spec, device
        self.preprocessor = Preprocessor(spec.input, "rgb")

    @torch.inference_mode()
    def __call__(self, image: Image, box: NDArray[np.float64]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Keypoints (K, 2) in image pixels and (K, 3) in palms."""
        assert isinstance(self.spec.decoder, SoftArgmaxDepth)
        crop, matrix = self.preprocessor.crop(image, box)
        tensor = torch.from_numpy(self.preprocessor.normalise([crop])).to(self.device)
        heatmap, depth = self.model(tensor)
        found = decode({"heatmap": heatmap.cpu().numpy(), "depth": depth.cpu().numpy()}, self.spec)
        assert found.depth is not None
        keypoints = transform_points(found.keypoints[0], invert(matrix))
        return keypoints, weak_perspective(found.keypoints[0], found.depth[0], self.spec.decoder, 1.0)


def save_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write(temporary path)`` and renames, so that an interruption leaves the old file."""
    temporary = path.with_suffix(path.suffix + ".part")
    write(temporary)
    temporary.replace(path)


class Training:
    """Network, averaged network and optimiser, with a state that can be saved and restored."""

    def __init__(self, spec: ModelSpec, arch_args: dict[str, object], recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.spec, self.recipe, self.device = spec, recipe, device
        self.model = build(**arch_args).to(device)  # type: ignore[arg-type]
        self.average = AveragedModel(self.model, multi_avg_fn=self._blend, use_buffers=True)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.loss = PoseLoss(spec)
        self.step = 0

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the loss terms."""
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * learning_rate_factor(self.step, self.recipe.steps)
        moved = Batch(*(t.to(self.device) for t in (batch.image, batch.keypoints, batch.depth)))
        terms = self.loss(*self.model(moved.image), moved)
        total = sum(LOSS_WEIGHTS[name] * value for name, value in terms.items())
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.step += 1
        return {name: value.item() for name, value in terms.items()}

    def _blend(self, averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        """Exponential moving average whose memory grows from a few steps, so that it forgets the first weights."""
        decay = min(self.recipe.ema_decay, (1 + int(count)) / (10 + int(count)))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)

    def state(self) -> dict[str, object]:
        """Everything a resumed training needs."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimiser")}
        return {**parts, "step": self.step, "recipe": vars(self.recipe)}

    def restore(self, file: Path) -> None:
        """Goes back to a saved state; refuses one of another recipe."""
        state = torch.load(file, map_location=self.device, weights_only=True)
        if state["recipe"] != vars(self.recipe):
            sys.exit(f"{file} belongs to another recipe:\n  {state['recipe']}\nGive another --out, or delete it.")
        for name in ("model", "average", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder of hand-digits (labels.json); synthetic hands only without it"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the resumable state")
    parser.add_argument(
        "--model", type=Path, default=HERE / "model.toml", help="model spec (default: beside this file)"
    )
    parser.add_argument("--steps", type=int, default=16000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--real-share", type=float, default=0.65, help="share of photographs in a batch")
    parser.add_argument("--synthetic", type=int, default=6000, help="number of rendered hands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch (default: all cores)")
    parser.add_argument("--stop-after", type=int, help="stop at this step; the same command without it goes on")
    parser.add_argument("--eval-every", type=int, default=1000, help="steps between evaluations and saved states")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    recipe = Recipe(**{name: getattr(options, name) for name in Recipe.__dataclass_fields__})
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec, host = load_model_toml(options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        real, labels = [], []
        if options.data:
            train = read_labels(options.data, split="train")
            labels = read_labels(options.data, split="val")
            task = progress.add_task("photographs", total=len(train))
            real = load_real(train, spec, lambda done: progress.update(task, completed=done))
        pool_task = progress.add_task("rendered hands", total=recipe.synthetic)
        pool = render_pool(
            recipe.synthetic,
            recipe.seed,
            spec,
            options.out.parent / "cache",
            lambda done: progress.update(pool_task, completed=done),
        )
        training = Training(spec, dict(host.arch_args), recipe, device)
        state = options.out / "state.pt"
        if state.exists():
            training.restore(state)
            console.print(f"going on from step {training.step}")
        batches = Batches(real, pool, spec, recipe.batch, recipe.real_share, recipe.seed)
        loader = DataLoader(
            batches, batch_size=None, sampler=range(training.step, recipe.steps), num_workers=1, prefetch_factor=8
        )
        task = progress.add_task("training", total=recipe.steps, completed=training.step)
        mean: dict[str, float] = {}
        for batch in loader:
            for name, value in training.train_step(batch).items():
                mean[name] = 0.99 * mean.get(name, value) + 0.01 * value
            progress.update(task, completed=training.step)
            stopping = training.step in (recipe.steps, options.stop_after)
            if training.step % options.eval_every == 0 or stopping:
                save_atomically(state, lambda path: torch.save(training.state(), path))
                report(console, options.out, training, mean, validate(training, labels))
            if stopping:
                break
    if training.step < recipe.steps:
        return
    accuracy = validate(training, labels)
    weights = {name: tensor.contiguous().cpu() for name, tensor in training.average.module.state_dict().items()}
    metadata = {
        "format": "splite-checkpoint",
        "model": spec.name,
        "recipe": json.dumps(vars(recipe)),
        "accuracy": json.dumps(vars(accuracy) if accuracy else {}),
    }
    target = options.out / "splite_hand.safetensors"
    save_atomically(target, lambda path: save_file(weights, path, metadata))
    console.print(f"{target}: {accuracy if accuracy else 'no labels to measure on'}")


def validate(training: Training, labels: list) -> Accuracy | None:  # type: ignore[type-arg]
    """Accuracy of the averaged weights, or None without labels."""
    if not labels:
        return None
    return measure(labels, TorchEstimator(training.average.module, training.spec, training.device)).summary()


def report(console: Console, out: Path, training: Training, terms: dict[str, float], accuracy: Accuracy | None) -> None:
    """Prints a line and appends it to ``OUT/log.jsonl``."""
    line = {
        "step": training.step,
        **{k: round(v, 4) for k, v in terms.items()},
        **(vars(accuracy) if accuracy else {}),
    }
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    console.print(" ".join(f"{key} {value:.4g}" for key, value in line.items()))


if __name__ == "__main__":
    main()
