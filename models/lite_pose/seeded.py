"""Writes seeded weights for a network of this folder, to try conversions before it is trained.

    python models/lite_pose/seeded.py models/lite_pose/litehrnet/model.toml -o litehrnet.safetensors
    splite-deploy export litehrnet.safetensors --model models/lite_pose/litehrnet/model.toml -o litehrnet.splite

Weights are random, batch norms have the statistics of rendered people, and what makes the outputs is fitted to a few of
these by least squares, so that maps have peaks and those of each picture lie elsewhere. The keypoints mean little.
"""

from __future__ import annotations

import argparse
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from splite_deploy.errors import SpliteError
from splite_deploy.export.source.checkpoint import build_architecture
from splite_deploy.runtime.preprocess import Preprocessor, transform_points
from splite_deploy.spec import ModelSpec, load_model_toml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "common"))
from lite_heads import SimCC
from rendered_bodies import RenderedBody, bodies
from seeded_weights import normalise
from training_loop import save_atomically

PEOPLE = 24  # that statistics are taken from and the last layer is fitted to
SIGMA_CELLS = 2.0
PENALTY = 1e-3
"""Of weights, over the mean square of features, so that the fit does not follow single pixels."""
LOGITS = 14.0
"""Mean height of the peaks of what a softmax is taken of; of other maps it is 1."""


@lru_cache(maxsize=1)
def _people(seed: int) -> tuple[RenderedBody, ...]:
    return tuple(bodies(PEOPLE, seed))


def rendered(spec: ModelSpec, seed: int) -> tuple[Tensor, Tensor]:
    """Normalised crops (N, 3, H, W) of rendered people, and their keypoints (N, K, 2) over the size of the crop."""
    preprocessor = Preprocessor(spec.input, "rgb")
    crops, keypoints = [], []
    for body in _people(seed):
        crop, matrix = preprocessor.crop(body.image, body.box.astype(np.float64))
        crops.append(crop)
        points = transform_points(body.keypoints[: spec.keypoint_count], matrix)
        keypoints.append(points / (spec.input.width, spec.input.height))
    return torch.from_numpy(preprocessor.normalise(crops)), torch.from_numpy(np.stack(keypoints)).float()


def _bumps(at: Tensor, count: int, sigma: float) -> Tensor:
    """Gaussians (..., count) around places (...), 0 to 1, of a row of so many cells."""
    return torch.exp(-((torch.arange(count) + 0.5 - at[..., None] * count) ** 2) / (2 * sigma**2))


def _least_squares(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (O, I) and biases (O,) from rows of inputs (M, I) and outputs (M, O)."""
    x, y = inputs.double(), outputs.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    square = x.T @ x
    penalty = PENALTY * float(square.diagonal().mean()) + 1e-12
    weight = torch.linalg.solve(square + penalty * torch.eye(len(square)), x.T @ y).T
    return weight.float(), (mean_y - weight @ mean_x).float()


def _fit_maps(layer: nn.Conv2d, features: Tensor, keypoints: Tensor, sigma: float) -> None:
    """Fits a convolution to Gaussians around keypoints, in place; of a larger kernel its middle."""
    height, width = features.shape[-2:]
    maps = _bumps(keypoints[..., 1], height, sigma)[..., None] * _bumps(keypoints[..., 0], width, sigma)[..., None, :]
    weight, bias = _least_squares(features.movedim(1, -1).flatten(0, 2), maps.movedim(1, -1).flatten(0, 2))
    assert layer.bias is not None
    middle = layer.kernel_size[0] // 2
    layer.weight.zero_()
    layer.weight[:, :, middle, middle] = weight
    layer.bias.copy_(bias)


def _scale(layer: nn.Conv2d | nn.Linear, outputs: Tensor, height: float) -> None:
    """Gives the peaks of outputs, over all but the first two axes, a mean height above the rest, in place."""
    flat = outputs.flatten(2)
    factor = height / float((flat.amax(2) - flat.mean(2)).mean())
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.mul_(factor)


@torch.no_grad()
def fit_head(network: nn.Module, tensors: Tensor, keypoints: Tensor, height: float) -> None:
    """Fits the last layer to keypoints, in place.

    Args:
        network: In evaluation mode.
        tensors: (N, 3, H, W) normalised crops.
        keypoints: (N, K, 2) in them, 0 to 1.
        height: Of the peaks.
    """
    head = network.head
    features = network.upsampling(network.backbone(tensors))  # type: ignore[operator]
    if isinstance(head, nn.Conv2d):
        _fit_maps(head, features, keypoints, SIGMA_CELLS)
        _scale(head, head(features), height)
        return
    assert isinstance(head, SimCC)
    _fit_maps(head.maps, features, keypoints, 1.0)
    flat = head.maps(features).flatten(2)
    for axis, layer in enumerate((head.simcc_x, head.simcc_y)):
        target = _bumps(keypoints[..., axis], layer.out_features, (layer.out_features / 16) ** 0.5)
        weight, bias = _least_squares(flat.flatten(0, 1), target.flatten(0, 1))
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
        _scale(layer, layer(flat), height)


def write(model: Path, target: Path, seed: int = 0) -> None:
    """Writes weights for the network of a model.toml.

    Raises:
        SpliteError: The model.toml is wrong.
    """
    spec, host = load_model_toml(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_architecture(host)
        tensors, keypoints = rendered(spec, seed)
        normalise(network, tensors, {})
        fit_head(network, tensors, keypoints, LOGITS if spec.decoder.type == "softargmax" else 1.0)
    tensors_by_name = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_atomically(target, lambda path: save_file(tensors_by_name, path, {"format": "splite-checkpoint"}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="its model.toml")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the weights, .safetensors")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        write(options.model, options.output, options.seed)
    except (SpliteError, OSError) as err:
        sys.exit(f"error: {err}")
    print(options.output)


if __name__ == "__main__":
    main()
