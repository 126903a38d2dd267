"""What a name of a data set may mean: a path on this machine, or `user/name[@revision][#config]` on the Hub."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from ..modeling.errors import DatasetError
from ..point_clouds.files import POINT_CLOUD_EXTENSIONS

TABLE_EXTENSIONS = (".parquet", ".arrow", ".jsonl", ".tar")
"""Data files that `datasets` reads without running code or opening pickles."""

PULLED_EXTENSIONS = (*TABLE_EXTENSIONS, *POINT_CLOUD_EXTENSIONS, ".json", ".h5")  # never pickles or scripts
BUILT_IN = {"shapes": "classification", "shapes-parts": "segmentation", "shapes-measures": "regression"}
"""Data sets that are made on the fly, and what each is for."""

_NAME = re.compile(r"(?P<repo_id>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[^#@]+))?(?:#(?P<config>.+))?")


class HubDataset(NamedTuple):
    """What names a data set on the Hub.

    Args:
        repo_id: `user/name`.
        revision: branch, tag or commit; None for the default branch.
        config: one of those in the card, or a variant of an official data set.
    """

    repo_id: str
    revision: str | None = None
    config: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo_id}{revision}" + (f"#{self.config}" if self.config else "")


def parse_hub_name(source: object) -> HubDataset | None:
    """Takes `user/name[@revision][#config]` apart; None for anything else.

    What is a path on this machine is no name, nor is one that ends like a data file: it is a path with a mistake.
    """
    found = _NAME.fullmatch(source) if isinstance(source, str) else None
    if (
        found is None
        or found["repo_id"].lower().endswith(PULLED_EXTENSIONS)
        or os.path.exists(str(source))
        or os.path.exists(found["repo_id"])
    ):
        return None
    return HubDataset(**found.groupdict())


def split_variant(source: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The path of a source on this machine, and the variant after its `#`, if the path is that of a folder."""
    folder, mark, variant = os.fspath(source).rpartition("#")
    if mark and not Path(source).exists() and Path(folder).is_dir():
        return Path(folder), variant
    return Path(source), None


def check_source(source: str | os.PathLike[str]) -> None:
    """Checks, without opening anything, that a source may be on the Hub, or is a path that can be one.

    Raises:
        DatasetError: it is a path of this machine, where there is nothing, or a file of no kind that is read.
    """
    path, _ = split_variant(source)
    if source in BUILT_IN or path.is_dir() or parse_hub_name(source) is not None:
        return
    if path.exists() and path.suffix.lower() in (*TABLE_EXTENSIONS, ".npz"):
        return
    found = "is a file of no kind that is read" if path.exists() else "does not exist"
    raise DatasetError(
        f"Cannot load a data set from {os.fspath(source)!r}: the path {path.absolute()} {found}. Choices: 'shapes' "
        "(built in), user/name on the Hub, a folder with <class>/<split>/<file> or <split>/<class>/<file>, the "
        "folder of ScanObjectNN, ModelNet or ShapeNetPart, a .parquet, .arrow or .jsonl file, or a .npz file with "
        "points, labels, split and class_names."
    )
