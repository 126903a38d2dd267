"""Are the probabilities true? Expected calibration error, and the temperature that mends it (arXiv 1706.04599)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

NUM_BINS = 15
TEMPERATURES = (0.05, 20.0)
"""The range of a fitted temperature."""

_STEPS = 60  # halvings of the range: more than float64 can tell apart


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """ECE: how far the probability of an answer is from the share of right answers (eq. 3), over 15 equal bins.

    Args:
        probabilities: [n, classes].
        labels: [n] int.
    """
    confidence, answers = probabilities.max(axis=1), probabilities.argmax(axis=1)
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - (answers == labels), minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T by which logits are divided for the least cross-entropy (section 4.2).

    The cross-entropy is convex in 1 / T, so the sign of its slope tells on which side of a value the best one lies.

    Args:
        logits: [n, classes] floating, of clouds that were not trained on.
        labels: [n] int64.

    Returns:
        T, within `TEMPERATURES`; the answers stay the same.
    """
    logits = logits.double()
    right = logits.gather(1, labels.unsqueeze(1)).squeeze(1)

    def slope(inverse: float) -> float:
        expected = (F.softmax(inverse * logits, dim=1) * logits).sum(dim=1)
        return float((expected - right).mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    with torch.no_grad():
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)
