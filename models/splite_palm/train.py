r"""Trains SPLite Palm on photographs. Runs on the developer's machine, on a GPU if there is one.

    python models/splite_palm/train.py --data HANDS_VARIED --digits HAND_DIGITS --cut-outs TILES --out runs/palm

An interrupted training goes on where it stopped when the same command is given again. The result is
``OUT/splite_palm.safetensors``, the exponential moving average of the weights after the last step: no checkpoint is
picked by its accuracy. Figures in the log are those of training pictures that are held out; `val` is never looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from splite_deploy.bundle.report import BoxAccuracy
from splite_deploy.decoders import Decoding, PeopleDecoder
from splite_deploy.metrics.detections import MOST_BOXES, FoundBoxes, box_accuracy
from splite_deploy.runtime.preprocess import Image, Preprocessor, invert, transform_points
from splite_deploy.spec import ModelSpec, load_model_toml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "common"))
from palm_arch import build
from palm_data import Batch, Batches, CutOuts, Scene, divided, load_digits, load_scenes, without_hands
from palm_losses import WEIGHTS, loss_terms
from training_loop import Resumable, make_progress, run, save_atomically

EMPTY = 100
"""Parts of held-out pictures without hands, on which false alarms are counted."""
LEAST_SCORE = 0.02
"""For average precision."""


@dataclass(frozen=True)
class Recipe:
    """What a training is a function of; stored in the checkpoint.

    Attributes:
        steps: Optimiser steps.
        batch: Views in a step.
        learning_rate: Peak of the one-cycle schedule (5 % linear warm-up, then cosine to zero).
        weight_decay: Of AdamW.
        ema_decay: Of the averaged weights.
        seed: Of the data order, the augmentation and the initial weights.
        width: Multiplies the network's channels.
        pasted: Whether hands that were cut out of other pictures are pasted into some.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    ema_decay: float
    seed: int
    width: float
    pasted: bool = False


class Training(Resumable[Batch]):
    """Network, averaged network and optimiser, with a state that can be saved and restored.

    Args:
        spec: The model spec.
        recipe: What to do.
        device: Where.
    """

    def __init__(self, spec: ModelSpec, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.spec = spec
        model = build(recipe.width, spec.keypoint_count)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(model, recipe, device, uniform=True)

    def descend(self, batch: Batch) -> dict[str, Tensor]:
        """Takes an optimiser step; returns the loss terms."""
        image = batch.image.contiguous(memory_format=torch.channels_last)  # half again as fast on a CPU
        terms = loss_terms(self.model(image), batch)
        self.optimise(sum(WEIGHTS[name] * value for name, value in terms.items()))  # type: ignore[arg-type]
        return {name: value.detach() for name, value in terms.items()}


class TorchDetector:
    """The runtime's path with the torch network in the session's place, and with candidates of any score."""

    def __init__(self, model: nn.Module, spec: ModelSpec, device: torch.device) -> None:
        assert isinstance(spec.decoder, PeopleDecoder)
        self.model, self.device = model.eval(), device
        decoder = replace(spec.decoder, min_score=LEAST_SCORE, max_people=MOST_BOXES)
        self.decode = Decoding(replace(spec, decoder=decoder))
        self.preprocessor = Preprocessor(spec.input, "rgb")

    @torch.inference_mode()
    def __call__(self, image: Image) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (P, 4) in image pixels and scores (P,)."""
        height, width = image.shape[:2]
        crop, matrix = self.preprocessor.crop(image, np.array([0.0, 0.0, width, height]))
        tensor = torch.from_numpy(self.preprocessor.normalise([crop])).to(self.device)
        found = self.decode({role: values.cpu().numpy() for role, values in self.model(tensor).items()})
        assert found.people is not None
        corners = transform_points(found.people.boxes.reshape(-1, 2), invert(matrix))
        return corners.reshape(-1, 4).astype(np.float32), found.people.scores


def validate(detector: TorchDetector, scenes: Sequence[Scene], empty: Sequence[Image], min_score: float) -> BoxAccuracy:
    """Accuracy on pictures with hands, and false alarms in parts without."""
    found = []
    for scene in scenes:
        boxes, scores = detector(scene.image)
        known = np.reshape([hand.box for hand in scene.hands if hand.keypoints is not None], (-1, 4))
        others = np.reshape([hand.box for hand in scene.hands if hand.keypoints is None], (-1, 4))
        if len(known):
            found.append(FoundBoxes(boxes, scores, known, others))
    for image in empty:
        found.append(FoundBoxes(*detector(image), np.empty((0, 4)), np.empty((0, 4))))
    accuracy = box_accuracy(found, min_score)
    assert accuracy is not None
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of hands-varied (scenes.json)")
    parser.add_argument("--digits", type=Path, help="folder of hand-digits (labels.json)")
    parser.add_argument("--cut-outs", type=Path, help="hands to paste: OUT/tiles of splite_hand2/train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the resumable state")
    parser.add_argument("--model", type=Path, default=HERE / "model.toml", help="model spec (default: the one here)")
    parser.add_argument("--steps", type=int, default=24000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the network's channels")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch (default: all cores)")
    parser.add_argument("--workers", type=int, default=1, help="processes that make views (default: 1)")
    parser.add_argument("--stop-after", type=int, help="stop at this step; the same command without it goes on")
    parser.add_argument("--eval-every", type=int, default=1000, help="steps between evaluations")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    given = {name: value for name, value in vars(options).items() if name in Recipe.__dataclass_fields__}
    recipe = Recipe(**given, pasted=options.cut_outs is not None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec, _ = load_model_toml(options.model)
    assert isinstance(spec.decoder, PeopleDecoder)
    min_score = spec.decoder.min_score
    options.out.mkdir(parents=True, exist_ok=True)
    scenes, held_out = divided(load_scenes(options.data))
    scenes += load_digits(options.digits) if options.digits else []
    with make_progress(Console()) as progress:
        closed = [scene for scene in held_out if scene.closed]
        empty = list(without_hands(closed, EMPTY, recipe.seed, lambda _: None))
        training = Training(spec, recipe, device)

        def evaluate() -> dict[str, float]:
            found = validate(TorchDetector(training.average.module, spec, device), held_out, empty, min_score)
            return {name: value for name, value in vars(found).items() if value is not None}

        cut_outs = CutOuts(options.cut_outs) if options.cut_outs else None
        batches = Batches(scenes, spec, recipe.batch, recipe.seed, cut_outs)
        done = run(
            *(training, batches, options.out, progress, evaluate),
            eval_every=options.eval_every,
            stop_after=options.stop_after,
            workers=options.workers,
        )
    if not done:
        return
    metadata = {
        "format": "splite-checkpoint",
        "model": spec.name,
        "recipe": json.dumps(vars(recipe)),
        "held_out": json.dumps(evaluate()),
    }
    tensors = {name: value.contiguous().cpu() for name, value in training.average.module.state_dict().items()}
    target = options.out / "splite_palm.safetensors"
    save_atomically(target, lambda path: save_file(tensors, path, metadata))
    print(f"{target}: {metadata['held_out']}")


if __name__ == "__main__":
    main()
