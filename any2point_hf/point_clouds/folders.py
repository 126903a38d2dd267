"""Which files of a folder are clouds; what is left out is told."""

import warnings
from collections import Counter
from pathlib import Path

from .files import POINT_CLOUD_EXTENSIONS

_NO_CLOUDS = ("readme", "license")
LISTS_OF_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of tables of a folder's clouds."""


def is_cloud_file(path: Path, left_out: Counter[str]) -> bool:
    """Tells by its name whether a file is a point cloud.

    Hidden files (macOS leaves ._chair_0001.off beside chair_0001.off), README, LICENSE and metadata.* are none. A
    link to nowhere with a cloud's name is one, so that reading it tells.

    Args:
        path: the file.
        left_out: where any other file is counted, under its ending or, without one, its name.
    """
    stem, extension = path.stem.lower(), path.suffix.lower()
    if path.name.startswith(".") or stem in _NO_CLOUDS or path.name in LISTS_OF_FILES or path.is_dir():
        return False
    if extension in POINT_CLOUD_EXTENSIONS:
        return True
    left_out[extension or path.name] += 1
    return False


def warn_of_left_out(folder: Path, left_out: Counter[str]) -> None:
    """Warns in one line of the files in a folder that are no point clouds by their names."""
    if left_out:
        shown = ", ".join(f"{count} {name}" for name, count in left_out.most_common(10))
        more = f" and {len(left_out) - 10} more kinds" if len(left_out) > 10 else ""
        warnings.warn(
            f"{folder}: {left_out.total()} files are left out, whose endings are no point cloud's: {shown}{more}.",
            stacklevel=3,
        )
