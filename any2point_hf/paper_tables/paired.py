"""The difference of two settings over the seeds that both were trained with, and how sure it is.

Runs of one seed share start values, order of clouds and augmentation, so their difference varies less than either.
"""

import math
import statistics
from collections.abc import Mapping

FEWEST_SEEDS = 3
# Student's t at 0.975 for 2…30 degrees of freedom; beyond them the last one is a little too wide.
T_QUANTILES = (
    *(4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010),  # 2…11
    *(2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796),  # 12…21
    *(2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),  # 22…30
)


def common_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> list[int]:
    """The seeds of both, ascending."""
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
    quantile = T_QUANTILES[min(count - FEWEST_SEEDS, len(T_QUANTILES) - 1)]
    return statistics.fmean(differences), quantile * statistics.stdev(differences) / math.sqrt(count), count
