"""Augmentation of training batches, as published (method.md 7) and as PointNet++ does, on the batch's own device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from any2point_hf.data.counter_random import normal, uniform
from any2point_hf.modeling.errors import ConfigurationError

_ROTATED_PLANES = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}
_JITTER_LIMIT = 5  # in deviations, as in PointNet's 0.01 clipped at 0.05
# What random numbers are drawn for; each purpose has its own numbers.
_SUBSET, _SCALE, _SHIFT, _ANGLE, _JITTER, _DROP_SHARE, _DROP, _MIRROR = range(8)


@dataclass(frozen=True)
class Augmentation:
    """Random jitter, mirroring, scale of each axis, shift, rotation about an axis, and loss of points, in this order.

    Args:
        scale: range of each axis' factor; (2/3, 3/2) is ModelNet's, (0.9, 1.1) ScanObjectNN's.
        shift: largest shift of each axis, in the units of the points.
        rotation_axis: vertical axis of data whose heading means nothing; None for aligned data.
        jitter: deviation of the noise on every coordinate, in the units of the points; 0.01 is common. Clipped at
            five deviations.
        drop: largest share of a cloud's points that is lost, drawn for each cloud; 0.875 is PointNet++'s. Lost points
            are put onto the cloud's first one, so that shapes stay.
        mirror_axis: axis along which half of the clouds are mirrored, for data whose left and right mean the same;
            None where a shape and its mirror image differ.

    Raises:
        ConfigurationError: a range that is empty, not finite or not positive.

    Shapes: rows [B, N, 3 + F], coordinates first and then features, keys [B] int64 -> [B, N, 3 + F].
    """

    scale: tuple[float, float] = (2 / 3, 3 / 2)
    shift: float = 0.2
    rotation_axis: Literal["x", "y", "z"] | None = None
    jitter: float = 0.0
    drop: float = 0.0
    mirror_axis: Literal["x", "y", "z"] | None = None

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise ConfigurationError(f"scale must be a range of positive factors, low to high, got {low} to {high}.")
        for name in ("shift", "jitter"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigurationError(f"{name} must be finite and not negative, got {value}.")
        if not 0 <= self.drop < 1:
            raise ConfigurationError(f"drop must lie in [0, 1), got {self.drop}.")
        for name in ("rotation_axis", "mirror_axis"):
            if getattr(self, name) not in (None, *_ROTATED_PLANES):
                raise ConfigurationError(f"{name} must be x, y, z or none, got {getattr(self, name)!r}.")

    def __call__(self, rows: Tensor, keys: Tensor, normal_columns: Sequence[int] = ()) -> Tensor:
        """Augmented points, in the input's dtype and on its device; the same for the same cloud and key.

        Args:
            rows: [B, N, 3 + F] floating: coordinates, and features, which stay with their points.
            keys: [B] int64; a cloud's key decides all of its draws.
            normal_columns: of a normal's x, y and z, which are turned with their surface; empty for none.
        """
        points = rows[..., :3]
        normals = rows[..., list(normal_columns)] if normal_columns else None
        if self.jitter:
            noise = normal(keys, _JITTER, points[0].numel()).clamp(-_JITTER_LIMIT, _JITTER_LIMIT)
            points = points + self.jitter * noise.to(points.dtype).view_as(points)
        low, high = self.scale
        factors = uniform(keys, _SCALE, 3).to(points.dtype) * (high - low) + low
        if self.mirror_axis is not None:  # a factor of −1, by which normals turn as well
            axis = "xyz".index(self.mirror_axis)
            factors[:, axis] *= torch.where(uniform(keys, _MIRROR, 1)[:, 0] < 0.5, -1, 1).to(points.dtype)
        shifts = (uniform(keys, _SHIFT, 3).to(points.dtype) * 2 - 1) * self.shift
        points = points * factors.unsqueeze(1) + shifts.unsqueeze(1)
        if normals is not None:  # what is stretched along an axis turns away from it
            normals = F.normalize(normals / factors.unsqueeze(1), dim=-1)
        if self.rotation_axis is not None:
            angles = uniform(keys, _ANGLE, 1).to(points.dtype) * (2 * math.pi)
            points = _rotated(points, angles, *_ROTATED_PLANES[self.rotation_axis])
            normals = None if normals is None else _rotated(normals, angles, *_ROTATED_PLANES[self.rotation_axis])
        if rows.shape[-1] > 3:
            rows = torch.cat([points, rows[..., 3:]], dim=-1)
            if normals is not None:
                rows[..., list(normal_columns)] = normals
        else:
            rows = points
        if self.drop:
            share = uniform(keys, _DROP_SHARE, 1) * self.drop
            lost = uniform(keys, _DROP, points.shape[1]) < share
            rows = torch.where(lost.unsqueeze(-1), rows[:, :1], rows)
        return rows


def random_subset(rows: Tensor, num_points: int, keys: Tensor) -> Tensor:
    """A random subset of each cloud's points (of 1200 sampled ones, 1024 go in).

    Args:
        rows: [B, S, 3 + F], points with their features.
        num_points: how many to keep; all if there are no more.
        keys: [B] int64, one for each cloud.

    Returns:
        [B, num_points, 3 + F].
    """
    available = rows.shape[1]
    if available <= num_points:
        return rows
    order = uniform(keys, _SUBSET, available).argsort(dim=1, stable=True)[:, :num_points]
    return rows.gather(1, order.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def _rotated(points: Tensor, angles: Tensor, first: int, second: int) -> Tensor:
    """[B, N, 3] turned by [B, 1] radians in the plane of two axes."""
    rotated = points.clone()
    rotated[..., first] = points[..., first] * angles.cos() - points[..., second] * angles.sin()
    rotated[..., second] = points[..., first] * angles.sin() + points[..., second] * angles.cos()
    return rotated
