"""Point-cloud data sets as Hugging Face data sets: built-in, official, on the Hub, of `datasets`, folders, .npz."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features

from any2point_hf.data.folder import read_folder
from any2point_hf.data.modelnet import is_modelnet, load_modelnet
from any2point_hf.data.npz import read_npz
from any2point_hf.data.scanobjectnn import is_scanobjectnn, load_scanobjectnn
from any2point_hf.data.shapenetpart import is_shapenetpart, load_shapenetpart
from any2point_hf.data.shapes import SHAPE_NAMES, make_shapes
from any2point_hf.data.sources import IN_MEMORY, DataSource, find_place, open_tables
from any2point_hf.data.splits import with_own_splits, with_test_split
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.point_clouds.checks import local_float32

__all__ = [
    "SHAPE_NAMES",
    "build_dataset_dict",
    "load_modelnet",
    "load_point_cloud_dataset",
    "load_scanobjectnn",
    "load_shapenetpart",
    "make_shapes",
]


def load_point_cloud_dataset(source: DataSource, *, seed: int = 0) -> DatasetDict:
    """Loads a data set: folders of clouds, .npz files and shapes into memory, the others memory-mapped from a cache.

    Args:
        source: one of

            - "shapes" for the built-in shapes (a folder of that name: "./shapes");
            - "user/name", "user/name@revision" or "user/name#config" on the Hub; a path of that name goes first;
            - the folder of ScanObjectNN, ModelNet or ShapeNetPart as published, with "#OBJ_BG", "#PB_T50_RS/split1" or
              "#modelnet10" after it to choose a variant;
            - a folder `<class>/<split>/<file>`, `<split>/<class>/<file>` or `<class>/<file>`, or one with a
              metadata.csv or metadata.jsonl that has `file_name` and `label`;
            - a .parquet, .arrow or .jsonl file, a folder of them, or one that `save_to_disk` wrote;
            - a path that ends in .npz;
            - a Dataset or DatasetDict of `datasets` in memory.
        seed: of the shapes, of sampling points on meshes, and of a test split where there is none; not negative.

    Returns:
        Splits `train` and `test` (and `validation` where there is one; of a source without a training split `test`
        alone), with columns `points` (float32
        [N, 3], in the source's unit; N may vary) and `label` (ClassLabel), and the source's further columns.

    Raises:
        DatasetError: no such source, or a wrong layout, column, class or label in it.
        PointCloudError: a cloud cannot be read; the message names its file or row.
        HubError: the Hub does not answer, refuses or breaks off, and its cache does not help.
    """
    if seed < 0:
        raise DatasetError(f"seed must not be negative, got {seed}; use 0, 1, 2, …")
    if not isinstance(source, (str, os.PathLike)):
        return with_own_splits(source, IN_MEMORY, seed=seed)
    if source == "shapes":
        return make_shapes(seed=seed)
    place = find_place(source)
    path = place.path
    if path.is_dir():
        official = _load_official(path, place.variant)
        if official is not None:
            return official
    tables = open_tables(place)
    if tables is not None:
        return with_own_splits(tables, place.name, seed=seed)
    if path.is_dir():
        if place.variant is not None:
            raise DatasetError(
                f"Only ScanObjectNN, ModelNet and data sets with configs have variants, got {place.variant!r} for "
                f"{path}. Leave it out."
            )
        splits, class_names = read_folder(path, seed=seed)
    elif path.suffix.lower() == ".npz":
        splits, class_names = read_npz(path)
    else:
        found = "is a file of no kind that is read" if path.exists() else "does not exist"
        raise DatasetError(
            f"Cannot load a data set from {os.fspath(source)!r}: the path {path.absolute()} {found}. Choices: 'shapes' "
            "(built in), user/name on the Hub, a folder with <class>/<split>/<file> or <split>/<class>/<file>, the "
            "folder of ScanObjectNN, ModelNet or ShapeNetPart, a .parquet, .arrow or .jsonl file, or a .npz file with "
            "points, labels, split and class_names."
        )
    return with_test_split(build_dataset_dict(splits, class_names), place.name, seed=seed)


def _load_official(folder: Path, variant: str | None) -> DatasetDict | None:
    """Loads the folder if it has one of the official layouts."""
    if is_scanobjectnn(folder):
        name, _, split = (variant or "PB_T50_RS").partition("/")
        return load_scanobjectnn(folder, name, split or "main_split")
    if is_modelnet(folder):
        return load_modelnet(folder, variant)
    return load_shapenetpart(folder) if variant is None and is_shapenetpart(folder) else None


def build_dataset_dict(
    splits: Mapping[str, tuple[Iterable[np.ndarray], Sequence[int]]], class_names: Sequence[str]
) -> DatasetDict:
    """Builds the data set from arrays; every source goes through here.

    Args:
        splits: for every split its clouds, [N, 3] each (N may vary), and as many class indices. Clouds in map
            coordinates, that float32 cannot hold, are moved to their means.
        class_names: the names that the class indices stand for.

    Returns:
        The same splits in memory, with columns `points` and `label`.
    """
    # Array2D reads back 20 times faster than nested lists: its rows come as views, not as Python lists.
    features = Features(points=Array2D((None, 3), "float32"), label=ClassLabel(names=list(class_names)))
    columns = {
        split: {"points": [local_float32(cloud) for cloud in clouds], "label": list(labels)}
        for split, (clouds, labels) in splits.items()
    }
    return DatasetDict({split: Dataset.from_dict(rows, features=features) for split, rows in columns.items()})
