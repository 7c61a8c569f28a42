"""`splite_deploy.decoders.centernet` in torch: all that comes before the search for peaks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.centernet import CenterNet, origins_of


class CenterNetModule(nn.Module):
    """Candidates (N, H * W, 5 + 3 K) in input pixels from the maps of the decoder's roles, (N, C, H, W) each."""

    _origins: Tensor

    def __init__(self, decoder: CenterNet, keypoints: int, size: InputSize) -> None:
        super().__init__()
        self._decoder, self._keypoints = decoder, keypoints
        _, height, width = decoder.shapes(keypoints, size)["heatmap"]
        assert isinstance(height, int) and isinstance(width, int)
        self._cells = height * width
        origins = torch.from_numpy(origins_of(decoder, height, width).copy())
        self.register_buffer("_origins", origins, persistent=False)

    def forward(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        """Candidates."""
        decoder = self._decoder
        flat = {role: self._flat(values) for role, values in zip(decoder.roles, outputs, strict=True)}
        score = flat.pop("heatmap")
        if decoder.heatmap == "logits":
            score = score.sigmoid()
        if decoder.scale != 1:
            flat = {role: values * decoder.scale for role, values in flat.items()}
        columns = [*self._sides(flat), score]
        if self._keypoints:
            vectors = flat["keypoints"].reshape(-1, self._cells, self._keypoints, 2)
            seen = score[..., None].expand(-1, -1, self._keypoints, -1)
            placed = torch.cat([vectors + self._origins[:, None], seen], dim=3)
            columns.append(placed.reshape(-1, self._cells, 3 * self._keypoints))
        return (torch.cat(columns, dim=2),)

    def _sides(self, flat: dict[str, Tensor]) -> list[Tensor]:
        """The upper left and the lower right corners, (N, H * W, 2) each."""
        boxes = flat["boxes"]
        if self._decoder.boxes == "distances":
            return [self._origins - boxes[..., :2], self._origins + boxes[..., 2:]]
        middle = self._origins + flat["offsets"] if self._decoder.offsets else self._origins
        return [middle - boxes / 2, middle + boxes / 2]

    def _flat(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W) as (N, H * W, C), by sizes that do not depend on the batch."""
        return maps.reshape(-1, int(maps.shape[1]), self._cells).transpose(1, 2)
