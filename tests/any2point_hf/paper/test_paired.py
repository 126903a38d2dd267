import math
import statistics

import numpy as np
import pytest

from any2point_hf.paper.paired import common_seeds, paired_difference, t_quantile


def test_a_difference_worked_out_by_hand():
    mean, half_width, count = paired_difference({0: 3.0, 1: 5.0, 2: 10.0}, {0: 1.0, 1: 2.0, 2: 6.0})
    assert (mean, count) == (3.0, 3)  # of 2, 3 and 4, whose deviation is 1
    assert half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-4)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (20, 2.086), (30, 2.042)]
)  # as printed in textbooks
def test_known_quantiles(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)
    assert t_quantile(9, 0.95) == pytest.approx(1.8331, abs=2e-4)


def test_between_the_quantiles_lies_95_percent():
    for freedom in range(2, 31):
        quantile = t_quantile(freedom)
        at = np.linspace(-quantile, quantile, 20001)
        logarithm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        density = np.exp(logarithm - (freedom + 1) / 2 * np.log1p(at**2 / freedom))
        assert float(((density[1:] + density[:-1]) / 2 * np.diff(at)).sum()) == pytest.approx(0.95, abs=1e-5)


def test_only_the_seeds_of_both_count():
    first, second = {4: 1.0, 0: 2.0, 1: 3.0, 2: 9.0}, {0: 1.0, 1: 1.0, 2: 1.0, 3: 50.0}
    assert common_seeds(first, second) == [0, 1, 2]
    mean, _, count = paired_difference(first, second)
    assert (mean, count) == (pytest.approx(11 / 3), 3)


def test_what_both_have_in_common_goes_away():
    shared = [0.1, 7.0, -3.0, 2.0]
    first, second = (dict(enumerate(value + gain for value in shared)) for gain in (1.5, 0.0))
    assert paired_difference(first, second) == (pytest.approx(1.5), pytest.approx(0, abs=1e-12), 4)


def test_many_seeds():
    values = {seed: float(seed % 7) for seed in range(100)}
    _, half_width, count = paired_difference(values, dict.fromkeys(values, 0.0))
    assert count == 100
    assert half_width == pytest.approx(1.9842 * statistics.stdev(values.values()) / 10, rel=1e-4)


def test_too_few_seeds():
    with pytest.raises(ValueError, match="at least 3 common seeds, got 2"):
        paired_difference({0: 1.0, 1: 2.0, 5: 3.0}, {0: 1.0, 1: 1.0, 2: 1.0})
