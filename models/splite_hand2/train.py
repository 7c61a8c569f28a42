r"""Trains SPLite Hand 2, from photographs to what is shipped. Runs on the developer's machine, on a GPU if it has one.

    M=models/splite_hand2
    python $M/hand2_teachers.py --mediapipe WHEEL --data HAND_DIGITS --out runs/teachers/hand-digits.npz
    python $M/hand2_teachers.py --mediapipe WHEEL --data HANDS_VARIED --out runs/teachers/hands-varied.npz
    python $M/train.py all --digits HAND_DIGITS --varied HANDS_VARIED --teachers runs/teachers --out runs/hand2

goes through the stages below, and on where it was interrupted when the same command is given again; the name of a
stage instead of ``all`` runs that one. A stage is done when its ``OUT/STAGE/hand2.safetensors`` is there, the
exponential moving average of its weights after the last step: nothing is picked on the split ``val``, on which the log
only reports.

    tiles      photographs, renderings and pictures without hands, cut to working resolution (hand2_tiles.py)
    dense      the dense parent, by the labels
    sparse     a group lasso draws whole channels to zero, with the dense parent as a second teacher
    compact    removes them (splite-deploy compact)
    tuned      the compacted network, by labels and parent: what is shipped
    int8       the same, trained as float and as int8 at once

Each ends with a shift of the presence, see `PASSING_BATCHES`; ``presence`` with ``--init CHECKPOINT`` does that alone.

``--init CHECKPOINT`` with a stage trains from these weights, as a further cycle of ``tuned`` from what the first gave.
``--hold-out SOURCE`` trains without a source of the training photographs and reports on that, to try things out on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn

from splite_deploy.bundle import TensorSpec
from splite_deploy.compact import CompactOptions, compact_checkpoint
from splite_deploy.compact.sparsity import LambdaSchedule, Penalty
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.export.source.checkpoint import Checkpoint, read_checkpoint
from splite_deploy.export.source.header import HEADER
from splite_deploy.keeper import end_with_parent
from splite_deploy.runtime import PoseEstimator
from splite_deploy.spec import ModelSpec, load_model_toml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "common"))
from hand2_arch import build
from hand2_data import Batch, Batches, Crops
from hand2_equalise import equalise
from hand2_evaluate import PASSING, Photograph, figures, photographs, ways
from hand2_int8 import quantise, round_weights, set_quantisers
from hand2_losses import HEADS, WEIGHTS, Distillation, Int8Deviation, LabelLoss
from hand2_tiles import NEGATIVES, RENDERS, Tile, Tiles, negatives, renders, write_tiles
from hand2_tiles import photographs as photograph_tiles
from training_loop import Resumable, make_progress, move_model_toml, run, save_atomically, with_weights

NAME = "hand2.safetensors"
DIGITS = "digits"
SHARES = {
    DIGITS: 0.18,
    "subhih_hands": 0.17,
    "asl_letters": 0.13,
    "lebanese_univ_gestures": 0.12,
    "hands_dguzk": 0.10,
    "custom_gesture_hand": 0.05,
    RENDERS: 0.15,
    NEGATIVES: 0.10,
}
"""Of a batch. The sources differ in people and rooms more than in their number of pictures."""
RENDER_CHUNK = 500
"""Rendered hands of one file, so that an interruption costs no more than these."""
RENDER_SEED, NEGATIVE_SEED, NEGATIVES_EACH = 7, 0, 4
OBSERVED_SHARE, OBSERVED_BATCHES = 0.5, 4
"""Share of the steps in which int8 training follows the ranges of activations, and the batches that give the first."""
SHIFT = "presence_shift"
PASSING_BATCHES, PASSING_SEED = 128, 4
"""Of crops as those of training, of whose hands `PASSING` are to have a presence over 0.5, the threshold of trackers.
There are nine hands for each crop without one, and most of these are easy to tell: by the loss alone an arm beside a
hand gets 0.9."""


@dataclass(frozen=True)
class Recipe:
    """What the training of a stage is a function of; stored in the checkpoint.

    Attributes:
        steps: Optimiser steps.
        batch: Crops in a step.
        learning_rate: Peak of the one-cycle schedule (5 % linear warm-up, then cosine to zero).
        weight_decay: Of AdamW.
        ema_decay: Of the averaged weights.
        seed: Of the data order, the augmentation and the initial weights.
        held_out: A source of photographs that it does not see; empty for none.
        strength: Of the group lasso, after a rise over a tenth of the steps; 0 for none.
        qat: Whether it trains for int8, with fake quantisers and frozen statistics of its batch norms.
        init_sha256: The checkpoint that it starts from, if any; a compacted one gives its widths.
        teacher_sha256: The checkpoint that it learns from beside the labels, if any.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.02
    ema_decay: float = 0.9995
    seed: int = 0
    held_out: str = ""
    strength: float = 0.0
    qat: bool = False
    init_sha256: str | None = None
    teacher_sha256: str | None = None


