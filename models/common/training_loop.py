"""What the trainings of these networks share: averaged weights, a schedule, and checkpoints that they resume from."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
NOTED_EVERY = 10
"""Steps between readings of the loss terms, for which a GPU has to be waited for."""
CHUNK = 16
"""Batches that a loader hands over at once for a GPU, which takes hundreds of them in a second."""
UNCAPTURED = 10
"""Steps before a GPU's steps become one graph, in which libraries choose their kernels."""
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
        uniform: Whether every step does the same to a batch of the same size and reads nothing back, so that a GPU
            replays it as one graph: small networks pass most of a step with starting kernels.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: RecipeLike,
        device: torch.device,
        parameters: Iterable[Tensor] | None = None,
        *,
        uniform: bool = False,
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, device
        self.trained = list(model.parameters() if parameters is None else parameters)
        self.average = AveragedModel(model, use_buffers=True)
        self.optimiser = torch.optim.AdamW(self.trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.step = 0
        self._uncaptured = UNCAPTURED if uniform and device.type == "cuda" else None
        self._graph: _Graph[BatchT] | None = None
        torch.backends.cudnn.benchmark = self._uncaptured is not None
        self._suit_device()

    def _suit_device(self) -> None:
        """Makes the optimiser fit for a graph, in which its learning rate has to be a tensor; or for a CPU."""
        on_gpu = self.device.type == "cuda"
        for group in self.optimiser.param_groups:
            rate = float(group["lr"])
            lr = torch.tensor(rate, device=self.device) if on_gpu else rate
            group.update(lr=lr, capturable=on_gpu, fused=on_gpu, foreach=None)

    def descend(self, batch: BatchT) -> dict[str, Tensor]:
        """Takes an optimiser step with a batch that is on the device; returns the loss terms, scalars."""
        raise NotImplementedError

    def train_step(self, batch: BatchT) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms, which the next step may overwrite."""
        self.begin_step()
        moved = type(batch)(**{name: value.to(self.device, non_blocking=True) for name, value in vars(batch).items()})
        if self._uncaptured is None:
            terms = self.descend(moved)
        elif self._uncaptured > 0:
            self._uncaptured -= 1
            terms = _beside(partial(self.descend, moved))
        else:
            self._graph = self._graph or _Graph(self.descend, moved)
            terms = self._graph(moved)
        self.step += 1
        return terms

    def begin_step(self) -> None:
        """Sets the learning rate of this step, and the network to training."""
        self.model.train()
        rate = self.recipe.learning_rate * learning_rate_factor(self.step, self.recipe.steps)
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

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
        self._blend()

    @torch.no_grad()
    def _blend(self) -> None:
        """Exponential moving average whose memory grows from a few steps, so that it forgets the first weights."""
        count, average = self.average.n_averaged, self.average.module
        decay = ((1 + count) / (10 + count)).clamp(max=self.recipe.ema_decay) * (count > 0)
        old = [*average.parameters(), *average.buffers()]
        new = [*self.model.parameters(), *self.model.buffers()]
        real = [(a, b) for a, b in zip(old, new, strict=True) if a.is_floating_point()]
        averaged = [a for a, _ in real]
        gaps = torch._foreach_sub([b for _, b in real], averaged)
        torch._foreach_mul_(gaps, 1 - decay)
        torch._foreach_add_(averaged, gaps)
        for a, b in zip(old, new, strict=True):
            if not a.is_floating_point():
                a.copy_(b)
        count += 1

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
        self._suit_device()
        self.step = state["step"]
        return state


def _beside(work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Does something on a stream of its own, as what comes before a graph is captured has to be."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        done = work()
    torch.cuda.current_stream().wait_stream(stream)
    return done


class _Graph(Generic[BatchT]):
    """A step of training as one CUDA graph.

    Args:
        step: What it does.
        batch: One on the device, of the size that all have.
    """

    def __init__(self, step: Callable[[BatchT], dict[str, Tensor]], batch: BatchT) -> None:
        self._batch = type(batch)(**{name: value.clone() for name, value in vars(batch).items()})
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._terms = step(self._batch)

    def __call__(self, batch: BatchT) -> dict[str, Tensor]:
        """The loss terms, which the next call overwrites."""
        for name, value in vars(batch).items():
            getattr(self._batch, name).copy_(value)
        self._graph.replay()
        return self._terms


class _Chunks(Dataset[tuple[Callable[..., BatchT], dict[str, Tensor]]]):
    """Batches of some steps at once, stacked; as a dictionary, which a loader can pin."""

    def __init__(self, batches: Dataset[BatchT], size: int, steps: int) -> None:
        self.batches, self.size, self.steps = batches, size, steps

    def __getitem__(self, first: int) -> tuple[Callable[..., BatchT], dict[str, Tensor]]:
        made = [self.batches[step] for step in range(first, min(first + self.size, self.steps))]
        return type(made[0]), {name: torch.stack([vars(one)[name] for one in made]) for name in vars(made[0])}


def _loaded(batches: Dataset[BatchT], first: int, steps: int, device: torch.device, workers: int) -> Iterator[BatchT]:
    """The batches of all steps from the first on; on a GPU there at once if that is where they go."""
    on_gpu = device.type == "cuda"
    size = CHUNK if on_gpu else 1
    loader = DataLoader(
        _Chunks(batches, size, steps),
        batch_size=None,
        sampler=range(first, steps, size),
        num_workers=workers,
        prefetch_factor=2 if on_gpu else 8,
        pin_memory=on_gpu,
        worker_init_fn=partial(_end_with, os.getpid()),
    )
    for kind, chunk in loader:
        moved = {name: value.to(device, non_blocking=True) for name, value in chunk.items()} if on_gpu else chunk
        for parts in zip(*moved.values(), strict=True):
            yield kind(**dict(zip(moved, parts, strict=True)))


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
    task = progress.add_task("training", total=steps, completed=training.step)
    mean: dict[str, float] = {}
    saved_s = time.monotonic()
    for batch in _loaded(batches, training.step, steps, training.device, workers):
        terms = training.train_step(batch)
        stopping = training.step in (steps, stop_after)
        evaluating = training.step % eval_every == 0 or stopping
        if evaluating or training.step % NOTED_EVERY == 0:
            for name, value in terms.items():
                mean[name] = 0.9 * mean.get(name, float(value)) + 0.1 * float(value)
        progress.update(task, completed=training.step)
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
