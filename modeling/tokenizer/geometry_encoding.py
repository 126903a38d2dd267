"""Sines and cosines of coordinates (method.md 1), by the formula; a CPU reads them from fast/sine_table.py."""

import torch
from torch import Tensor

from ..numerics.precision import widest_dtype

WAVELENGTH_BASE = 1000.0  # α of method.md 1
ANGLE_SCALE = 100.0  # β of method.md 1


def geometry_encoding(offsets: Tensor, channels: int) -> Tensor:
    """The encoding by its formula, axis-major: of each axis F = channels / 6 sines, then F cosines.

    Args:
        offsets: [..., 3] relative coordinates.
        channels: a multiple of 6.

    Returns:
        [..., channels], same dtype.
    """
    angles = offsets.unsqueeze(-1) * frequencies_of(channels // 6, offsets.device).to(offsets.dtype)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def frequencies_of(num_frequencies: int, device: torch.device) -> Tensor:
    """Rounded once, when they meet a coordinate: angles of up to 100 are where float32 loses most. [F]."""
    exponents = torch.arange(num_frequencies, device=device, dtype=widest_dtype(device)) / num_frequencies
    return ANGLE_SCALE / WAVELENGTH_BASE**exponents
