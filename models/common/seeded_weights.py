"""Weights for networks that were never trained: seeded, with the statistics that pictures give them.

What is exported of such a network says nothing about accuracy: only whether a conversion computes what the network
does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

LEAST_VARIANCE = 0.1
"""Of a channel, over the mean of its layer: training leaves no channel that is nearly constant."""


def normalise(network: nn.Module, tensors: torch.Tensor, heads: Mapping[str, float]) -> None:
    """Takes the statistics of batch norms from pictures, varies their weights, and scales the heads, in place.

    Args:
        network: With weights of torch's own initialisation.
        tensors: (N, 3, H, W) normalised crops.
        heads: Layers whose outputs are scaled to this standard deviation, so that they have peaks as trained ones do.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # a plain mean over batches
            norm.weight.copy_(torch.rand(norm.weight.shape) + 0.5)
            norm.bias.copy_(torch.randn(norm.bias.shape) * 0.2)
        network.train()(tensors)
        network.eval()
        for norm in norms:
            assert norm.running_var is not None
            norm.running_var.clamp_(min=LEAST_VARIANCE * float(norm.running_var.mean()))
        spread: dict[str, float] = {}
        for name in heads:
            head = network.get_submodule(name)
            head.register_forward_hook(lambda _, __, out, name=name: spread.update({name: float(out.std())}))
        network(tensors)
        for name, wanted in heads.items():
            for parameter in network.get_submodule(name).parameters():
                parameter.mul_(wanted / spread[name])
