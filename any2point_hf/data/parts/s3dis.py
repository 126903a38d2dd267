"""S3DIS (Armeni et al., 2016): scanned rooms of six areas, whose points have one of 13 classes. A room is one cloud."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array2D, Dataset, DatasetDict, Features, Value

from any2point_hf.data.official_files import cached_dataset
from any2point_hf.data.parts.dataset import PART, part_features
from any2point_hf.modeling.errors import DatasetError, listed
from any2point_hf.point_clouds.checks import local_float32

S3DIS_CLASSES = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door"),
    *("table", "chair", "sofa", "bookcase", "board", "clutter"),
)
"""The classes in their usual order."""

_OTHER = "clutter"  # what files of other names, such as stairs_1.txt, count as in the published comparisons
_TEST_AREA = "Area_5"
_COLUMNS = 6


def is_s3dis(folder: Path) -> bool:
    """Whether the folder holds areas of rooms with annotations."""
    return any(folder.glob("Area_*/*/Annotations"))


def load_s3dis(
    folder: str | os.PathLike[str],
    test_area: str = _TEST_AREA,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
) -> DatasetDict:
    """Loads S3DIS from `Stanford3dDataset_v1.2` or `Stanford3dDataset_v1.2_Aligned_Version`.

    Args:
        folder: the folder that holds `Area_1` … `Area_6`.
        test_area: whose rooms are tested on.
        cache_dir: of the Arrow files; None for the cache of `datasets`.

    Returns:
        Splits `train` and `test` with columns `points` (float32 [N, 3] in metres; a million or so), `part` (13
        classes), `rgb` (0…1) and `id` (Area_1/office_1). The points of a room are in the order of its objects' files.

    Raises:
        DatasetError: no such area, or a room has no objects, or a file is no table of x y z r g b.
    """
    root = Path(folder)
    rooms = sorted(path.parent for path in root.glob("Area_*/*/Annotations"))
    splits = {
        "train": [room for room in rooms if room.parent.name != test_area],
        "test": [room for room in rooms if room.parent.name == test_area],
    }
    if empty := [name for name, found in splits.items() if not found]:
        areas = listed(sorted({room.parent.name for room in rooms}))
        raise DatasetError(
            f"{root} has no rooms in the split {empty[0]!r}: the test area is {test_area}, the areas there are {areas}"
            ". Unpack the other areas, or choose another by #Area_1 after the folder."
        )
    objects = {room: sorted((room / "Annotations").glob("*.txt")) for room in rooms}
    if bare := [str(room) for room, files in objects.items() if not files]:
        raise DatasetError(f"{bare[0]}/Annotations has no objects (.txt files). Unpack the dataset again.")
    types = part_features(S3DIS_CLASSES) | {"rgb": Array2D((None, 3), "float32"), "id": Value("string")}

    def load(name: str) -> Dataset:
        files = [file for room in splits[name] for file in objects[room]]
        return cached_dataset(
            lambda: (_read_room(room, objects[room]) for room in splits[name]), Features(types), name, files, cache_dir
        )

    return DatasetDict({name: load(name) for name in splits})


def _read_room(room: Path, objects: list[Path]) -> dict[str, Any]:
    tables, labels = [], []
    for path in objects:
        table = _read_object(path)
        name = path.stem.split("_")[0]
        label = S3DIS_CLASSES.index(name if name in S3DIS_CLASSES else _OTHER)
        tables.append(table)
        labels.append(np.full(len(table), label, dtype=np.int64))
    table = np.concatenate(tables)
    return {
        "points": local_float32(table[:, :3]),
        PART: np.concatenate(labels),
        "rgb": (table[:, 3:] / 255).astype(np.float32),
        "id": f"{room.parent.name}/{room.name}",
    }


def _read_object(path: Path) -> np.ndarray:
    """The rows x y z r g b of an object, [N, 6] float64."""
    rule = f"{path} must have rows of {_COLUMNS} numbers, x y z r g b"
    rows = [_without_control(row) for row in path.read_text(encoding="ascii", errors="replace").splitlines()]
    try:
        table = np.loadtxt(rows, ndmin=2) if rows else np.empty((0, 0))
    except ValueError as error:
        raise DatasetError(f"{rule}, but {error}. It is cut off or damaged: unpack it again.") from error
    if not len(table) or table.shape[1] != _COLUMNS or not np.isfinite(table).all():
        raise DatasetError(f"{rule}, finite ones, got the shape {list(table.shape)}. Unpack it again.")
    return table


def _without_control(row: str) -> str:
    """A row without the byte 0x10, which version 1.2 has in Area_5/hallway_6/Annotations/ceiling_1.txt."""
    if "\x10" not in row:
        return row
    joined = row.replace("\x10", "")
    return joined if len(joined.split()) == _COLUMNS else row.replace("\x10", " ")
