"""The difference of two settings over the seeds that both were trained with, and how sure it is.

Runs of one seed share start values, order of clouds and augmentation, so their difference varies less than either.
"""

import math
import statistics
from collections.abc import Mapping

import numpy as np

FEWEST_SEEDS = 3


def t_quantile(degrees: int, probability: float = 0.975) -> float:
    """The quantile of Student's t distribution.

    With t = √degrees · tan θ the density is proportional to cos^(degrees − 1) θ, which is summed up on a fine grid.

    Args:
        degrees: of freedom, at least 1.
        probability: between 0.5 and 1.
    """
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(2 * probability - 1, below / below[-1], angles)
    return math.sqrt(degrees) * math.tan(angle)


def common_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> list[int]:
    """The seeds that both have, ascending."""
    return sorted(first.keys() & second.keys())


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, float, int]:
    """Mean of first − second over the seeds of both, half the width of its two-sided 95 % t-interval, and their number.

    Args:
        first: a figure by seed.
        second: the same figure of what is compared with, by seed.

    Raises:
        ValueError: they have fewer than three seeds in common.
    """
    differences = [first[seed] - second[seed] for seed in common_seeds(first, second)]
    count = len(differences)
    if count < FEWEST_SEEDS:
        raise ValueError(f"a paired difference needs at least {FEWEST_SEEDS} common seeds, got {count}.")
    half_width = t_quantile(count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return statistics.fmean(differences), half_width, count