@dataclass(frozen=True)
class Stage:
    """A training among the stages.

    Attributes:
        recipe: What to do.
        init: The stage whose weights it starts from.
        teacher: The stage that it learns from.
    """

    recipe: Recipe
    init: str | None = None
    teacher: str | None = None


STAGES: Mapping[str, Stage] = {
    "dense": Stage(Recipe(steps=36_000, batch=64, learning_rate=2e-3)),
    "sparse": Stage(
        Recipe(steps=1_500, batch=32, learning_rate=1e-3, ema_decay=0.999, seed=1, strength=1e-4), "dense", "dense"
    ),
    "tuned": Stage(Recipe(steps=80_000, batch=64, learning_rate=2e-3, seed=2), "compact", "dense"),
    "int8": Stage(
        Recipe(steps=2_000, batch=32, learning_rate=2e-4, ema_decay=0.998, seed=3, qat=True), "tuned", "tuned"
    ),
}
COMPACTION = CompactOptions(method="group-norm", speed_up=4.0, round_to=16)
ALL = ("tiles", "dense", "sparse", "compact", "tuned", "int8")


class TorchSession:
    """The torch network in the place of the runtime's session: outputs by role, heads in 0 to 1."""

    def __init__(self, network: nn.Module, spec: ModelSpec, device: torch.device) -> None:
        self._network, self._device = network.eval(), device
        size = (1, 3, spec.input.height, spec.input.width)
        self.inputs = (TensorSpec("image", size, "float32", "NCHW", "image"),)
        with torch.inference_mode():
            found = network(torch.zeros(size, device=device))
        self.outputs = tuple(
            TensorSpec(role, tuple(value.shape), "float32", "NC" if role in HEADS else "NCHW", role)
            for role, value in found.items()
        )

    @torch.inference_mode()
    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """The outputs of one crop."""
        found = self._network(torch.from_numpy(feeds["image"]).to(self._device))
        return {
            role: (value.sigmoid() if role in HEADS else value).float().cpu().numpy() for role, value in found.items()
        }

    def close(self) -> None:
        """Nothing to free."""


