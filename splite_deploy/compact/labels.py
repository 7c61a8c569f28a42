"""Labels: the removable channel of every element of a tensor, as a disjoint-set forest. Imports torch.

A label tensor has the shape of the activation that it describes. Labels of channels that have to go together are
joined; what is joined with `FIXED` stays.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FIXED = 0
"""Label of channels that are never removed: of the input, of the outputs, and where an operation is unknown."""
NEUTRAL = -1
"""Label of constants that take the width of their operand, such as ``torch.zeros_like(x)``."""


def rows(tensor: Tensor, axis: int) -> Tensor:
    """One row for every index along an axis, (C, rest)."""
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


class Labels:
    """Labels, and the sets of them that are joined (disjoint sets; Tarjan, J. ACM 22(2), 1975)."""

    def __init__(self) -> None:
        self._parents = [FIXED]

    def new(self, count: int) -> Tensor:
        """Returns ``count`` new labels, (count,) int64."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def find(self, label: int) -> int:
        """The representative of a label; `FIXED` represents its own set."""
        root = label
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[label] != root:
            self._parents[label], label = root, self._parents[label]
        return root

    def roots(self, labels: Tensor) -> Tensor:
        """The representative of every element, in the same shape; `NEUTRAL` stays."""
        values, inverse = np.unique(labels.numpy(), return_inverse=True)
        found = [value if value == NEUTRAL else self.find(value) for value in values.tolist()]
        return torch.from_numpy(np.array(found, np.int64)[inverse].reshape(labels.shape))

    def join(self, first: Tensor, second: Tensor) -> None:
        """Joins labels, element by element of two tensors that broadcast; skips `NEUTRAL`."""
        one, other = np.broadcast_arrays(first.numpy(), second.numpy())
        pairs = np.stack([one.ravel(), other.ravel()], 1)
        pairs = np.unique(pairs[(pairs >= 0).all(1)], axis=0)
        for a, b in pairs.tolist():
            low, high = sorted((self.find(a), self.find(b)))
            self._parents[high] = low  # the lowest one represents, so FIXED does

    def fix(self, labels: Tensor) -> bool:
        """Protects all of them; returns whether one was not protected before."""
        loose = bool((self.roots(labels) > FIXED).any())
        self.join(labels, torch.tensor(FIXED))
        return loose

    def varying(self, labels: Tensor) -> list[int]:
        """Axes along which the labels differ."""
        roots = self.roots(labels)
        return [axis for axis in range(roots.dim()) if bool((roots != roots.narrow(axis, 0, 1)).any())]

    def join_across(self, labels: Tensor, shrinking: int) -> None:
        """Joins the labels of every slice along the axis ``shrinking``: the other axes keep their size."""
        across = rows(labels, shrinking)
        self.join(across, across[:, :1])
