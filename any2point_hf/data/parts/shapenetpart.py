"""ShapeNetPart (Yi et al., 2016) for segmentation: 16 categories, 50 parts, as text with normals or as HDF5.

As in the published comparisons, the official training and validation splits are trained on together.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict, Features, Value, concatenate_datasets

from any2point_hf.data.hdf5_files import check_hdf5, read_hdf5
from any2point_hf.data.official_files import cached_dataset, require_files
from any2point_hf.data.own_types import with_column
from any2point_hf.data.parts.dataset import CATEGORY, PART, occurring_parts, part_features
from any2point_hf.data.shapenetpart import is_shapenetpart, load_shapenetpart
from any2point_hf.modeling.errors import DatasetError

PARTS_OF_CATEGORIES = {
    **{"Airplane": 4, "Bag": 2, "Cap": 2, "Car": 4, "Chair": 4, "Earphone": 3, "Guitar": 3, "Knife": 2, "Lamp": 4},
    **{"Laptop": 2, "Motorbike": 6, "Mug": 2, "Pistol": 3, "Rocket": 3, "Skateboard": 3, "Table": 3},
}
"""How many parts each category has; ids of parts run through all categories in this order."""

PART_NAMES = tuple(f"{name}/{index}" for name, count in PARTS_OF_CATEGORIES.items() for index in range(count))
"""Airplane/0 … Table/2: the authors gave the parts numbers, not names."""

_SOURCE = "shapenet_part_seg_hdf5_data (ply_data_train0.h5 …, ply_data_val0.h5, ply_data_test0.h5 …)"


def is_shapenetpart_hdf5(folder: Path) -> bool:
    """Whether the folder holds ShapeNetPart's HDF5 files, which unlike ModelNet's have a validation split."""
    return any(folder.glob("ply_data_train*.h5")) and any(folder.glob("ply_data_val*.h5"))


def load_shapenetpart_parts(
    folder: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None
) -> DatasetDict:
    """Loads ShapeNetPart for segmentation, from either of its two official layouts.

    Args:
        folder: with `synsetoffset2category.txt` (text with normals; sizes of clouds differ), or with
            `ply_data_train0.h5` … (2048 points a cloud, no normals).
        cache_dir: of the Arrow files; None for the cache of `datasets`.

    Returns:
        Splits `train` (the official training and validation splits) and `test` with columns `points`, `part` (a
        ClassLabel over `PART_NAMES` for each point), `category` (16), `id` and, of the text files, `normal`.

    Raises:
        DatasetError: a file is missing, damaged, foreign or has impossible values.
    """
    root = Path(folder)
    if not is_shapenetpart(root):
        return _load_hdf5(root, cache_dir)
    official = load_shapenetpart(root, cache_dir=cache_dir)
    names = official["train"].features["label"].names
    if names != list(PARTS_OF_CATEGORIES):
        raise DatasetError(
            f"{root}: the categories must be those of ShapeNetPart in their order, from Airplane to Table, because "
            f"parts are numbered through them, got {', '.join(names)[:200]}. Unpack the dataset again."
        )
    types = Features({PART: part_features(PART_NAMES)[PART]})
    splits = {
        name: with_column(split, PART, split.select_columns(PART).cast(types)).rename_column("label", CATEGORY)
        for name, split in official.items()
    }
    return _joined(DatasetDict(splits), root)


def _load_hdf5(root: Path, cache_dir: str | os.PathLike[str] | None) -> DatasetDict:
    files = {
        name: sorted(root.glob(f"ply_data_{file}*.h5"))
        for name, file in (("train", "train"), ("validation", "val"), ("test", "test"))
    }
    require_files([paths[0] if paths else root / f"ply_data_{name}0.h5" for name, paths in files.items()], _SOURCE)
    for path in (path for paths in files.values() for path in paths):
        if not check_hdf5(path, len(PARTS_OF_CATEGORIES), ["pid"]):
            raise DatasetError(f"{path} must hold the array pid, the parts of points. Check that it is of {_SOURCE}.")
    types = part_features(PART_NAMES, list(PARTS_OF_CATEGORIES))
    features = Features(types | {"id": Value("string")})

    def load(name: str) -> Any:
        return cached_dataset(lambda: _read(files[name]), features, name, files[name], cache_dir)

    return _joined(DatasetDict({name: load(name) for name in files}), root)


def _read(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for row in read_hdf5(path, ["pid"]):
            yield {"points": row["points"], PART: row["pid"].astype("int64"), CATEGORY: row["label"], "id": row["id"]}


def _joined(splits: DatasetDict, root: Path) -> DatasetDict:
    """The splits `train` and `test`, after a check that shapes have parts of their own categories alone."""
    ends = np.cumsum([*PARTS_OF_CATEGORIES.values()])
    category_of_part = np.searchsorted(ends, np.arange(len(PART_NAMES)), side="right")
    for name, split in splits.items():
        for category, part in np.argwhere(occurring_parts(split)):
            if category_of_part[part] != category:
                raise DatasetError(
                    f"{root}: shapes must have parts of their own categories, and a {[*PARTS_OF_CATEGORIES][category]} "
                    f"of the split {name!r} has the part {part} ({PART_NAMES[part]}). Unpack the dataset again."
                )
    return DatasetDict(train=concatenate_datasets([splits["train"], splits["validation"]]), test=splits["test"])