class Training(Resumable[Batch]):
    """Network, averaged network and optimiser of a stage, with a state that can be saved and restored.

    Args:
        spec: The model spec.
        arch_args: Arguments of the architecture.
        recipe: What to do.
        device: Where.
        init: Weights to start from; the network takes their widths.
        teacher: Weights to learn from.
        observed: Batches that give activations their first ranges; for int8 training.
    """

    def __init__(
        self,
        spec: ModelSpec,
        arch_args: dict[str, object],
        recipe: Recipe,
        device: torch.device,
        init: Checkpoint | None = None,
        teacher: Checkpoint | None = None,
        observed: list[Batch] | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.spec = spec
        self._mean, self._std = (
            torch.tensor(values, device=device).reshape(1, 3, 1, 1) for values in (spec.input.mean, spec.input.std)
        )
        example = torch.zeros(1, 3, spec.input.height, spec.input.width)

        def network(weights: Checkpoint | None) -> nn.Module:
            return with_weights(build(**arch_args), weights, example).to(device)  # type: ignore[arg-type]

        model = network(init)
        self.names = frozenset(model.state_dict())
        self.teacher = network(teacher).eval() if teacher is not None else None
        if recipe.qat:
            images = self.images(torch.cat([batch.image for batch in observed or ()]))
            equalise(model.eval(), images)  # type: ignore[arg-type]
            quantise(model).to(device)
            set_quantisers(model, quantising=True, observing=True)
            with torch.no_grad():
                model(images)
        super().__init__(model, recipe, device, uniform=not recipe.qat)
        self.loss, self.distillation = LabelLoss(spec).to(device), Distillation(spec).to(device)
        self.int8_deviation = Int8Deviation(spec).to(device)
        self.penalty = Penalty("group-lasso", self.model, example.to(device)) if recipe.strength else None
        self.schedule = LambdaSchedule(recipe.strength, warm_up=recipe.steps // 10)
        self.strength = torch.zeros((), device=device)
        self.recipe: Recipe = recipe

    def images(self, pixels: Tensor) -> Tensor:
        """(B, h, w, 3) uint8 as the network takes them, where it is, in the memory format of the pixels."""
        return (pixels.to(self._mean.device).permute(0, 3, 1, 2).float() - self._mean) / self._std

    def begin_step(self) -> None:
        """Sets what changes from step to step."""
        super().begin_step()
        self.strength.fill_(self.schedule.at(self.step))

    def descend(self, batch: Batch) -> dict[str, Tensor]:
        """Takes an optimiser step; returns the loss terms."""
        image = self.images(batch.image)
        quantised = None
        if self.recipe.qat:
            observing = self.step < OBSERVED_SHARE * self.recipe.steps
            set_quantisers(self.model, quantising=True, observing=observing)
            quantised = self._run(self.model, image, bfloat16=False)
            set_quantisers(self.model, quantising=False, observing=False)
        found = self._run(self.model, image, bfloat16=quantised is None)
        terms = self.loss(found, batch)
        if self.teacher is not None:
            with torch.no_grad():
                taught = self._run(self.teacher, image, bfloat16=True)
            terms |= self.distillation(found, taught)
        if quantised is not None:
            terms |= self.int8_deviation(quantised, found)
        total = sum(WEIGHTS[name] * value for name, value in terms.items())
        if self.penalty is not None:
            terms["sparsity"] = self.penalty()
            total = total + self.strength * terms["sparsity"]
        self.optimise(total)
        return {name: value.detach() for name, value in terms.items()}

    def _run(self, network: nn.Module, image: Tensor, *, bfloat16: bool) -> dict[str, Tensor]:
        # bfloat16 is as coarse as int8; CPUs with instructions for it are several times as fast in it
        fast = self.device.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16 and fast):
            found = network(image)
        return {role: value.float() for role, value in found.items()}


@torch.no_grad()
def shift_presence(network: nn.Module, images: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> float:
    """Moves the bias of the presence, so that `PASSING` of the hands in these batches lie over 0.5; by how much.

    Args:
        network: A `hand2_arch.SpliteHand2`, changed in place.
        images: From the pixels of a batch to what the network takes.
        batches: Of 32 crops or more each.
    """
    network.eval()
    hands = [network(images(batch.image))["presence"][:, 0].cpu()[batch.present.cpu() > 0] for batch in batches]
    shift = -float(torch.quantile(torch.cat(hands), 1 - PASSING))
    network.presence.bias += shift  # type: ignore[operator, union-attr]
    return shift


# --- the road -------------------------------------------------------------------------------------


def sources(options: argparse.Namespace, spec: ModelSpec) -> dict[str, Callable[[], Iterator[Tile]]]:
    """What makes the tiles of each source."""

    def of_photographs(folder: Path, source: str) -> Callable[[], Iterator[Tile]]:
        return lambda: photograph_tiles(folder, options.teachers / f"{folder.name}.npz", source, spec)

    def of_renders(first: int) -> Callable[[], Iterator[Tile]]:
        return lambda: renders(min(RENDER_CHUNK, options.renders - first), RENDER_SEED + first, spec)

    made: dict[str, Callable[[], Iterator[Tile]]] = {}
    if options.varied:
        made[NEGATIVES] = lambda: negatives(options.varied, "train", NEGATIVE_SEED, NEGATIVES_EACH)
        there = (name for name in SHARES if (options.varied / "images" / name).is_dir())
        made |= {name: of_photographs(options.varied, name) for name in there}
    if options.digits:
        made[DIGITS] = of_photographs(options.digits, "")
    return made | {f"{RENDERS}-{i // RENDER_CHUNK}": of_renders(i) for i in range(0, options.renders, RENDER_CHUNK)}


def cut_source(name: str, options: argparse.Namespace) -> None:
    """Writes the tiles of a source; in a process of its own."""
    spec, _ = load_model_toml(options.model)
    write_tiles(options.out / "tiles", name, sources(options, spec)[name]())


class Road:
    """All stages with their folders.

    Args:
        options: Of the command line.
        progress: Is shown in it.
    """

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.spec, self.host = load_model_toml(options.model)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.out: Path = options.out
        self.tiles = self.out / "tiles"
        self._photos: dict[str, list[Photograph]] | None = None

    def go(self, stage: str) -> bool:
        """Does a stage, unless it is done; returns whether it is."""
        if stage == "tiles":
            self._cut_tiles()
            return True
        if stage == "presence":
            self._shift_alone(read_checkpoint(self.options.init))
            return True
        target = self.checkpoint(stage)
        if target.exists():
            return True
        if stage == "compact":
            target.parent.mkdir(parents=True, exist_ok=True)
            found = compact_checkpoint(
                self.checkpoint("sparse"), target, COMPACTION, model=self.options.model, latency=False
            )
            self.progress.console.print(f"compact: {found.macs_before / 1e6:.1f} to {found.macs_after / 1e6:.1f} MMAC")
            return True
        return self._train(stage)

    def checkpoint(self, stage: str) -> Path:
        return self.out / stage / NAME

    def _cut_tiles(self) -> None:
        missing = [name for name in sources(self.options, self.spec) if not (self.tiles / f"{name}.npz").exists()]
        task = self.progress.add_task("sources of tiles", total=len(missing))
        fresh = get_context("spawn")  # torch and its threads do not survive a fork
        ends = (os.getpid(),)
        with ProcessPoolExecutor(self.options.workers, fresh, initializer=end_with_parent, initargs=ends) as pool:
            for _ in pool.map(cut_source, missing, [self.options] * len(missing)):
                self.progress.advance(task)

    def crops(self) -> Crops:
        """Random crops of all sources but the one that is held out."""
        names = [name for name in sources(self.options, self.spec) if name != self.options.hold_out]
        missing = [name for name in names if not (self.tiles / f"{name}.npz").exists()]
        if missing:
            raise UsageError(f"{self.tiles} has no tiles of {', '.join(missing)}.", hint="Run the stage 'tiles' first.")
        rendered = sum(name.startswith(RENDERS) for name in names)
        shares = {name: SHARES[RENDERS] / rendered if name.startswith(RENDERS) else SHARES[name] for name in names}
        return Crops({name: Tiles(self.tiles, name) for name in names}, shares, self.spec)

    def photos(self) -> dict[str, list[Photograph]]:
        """What a training reports on."""
        if self._photos is None:
            folders = [folder for folder in (self.options.digits, self.options.varied) if folder]
            self._photos = {folder.name: photographs(folder) for folder in folders}
            if self.options.hold_out:
                held = self.options.hold_out
                everything = photographs(self.options.varied, "train")
                self._photos = {held: [one for one in everything if one.labelled.path.parent.name == held]}
        return self._photos

    def _train(self, stage: str) -> bool:
        plan = STAGES[stage]
        start = self.options.init or (self.checkpoint(plan.init) if plan.init else None)
        init = read_checkpoint(start) if start else None
        teacher = read_checkpoint(self.checkpoint(plan.teacher)) if plan.teacher else None
        recipe = replace(
            plan.recipe,
            steps=max(2, round(plan.recipe.steps * self.options.steps)),
            batch=self.options.batch or plan.recipe.batch,
            held_out=self.options.hold_out or "",
            init_sha256=init.sha256 if init else None,
            teacher_sha256=teacher.sha256 if teacher else None,
        )
        batches = Batches(self.crops(), recipe.batch, recipe.seed)
        observed = [batches[i] for i in range(OBSERVED_BATCHES)] if recipe.qat else None
        training = Training(self.spec, dict(self.host.arch_args), recipe, self.device, init, teacher, observed)
        out = self.out / stage
        out.mkdir(parents=True, exist_ok=True)
        done = run(
            *(training, batches, out, self.progress, lambda: self.report(training)),
            eval_every=self.options.eval_every,
            stop_after=self.options.stop_after,
            workers=self.options.workers,
        )
        if done:
            self._write(stage, training, init)
        self._collect_logs()
        return done

    def report(self, training: Training) -> dict[str, float]:
        """Figures of the averaged weights, and of an int8 training also those of its int8 form, for the log."""
        network, said = training.average.module, {}
        for form in ("", "int8_") if training.recipe.qat else ("",):
            if training.recipe.qat:
                set_quantisers(network, quantising=bool(form), observing=False)
            with PoseEstimator(self.spec, TorchSession(network, self.spec, self.device), "rgb") as estimator:
                for name, photos in self.photos().items():
                    for way, look in ways(estimator).items():
                        found = figures(photos, look)
                        key = f"{form}{name} {way}"
                        said |= {f"{key} %": found.mean_pct, f"{key} PCK": found.pck_05, f"{key} lost": found.lost}
                        said |= {f"{key} PA": found.pa_mm or 0.0, f"{key} side": found.right or 0.0}
        return said

    def _write(self, stage: str, training: Training, init: Checkpoint | None) -> None:
        """Writes the averaged weights and, of int8 training, the same with their quantisers to ``OUT/int8/qat``."""
        network = training.average.module
        if training.recipe.qat:
            round_weights(network)
            set_quantisers(network, quantising=True, observing=False)
            with torch.no_grad():  # gives the rounded weights their scales
                network(torch.zeros(1, 3, self.spec.input.height, self.spec.input.width, device=self.device))
        shift = shift_presence(network, training.images, self._for_presence())
        metadata = {
            "format": "splite-checkpoint",
            "model": self.spec.name,
            "recipe": json.dumps({"stage": stage, "shares": SHARES, **asdict(training.recipe)}),
            "accuracy": json.dumps({key: round(value, 4) for key, value in self.report(training).items()}),
            SHIFT: f"{shift:.4f}",
            **{key: value for key, value in (init.metadata if init else {}).items() if key == HEADER},
        }
        tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
        if training.recipe.qat:
            folder = self.out / stage / "qat"
            folder.mkdir(exist_ok=True)
            save_atomically(folder / NAME, lambda path: save_file(tensors, path, metadata))
            move_model_toml(self.options.model, folder / "model.toml", {"hand2_arch.py": "hand2_int8.py"})
        weights = {name: tensor for name, tensor in tensors.items() if name in training.names}
        save_atomically(self.checkpoint(stage), lambda path: save_file(weights, path, metadata))
        self.progress.console.print(f"{self.checkpoint(stage)} is done")

    def _for_presence(self) -> Iterator[Batch]:
        """Crops as those of training, and none of them."""
        batches = Batches(self.crops(), 32, PASSING_SEED)
        return (batches[step] for step in range(PASSING_BATCHES))

    def _shift_alone(self, init: Checkpoint) -> None:
        """Writes a checkpoint with another bias of its presence, and everything else as it was."""
        training = Training(self.spec, dict(self.host.arch_args), STAGES["dense"].recipe, self.device, init)
        shift = shift_presence(training.model, training.images, self._for_presence())
        tensors = {name: tensor.contiguous().cpu() for name, tensor in training.model.state_dict().items()}
        target = self.checkpoint("presence")
        target.parent.mkdir(parents=True, exist_ok=True)
        all_told = float(init.metadata.get(SHIFT, 0.0)) + shift
        metadata = {**init.metadata, SHIFT: f"{all_told:.4f}"}
        save_atomically(target, lambda path: save_file(tensors, path, metadata))
        self.progress.console.print(f"{target} is done: the presence is shifted by {shift:.2f}")

    def _collect_logs(self) -> None:
        """Writes ``OUT/training-log.jsonl``, the logs of all stages one behind the other."""
        lines = []
        for stage in STAGES:
            log = self.out / stage / "log.jsonl"
            if log.exists():
                entries = map(json.loads, log.read_text(encoding="utf-8").splitlines())
                lines += [json.dumps({"stage": stage, **entry}) for entry in entries]
        text = "".join(f"{line}\n" for line in lines)
        save_atomically(self.out / "training-log.jsonl", lambda path: path.write_text(text, encoding="utf-8"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("all", *ALL, "presence"))
    parser.add_argument("--digits", type=Path, help="folder of hand-digits")
    parser.add_argument("--varied", type=Path, help="folder of hands-varied")
    parser.add_argument("--teachers", type=Path, help="folder of what hand2_teachers.py wrote: FOLDER'S NAME.npz")
    parser.add_argument("--renders", type=int, default=5000, help="rendered hands (default: 5000)")
    parser.add_argument("--out", type=Path, required=True, help="folder of tiles, states and checkpoints")
    parser.add_argument("--model", type=Path, default=HERE / "model.toml", help="default: the one beside this file")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on the steps of each stage (default: 1)")
    parser.add_argument("--init", type=Path, help="checkpoint that the stage starts from, instead of the one before")
    parser.add_argument("--batch", type=int, help="crops in a step (default: as each stage has it)")
    parser.add_argument("--hold-out", metavar="SOURCE", help="a source of photographs to report on instead of val")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: all cores)")
    parser.add_argument("--workers", type=int, default=1, help="processes that cut tiles and crops (default: 1)")
    parser.add_argument("--eval-every", type=int, default=2000, help="steps between evaluations (default: 2000)")
    parser.add_argument("--stop-after", type=int, help="stop at this step of a stage; without it the command goes on")
    options = parser.parse_args()
    if (options.digits or options.varied) and options.teachers is None:
        parser.error("photographs need --teachers")
    if options.init and options.stage not in (*STAGES, "presence"):
        parser.error(f"--init is for one of the stages {', '.join(STAGES)}, presence")
    if options.stage == "presence" and options.init is None:
        parser.error("presence needs --init")
    if options.hold_out and options.varied is None:
        parser.error("--hold-out names a source of --varied")
    return options


def main() -> None:
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    with make_progress(Console()) as progress:
        try:
            road = Road(options, progress)
            for stage in ALL if options.stage == "all" else (options.stage,):
                if not road.go(stage):
                    break
        except SpliteError as err:
            sys.exit(f"error: {err}")


if __name__ == "__main__":
    main()
