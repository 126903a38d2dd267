"""Do clouds of one class lie together? Retrieval and neighbours by the cosine of pooled features."""

from typing import Any

import numpy as np

NUM_NEIGHBORS = 10
"""Of the vote of `neighbor_accuracy`."""


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows [n, F] divided by their lengths, float32; a row of zeros stays."""
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def retrieval_scores(features: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """How well each cloud, as a query, finds the others of its class.

    Args:
        features: [n, F].
        labels: [n] int in 0…num_classes − 1.
        num_classes: of the model.

    Returns:
        `recall_at_1` (share of queries whose nearest other cloud is of their class), `mean_average_precision` (mean
        over the classes), and `average_precision`, for each class the mean over its queries. Queries without another
        cloud of their class are left out, and a class of such is None.
    """
    unit = unit_rows(features)
    hits: list[list[bool]] = [[] for _ in range(num_classes)]
    precisions: list[list[float]] = [[] for _ in range(num_classes)]
    for index, label in enumerate(labels):
        similarities = unit @ unit[index]
        similarities[index] = -np.inf  # last, and never of use
        order = np.argsort(-similarities, kind="stable")[:-1]
        relevant = labels[order] == label
        if relevant.any():
            hits[label].append(bool(relevant[0]))
            precisions[label].append(_average_precision(relevant))
    by_class = [float(np.mean(values)) if values else None for values in precisions]
    known = [value for value in by_class if value is not None]
    return {
        "recall_at_1": float(np.mean([hit for of_class in hits for hit in of_class])) if known else None,
        "mean_average_precision": float(np.mean(known)) if known else None,
        "average_precision": by_class,
    }


def _average_precision(relevant: np.ndarray) -> float:
    """Mean, over the relevant places of a ranking, of the share of relevant ones up to there: [m] bool."""
    places = np.flatnonzero(relevant) + 1
    return float((np.arange(1, len(places) + 1) / places).mean())


def neighbor_accuracy(
    train_features: np.ndarray, train_labels: np.ndarray, features: np.ndarray, labels: np.ndarray, num_classes: int
) -> float:
    """Accuracy of a vote of the ten nearest training clouds; of classes with as many votes the more similar one wins.

    Args:
        train_features: [m, F].
        train_labels: [m] int.
        features: [n, F].
        labels: [n] int.
        num_classes: of the model.
    """
    train, queries = unit_rows(train_features), unit_rows(features)
    num_neighbors = min(NUM_NEIGHBORS, len(train))
    correct = 0
    for query, label in zip(queries, labels, strict=True):
        similarities = train @ query
        nearest = np.argsort(-similarities, kind="stable")[:num_neighbors]
        votes = np.bincount(train_labels[nearest], minlength=num_classes)
        closeness = np.bincount(train_labels[nearest], weights=similarities[nearest] + 1, minlength=num_classes)
        correct += int(np.lexsort((closeness, votes))[-1] == label)
    return correct / len(labels)
