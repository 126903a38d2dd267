"""SemanticKITTI (Behley et al., 2019): sweeps of a lidar on a car, whose points have one of 19 classes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

from any2point_hf.data.official_files import cached_dataset, require_files
from any2point_hf.data.parts.dataset import PART, part_features
from any2point_hf.modeling.errors import DatasetError, listed
from any2point_hf.point_clouds.labels import IGNORED

# As `learning_map` of semantic-kitti.yaml: the labels in files that count as each class; all others are ignored.
_LABELS_OF_CLASSES = {
    "car": (10, 252),
    "bicycle": (11,),
    "motorcycle": (15,),
    "truck": (18, 258),
    "other-vehicle": (13, 16, 20, 256, 257, 259),
    "person": (30, 254),
    "bicyclist": (31, 253),
    "motorcyclist": (32, 255),
    "road": (40, 60),
    "parking": (44,),
    "sidewalk": (48,),
    "other-ground": (49,),
    "building": (50,),
    "fence": (51,),
    "vegetation": (70,),
    "trunk": (71,),
    "terrain": (72,),
    "pole": (80,),
    "traffic-sign": (81,),
}
_UNLABELED = (0, 1, 52, 99)
SEMANTIC_KITTI_CLASSES = tuple(_LABELS_OF_CLASSES)
"""The classes of the benchmark, in its order."""

_TEST_SEQUENCES = ("08",)
_SEQUENCES = tuple(f"{number:02d}" for number in range(11))  # labels of 11…21 are not published
_SOURCE = "SemanticKITTI (dataset/sequences/00/velodyne/000000.bin and labels/000000.label …)"


def is_semantic_kitti(folder: Path) -> bool:
    """Whether the folder holds sequences of sweeps with labels."""
    return any(_sequences(folder).glob("[0-9][0-9]/labels"))


def load_semantic_kitti(
    folder: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None
) -> DatasetDict:
    """Loads the sequences 00 to 10 of SemanticKITTI that are there; 08, the official validation sequence, is the test.

    The Arrow file has 24 bytes a point: 3 MB a sweep of 120 thousand points, 70 GB for all sequences.

    Args:
        folder: the folder `dataset`, or the one that holds it, or `sequences`.
        cache_dir: of the Arrow files; None for the cache of `datasets`.

    Returns:
        Splits `train` and `test` with columns `points` (float32 [N, 3], metres), `part` (19 classes, −100 for points of
        others), `intensity` (0…1) and `id` (00/000000).

    Raises:
        DatasetError: a split has no sweeps, or a file is missing, cut off or has unknown labels.
    """
    root = _sequences(Path(folder))
    sweeps = {name: sorted(root.glob(f"{name}/velodyne/*.bin")) for name in _SEQUENCES}
    splits = {
        "train": [path for name, paths in sweeps.items() if name not in _TEST_SEQUENCES for path in paths],
        "test": [path for name in _TEST_SEQUENCES for path in sweeps[name]],
    }
    if empty := [name for name, paths in splits.items() if not paths]:
        found = listed(name for name, paths in sweeps.items() if paths)
        raise DatasetError(
            f"{root} has no sweeps in the split {empty[0]!r}: sequence 08 is tested on, the others up to 10 train, "
            f"those there are {found}. Unpack the others."
        )
    require_files([_labels_of(path) for paths in splits.values() for path in paths], _SOURCE)
    types = part_features(SEMANTIC_KITTI_CLASSES) | {"intensity": List(Value("float32")), "id": Value("string")}

    def load(name: str) -> Dataset:
        files = [file for path in splits[name] for file in (path, _labels_of(path))]
        return cached_dataset(lambda: map(read_sweep, splits[name]), Features(types), name, files, cache_dir)

    return DatasetDict({name: load(name) for name in splits})


def read_sweep(path: Path) -> dict[str, Any]:
    """Reads a sweep `velodyne/<number>.bin` with its labels: a row of the data set.

    Raises:
        DatasetError: its numbers are cut off or not finite, there are not as many labels as points, or a label is
            unknown.
    """
    values, labels = np.fromfile(path, dtype="<f4"), np.fromfile(_labels_of(path), dtype="<u4")
    if not len(values) or len(values) % 4 or path.stat().st_size % 16 or not np.isfinite(values).all():
        raise DatasetError(
            f"{path} must hold four finite float32 a point, got {path.stat().st_size} bytes. It is cut off or damaged: "
            "unpack it again."
        )
    points = values.reshape(-1, 4)
    size = _labels_of(path).stat().st_size
    if size != 4 * len(points):
        raise DatasetError(
            f"{_labels_of(path)} must hold {len(points)} labels of four bytes, one a point, got {size} bytes. It is "
            "cut off or damaged: unpack it again."
        )
    classes = labels & 0xFFFF  # above are numbers of objects
    places = _PLACES[np.minimum(classes, len(_PLACES) - 1)]
    if (unknown := classes[places == _UNKNOWN]).size:
        raise DatasetError(f"{_labels_of(path)} has the label {unknown[0]}, which SemanticKITTI does not have.")
    return {
        "points": points[:, :3],
        PART: places,
        "intensity": points[:, 3],
        "id": f"{path.parents[1].name}/{path.stem}",
    }


def _places() -> np.ndarray:
    """For each label in files, its class, `IGNORED` or `_UNKNOWN`; the last entry stands for all above."""
    table = np.full(261, _UNKNOWN, dtype=np.int64)
    table[list(_UNLABELED)] = IGNORED
    for index, labels in enumerate(_LABELS_OF_CLASSES.values()):
        table[list(labels)] = index
    return table


_UNKNOWN = -1
_PLACES = _places()


def _sequences(folder: Path) -> Path:
    inside = [folder / "dataset" / "sequences", folder / "sequences"]
    return next((path for path in inside if path.is_dir()), folder)


def _labels_of(path: Path) -> Path:
    return path.parents[1] / "labels" / f"{path.stem}.label"
