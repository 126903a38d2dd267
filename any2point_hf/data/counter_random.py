"""Random numbers that are a function of what they are drawn for, not of what was drawn before.

Unusual here: no generator and no state. A cloud's numbers follow from (seed, epoch, cloud, purpose) alone, so they are
the same on a CPU and a GPU, in one process and in eight, in any batch, and after a resumption. The mixing function is
splitmix64's finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
"""

import math

import torch
from torch import Tensor

# Odd 64-bit constants, written as the signed integers that torch has.
_GOLDEN_RATIO = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND_FACTOR = 0x94D049BB133111EB - (1 << 64)
_FLOAT_BITS = 24  # of a float32's mantissa, so that every number is exact and below 1


def mix(keys: Tensor, value: int | Tensor) -> Tensor:
    """New keys out of keys and a value: [...] int64 and an integer or int64 that broadcasts -> [...] int64."""
    mixed = (keys ^ value) + _GOLDEN_RATIO  # int64 wraps around
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST_FACTOR
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND_FACTOR
    return mixed ^ _shifted(mixed, 31)


def uniform(keys: Tensor, purpose: int, count: int) -> Tensor:
    """Numbers in [0, 1).

    Args:
        keys: [B] int64, one for each cloud.
        purpose: what they are for; other purposes give other numbers.
        count: how many for each cloud.

    Returns:
        [B, count] float32.
    """
    bits = mix(mix(keys, purpose).unsqueeze(1), torch.arange(count, device=keys.device))
    return _shifted(bits, 64 - _FLOAT_BITS).to(torch.float32) * 2.0**-_FLOAT_BITS


def normal(keys: Tensor, purpose: int, count: int) -> Tensor:
    """Numbers of a standard normal (Box and Muller 1958); arguments and result as in `uniform`."""
    first, second = uniform(keys, purpose, 2 * count).chunk(2, dim=1)
    return (-2 * (1 - first).log()).sqrt() * (2 * math.pi * second).cos()


def _shifted(bits: Tensor, places: int) -> Tensor:
    """The logical shift to the right, which int64 does not have."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
