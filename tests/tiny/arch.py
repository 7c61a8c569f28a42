"""A network of three convolutions: small enough to be exported in every test that needs a real one."""

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1)
        )
        self.heatmap = nn.Conv2d(channels, keypoints, 1)
        self.depth = nn.Conv2d(channels, keypoints, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.backbone(image))
        return self.heatmap(features), self.depth(features)


def build(channels: int = 8, keypoints: int = 5) -> nn.Module:
    """The network with random weights, always the same, that give heatmaps with peaks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Tiny(channels, keypoints)
    with torch.no_grad():
        network.heatmap.weight.mul_(6)
    return network
