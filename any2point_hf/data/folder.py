"""Data sets in folders of point-cloud files: `<class>/<split>/<file>`, `<split>/<class>/<file>`, `<class>/<file>`.

A folder, or each split's, may instead have a table of its files and their classes (`folder_metadata`).
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from any2point_hf.data.folder_metadata import find_tables, read_tables, read_target_tables
from any2point_hf.data.sources import walk
from any2point_hf.data.splits import usual_split
from any2point_hf.data.targets import TargetTask
from any2point_hf.modeling.errors import DatasetError, listed
from any2point_hf.point_clouds.files import POINT_CLOUD_EXTENSIONS, PointCloud
from any2point_hf.point_clouds.folders import is_cloud_file, warn_of_left_out
from any2point_hf.point_clouds.reading import CloudReader

_LAYOUTS = (
    "<class>/<split>/<file> or <split>/<class>/<file>, splits named train, test (and val or validation), or "
    "<class>/<file>"
)


def read_folder(root: Path, reader: CloudReader) -> tuple[dict[str, tuple[Iterable[PointCloud], list[int]]], list[str]]:
    """Finds the clouds of a folder; the folders' names tell which layout it has.

    Files without a point-cloud extension are left out with a warning that counts them; hidden files, README and LICENSE
    are passed over. Clouds come sorted by class, then by file name.

    Args:
        root: an existing folder.
        reader: of the clouds.

    Returns:
        For every split its clouds ([N, 3], read as they are iterated over, once) and class indices;
        and the sorted class names. Without a folder for a test split, there is none.

    Raises:
        DatasetError: the folder has none of the layouts or no clouds, a class has no clouds to train on, or the folder
            for the test split is empty.
        PointCloudError: (while iterating) a file cannot be read, lacks a feature, or holds no cloud for a model.
    """
    left_out: Counter[str] = Counter()
    tables = find_tables(root)
    files = read_tables(root, tables) if tables else _find_files(root, left_out)
    warn_of_left_out(root, left_out)
    _warn_of_other_clouds(root, {path for paths in files.values() for path in paths})
    if not any(files.values()):
        found = sorted({path.suffix or path.name for path in root.rglob("*") if path.is_file()})
        raise DatasetError(
            f"No point clouds in {root}: its class folders hold no file ending in {_extensions()}; file "
            f"endings found: {listed(found)}. Convert the files, or check the path."
        )
    class_names = sorted({class_name for _, class_name in files})
    splits: dict[str, tuple[Iterable[PointCloud], list[int]]] = {}
    for split in ("train", "test", "validation"):
        of_class = [files.get((split, class_name), []) for class_name in class_names]
        empty = [class_name for class_name, paths in zip(class_names, of_class, strict=True) if not paths]
        if len(empty) == len(class_names):
            if split == "validation" or (split == "test" and not any(found == "test" for found, _ in files)):
                continue
            raise DatasetError(f"No point clouds in split {split!r} of {root}. Layouts: {_LAYOUTS}.")
        if empty and split == "train":
            raise DatasetError(
                f"Empty class in split 'train' of {root}: {listed(empty)} without any file ending in "
                f"{_extensions()}. Every class needs clouds to train on: add some, or remove its folders."
            )
        if empty:
            warnings.warn(f"Empty class in split {split!r} of {root}: {listed(empty)}.", stacklevel=3)
        labels = [label for label, paths in enumerate(of_class) for _ in paths]
        splits[split] = (map(reader.read, [path for paths in of_class for path in paths]), labels)
    return splits, class_names


def read_target_folder(
    root: Path, reader: CloudReader, task: TargetTask, label_column: str | Sequence[str] | None
) -> tuple[dict[str, tuple[Iterable[PointCloud], list[dict[str, Any]]]], list[str]]:
    """As `read_folder`, for clouds of several classes or with numbers, which stand in a table.

    Args:
        root: an existing folder.
        reader: of the clouds.
        task: what the labels are.
        label_column: as in `read_target_tables`.

    Returns:
        For every split its clouds and their named values; and the names.

    Raises:
        DatasetError: there is no table, no cloud to train on, or a row is wrong.
        PointCloudError: (while iterating) a file cannot be read, lacks a feature, or holds no cloud for a model.
    """
    tables = find_tables(root)
    if not tables:
        raise DatasetError(
            f"{root} must have a metadata.csv with file_name and the labels of each cloud, as a folder's name is one "
            f"class, and these are for {task}. Write one."
        )
    files, names = read_target_tables(root, tables, task, label_column)
    _warn_of_other_clouds(root, {path for rows in files.values() for path, _ in rows})
    if not files.get("train") and not files.get("test"):
        raise DatasetError(f"{tables[0]} names no clouds to train on. Add rows.")
    return {
        split: (map(reader.read, [path for path, _ in rows]), [values for _, values in rows])
        for split, rows in files.items()
    }, names


def _find_files(root: Path, left_out: Counter[str]) -> dict[tuple[str, str], list[Path]]:
    """Maps (split, class name) to its sorted cloud files, for every class folder, empty ones too."""
    folders = _folders(root)
    # ShapeNet has a class named "train": only a folder that is no split shows that splits are one level down.
    classes_first = any(
        not usual_split(folder.name) and any(usual_split(inner.name) for inner in _folders(folder))
        for folder in folders
    )
    files: dict[tuple[str, str], list[Path]] = {}
    if classes_first:
        for class_folder in folders:
            files[("train", class_folder.name)] = []  # names the class even where it has no folder of a split
            for split_folder in _folders(class_folder):
                if split := usual_split(split_folder.name):
                    _add(files, left_out, split_folder, split, class_folder.name)
    else:
        for split_folder in folders:
            if split := usual_split(split_folder.name):
                for class_folder in _folders(split_folder):
                    _add(files, left_out, class_folder, split, class_folder.name)
    if not files:
        for class_folder in folders:
            if any(is_cloud_file(path, Counter()) for path in class_folder.iterdir()):
                _add(files, left_out, class_folder, "train", class_folder.name)
    if not files:
        found = [str(inner.relative_to(root)) for folder in folders for inner in (folder, *_folders(folder))]
        raise DatasetError(
            f"{root} is not laid out as a data set: {_LAYOUTS}; folders found: {listed(found)}. Give the "
            "folder directly above the classes or splits, or move the files."
        )
    return files


def _add(
    files: dict[tuple[str, str], list[Path]], left_out: Counter[str], folder: Path, split: str, class_name: str
) -> None:
    clouds = [path for path in folder.iterdir() if is_cloud_file(path, left_out)]
    files[(split, class_name)] = files.get((split, class_name), []) + sorted(clouds, key=_name)


def _warn_of_other_clouds(root: Path, read: set[Path]) -> None:
    """Warns in one line of the clouds that belong to no class or are in no table."""
    others = [
        folder / name
        for folder, names in walk(root)
        for name in names
        if is_cloud_file(folder / name, Counter()) and folder / name not in read
    ]
    if others:
        warnings.warn(
            f"{root}: {len(others)} of {len(read) + len(others)} clouds are left out, because they are in no class's "
            f"folder or no table names them, such as {others[0].relative_to(root)}.",
            stacklevel=4,
        )


def _folders(folder: Path) -> list[Path]:
    folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    return sorted(folders, key=_name)


def _name(path: Path) -> str:
    return path.name  # sorts the same everywhere: Windows ignores case in whole paths


def _extensions() -> str:
    return ", ".join(sorted(POINT_CLOUD_EXTENSIONS))
