"""How good answers are that are not one class: several classes of a cloud, or numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

THRESHOLD = 0.5
"""From which probability on a class counts as one of a cloud's."""

MULTI_LABEL_METRICS = ("mean_average_precision", "f1_micro", "f1_macro", "exact_match")
REGRESSION_METRICS = ("r2", "mae", "rmse")
"""What a training reports; the first one chooses the best epoch."""


def multi_label_metrics(probabilities: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """`MULTI_LABEL_METRICS`, and `per_class` (class name to `average_precision`, `f1` and `num_clouds`).

    A class counts from a probability of 0.5 on. Average precision, as scikit-learn has it, does not depend on that. The
    means over classes leave out those that no cloud has (their values are None).

    Args:
        probabilities: [n, classes] of each class by itself.
        targets: [n, classes] of 0 and 1.
        names: of the classes.
    """
    truth, answers = targets > 0.5, probabilities >= THRESHOLD
    hits, counts = (truth & answers).sum(axis=0), truth.sum(axis=0)
    said = answers.sum(axis=0)
    precision = [average_precision(probabilities[:, index], truth[:, index]) for index in range(len(names))]
    f1 = [
        2 * hit / (count + answered) if count else None for hit, count, answered in zip(hits, counts, said, strict=True)
    ]
    return {
        "mean_average_precision": _mean(precision),
        "f1_micro": float(2 * hits.sum() / max(counts.sum() + said.sum(), 1)),
        "f1_macro": _mean(f1),
        "exact_match": float((truth == answers).all(axis=1).mean()),
        "per_class": {
            name: {"average_precision": average, "f1": score and float(score), "num_clouds": int(count)}
            for name, average, score, count in zip(names, precision, f1, counts, strict=True)
        },
    }


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """The mean precision at each right answer, by falling score [n]; None where there is no right one [n].

    Answers of equal scores come together, whatever their order.
    """
    if not truth.any():
        return None
    order = np.argsort(-scores, kind="stable")
    sorted_scores, right = scores[order], np.cumsum(truth[order])
    last = np.r_[np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1]  # of each run of equal scores
    gained = np.diff(right[last], prepend=0)
    return float((gained * right[last] / (last + 1)).sum() / right[-1])


def regression_metrics(predicted: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """`r2`, `mae` and `rmse`, each the mean over targets, and `per_target` (target name to the same three).

    R² is the share of the variance that the answers explain; it is None for a target that is the same for all clouds,
    and in the mean such targets are left out. Absolute and squared errors are in a target's own unit, so their means
    over targets of different units say little.

    Args:
        predicted: [n, targets].
        targets: [n, targets].
        names: of the targets.
    """
    errors = np.asarray(predicted, dtype=np.float64) - targets
    spread = ((targets - targets.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=0)
    per_target: dict[str, dict[str, float | None]] = {}
    for index, name in enumerate(names):
        squared = float((errors[:, index] ** 2).sum())
        per_target[name] = {
            "r2": 1 - squared / float(spread[index]) if spread[index] > 0 else None,
            "mae": float(np.abs(errors[:, index]).mean()),
            "rmse": float(np.sqrt(squared / len(errors))),
        }
    return {name: _mean([values[name] for values in per_target.values()]) for name in REGRESSION_METRICS} | {
        "per_target": per_target
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def head_metrics(outputs: np.ndarray, targets: np.ndarray, names: Sequence[str], task: str) -> Mapping[str, Any]:
    """The metrics of a task, "multi-label" or "regression".

    Args:
        outputs: logits [n, names] of a model; of a regression its answers.
        targets: [n, names].
        names: of the classes or targets.
        task: which.
    """
    if task == "regression":
        return regression_metrics(outputs, targets, names)
    probabilities = np.exp(-np.logaddexp(0, -outputs.astype(np.float64)))  # the sigmoid, without an overflow
    return multi_label_metrics(probabilities, targets, names)
