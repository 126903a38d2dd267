"""Folders with metadata.csv or metadata.jsonl, a table of files and their classes, as in `meshfolder` of `datasets`."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..modeling.errors import DatasetError
from ..point_clouds.files import POINT_CLOUD_EXTENSIONS
from .columns import LABEL_NAMES

SPLIT_OF_FOLDER = {"train": "train", "test": "test", "val": "validation", "validation": "validation"}

_TABLES = ("metadata.csv", "metadata.jsonl")


def find_tables(root: Path) -> list[Path]:
    """The tables of a folder, or of its splits' folders."""
    folders = [root, *(root / name for name in SPLIT_OF_FOLDER)]
    return [folder / name for folder in folders for name in _TABLES if (folder / name).is_file()]


def read_tables(root: Path, tables: Sequence[Path]) -> dict[tuple[str, str], list[Path]]:
    """Maps (split, class name) to cloud files, in the tables' order.

    A row has `file_name`, relative to the table's folder, a class in `label` (or `labels`, `class`, …), and maybe
    `split`. Without it the folder tells the split, and a file in no split's folder is for training.

    Args:
        root: the data set's folder.
        tables: what `find_tables` found.

    Raises:
        DatasetError: a row without a file or class, or with a file outside of the folder; the message names its line.
    """
    files: dict[tuple[str, str], list[Path]] = {}
    for table in tables:
        for line, row in _rows(table):
            where = f"{table}, line {line}"
            name = row.get("file_name")
            if not isinstance(name, str) or not name:
                raise DatasetError(f"{where}: a row must have file_name, it has {', '.join(row) or 'nothing'}.")
            label = next((str(row[key]) for key in LABEL_NAMES if row.get(key) not in (None, "")), None)
            if label is None:
                raise DatasetError(f"{where}: a row must have a label, it has {', '.join(row)}. Add the cloud's class.")
            file = PurePosixPath(name.replace("\\", "/"))
            path = table.parent / file
            if file.is_absolute() or ".." in file.parts or not path.is_file():
                raise DatasetError(f"{where}: file_name must be a file in {table.parent}, got {name!r}. Correct it.")
            if path.suffix.lower() not in POINT_CLOUD_EXTENSIONS:
                raise DatasetError(f"{where}: {name!r} must end in one of {' '.join(POINT_CLOUD_EXTENSIONS)}.")
            parts = (str(row.get("split") or ""), *path.relative_to(root).parts[:-1])
            split = next((SPLIT_OF_FOLDER[part] for part in parts if part in SPLIT_OF_FOLDER), "train")
            files.setdefault((split, label), []).append(path)
    for split in {split for split, _ in files}:  # a class may be missing in a split
        for label in {label for _, label in files}:
            files.setdefault((split, label), [])
    return files


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each row with the number of its line."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            if table.suffix == ".csv":
                reader = csv.DictReader(lines)
                yield from ((reader.line_num, {key or "": value for key, value in row.items()}) for row in reader)
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DatasetError(f"{table}, line {number}: a row must be a JSON object, got {line[:40]!r}.")
                    yield number, row
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DatasetError(f"{table} cannot be read: {error}. Write it in UTF-8, a row for each cloud.") from error
