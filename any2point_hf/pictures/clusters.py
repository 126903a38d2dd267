"""Clusters of numbers (the paper's figure 6), found exactly.

In one dimension a cluster is an interval, so that k-means needs no random start: all ways to cut the sorted numbers are
compared.
"""

import itertools

import numpy as np

NUM_CLUSTERS = 3  # of figure 6


def clusters(values: np.ndarray) -> np.ndarray:
    """The three clusters with the smallest sum of squared distances from their means; equal values are never parted.

    Args:
        values: [G] float, such as the similarities of `measures.cls_similarity` in one block.

    Returns:
        [G] int64, 0 for the cluster of the lowest values; fewer clusters where there are fewer different values.
    """
    values = np.asarray(values, np.float64)
    places, where, repeats = np.unique(values - values.mean(), return_inverse=True, return_counts=True)
    sizes = np.concatenate([[0], repeats.cumsum()])
    sums = np.concatenate([[0], (repeats * places).cumsum()])
    num_cuts = min(NUM_CLUSTERS, len(places)) - 1
    cuts = np.array(list(itertools.combinations(range(1, len(places)), num_cuts)), np.int64)
    bounds = np.pad(cuts, ((0, 0), (1, 1)), constant_values=((0, 0), (0, len(places))))
    between = (np.diff(sums[bounds]) ** 2 / np.diff(sizes[bounds])).sum(axis=1)  # the most between is the least within
    return np.searchsorted(cuts[between.argmax()], where.reshape(-1), side="right")
