"""Clusters against the best of all labellings."""

import itertools

import numpy as np
import pytest

from any2point_hf.pictures.clusters import clusters


def spread(values, labels):
    return sum(np.square(values[labels == label] - values[labels == label].mean()).sum() for label in set(labels))


@pytest.mark.parametrize("seed", range(5))
def test_no_labelling_is_better(seed):
    values = np.random.default_rng(seed).normal(size=7)
    labels = clusters(values)
    best = min(spread(values, np.array(all_labels)) for all_labels in itertools.product(range(3), repeat=7))
    assert spread(values, labels) == pytest.approx(best)
    means = [values[labels == label].mean() for label in range(3)]
    assert means == sorted(means)


def test_order_does_not_matter():
    values = np.random.default_rng(1).normal(size=50).astype(np.float32)
    order = np.random.default_rng(2).permutation(50)
    np.testing.assert_array_equal(clusters(values[order]), clusters(values)[order])


def test_equal_values_stay_together():
    np.testing.assert_array_equal(clusters(np.array([5.0, 1, 5, 1, 9, 1, 5.1, 1])), [1, 0, 1, 0, 2, 0, 1, 0])


def test_fewer_values_than_clusters():
    np.testing.assert_array_equal(clusters(np.array([0.5, 0.5, 0.5])), [0, 0, 0])
    np.testing.assert_array_equal(clusters(np.array([0.7, 0.5, 0.7])), [1, 0, 1])
