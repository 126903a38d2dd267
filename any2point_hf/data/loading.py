"""Loads any source of point clouds as a data set: built-in, official, on the Hub, of `datasets`, folders, .npz."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, List, Value

from any2point_hf.data.folder import read_folder, read_target_folder
from any2point_hf.data.modelnet import is_modelnet, load_modelnet
from any2point_hf.data.names import BUILT_IN
from any2point_hf.data.npz import read_npz, target_task_of_npz
from any2point_hf.data.parts.dataset import PART, is_part_dataset
from any2point_hf.data.parts.loading import is_part_source, load_part_dataset
from any2point_hf.data.parts.shapes import make_part_shapes
from any2point_hf.data.parts.tables import Tables
from any2point_hf.data.scanobjectnn import is_scanobjectnn, load_scanobjectnn
from any2point_hf.data.shape_measures import make_measured_shapes
from any2point_hf.data.shapenetpart import is_shapenetpart, load_shapenetpart
from any2point_hf.data.shapes import make_shapes
from any2point_hf.data.sources import IN_MEMORY, DataSource, Place, check_no_variant, find_place, open_tables
from any2point_hf.data.splits import with_own_splits, with_test_split
from any2point_hf.data.targets import TargetTask, label_type, target_task_of, target_task_of_tables
from any2point_hf.modeling.errors import DatasetError, listed
from any2point_hf.point_clouds.checks import local_float32
from any2point_hf.point_clouds.features import FEATURE_GROUPS, feature_names, features_of, grouped_features
from any2point_hf.point_clouds.files import PointCloud
from any2point_hf.point_clouds.invalid import DroppedPoints
from any2point_hf.point_clouds.reading import CloudReader

Task: TypeAlias = Literal["classification", "multi-label", "regression", "segmentation"]
"""What a model says: a class for each cloud, several, or numbers; or a part for each point."""

TASKS: tuple[Task, ...] = get_args(Task)


def task_of_dataset(dataset: Mapping[str, Dataset]) -> Task:
    """What a data set that was loaded is for."""
    if is_part_dataset(dataset):
        return "segmentation"
    return target_task_of(next(iter(dataset.values())).features) or "classification"


def load_point_cloud_dataset(
    source: DataSource,
    *,
    seed: int = 0,
    drop_invalid: bool = False,
    features: Sequence[str] = (),
    task: Task | None = None,
    label_column: str | Sequence[str] | None = None,
) -> DatasetDict:
    """Loads a data set: folders of clouds, .npz files and shapes into memory, the others memory-mapped from a cache.

    Args:
        source: one of

            - "shapes" for the built-in shapes, "shapes-parts" for those of them that have parts, "shapes-measures"
              for solid ones with their volume, surface area and extents (a folder of that name: "./shapes");
            - "user/name", "user/name@revision" or "user/name#config" on the Hub; a path of that name goes first;
            - the folder of ScanObjectNN, ModelNet or ShapeNetPart as published, with "#OBJ_BG", "#PB_T50_RS/split1" or
              "#modelnet10" after it to choose a variant;
            - a folder `<class>/<split>/<file>`, `<split>/<class>/<file>` or `<class>/<file>`, or one with a
              metadata.csv or metadata.jsonl that has `file_name` and `label`;
            - a .parquet, .arrow or .jsonl file, a folder of them, or one that `save_to_disk` wrote;
            - a path that ends in .npz;
            - a Dataset or DatasetDict of `datasets` in memory.
        seed: of the shapes, of sampling points on meshes, and of a test split where there is none; not negative.
        drop_invalid: whether to drop points that are not finite, and those of more than a quarter of a cloud's at one
            place, with one warning that counts them; else such a cloud is an error. It has no part in official data
            sets, whose points have to be whole, nor in the built-in shapes.
        features: what is read of each point besides its place, such as `["rgb", "normal"]` (names and groups of
            `point_clouds/features.py`). Files and .npz are read for them; other data sets must have columns of these
            names, or meshes.
        task: "classification" for a class for each cloud, "multi-label" for several, "regression" for numbers,
            "segmentation" for a part for each point; None for what the source is for: segmentation if it has labels of
            points and none of clouds, or classes of parts in a column `part`, or if `label_column` is given; regression
            if its label is a single floating-point number; several classes only where the source's own form says so
            (`targets.py`; a .npz with labels [M, C]).
        label_column: for segmentation the column with the label of each point, in tables or in a folder's files; for
            several classes or numbers the column, or columns, with them (a list, or one text with commas); None for one
            of a usual name in tables.

    Returns:
        Splits `train` and `test` (and `validation` where there is one; of a source without a training split `test`
        alone), with columns `points` (float32
        [N, 3], in the source's unit; N may vary) and `label` (ClassLabel; for several classes or numbers a dict of
        each one's name and value), and the source's further columns. For
        segmentation there are `part` (a list of ClassLabel, −100 for a point without one) and, where there are any,
        `category` (ClassLabel) in place of `label`.

    Raises:
        DatasetError: no such source, or a wrong layout, column, class or label in it, or a feature is missing.
        PointCloudError: a cloud cannot be read or has invalid points; the message names its file or row.
        HubError: the Hub does not answer, refuses or breaks off, and its cache does not help.
    """
    if seed < 0:
        raise DatasetError(f"seed must not be negative, got {seed}; use 0, 1, 2, …")
    if task not in (None, *TASKS):
        raise DatasetError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
    if task == "classification" and label_column is not None:
        raise DatasetError("label_column is for segmentation and for labels of clouds, got task='classification'.")
    if isinstance(source, str) and source in BUILT_IN and task not in (None, BUILT_IN[source]):
        raise DatasetError(
            f"{source!r} is for {BUILT_IN[source]}, got task={task!r}. The built-in data are "
            f"{', '.join(f'{name} for {of}' for name, of in BUILT_IN.items())}."
        )
    if label_column is not None and isinstance(source, str) and source in BUILT_IN:
        raise DatasetError(f"{source!r} is built in, and has no column to choose, got {label_column!r}. Leave it out.")
    reader = CloudReader(seed, feature_names(features), DroppedPoints() if drop_invalid else None)
    if source == "shapes":
        return _reported(make_shapes(seed=seed), reader)
    if source == "shapes-parts":
        return _reported(make_part_shapes(seed=seed), reader)
    if source == "shapes-measures":
        return _reported(make_measured_shapes(seed=seed), reader)
    place, tables = _opened(source)
    path = place.path
    if label_column is not None and path.suffix.lower() == ".npz":
        raise DatasetError(
            f"{place.name}: the labels of an .npz are the array 'part' (of points) or 'labels' (of clouds), got "
            f"label_column={label_column!r}. Leave it out, or save them under that name."
        )
    if task is None and label_column is None:
        task = _target_task(place, tables)
    if task == "multi-label" or task == "regression":
        return _reported(_load_targets(place, tables, reader, task, label_column), reader)
    if label_column is not None and not isinstance(label_column, str):
        raise DatasetError(f"several columns are labels of clouds, with a task such as 'regression', got {task!r}.")
    is_for_parts = task == "segmentation" or label_column is not None
    if is_for_parts or (task is None and is_part_source(place, tables)):
        parts = load_part_dataset(place, tables, reader, label_column)
        if parts is not None:
            return _reported(parts, reader)
    if tables is not None:
        dataset = with_own_splits(tables, place.name, reader)
        if is_part_dataset(dataset):  # and asked for as one of classes
            dataset = DatasetDict({name: split.remove_columns(PART) for name, split in dataset.items()})
        return _reported(dataset, reader)
    official = _load_official(place)
    if official is not None:
        return _reported(official, reader)
    if path.is_dir():
        check_no_variant(place)
        splits, class_names = read_folder(path, reader)
    else:
        splits, class_names = read_npz(path, reader)
    dataset = with_test_split(build_dataset_dict(splits, class_names), place.name, seed=seed)
    return _reported(dataset, reader)


def _target_task(place: Place, tables: Tables | None) -> TargetTask | None:
    """Whether a source by itself is for several classes or for numbers."""
    if tables is not None:
        return target_task_of_tables(tables)
    return target_task_of_npz(place.path) if place.path.suffix.lower() == ".npz" else None


def _load_targets(
    place: Place, tables: Tables | None, reader: CloudReader, task: TargetTask, label_column: Any
) -> DatasetDict:
    """The data set of clouds with several classes or with numbers."""
    if tables is not None:
        return with_own_splits(tables, place.name, reader, task, label_column)
    if _is_official(place.path):
        raise DatasetError(f"{place.name} has one class for each cloud, and these are asked for {task}.")
    if place.path.is_dir():
        splits, names = read_target_folder(place.path, reader, task, label_column)
    else:
        splits, names = read_npz(place.path, reader, task)
    return with_test_split(build_dataset_dict(splits, names, task), place.name, seed=reader.seed)


def _reported(dataset: DatasetDict, reader: CloudReader) -> DatasetDict:
    """The data set, after a check of its columns of features and a warning of what was dropped of it."""
    for split, part in dataset.items():
        found = {name for column in part.column_names for name in features_of(column)}
        if missing := [name for name in reader.feature_names if name not in found]:
            raise DatasetError(
                f"the split {split!r} must have columns for the features {listed(missing)}, its columns are "
                f"{listed(part.column_names)}. Rename the ones they are (docs/data.md), or leave the features out."
            )
    if reader.dropped is not None:
        reader.dropped.warn(sum(dataset.num_rows.values()))
    return dataset


def _opened(source: DataSource) -> tuple[Place, Tables | None]:
    """Where a source's files are, and its tables, if it has any and none of the official layouts."""
    if not isinstance(source, (str, os.PathLike)):
        return Place(Path(), None, IN_MEMORY), source
    place = find_place(source)
    return place, None if _is_official(place.path) else open_tables(place)


def _is_official(path: Path) -> bool:
    return is_scanobjectnn(path) or is_modelnet(path) or is_shapenetpart(path)


def _load_official(place: Place) -> DatasetDict | None:
    """Loads the folder if it has one of the official layouts."""
    folder, variant = place.path, place.variant
    if is_scanobjectnn(folder):
        name, _, split = (variant or "PB_T50_RS").partition("/")
        return load_scanobjectnn(folder, name, split or "main_split")
    if is_modelnet(folder):
        return load_modelnet(folder, variant)
    return load_shapenetpart(folder) if variant is None and is_shapenetpart(folder) else None


def build_dataset_dict(
    splits: Mapping[str, tuple[Iterable[np.ndarray | PointCloud], Sequence[Any]]],
    class_names: Sequence[str],
    task: TargetTask | None = None,
) -> DatasetDict:
    """Builds the data set from arrays; every source goes through here.

    Args:
        splits: for every split its clouds, [N, 3] each (N may vary) or with features, and as many class indices. Clouds
            in map coordinates, that float32 cannot hold, are moved to their means.
        class_names: the names that the class indices stand for.
        task: what the labels are, where they are not one class but a dict of values by name.

    Returns:
        The same splits in memory, with columns `points`, `label` and those of the features, such as `rgb`.
    """
    # Array2D reads back 20 times faster than nested lists: its rows come as views, not as Python lists.
    array, number = Array2D((None, 3), "float32"), List(Value("float32"))
    dataset = {}
    for split, (clouds, labels) in splits.items():
        rows: dict[str, list[Any]] = {"points": [], "label": list(labels)}
        for cloud in clouds:
            points, features = cloud if isinstance(cloud, PointCloud) else PointCloud(cloud)
            rows["points"].append(local_float32(points))
            for name, values in grouped_features(features).items():
                rows.setdefault(name, []).append(values)
        kinds = {
            name: array if name in FEATURE_GROUPS and values[0].ndim == 2 else number
            for name, values in rows.items()
            if name not in ("points", "label")
        }
        label: Any = ClassLabel(names=list(class_names)) if task is None else label_type(class_names, task)
        types = Features(points=array, label=label, **kinds)
        dataset[split] = Dataset.from_dict(rows, features=types)
    return DatasetDict(dataset)
