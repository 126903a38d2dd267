"""Few-shot folds: a few classes with a few training clouds each, and query clouds to be classified.

`ways` classes have `shots` support clouds each, and are tested on 20 query clouds each (Sharma and Kaul 2020, "Self-
supervised few-shot learning on point clouds"). A fold is a data set of its own, with splits `train` and `test`.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from ..data import build_dataset_dict, load_point_cloud_dataset
from ..data.sources import DataSource
from ..modeling.errors import DatasetError, listed
from .published_folds import is_published_folds, read_published_fold

NUM_QUERIES = 20
"""Query clouds of each class."""

DrawFold = Callable[[int, int, int], DatasetDict]
"""Ways, shots and the number of a fold."""


def open_folds(data: DataSource, drop_invalid: bool = False) -> DrawFold:
    """Opens what folds come from: the field's published files if `data` is their folder, else the training split.

    Args:
        data: what `load_point_cloud_dataset` takes, or the folder of `5way_10shot/0.pkl` and so on.
        drop_invalid: as in `load_point_cloud_dataset`; published folds are read as they are.

    Returns:
        A function of ways, shots and a fold's number that returns the fold, always the same one.

    Raises:
        Any2PointError: there is no such data set, or it has no training split.
    """
    if isinstance(data, (str, os.PathLike)) and is_published_folds(Path(data)):
        return partial(read_published_fold, Path(data))
    dataset = load_point_cloud_dataset(data, drop_invalid=drop_invalid, task="classification")
    if "train" not in dataset:
        raise DatasetError(f"folds are drawn from the split train, and the dataset has {listed(dataset)}.")
    return partial(draw_fold, dataset["train"])


def draw_fold(split: Dataset, ways: int, shots: int, fold: int) -> DatasetDict:
    """Draws classes, then each one's query and support clouds, all different; the test split is never touched.

    The number of the fold is the seed. A fold with more shots has the same classes and queries and further support
    clouds, as long as every class has enough clouds.

    Args:
        split: columns `points` and `label`.
        ways: how many classes, at least 2.
        shots: how many support clouds of each class, at least 1.
        fold: number of the fold, from 0.

    Returns:
        Splits `train` (the support) and `test` (the queries) with the drawn classes only, in the order of their labels.

    Raises:
        DatasetError: fewer than `ways` classes have `shots` + 20 clouds.
    """
    labels, names = np.asarray(split["label"]), split.features["label"].names
    wanted = shots + NUM_QUERIES
    large = [label for label in range(len(names)) if (labels == label).sum() >= wanted]
    if len(large) < ways:
        raise DatasetError(
            f"{ways} ways of {shots} shots and {NUM_QUERIES} queries need {ways} classes of at least {wanted} training "
            f"clouds, and {len(large)} of the {len(names)} classes have as many. Ask for fewer ways or shots."
        )
    generator = np.random.default_rng((fold, ways))
    chosen = sorted(generator.permutation(large)[:ways].tolist())
    rows: dict[str, list[int]] = {"train": [], "test": []}
    for label in chosen:
        members = generator.permutation(np.flatnonzero(labels == label))
        rows["test"] += members[:NUM_QUERIES].tolist()
        rows["train"] += members[NUM_QUERIES:wanted].tolist()
    clouds = split.select_columns(["points", "label"]).with_format("numpy")
    splits = {}
    for name, indices in rows.items():
        part = clouds.select(indices)
        splits[name] = (list(part["points"]), [chosen.index(label) for label in labels[indices].tolist()])
    return build_dataset_dict(splits, [names[label] for label in chosen])
