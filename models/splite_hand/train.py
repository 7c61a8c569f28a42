r"""Trains SPLite Hand on photographs and rendered hands. Runs on the developer's machine, on a GPU if there is one.

    python models/splite_hand/train.py --data HAND_DIGITS --out runs/dense
    python models/splite_hand/train.py --data HAND_DIGITS --out runs/sparse --init runs/dense/splite_hand.safetensors \
        --teacher runs/dense/splite_hand.safetensors --sparsity group-lasso --prune group-norm --prune-speed-up 4
    python models/splite_hand/train.py --data HAND_DIGITS --out runs/int8 --qat --steps 2000 --learning-rate 5e-4 \
        --init models/splite_hand/splite_hand.safetensors --teacher models/splite_hand/splite_hand.safetensors

CARD.md has the commands of the network that is shipped: dense, sparse, compacted, fine-tuned, fine-tuned for int8.

With --qat the network is trained as float and as int8 at once (arch_int8.py): the float one by labels and teacher, the
int8 one to say what the float one says. In the end weights are rounded to the steps of int8, which float then has as
``OUT/splite_hand.safetensors`` serves both, and ``OUT/int8`` holds the same weights with their fake quantisers and a
model.toml.

An interrupted training goes on where it stopped when the same command is given again. The result is
``OUT/splite_hand.safetensors``, the exponential moving average of the weights after the last step: no checkpoint is
picked by its accuracy on the validation split.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from splite_deploy.bench.evaluation import keypoint_errors
from splite_deploy.bundle.report import Accuracy
from splite_deploy.compact.importance import METHODS, Method
from splite_deploy.compact.sparsity import KINDS, GradualPruning, Kind, LambdaSchedule, Penalty
from splite_deploy.decoders import SoftArgmaxDepth, decode
from splite_deploy.errors import SpliteError
from splite_deploy.export.quant.calibration import SEED as CALIBRATION_SEED
from splite_deploy.export.source.checkpoint import Checkpoint, read_checkpoint
from splite_deploy.export.source.header import HEADER
from splite_deploy.export.source.load import run_network
from splite_deploy.metrics.labels import LabelledImage, read_labels
from splite_deploy.metrics.parity import compare
from splite_deploy.runtime.crops import cut
from splite_deploy.runtime.io.images import read_image
from splite_deploy.runtime.lift import weak_perspective
from splite_deploy.runtime.preprocess import Image, Preprocessor, invert, transform_points
from splite_deploy.spec import ModelSpec, load_model_toml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "common"))
from arch import build
from arch_int8 import quantise, round_weights, set_quantisers
from data import Batch, Batches, load_real, render_pool
from equalise import equalise
from losses import WEIGHTS, Distillation, Int8Deviation, PoseLoss
from synthetic import samples
from training_loop import Resumable, make_progress, move_model_toml, run, save_atomically, with_weights

PRUNING_SPAN = (0.05, 0.6)
"""Shares of the steps between which channels go; the others are for what remains."""
OBSERVED_SHARE = 0.5
"""Share of the steps in which int8 training follows the ranges of activations; then their scales stay."""
OBSERVED_BATCHES = 4
COMPARED = 64
"""Rendered hands on which int8 is compared with float: the same as in an export, so that --qat refuses their seed."""


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
        bfloat16: Whether convolutions run in bfloat16 (autocast); faster from about 100 million multiply-adds on.
        init_sha256: The checkpoint that it starts from, if any; a compacted one gives its widths.
        teacher_sha256: The checkpoint that it learns from beside the labels, if any.
        sparsity: Penalty on channels, if any.
        strength: Of the penalty, after a rise over a tenth of the steps.
        prune: Measure by which channels are set to zero on the way, if any.
        prune_speed_up: Dense multiply-accumulates over those that remain then.
        prune_round_to: Widths stay multiples of this.
        qat: Whether it trains for int8, with fake quantisers and frozen statistics of its batch norms.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    ema_decay: float
    real_share: float
    synthetic: int
    seed: int
    bfloat16: bool = False
    init_sha256: str | None = None
    teacher_sha256: str | None = None
    sparsity: Kind | None = None
    strength: float = 1e-4
    prune: Method | None = None
    prune_speed_up: float = 2.0
    prune_round_to: int = 8
    qat: bool = False


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
        return keypoints, weak_perspective(found.keypoints[0], found.depth[0], self.spec.decoder.depth, 1.0)


class Training(Resumable[Batch]):
    """Network, averaged network and optimiser, with a state that can be saved and restored.

    Args:
        spec: The model spec.
        arch_args: Arguments of the architecture.
        recipe: What to do.
        device: Where.
        init: Weights to start from; the network takes their widths.
        teacher: Weights to learn from.
        observed: (N, 3, h, w) normalised crops that give activations their first ranges; for int8 training.
    """

    def __init__(
        self,
        spec: ModelSpec,
        arch_args: dict[str, object],
        recipe: Recipe,
        device: torch.device,
        init: Checkpoint | None = None,
        teacher: Checkpoint | None = None,
        observed: Tensor | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.spec = spec
        example = torch.zeros(1, 3, spec.input.height, spec.input.width)

        def network(weights: Checkpoint | None) -> nn.Module:
            return with_weights(build(**arch_args), weights, example).to(device)  # type: ignore[arg-type]

        model = network(init)
        self.names = frozenset(model.state_dict())
        self.teacher = network(teacher).eval() if teacher is not None else None
        if recipe.qat:
            assert observed is not None
            equalise(model.eval(), observed.to(device))
            quantise(model).to(device)
            set_quantisers(model, quantising=True, observing=True)
            with torch.no_grad():
                model(observed.to(device, memory_format=torch.channels_last))
        super().__init__(model, recipe, device)
        self.loss, self.distillation = PoseLoss(spec).to(device), Distillation(spec).to(device)
        self.int8_deviation = Int8Deviation(spec).to(device)
        self.penalty = Penalty(recipe.sparsity, self.model, example.to(device)) if recipe.sparsity else None
        self.schedule = LambdaSchedule(recipe.strength, warm_up=recipe.steps // 10)
        self.pruning: GradualPruning | None = None
        if recipe.prune:
            start, end = (round(share * recipe.steps) for share in PRUNING_SPAN)
            self.pruning = GradualPruning(
                self.model,
                example.to(device),
                recipe.prune,
                recipe.prune_speed_up,
                start=max(1, start),
                end=end,
                round_to=recipe.prune_round_to,
            )

    def descend(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Takes an optimiser step; returns the loss terms."""
        image = batch.image.contiguous(memory_format=torch.channels_last)  # half again as fast on a CPU
        quantised = None
        if self.recipe.qat:
            observing = self.step < OBSERVED_SHARE * self.recipe.steps
            set_quantisers(self.model, quantising=True, observing=observing)
            quantised = self._run(self.model, image, bfloat16=self.recipe.bfloat16)
            set_quantisers(self.model, quantising=False, observing=False)
        heatmap, depth = self._run(self.model, image, bfloat16=self.recipe.bfloat16)
        terms = self.loss(heatmap, depth, batch)
        if self.teacher is not None:
            # On a CPU float32 takes a dense teacher up to 17 times as long; bfloat16 is as coarse as int8
            with torch.no_grad():
                taught = self._run(self.teacher, image, bfloat16=quantised is None)
            terms |= self.distillation((heatmap, depth), taught)
        if quantised is not None:
            terms |= self.int8_deviation(quantised, (heatmap, depth))
        total = sum(WEIGHTS[name] * value for name, value in terms.items())
        if self.penalty is not None:
            terms["sparsity"] = self.penalty()
            total = total + self.schedule.at(self.step) * terms["sparsity"]
        self.optimise(total, self.pruning.observe if self.pruning is not None else lambda: None)
        if self.pruning is not None:
            self.pruning.apply(self.step, self.average.module)
        return {name: value.detach() for name, value in terms.items()}

    def _run(self, network: nn.Module, image: torch.Tensor, *, bfloat16: bool) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            heatmap, depth = network(image)
        return heatmap.float(), depth.float()

    def state(self) -> dict[str, Any]:
        """Everything a resumed training needs."""
        return {**super().state(), "pruning": self.pruning.state_dict() if self.pruning is not None else {}}

    def restore(self, file: Path) -> Mapping[str, Any]:
        """Goes back to a saved state; refuses one of another recipe."""
        state = super().restore(file)
        if self.pruning is not None:
            self.pruning.load_state_dict(state["pruning"])
        return state


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
    parser.add_argument("--renders", type=Path, help="folder that keeps rendered hands (default: cache beside OUT)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="run convolutions in bfloat16")
    parser.add_argument("--init", type=Path, help="checkpoint to start from; a compacted one gives its widths")
    parser.add_argument("--teacher", type=Path, help="checkpoint to learn from beside the labels")
    parser.add_argument("--sparsity", choices=KINDS, help="penalty that draws whole channels to zero")
    parser.add_argument("--strength", type=float, default=1e-4, help="of the penalty")
    parser.add_argument("--prune", choices=METHODS, help="set more and more channels to zero, chosen by this measure")
    parser.add_argument("--prune-speed-up", type=float, default=2.0, help="how many times fewer multiply-adds then")
    parser.add_argument("--prune-round-to", type=int, default=8, help="widths stay multiples of this")
    parser.add_argument("--qat", action="store_true", help="train for int8: needs --init, and --data or --synthetic")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch (default: all cores)")
    parser.add_argument("--stop-after", type=int, help="stop at this step; the same command without it goes on")
    parser.add_argument("--eval-every", type=int, default=1000, help="steps between evaluations")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        init, teacher = (read_checkpoint(file) if file else None for file in (options.init, options.teacher))
    except SpliteError as err:
        sys.exit(f"error: {err}")
    if options.qat and (init is None or options.seed in (0, CALIBRATION_SEED)):
        sys.exit(
            "error: --qat starts from a trained network, --init, and has a --seed of its own: "
            f"0 and {CALIBRATION_SEED} render what an export compares and calibrates on."
        )
    recipe = Recipe(
        init_sha256=init.sha256 if init else None,
        teacher_sha256=teacher.sha256 if teacher else None,
        **{name: value for name, value in vars(options).items() if name in Recipe.__dataclass_fields__},
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec, host = load_model_toml(options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    with make_progress(Console()) as progress:
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
            options.renders or options.out.parent / "cache",
            lambda done: progress.update(pool_task, completed=done),
        )
        compared = compared_crops(spec, labels) if recipe.qat else {}
        batches = Batches(real, pool, spec, recipe.batch, recipe.real_share, recipe.seed)
        observed = torch.cat([batches[i].image for i in range(OBSERVED_BATCHES)]) if recipe.qat else None
        try:
            training = Training(spec, dict(host.arch_args), recipe, device, init, teacher, observed)
        except SpliteError as err:
            sys.exit(f"error: {err}")

        def evaluate() -> dict[str, float]:
            figures = int8_figures(training, labels, compared) if recipe.qat else {}
            measured = vars(validate(training, labels)) if labels else {}
            return figures | {name: value for name, value in measured.items() if value is not None}

        done = run(
            *(training, batches, options.out, progress, evaluate),
            eval_every=options.eval_every,
            stop_after=options.stop_after,
        )
    if not done:
        return
    write_checkpoint(options.out, training, options.model, labels, init)


def write_checkpoint(
    out: Path, training: Training, model: Path, labels: list[LabelledImage], init: Checkpoint | None
) -> None:
    """Writes the averaged weights and, of int8 training, the same ones with their quantisers to ``OUT/int8``."""
    network = training.average.module
    if training.recipe.qat:
        round_weights(network)
    accuracy = validate(training, labels) if labels else None
    metadata = {
        "format": "splite-checkpoint",
        "model": training.spec.name,
        "recipe": json.dumps(vars(training.recipe)),
        "accuracy": json.dumps(vars(accuracy) if accuracy else {}),
        **{key: value for key, value in (init.metadata if init else {}).items() if key == HEADER},
    }
    if training.recipe.qat:
        set_quantisers(network, quantising=True, observing=False)
        with torch.no_grad():  # gives the rounded weights their scales
            network(torch.zeros(1, 3, training.spec.input.height, training.spec.input.width, device=training.device))
    tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    target = out / "splite_hand.safetensors"
    weights = {name: tensor for name, tensor in tensors.items() if name in training.names}
    save_atomically(target, lambda path: save_file(weights, path, metadata))
    print(f"{target}: {accuracy if accuracy else 'no labels to measure on'}")
    if training.recipe.qat:
        folder = out / "int8"
        folder.mkdir(exist_ok=True)
        save_atomically(folder / target.name, lambda path: save_file(tensors, path, metadata))
        move_model_toml(model, folder / "model.toml", {"arch.py": "arch_int8.py"})
        print(f"{folder / target.name}: the same with its fake quantisers")


def validate(training: Training, labels: list[LabelledImage], *, int8: bool = False) -> Accuracy:
    """Accuracy of the averaged weights, as a float or as an int8 network."""
    network = training.average.module
    if training.recipe.qat:
        set_quantisers(network, quantising=int8, observing=False)
    return keypoint_errors(labels, TorchEstimator(network, training.spec, training.device)).summary()


def compared_crops(spec: ModelSpec, labels: list[LabelledImage]) -> dict[str, NDArray[np.float32]]:
    """(N, 3, h, w) normalised crops on which int8 is compared with float, by where they come from."""
    pixels = {"rendered": cut(samples(COMPARED, 0), "rgb", spec.input)}
    if labels:
        pixels["photographs"] = cut(((read_image(one.path), one.box) for one in labels), "bgr", spec.input)
    return {source: Preprocessor(spec.input, "rgb").normalise(crops) for source, crops in pixels.items()}


def int8_figures(
    training: Training, labels: list[LabelledImage], crops: dict[str, NDArray[np.float32]]
) -> dict[str, float]:
    """What int8 costs the averaged weights, by name."""
    figures = {}
    if labels:
        accuracy = validate(training, labels, int8=True)
        figures = {"int8_error_box_pct": accuracy.mean_error_box_pct, "int8_pa_mpjpe_mm": accuracy.pa_mpjpe_mm}
    spec, network = training.spec, training.average.module
    for source, tensors in crops.items():
        outputs = []
        for quantising in (False, True):
            set_quantisers(network, quantising=quantising, observing=False)
            outputs.append(run_network(network, tensors, spec))
        deviation = compare("int8", *outputs, spec, source).deviation_px
        figures |= {f"int8_{source}_p95_px": deviation.p95, f"int8_{source}_max_px": deviation.max}
    return figures


if __name__ == "__main__":
    main()
