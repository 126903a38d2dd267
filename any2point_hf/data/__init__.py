"""Point-cloud data sets as Hugging Face data sets: built-in shapes, official data sets, folders, or one .npz file."""

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
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.point_clouds.checks import local_float32
from any2point_hf.point_clouds.invalid import DroppedPoints

__all__ = [
    "SHAPE_NAMES",
    "build_dataset_dict",
    "load_modelnet",
    "load_point_cloud_dataset",
    "load_scanobjectnn",
    "load_shapenetpart",
    "make_shapes",
]


def load_point_cloud_dataset(
    source: str | os.PathLike[str], *, seed: int = 0, drop_invalid: bool = False
) -> DatasetDict:
    """Loads a data set: the official ones memory-mapped from the cache of `datasets`, the others into memory.

    Args:
        source: "shapes" for the built-in shapes (a folder of that name: "./shapes"); the folder of ScanObjectNN,
            ModelNet or ShapeNetPart as published, with "#OBJ_BG", "#PB_T50_RS/split1" or "#modelnet10" after it to
            choose a variant; a folder `<class>/<split>/<file>` or `<split>/<class>/<file>`; or a path that ends in
            .npz.
        seed: of the shapes and of sampling points on meshes; not negative.
        drop_invalid: whether to drop points of folders and .npz files that are not finite, and those of more than a
            quarter of a cloud's at one place, with one warning that counts them; else such a cloud is an error. It has
            no part in official data sets, whose points have to be whole, nor in the built-in shapes.

    Returns:
        Splits `train` and `test` (and `validation` where a folder has it), with columns `points` (float32
        [N, 3], in the source's unit; N may vary) and `label` (ClassLabel). Official data sets have further columns.

    Raises:
        DatasetError: no such source, or a wrong layout, class or label in it.
        PointCloudError: a file of the folder cannot be read, or a cloud has invalid points; the message names it.
    """
    if seed < 0:
        raise DatasetError(f"seed must not be negative, got {seed}; use 0, 1, 2, …")
    if source == "shapes":
        return make_shapes(seed=seed)
    path, variant = _split_variant(source)
    dropped = DroppedPoints() if drop_invalid else None
    if path.is_dir():
        official = _load_official(path, variant)
        if official is not None:
            return official
        splits, class_names = read_folder(path, seed=seed, dropped=dropped)
    elif path.suffix.lower() == ".npz":
        splits, class_names = read_npz(path, dropped)
    else:
        found = "is a file that does not end in .npz" if path.exists() else "does not exist"
        raise DatasetError(
            f"Cannot load a data set from {os.fspath(source)!r}: no built-in data set has that name, and the "
            f"path {path.absolute()} {found}. Choices: 'shapes' (built in), a folder with "
            "<class>/<split>/<file> or <split>/<class>/<file>, the folder of ScanObjectNN, ModelNet or ShapeNetPart, "
            "or a .npz file with points, labels, split and "
            "class_names."
        )
    dataset = build_dataset_dict(splits, class_names)
    if dropped is not None:
        dropped.warn(sum(dataset.num_rows.values()))
    return dataset


def _split_variant(source: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Takes "FOLDER#VARIANT" apart, unless there is a path of that very name."""
    folder, mark, variant = os.fspath(source).rpartition("#")
    if mark and not Path(source).exists() and Path(folder).is_dir():
        return Path(folder), variant
    return Path(source), None


def _load_official(folder: Path, variant: str | None) -> DatasetDict | None:
    """Loads the folder if it has one of the official layouts."""
    if is_scanobjectnn(folder):
        name, _, split = (variant or "PB_T50_RS").partition("/")
        return load_scanobjectnn(folder, name, split or "main_split")
    if is_modelnet(folder):
        return load_modelnet(folder, variant)
    if variant is not None:
        raise DatasetError(f"Only ScanObjectNN and ModelNet have variants, got {variant!r} for {folder}. Leave it out.")
    return load_shapenetpart(folder) if is_shapenetpart(folder) else None


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
