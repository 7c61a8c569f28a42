"""`splite_deploy.decoders.yolo_pose` in torch: all that comes before the suppression of what overlaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splite_deploy.decoders.base import InputSize
from splite_deploy.decoders.yolo_pose import YoloPose, grid


class YoloPoseModule(nn.Module):
    """Candidates (N, A, 5 + 3 K) in input pixels from what the network gives."""

    _cells: Tensor
    _factor: Tensor
    _bins: Tensor

    def __init__(self, decoder: YoloPose, keypoints: int, size: InputSize) -> None:
        super().__init__()
        self._decoder, self._keypoints = decoder, keypoints
        cells = torch.zeros(0, 5)
        if decoder.strides is not None:
            cells = torch.from_numpy(grid(decoder, size.height, size.width).copy())
        factor = (size.width, size.height) if decoder.scale == "unit" else (1, 1)
        self.register_buffer("_cells", cells, persistent=False)
        self.register_buffer("_factor", torch.tensor(factor, dtype=torch.float32), persistent=False)
        self.register_buffer("_bins", torch.arange(decoder.bins or 1, dtype=torch.float32), persistent=False)

    def forward(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        """Candidates."""
        decoder = self._decoder
        box, score, points = self._parts(outputs)
        if decoder.strides is not None:
            score = score.sigmoid()
        if decoder.form == "final":
            score = score[..., :1]
        elif decoder.form == "anchor-based" or decoder.objectness:
            score = score[..., :1] * score[..., 1:].amax(dim=2, keepdim=True)
        elif decoder.classes > 1:
            score = score.amax(dim=2, keepdim=True)
        if decoder.strides is None:
            corners, xy = box, points[..., :2]
            if decoder.scale == "unit":
                corners, xy = box * self._factor.repeat(2), xy * self._factor
            if decoder.boxes == "xywh":
                corners = _corners(corners[..., :2], corners[..., 2:])
        else:
            cell, stride = self._cells[:, :2], self._cells[:, 2:3]
            if decoder.form == "anchor-based":
                half = box.sigmoid()
                centre = (2 * half[..., :2] + (cell - 0.5)) * stride
                corners = _corners(centre, (2 * half[..., 2:]) ** 2 * self._cells[:, 3:])
                cell = cell - 0.5
            else:
                away = self._expected(box)
                ends = [cell + 0.5 - away[..., :2], cell + 0.5 + away[..., 2:]]
                corners = torch.cat(ends, dim=2) * stride
            xy = points[..., :2]
            if self._keypoints:
                xy = (2 * xy + cell[:, None]) * stride[:, None]
        if not self._keypoints:
            return (torch.cat([corners, score], dim=2),)
        if decoder.visibility:
            seen = points[..., 2:] if decoder.strides is None else points[..., 2:].sigmoid()
        else:
            seen = score[..., None].expand(-1, -1, self._keypoints, -1)
        placed = torch.cat([xy, seen], dim=3).reshape(-1, int(xy.shape[1]), 3 * self._keypoints)
        return (torch.cat([corners, score, placed], dim=2),)

    def _parts(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, A, C), scores (N, A, C) and keypoints (N, A, K, 2 or 3)."""
        decoder = self._decoder
        columns = 3 if decoder.visibility else 2
        box = 4 * (decoder.bins or 1)
        if decoder.heads == "parts":
            flat = [_flat(values) for values in outputs]
            parts = [torch.cat(flat[part::3], dim=2).transpose(1, 2) for part in range(3)]
            return parts[0], parts[1], _parted(parts[2], self._keypoints, columns)
        if decoder.heads == "levels":
            anchors = [1 if decoder.anchors is None else len(each) // 2 for each in decoder.anchors or outputs]
            levels = [_flat(values, count) for values, count in zip(outputs, anchors, strict=True)]
            people = torch.cat(levels, dim=2).transpose(1, 2)
        else:
            people = outputs[0] if decoder.form == "final" else outputs[0].transpose(1, 2)
        last = int(people.shape[2]) - columns * self._keypoints
        return people[..., :box], people[..., box:last], _parted(people[..., last:], self._keypoints, columns)

    def _expected(self, box: Tensor) -> Tensor:
        """(N, A, 4) expected bins; of a single bin the number itself."""
        if len(self._bins) == 1:
            return box
        weights = _parted(box, 4, len(self._bins)).softmax(dim=3)
        expected: Tensor = (weights * self._bins).sum(dim=3)
        return expected


def _flat(values: Tensor, anchors: int = 1) -> Tensor:
    """A level (N, anchors * C, H, W) as (N, C, anchors * H * W), by sizes that do not depend on the batch."""
    channels, cells = int(values.shape[1]) // anchors, int(values.shape[2]) * int(values.shape[3])
    if anchors == 1:
        return values.reshape(-1, channels, cells)
    return values.reshape(-1, anchors, channels, cells).transpose(1, 2).reshape(-1, channels, anchors * cells)


def _parted(values: Tensor, count: int, each: int) -> Tensor:
    """(N, A, count * each) as (N, A, count, each); of a count of 0 what it is given."""
    if count == 0:
        return values
    return values.reshape(-1, int(values.shape[1]), count, each)


def _corners(centre: Tensor, extent: Tensor) -> Tensor:
    return torch.cat([centre - extent / 2, centre + extent / 2], dim=2)
