"""ModelNet40 and ModelNet10 (Wu et al., 2015) as sampled clouds: text files with normals, or HDF5."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value

from any2point_hf.data.hdf5_files import check_hdf5, read_hdf5
from any2point_hf.data.official_files import (
    cached_dataset,
    checked_cloud,
    read_class_names,
    read_lines,
    read_table,
    require_files,
)
from any2point_hf.modeling.errors import DatasetError

MODELNET_VARIANTS = ("modelnet40", "modelnet10")
"""The two lists of shapes that the folder of text files has."""

_POINTS = Array2D((None, 3), "float32")
_TEXT_SOURCE = (
    "modelnet40_normal_resampled.zip from https://shapenet.cs.stanford.edu/media/modelnet40_normal_resampled.zip "
    "(<variant>_train.txt, <variant>_test.txt, <variant>_shape_names.txt and <class>/<class>_0001.txt …; meshes: "
    "https://modelnet.cs.princeton.edu)"
)
_HDF5_SOURCE = (
    "modelnet40_ply_hdf5_2048.zip from https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip "
    "(train_files.txt, test_files.txt, shape_names.txt and ply_data_train0.h5 …; meshes: "
    "https://modelnet.cs.princeton.edu)"
)


def is_modelnet(folder: Path) -> bool:
    """Whether the folder holds the lists of the text files or of the HDF5 files."""
    return _is_hdf5(folder) or any((folder / f"{variant}_train.txt").is_file() for variant in MODELNET_VARIANTS)


def _is_hdf5(folder: Path) -> bool:
    return (folder / "train_files.txt").is_file()


def load_modelnet(
    folder: str | os.PathLike[str], variant: str | None = None, *, cache_dir: str | os.PathLike[str] | None = None
) -> DatasetDict:
    """Loads ModelNet from `modelnet40_normal_resampled` or `modelnet40_ply_hdf5_2048`.

    The original `.off` meshes are read as a plain folder by `load_point_cloud_dataset`.

    Args:
        folder: the folder that holds the lists.
        variant: "modelnet40" or "modelnet10"; None for the first that has a list there. HDF5 files are of ModelNet40.
        cache_dir: of the Arrow files; None for the cache of `datasets`.

    Returns:
        Splits `train` and `test` with columns `points` (float32 [N, 3]; N is 10000 or 2048), `label` (in the order of
        the list of names), `id` and, if the files have it, `normal` (float32 [N, 3]).

    Raises:
        DatasetError: no such variant, or a file is missing, damaged, foreign or has impossible values.
    """
    root = Path(folder)
    if variant not in (None, *MODELNET_VARIANTS):
        raise DatasetError(f"A variant of ModelNet is one of {', '.join(MODELNET_VARIANTS)}, got {variant!r}.")
    if _is_hdf5(root):
        if variant == "modelnet10":
            raise DatasetError(
                f"{root} has ModelNet40's HDF5 files alone; modelnet10 has a list beside the text files."
            )
        return _load_hdf5(root, cache_dir)
    if variant is None:
        found = (name for name in MODELNET_VARIANTS if (root / f"{name}_train.txt").is_file())
        variant = next(found, MODELNET_VARIANTS[0])
    return _load_text(root, variant, cache_dir)


def _load_text(root: Path, variant: str, cache_dir: str | os.PathLike[str] | None) -> DatasetDict:
    lists = {name: root / f"{variant}_{name}.txt" for name in ("train", "test")}
    names_file = root / f"{variant}_shape_names.txt"
    require_files([*lists.values(), names_file], _TEXT_SOURCE)
    class_names = read_class_names(names_file)
    features = Features(points=_POINTS, normal=_POINTS, label=ClassLabel(names=class_names), id=Value("string"))
    shapes = {name: read_lines(path) for name, path in lists.items()}
    clouds = {}
    for name, shape_ids in shapes.items():
        classes = [shape_id.rpartition("_")[0] for shape_id in shape_ids]
        unknown = [shape_id for shape_id, label in zip(shape_ids, classes, strict=True) if label not in class_names]
        if unknown:
            raise DatasetError(
                f"{lists[name]} must list shapes like {class_names[0]}_0001, of a class in {names_file.name}, got "
                f"{unknown[0]!r} ({len(unknown)} such lines). Unpack the dataset again."
            )
        clouds[name] = [root / label / f"{shape_id}.txt" for shape_id, label in zip(shape_ids, classes, strict=True)]
    require_files([path for paths in clouds.values() for path in paths], _TEXT_SOURCE)

    def load(name: str) -> Dataset:
        files = [names_file, lists[name], *clouds[name]]
        return cached_dataset(lambda: _read_text(clouds[name]), features, name, files, cache_dir)

    return DatasetDict({name: load(name) for name in lists})


def _read_text(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        table = read_table(path, 6, ",")
        points = checked_cloud(table[:, :3], str(path))
        yield {"points": points, "normal": table[:, 3:], "label": path.parent.name, "id": path.stem}


def _load_hdf5(root: Path, cache_dir: str | os.PathLike[str] | None) -> DatasetDict:
    lists = {name: root / f"{name}_files.txt" for name in ("train", "test")}
    names_file = root / "shape_names.txt"
    require_files([*lists.values(), names_file], _HDF5_SOURCE)
    class_names = read_class_names(names_file)
    # the lists name files like data/modelnet40_ply_hdf5_2048/ply_data_train0.h5, as seen from the authors' code
    paths = {name: [root / Path(line).name for line in read_lines(path)] for name, path in lists.items()}
    every_path = [path for of_split in paths.values() for path in of_split]
    require_files(every_path, _HDF5_SOURCE)
    found = [check_hdf5(path, len(class_names), ["normal"]) for path in every_path]
    extras = ["normal"] if all(found) else []
    features = Features(
        points=_POINTS,
        label=ClassLabel(names=class_names),
        id=Value("string"),
        **dict.fromkeys(extras, _POINTS),
    )

    def load(name: str) -> Dataset:
        files = [names_file, lists[name], *paths[name]]
        return cached_dataset(lambda: _read_hdf5(paths[name], extras), features, name, files, cache_dir)

    return DatasetDict({name: load(name) for name in lists})


def _read_hdf5(paths: list[Path], extras: list[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from read_hdf5(path, extras)
