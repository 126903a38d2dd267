"""ShapeNetPart (Yi et al., 2016): shapes of 16 categories whose points have one of 50 parts, with normals."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, List, Value

from any2point_hf.data.official_files import (
    cached_dataset,
    checked_cloud,
    read_lines,
    read_table,
    read_text,
    require_files,
)
from any2point_hf.modeling.errors import DatasetError

NUM_PARTS = 50
"""Parts are numbered through all categories, from 0."""

_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_CATEGORIES = "synsetoffset2category.txt"
_SOURCE = (
    "shapenetcore_partanno_segmentation_benchmark_v0_normal.zip from "
    "https://shapenet.cs.stanford.edu/media/shapenetcore_partanno_segmentation_benchmark_v0_normal.zip "
    f"({_CATEGORIES}, train_test_split/shuffled_<train, val, test>_file_list.json and <synset>/<id>.txt; terms: "
    "https://shapenet.org/terms)"
)


def is_shapenetpart(folder: Path) -> bool:
    """Whether the folder holds the list of categories."""
    return (folder / _CATEGORIES).is_file()


def load_shapenetpart(
    folder: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None
) -> DatasetDict:
    """Loads ShapeNetPart from `shapenetcore_partanno_segmentation_benchmark_v0_normal`.

    Args:
        folder: the folder that holds `synsetoffset2category.txt`.
        cache_dir: of the Arrow files; None for the cache of `datasets`.

    Returns:
        Splits `train`, `validation` and `test` with columns `points` and `normal` (float32 [N, 3], N varies), `part`
        (uint8 [N], 0 … 49), `label` (the categories, in the order of their list) and `id`.

    Raises:
        DatasetError: a file is missing, damaged, foreign or has impossible values.
    """
    root = Path(folder)
    lists = {name: root / "train_test_split" / f"shuffled_{file}_file_list.json" for name, file in _SPLITS.items()}
    require_files([root / _CATEGORIES, *lists.values()], _SOURCE)
    category_of_synset = _read_categories(root / _CATEGORIES)
    clouds = {name: _read_list(path, root, category_of_synset) for name, path in lists.items()}
    require_files([path for paths in clouds.values() for path in paths], _SOURCE)
    array = Array2D((None, 3), "float32")
    label = ClassLabel(names=list(category_of_synset.values()))
    features = Features(points=array, normal=array, part=List(Value("uint8")), label=label, id=Value("string"))

    def load(name: str) -> Dataset:
        files = [root / _CATEGORIES, lists[name], *clouds[name]]
        return cached_dataset(lambda: _read(clouds[name], category_of_synset), features, name, files, cache_dir)

    return DatasetDict({name: load(name) for name in lists})


def _read_categories(path: Path) -> dict[str, str]:
    """Maps synsets to names, in the file's order."""
    rows = [line.split() for line in read_lines(path)]
    if any(len(row) != 2 for row in rows) or any(len({row[i] for row in rows}) < len(rows) for i in (0, 1)):
        raise DatasetError(
            f"{path} must have a name and a synset on each line, all different, like 'Airplane 02691156', got "
            f"{rows[:3]}. Unpack the dataset again."
        )
    return {synset: name for name, synset in rows}


def _read_list(path: Path, root: Path, category_of_synset: dict[str, str]) -> list[Path]:
    rule = f"{path} must be a JSON list of entries like 'shape_data/{next(iter(category_of_synset))}/<id>'"
    try:
        entries = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{rule}, but it is cut off or no JSON: {error}. Unpack the dataset again.") from error
    if not isinstance(entries, list) or not entries:
        raise DatasetError(f"{rule}, at least one, got {str(entries)[:60]}. Unpack the dataset again.")
    clouds = []
    for entry in entries:
        parts = entry.split("/") if isinstance(entry, str) else []
        if len(parts) != 3 or parts[1] not in category_of_synset or not parts[2]:
            raise DatasetError(f"{rule} with a synset in {_CATEGORIES}, got {entry!r}. Unpack the dataset again.")
        clouds.append(root / parts[1] / f"{parts[2]}.txt")
    return clouds


def _read(paths: list[Path], category_of_synset: dict[str, str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        table = read_table(path, 7)
        points, part = checked_cloud(table[:, :3], str(path)), table[:, 6]
        wrong = (part != part.round()) | ~((part >= 0) & (part < NUM_PARTS))
        if wrong.any():
            raise DatasetError(
                f"{path}: the part, its last column, must be a whole number 0…{NUM_PARTS - 1}, got "
                f"{part[wrong][0]} in row {wrong.argmax()}. Check that it is a file of this dataset."
            )
        yield {
            "points": points,
            "normal": table[:, 3:6],
            "part": part.astype("uint8"),
            "label": category_of_synset[path.parent.name],
            "id": path.stem,
        }
