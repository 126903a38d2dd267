"""Augmentation of training batches, as published (method.md 7).

It draws from torch's global generator, whose state the Trainer saves and restores.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from any2point_hf.modeling.errors import ConfigurationError

_ROTATED_PLANES = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}


@dataclass(frozen=True)
class Augmentation:
    """Random scale of each axis, shift, and rotation about an axis, one draw a cloud.

    Args:
        scale: range of each axis' factor; (2/3, 3/2) is ModelNet's, (0.9, 1.1) ScanObjectNN's.
        shift: largest shift of each axis, in the units of the points.
        rotation_axis: vertical axis of data whose heading means nothing; None for aligned data.

    Raises:
        ConfigurationError: a range that is empty, not finite or not positive.

    Shapes: points [B, N, 3] -> [B, N, 3].
    """

    scale: tuple[float, float] = (2 / 3, 3 / 2)
    shift: float = 0.2
    rotation_axis: Literal["x", "y", "z"] | None = None

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise ConfigurationError(f"scale must be a range of positive factors, low to high, got {low} to {high}.")
        if not 0 <= self.shift < math.inf:
            raise ConfigurationError(f"shift must be finite and not negative, got {self.shift}.")

    def __call__(self, points: Tensor) -> Tensor:
        """Augmented points, in the input's dtype and on its device."""
        batch_size = len(points)
        low, high = self.scale
        factors = torch.rand(batch_size, 1, 3, dtype=points.dtype, device=points.device) * (high - low) + low
        shifts = (torch.rand(batch_size, 1, 3, dtype=points.dtype, device=points.device) * 2 - 1) * self.shift
        points = points * factors + shifts
        if self.rotation_axis is None:
            return points
        angle = torch.rand(batch_size, 1, dtype=points.dtype, device=points.device) * (2 * math.pi)
        first, second = _ROTATED_PLANES[self.rotation_axis]
        rotated = points.clone()
        rotated[..., first] = points[..., first] * angle.cos() - points[..., second] * angle.sin()
        rotated[..., second] = points[..., first] * angle.sin() + points[..., second] * angle.cos()
        return rotated


def random_subset(points: Tensor, num_points: int) -> Tensor:
    """A random subset of each cloud's points (of 1200 sampled ones, 1024 go in): [B, S, 3] -> [B, num_points, 3]."""
    batch_size, available, _ = points.shape
    if available <= num_points:
        return points
    order = torch.rand(batch_size, available, device=points.device).argsort(dim=1)[:, :num_points]
    return points.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))
