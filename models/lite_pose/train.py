r"""Trains a network of this folder on people labelled as in COCO, on the developer's machine, on a GPU if there is one.

    python models/lite_pose/rendered_bodies.py --coco data/train --count 4000
    python models/lite_pose/rendered_bodies.py --coco data/val --count 200 --seed 1
    T="python models/lite_pose/train.py --data data/train --val data/val"
    $T --model models/lite_pose/shufflenetv2/model.toml --out runs/shufflenetv2
    $T --model NET/model.toml --out runs/small --teacher runs/large/net.safetensors --teacher-model LARGE/model.toml
    $T --model NET/model.toml --out runs/int8 --qat --init NET/net.safetensors --learning-rate 1e-4 --steps 500
    $T --model NET/model.toml --out runs/mine --update-head --init NET/net.safetensors --steps 500

``--data`` and ``--val`` name COCO's keypoint JSON, or a folder with annotations.json. The decoder of model.toml says
what is learned: see `lite_losses`. With --teacher the network also learns what another one says, which has the same
decoder. With --qat it is trained as float and as int8 at once (`lite_int8`) and its weights are rounded to the steps of
int8 in the end; ``OUT/int8`` holds them with their fake quantisers. With --update-head the last layer alone is trained,
for new data or other keypoints; everything before it, and the statistics of its batch norms, stays as it is.

An interrupted training goes on where it stopped when the same command is given again. The result is
``OUT/net.safetensors``, the exponential moving average of the weights after the last step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from splite_deploy.decoders import decode
from splite_deploy.errors import SpliteError
from splite_deploy.export.source.checkpoint import Checkpoint, build_architecture, load_weights, read_checkpoint
from splite_deploy.export.source.header import HEADER
from splite_deploy.files import sha256_of
from splite_deploy.metrics.accuracy import Scene, average_precision, keypoint_error, oks, pck
from splite_deploy.metrics.coco import read_coco
from splite_deploy.metrics.labels import tight_box
from splite_deploy.runtime.preprocess import Preprocessor, invert, transform_points
from splite_deploy.spec import HostSpec, ModelSpec, load_model_toml
from splite_deploy.spec.presets import oks_sigmas

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "common"))
from fake_quant import round_weights, set_quantisers
from lite_data import Batch, Batches, Person
from lite_int8 import quantise
from lite_losses import WEIGHTS, Outputs, target_of
from training_loop import Resumable, make_progress, move_model_toml, run, save_atomically

OBSERVED_SHARE = 0.5
"""Share of the steps in which int8 training follows the ranges of activations; then their scales stay."""
OBSERVED_BATCHES = 2
VALIDATED = 16
"""Crops that go through the network at once."""


@dataclass(frozen=True)
class Recipe:
    """What a training is a function of; stored in the checkpoint.

    Attributes:
        steps: Optimiser steps.
        batch: Crops in a step.
        learning_rate: Peak of the one-cycle schedule (5 % linear warm-up, then cosine to zero).
        weight_decay: Of AdamW.
        ema_decay: Of the averaged weights.
        seed: Of the data order, the augmentation and the initial weights.
        half_body: How often a half of the body is cut out instead of the whole.
        rounded: Whether Gaussians lie on whole cells, as MSRA draws them.
        input_scale: Side of the crops over that of model.toml.
        qat: Whether it trains for int8, with fake quantisers and frozen statistics of its batch norms.
        update_head: Whether the last layer alone is trained.
        data_sha256: The labels.
        init_sha256: The checkpoint that it starts from, if any; a compacted one gives its widths.
        teacher_sha256: The checkpoint that it learns from beside the labels, if any.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    ema_decay: float
    seed: int
    half_body: float
    rounded: bool
    input_scale: float
    qat: bool
    update_head: bool
    data_sha256: str
    init_sha256: str | None = None
    teacher_sha256: str | None = None


def as_tuple(outputs: Tensor | Outputs) -> Outputs:
    """The outputs of a network in their order, as float32."""
    return tuple(output.float() for output in ((outputs,) if isinstance(outputs, Tensor) else outputs))


