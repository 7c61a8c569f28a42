"""What the trainings of these networks share: averaged weights, a schedule, and checkpoints that they resume from."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from splite_deploy.export.source.checkpoint import Checkpoint, load_weights
from splite_deploy.keeper import end_with_parent

SAVE_EVERY_S = 60.0
LONGEST_GRADIENT = 5.0
BatchT = TypeVar("BatchT")


class RecipeLike(Protocol):
    """What a recipe has to hold beside what its own training needs."""

    steps: int
    learning_rate: float
    weight_decay: float
    ema_decay: float
    seed: int


def with_weights(network: nn.Module, weights: Checkpoint | None, example: Tensor) -> nn.Module:
    """A network with these weights, whose widths it takes, or with its own; in the layout that CPUs train fastest.

    Args:
        network: Of the architecture, changed in place.
        weights: To start from, or to learn from; None for the initial ones.
        example: Input (1, 3, H, W), by which the widths are found.
    """
    if weights is not None:
        load_weights(network, weights, example)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first 5 %, then half a cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def save_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls ``write(temporary path)`` and renames, so that an interruption leaves the old file."""
    temporary = path.with_suffix(path.suffix + ".part")
    write(temporary)
    temporary.replace(path)


def make_progress(console: Console) -> Progress:
    """A progress bar with the number done and the time that remains."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


class Resumable(Generic[BatchT]):
    """Network, averaged network and optimiser, with a state that can be saved and restored.

    Args:
        model: The network to train.
        recipe: What the training is a function of; a frozen dataclass.
        device: Where.
        parameters: Those that are trained; all of them by default.
    """

    def __init__(
        self, model: nn.Module, recipe: RecipeLike, device: torch.device, parameters: Iterable[Tensor] | None = None
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, device
        self.trained = list(model.parameters() if parameters is None else parameters)
        self.average = AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True)
        self.optimiser = torch.optim.AdamW(self.trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.step = 0

    def train_step(self, batch: BatchT) -> dict[str, float]:
        """One optimiser step; returns the loss terms."""
        raise NotImplementedError

    def begin_step(self) -> None:
        """Sets the learning rate of this step, and the network to training."""
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * learning_rate_factor(self.step, self.recipe.steps)

    def optimise(self, total: Tensor, with_gradients: Callable[[], None] = lambda: None) -> None:
        """Goes a step down the gradient of ``total`` and averages the weights.

        Args:
            total: The loss.
            with_gradients: Called when gradients are known and not yet clipped.
        """
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        with_gradients()
        nn.utils.clip_grad_norm_(self.trained, LONGEST_GRADIENT)
        self.optimiser.step()
        self.average.update_parameters(self.model)

    def _blend(self, averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        """Exponential moving average whose memory grows from a few steps, so that it forgets the first weights."""
        decay = min(self.recipe.ema_decay, (1 + int(count)) / (10 + int(count)))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)

    def state(self) -> dict[str, Any]:
        """Everything a resumed training needs."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimiser")}
        return {**parts, "step": self.step, "recipe": vars(self.recipe)}

    def restore(self, file: Path) -> Mapping[str, Any]:
        """Goes back to a saved state; refuses one of another recipe."""
        state: dict[str, Any] = torch.load(file, map_location=self.device, weights_only=True)
        if state["recipe"] != vars(self.recipe):
            sys.exit(f"{file} belongs to another recipe:\n  {state['recipe']}\nGive another --out, or delete it.")
        for name in ("model", "average", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        return state


def _end_with(owner: int, _worker: int) -> None:
    """Ends a loader's process at once when its owner is killed: torch's own watch lets it live for seconds."""
    if os.getppid() == owner:  # it is a fork, and not one of a server
        end_with_parent(owner)


def run(
    training: Resumable[BatchT],
    batches: Dataset[BatchT],
    out: Path,
    progress: Progress,
    evaluate: Callable[[], Mapping[str, float]],
    *,
    eval_every: int,
    stop_after: int | None,
    workers: int = 1,
) -> bool:
    """Trains from where ``OUT/state.pt`` says, saves that every minute, and writes lines of ``OUT/log.jsonl``.

    Args:
        training: What is trained.
        batches: Step to batch.
        out: Folder of state and log.
        progress: Is shown in it.
        evaluate: Figures of the averaged weights, for the log.
        eval_every: Steps between evaluations.
        stop_after: Stops at this step.
        workers: Processes that make batches.

    Returns:
        Whether all steps are done.
    """
    state, steps = out / "state.pt", training.recipe.steps
    if state.exists():
        training.restore(state)
        progress.console.print(f"going on from step {training.step}")
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(training.step, steps),
        num_workers=workers,
        prefetch_factor=8,
        worker_init_fn=partial(_end_with, os.getpid()),
    )
    task = progress.add_task("training", total=steps, completed=training.step)
    mean: dict[str, float] = {}
    saved_s = time.monotonic()
    for batch in loader:
        for name, value in training.train_step(batch).items():
            mean[name] = 0.99 * mean.get(name, value) + 0.01 * value
        progress.update(task, completed=training.step)
        stopping = training.step in (steps, stop_after)
        evaluating = training.step % eval_every == 0 or stopping
        if evaluating or time.monotonic() - saved_s > SAVE_EVERY_S:
            save_atomically(state, lambda path: torch.save(training.state(), path))
            saved_s = time.monotonic()
        if evaluating:
            report(progress.console, out, training.step, {**mean, **evaluate()})
        if stopping:
            break
    return training.step >= steps


def report(console: Console, out: Path, step: int, figures: Mapping[str, float]) -> None:
    """Prints a line and appends it to ``OUT/log.jsonl``."""
    line = {"step": step, **{key: round(value, 4) for key, value in figures.items()}}
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    console.print(" ".join(f"{key} {value:.4g}" for key, value in line.items()))


def move_model_toml(model: Path, target: Path, files: Mapping[str, str]) -> None:
    """Writes a model.toml to another folder, with its paths from there and without ranges of other weights.

    Args:
        model: The file.
        target: Where it goes.
        files: Names of Python files to be replaced by others beside them.
    """

    def moved(found: re.Match[str]) -> str:
        file = (model.parent / found[2]).resolve()
        file = file.with_name(files.get(file.name, file.name))
        return f'{found[1]} = "{os.path.relpath(file, target.parent.resolve())}:'

    text = re.sub(r'^(arch|samples) = "([^":]+):', moved, model.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"^calibration = .*\n", "", text, flags=re.MULTILINE)
    save_atomically(target, lambda path: path.write_text(text, encoding="utf-8"))
