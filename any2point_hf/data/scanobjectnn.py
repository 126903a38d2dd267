"""ScanObjectNN (Uy et al., 2019): scanned objects of 15 classes, in the official h5 files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array2D, ClassLabel, DatasetDict, Features, List, Value

from any2point_hf.data.hdf5_files import check_hdf5, read_hdf5
from any2point_hf.data.official_files import cached_dataset, require_files
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.modeling.presets import SCAN

SCANOBJECTNN_VARIANTS: dict[str, str] = {
    "OBJ_BG": "",
    "OBJ_ONLY": "",
    "PB_T25": "_augmented25_norot",
    "PB_T25_R": "_augmented25rot",
    "PB_T50_R": "_augmentedrot",
    "PB_T50_RS": "_augmentedrot_scale75",
}
"""The published variants, and how their files' names end; OBJ_ONLY is OBJ_BG's file in a folder without background."""

_SPLITS = tuple(name + end for end in ("", "_nobg") for name in ("main_split", "split1", "split2", "split3", "split4"))
_FILES = {"train": "training", "test": "test"}
_SOURCE = (
    "ScanObjectNN's h5_files.zip from https://hkust-vgd.github.io/scanobjectnn/ "
    "(h5_files/<split>/training_object*.h5 and test_object*.h5)"
)


def is_scanobjectnn(folder: Path) -> bool:
    """Whether the folder holds `h5_files`, or its splits, or the files of one split."""
    files = "training_object*.h5"
    return (folder / "h5_files").is_dir() or any(folder.glob(files)) or any(folder.glob(f"*split*/{files}"))


def load_scanobjectnn(
    folder: str | os.PathLike[str],
    variant: str = "PB_T50_RS",
    split: str = "main_split",
    *,
    cache_dir: str | os.PathLike[str] | None = None,
) -> DatasetDict:
    """Loads one variant of ScanObjectNN.

    Args:
        folder: the folder that holds `h5_files`, or `h5_files` itself, or the folder of one split alone.
        variant: a key of `SCANOBJECTNN_VARIANTS`.
        split: "main_split" or "split1" … "split4"; with "_nobg", the perturbed variants without background.
        cache_dir: of the Arrow files; None for the cache of `datasets`.

    Returns:
        Splits `train` and `test` with columns `points` (float32 [2048, 3]), `label` (15 classes), `id` (file name and
        index in it) and, if both files have it, `mask` (int32 [2048], -1 for background).

    Raises:
        DatasetError: no such variant or split, or a file is missing, damaged, foreign or has impossible values.
    """
    if variant not in SCANOBJECTNN_VARIANTS:
        raise DatasetError(f"A variant of ScanObjectNN is one of {', '.join(SCANOBJECTNN_VARIANTS)}, got {variant!r}.")
    if split not in _SPLITS:
        raise DatasetError(f"A split of ScanObjectNN is one of {', '.join(_SPLITS)}, got {split!r}.")
    split_folder = _find_split(Path(folder), variant, split)
    if split not in ("main_split", split_folder.name.removesuffix("_nobg"), split_folder.name):
        raise DatasetError(f"{split_folder} holds one split alone, got split {split!r}. Give the folder above it.")
    if variant in ("OBJ_BG", "OBJ_ONLY") and split_folder.name.endswith("_nobg") != (variant == "OBJ_ONLY"):
        raise DatasetError(
            f"OBJ_BG lies in a folder like main_split and OBJ_ONLY in one like main_split_nobg, got {variant} in "
            f"{split_folder}. Give the folder above both, or the other variant."
        )
    end = SCANOBJECTNN_VARIANTS[variant]
    paths = {name: split_folder / f"{file}_objectdataset{end}.h5" for name, file in _FILES.items()}
    require_files(list(paths.values()), _SOURCE)
    found = [check_hdf5(path, len(SCAN.class_names), ["mask"]) for path in paths.values()]
    extras = ["mask"] if all(found) else []
    columns = {"points": Array2D((None, 3), "float32"), "label": ClassLabel(names=list(SCAN.class_names))}
    features = Features(**columns, id=Value("string"), **{name: List(Value("int32")) for name in extras})
    return DatasetDict(
        {
            name: cached_dataset(lambda path=path: _read(path, extras), features, name, [path], cache_dir)  # type: ignore[misc]
            for name, path in paths.items()
        }
    )


def _find_split(folder: Path, variant: str, split: str) -> Path:
    if (folder / "h5_files").is_dir():
        folder = folder / "h5_files"
    elif any(folder.glob("training_object*.h5")):
        return folder.absolute()  # whose name tells whether it has background
    if variant == "OBJ_ONLY" and not split.endswith("_nobg"):
        split += "_nobg"
    return folder / split


def _read(path: Path, extras: list[str]) -> Iterator[dict[str, Any]]:
    for row in read_hdf5(path, extras):
        if "mask" in row:
            with np.errstate(invalid="ignore"):  # of NaN, reported below
                mask = row["mask"].astype(np.int32)
            if (mask != row["mask"]).any():
                raise DatasetError(
                    f"{path}: mask must hold whole numbers, got others for {row['id']}. Unpack it again."
                )
            row["mask"] = mask
        yield row