def renew_head(network: nn.Module, keypoints: int) -> None:
    """Gives a network a new last layer for so many keypoints, in place."""
    head = network.head
    layer = head if isinstance(head, nn.Conv2d) else head.maps  # type: ignore[union-attr]
    assert isinstance(layer, nn.Conv2d)
    size = (layer.kernel_size[0], layer.kernel_size[1])
    fresh = nn.Conv2d(layer.in_channels, keypoints, size, padding=(size[0] // 2, size[1] // 2))
    if isinstance(head, nn.Conv2d):
        network.head = fresh
    else:
        head.maps, head.keypoints = fresh, keypoints  # type: ignore[union-attr]


class Training(Resumable[Batch]):
    """A network, what it learns from, and its optimiser.

    Args:
        spec: The model spec, with the size of the crops.
        host: Says how the network is built.
        recipe: What to do.
        device: Where.
        init: Weights to start from; the network takes their widths.
        teacher: A network to learn from.
        observed: (N, 3, h, w) normalised crops that give activations their first ranges; for int8 training.
    """

    def __init__(
        self,
        spec: ModelSpec,
        host: HostSpec,
        recipe: Recipe,
        device: torch.device,
        init: Checkpoint | None = None,
        teacher: nn.Module | None = None,
        observed: Tensor | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.spec = spec
        model = build_architecture(host)
        if init is not None:
            load_weights(model, init, torch.zeros(1, 3, spec.input.height, spec.input.width))
            if recipe.update_head:
                held = _keypoints_of(model)
                if held != spec.keypoint_count:
                    renew_head(model, spec.keypoint_count)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.names = frozenset(model.state_dict())
        self.teacher = teacher.to(device).eval() if teacher is not None else None
        if recipe.qat:
            assert observed is not None
            quantise(model.eval()).to(device)
            set_quantisers(model, quantising=True, observing=True)
            with torch.no_grad():
                model(observed.to(device, memory_format=torch.channels_last))
        if recipe.update_head:
            model.requires_grad_(False)
            model.head.requires_grad_(True)  # type: ignore[union-attr]
        super().__init__(model, recipe, device, (p for p in model.parameters() if p.requires_grad))
        self.target = target_of(spec, rounded=recipe.rounded).to(device)

    def descend(self, batch: Batch) -> dict[str, Tensor]:
        """Takes an optimiser step; returns the loss terms."""
        recipe = self.recipe
        assert isinstance(recipe, Recipe)
        if recipe.update_head:
            self.model.eval()  # the statistics of batch norms are those of the old data
        image = batch.image.contiguous(memory_format=torch.channels_last)
        quantised = None
        if recipe.qat:
            observing = self.step < OBSERVED_SHARE * recipe.steps
            set_quantisers(self.model, quantising=True, observing=observing)
            quantised = as_tuple(self.model(image))
            set_quantisers(self.model, quantising=False, observing=False)
        outputs = as_tuple(self.model(image))
        terms = self.target.loss(outputs, batch)
        if self.teacher is not None:
            with torch.no_grad():
                taught = as_tuple(self.teacher(image))
            terms["taught"] = self.target.distance(outputs, taught)
        if quantised is not None:
            terms["int8"] = self.target.distance(quantised, outputs)
        self.optimise(
            sum((WEIGHTS[name] * value for name, value in terms.items()), torch.zeros((), device=self.device))
        )
        return {name: value.detach() for name, value in terms.items()}


def _keypoints_of(network: nn.Module) -> int:
    head = network.head
    layer = head if isinstance(head, nn.Conv2d) else head.maps  # type: ignore[union-attr]
    assert isinstance(layer, nn.Conv2d)
    return layer.out_channels


def read_people(path: Path, spec: ModelSpec) -> list[Person]:
    """The labelled people of COCO's JSON, or of annotations.json in a folder; crowds and those without labels are left.

    Raises:
        SpliteError: The file cannot be read.
        ValueError: It labels another number of keypoints, or nobody.
    """
    file = path / "annotations.json" if path.is_dir() else path
    people = []
    for one in read_coco(json.loads(file.read_text(encoding="utf-8")), file):
        if one.crowd or one.keypoints is None or one.labelled is None or not one.labelled.any():
            continue
        if len(one.keypoints) != spec.keypoint_count:
            raise ValueError(
                f"{file} labels {len(one.keypoints)} keypoints, and {spec.name} has {spec.keypoint_count}. "
                "Name a model.toml with those keypoints."
            )
        people.append(Person(one.path, one.box, one.keypoints, one.labelled, one.area_px2))
    if not people:
        raise ValueError(f"{file} labels nobody.")
    return people


@torch.inference_mode()
def validate(network: nn.Module, spec: ModelSpec, people: list[Person], device: torch.device) -> dict[str, float]:
    """Accuracy on people in their labelled boxes, through the runtime's preprocessing and decoding.

    Returns:
        ``error_box_pct``: mean error of labelled keypoints, % of the longer side of the person's tight box;
        ``pck_05`` and ``pck_10``: share of keypoints within 0.05 and 0.1 of that side; ``ap``: COCO's average
        precision, where the skeleton has published sigmas.
    """
    network.eval()
    preprocessor = Preprocessor(spec.input, "rgb")
    errors, scenes = [], []
    sigmas = oks_sigmas(spec.skeleton.keypoint_names)
    for group in _groups(people, VALIDATED):
        crops, matrices = zip(*(preprocessor.crop(one.image, one.box) for one in group), strict=True)
        outputs = as_tuple(network(torch.from_numpy(preprocessor.normalise(crops)).to(device)))
        found = decode(dict(zip(spec.decoder.roles, (o.cpu().numpy() for o in outputs), strict=True)), spec)
        for index, person in enumerate(group):
            known = person.labelled
            keypoints = transform_points(found.keypoints[index], invert(matrices[index]))[known]
            truth = person.keypoints[known]
            box = tight_box(truth)
            side = max(float((box[2:] - box[:2]).max()), 1.0)
            errors.append(keypoint_error(keypoints, truth) / side)
            if sigmas is not None:
                alike = oks(keypoints, truth, person.area_px2, np.array(sigmas)[known])
                scenes.append(Scene.of_one(float(alike), float(found.scores[index][known].mean())))
    error = np.concatenate(errors)
    figures = {"error_box_pct": 100 * float(error.mean()), "pck_05": pck(error, 0.05), "pck_10": pck(error, 0.1)}
    if sigmas is not None:
        figures["ap"] = average_precision(scenes)
    return figures


def _groups(people: list[Person], size: int) -> Iterator[list[Person]]:
    for start in range(0, len(people), size):
        yield people[start : start + size]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="people to learn from: COCO's JSON, or its folder")
    parser.add_argument("--val", type=Path, help="people to measure on")
    parser.add_argument("--model", type=Path, required=True, help="model.toml of the network")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the resumable state")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half-body", type=float, default=0.1, help="how often half a body is cut out, of COCO's 17")
    parser.add_argument("--rounded", action="store_true", help="draw Gaussians on whole cells, as MSRA does")
    parser.add_argument("--input-scale", type=float, default=1.0, help="train on smaller crops first: 0.5 of the sides")
    parser.add_argument("--init", type=Path, help="checkpoint to start from; a compacted one gives its widths")
    parser.add_argument("--teacher", type=Path, help="checkpoint to learn from beside the labels")
    parser.add_argument("--teacher-model", type=Path, help="its model.toml (default: that of --model)")
    parser.add_argument("--qat", action="store_true", help="train for int8: needs --init")
    parser.add_argument("--update-head", action="store_true", help="train the last layer alone: needs --init")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch (default: all cores)")
    parser.add_argument("--stop-after", type=int, help="stop at this step; the same command without it goes on")
    parser.add_argument("--eval-every", type=int, default=500, help="steps between evaluations")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse_arguments()
    try:
        train(options)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    except (ValueError, OSError) as err:
        sys.exit(f"error: {err}")


def scaled_input(spec: ModelSpec, scale: float) -> ModelSpec:
    """The same model for smaller crops.

    Raises:
        ValueError: Its sides would be no multiples of 32, or its outputs do not follow the size of the crop.
    """
    height, width = spec.input.height * scale, spec.input.width * scale
    if height % 32 or width % 32 or (scale != 1 and spec.decoder.type == "simcc"):
        raise ValueError(
            f"--input-scale {scale:g} gives crops of {height:g} x {width:g}: sides have to be multiples of 32, and "
            "SimCC has one size. Leave it out, or choose 0.5."
        )
    return replace(spec, input=replace(spec.input, height=int(height), width=int(width)))


def load_teacher(file: Path, model: Path, student: ModelSpec) -> nn.Module:
    """The network to learn from.

    Raises:
        ValueError: Its outputs are not those of the student.
    """
    spec, host = load_model_toml(model)
    if spec.decoder != student.decoder or spec.keypoint_count != student.keypoint_count:
        raise ValueError(
            f"The teacher {file} has the decoder {spec.decoder} and {spec.keypoint_count} keypoints, and the network "
            f"{student.decoder} and {student.keypoint_count}: give both the same [decoder] and skeleton."
        )
    network = build_architecture(host)
    load_weights(network, read_checkpoint(file), torch.zeros(1, 3, student.input.height, student.input.width))
    return network


def train(options: argparse.Namespace) -> None:
    """Trains as the command line says."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if (options.qat or options.update_head) and options.init is None:
        raise ValueError("--qat and --update-head start from a trained network: name it with --init.")
    if options.qat and options.update_head:
        raise ValueError("--qat trains every layer, and --update-head the last one alone: choose one of them.")
    spec, host = load_model_toml(options.model)
    spec = scaled_input(spec, options.input_scale)
    people = read_people(options.data, spec)
    val = read_people(options.val, spec) if options.val else []
    init = read_checkpoint(options.init) if options.init else None
    teacher = load_teacher(options.teacher, options.teacher_model or options.model, spec) if options.teacher else None
    annotations = options.data / "annotations.json" if options.data.is_dir() else options.data
    recipe = Recipe(
        data_sha256=sha256_of(annotations),
        init_sha256=init.sha256 if init else None,
        teacher_sha256=sha256_of(options.teacher) if options.teacher else None,
        **{name: value for name, value in vars(options).items() if name in Recipe.__dataclass_fields__},
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches = Batches(people, spec, recipe.batch, recipe.seed, recipe.half_body)
    observed = torch.cat([batches[i].image for i in range(OBSERVED_BATCHES)]) if recipe.qat else None
    training = Training(spec, host, recipe, device, init, teacher, observed)
    options.out.mkdir(parents=True, exist_ok=True)

    def evaluate() -> dict[str, float]:
        return figures(training, val)

    with make_progress(Console()) as progress:
        done = run(
            *(training, batches, options.out, progress, evaluate),
            eval_every=options.eval_every,
            stop_after=options.stop_after,
        )
    if done:
        write_checkpoint(options.out, training, options.model, val, init)


def figures(training: Training, val: list[Person]) -> dict[str, float]:
    """Accuracy of the averaged weights; of int8 training also as int8."""
    network, recipe = training.average.module, training.recipe
    assert isinstance(recipe, Recipe)
    if not val:
        return {}
    if not recipe.qat:
        return validate(network, training.spec, val, training.device)
    set_quantisers(network, quantising=True, observing=False)
    int8 = validate(network, training.spec, val, training.device)
    set_quantisers(network, quantising=False, observing=False)
    return validate(network, training.spec, val, training.device) | {
        f"int8_{key}": value for key, value in int8.items()
    }


def write_checkpoint(out: Path, training: Training, model: Path, val: list[Person], init: Checkpoint | None) -> None:
    """Writes the averaged weights and, of int8 training, the same ones with their quantisers to ``OUT/int8``."""
    network, recipe = training.average.module, training.recipe
    assert isinstance(recipe, Recipe)
    if recipe.qat:
        round_weights(network)
        set_quantisers(network, quantising=True, observing=False)
        with torch.no_grad():  # gives the rounded weights their scales
            network(torch.zeros(1, 3, training.spec.input.height, training.spec.input.width, device=training.device))
    accuracy = figures(training, val)
    metadata = {
        "format": "splite-checkpoint",
        "model": training.spec.name,
        "recipe": json.dumps(vars(recipe)),
        "accuracy": json.dumps(accuracy),
        **{key: value for key, value in (init.metadata if init else {}).items() if key == HEADER},
    }
    if recipe.qat:
        set_quantisers(network, quantising=True, observing=False)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    target = out / "net.safetensors"
    weights = {name: tensor for name, tensor in tensors.items() if name in training.names}
    save_atomically(target, lambda path: save_file(weights, path, metadata))
    print(f"{target}: {_shown(accuracy)}")
    if recipe.qat:
        folder = out / "int8"
        folder.mkdir(exist_ok=True)
        save_atomically(folder / target.name, lambda path: save_file(tensors, path, metadata))
        move_model_toml(model, folder / "model.toml", {"lite_arch.py": "lite_int8.py"})
        print(f"{folder / target.name}: the same with its fake quantisers")


def _shown(accuracy: dict[str, Any]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in accuracy.items()) or "no people to measure on"


if __name__ == "__main__":
    main()
