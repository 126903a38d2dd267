"""What the pooled features alone are worth: retrieval, neighbours and a linear probe, without the adapter's head."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..linear_probe import accuracy, fit_linear_probe
from ..modeling.errors import DatasetError, listed
from ..modeling.tokenizer.point_ops import split_features
from ..trained_adapter import SplitOfAdapter
from .retrieval import neighbor_accuracy, retrieval_scores


@torch.no_grad()
def pooled_features(opened: SplitOfAdapter, batch_size: int = 32) -> np.ndarray:
    """The features that the head reads, [n, 2D] float32, of every cloud of a split.

    Args:
        opened: the adapter and the split.
        batch_size: clouds at a time; the result does not depend on it.
    """
    rows = [opened.model.base_model(*split_features(batch)).pooler_output for batch in opened.batches(batch_size)]
    return torch.cat(rows).float().cpu().numpy()


def evaluate_retrieval(opened: SplitOfAdapter, batch_size: int = 32) -> dict[str, Any]:
    """`recall_at_1`, `mean_average_precision` and `per_class` of a split whose clouds look for each other.

    Args:
        opened: the adapter and the split.
        batch_size: clouds at a time.
    """
    names = opened.class_names
    scores = retrieval_scores(pooled_features(opened, batch_size), opened.labels, len(names))
    return {
        "recall_at_1": scores["recall_at_1"],
        "mean_average_precision": scores["mean_average_precision"],
        "per_class": dict(zip(names, scores["average_precision"], strict=True)),
    }


def evaluate_probe(opened: SplitOfAdapter, train_split: str = "train", batch_size: int = 32) -> dict[str, float]:
    """`linear_probe` and `nearest_neighbors`: accuracies of the two, fitted to the features of the training split.

    Args:
        opened: the adapter and the split to be answered for.
        train_split: of the same data set.
        batch_size: clouds at a time.

    Raises:
        DatasetError: there is no such training split, or it is the one to be answered for.
    """
    if train_split not in opened.dataset or train_split == opened.split:
        others = [name for name in opened.dataset if name != opened.split]
        raise DatasetError(
            f"a probe is fitted to the split {train_split!r} and tried on another one, got --split {opened.split} "
            f"of a data set whose other splits are {listed(others) or 'none'}."
        )
    train = replace(opened, split=train_split)
    features = [pooled_features(part, batch_size) for part in (train, opened)]
    labels, num_classes = [part.labels for part in (train, opened)], len(opened.class_names)
    tensors = [torch.from_numpy(array) for array in (*features, *labels)]
    probe = fit_linear_probe(tensors[0], tensors[2], num_classes)
    return {
        "linear_probe": accuracy(probe, tensors[1], tensors[3]),
        "nearest_neighbors": neighbor_accuracy(features[0], labels[0], features[1], labels[1], num_classes),
    }
