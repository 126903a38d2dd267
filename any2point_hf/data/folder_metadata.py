"""Folders with a table of files and their classes, metadata.csv, .jsonl or .parquet, as `meshfolder` of `datasets`."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet
from pyarrow import ArrowException

from ..modeling.errors import DatasetError, listed
from ..point_clouds.files import POINT_CLOUD_EXTENSIONS
from ..point_clouds.folders import LISTS_OF_FILES
from .columns import LABEL_NAMES
from .splits import usual_split
from .targets import TargetTask, checked_value, column_names


def find_tables(root: Path) -> list[Path]:
    """The tables of a folder, or of its splits' folders.

    Raises:
        DatasetError: a folder has several.
    """
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and usual_split(path.name))]
    found = [[folder / name for name in LISTS_OF_FILES if (folder / name).is_file()] for folder in folders]
    for tables in found:
        if len(tables) > 1:
            names = " and ".join(table.name for table in tables)
            raise DatasetError(f"{tables[0].parent} must have one table of its files, got {names}. Leave one of them.")
    return [table for tables in found for table in tables]


def read_tables(root: Path, tables: Sequence[Path]) -> dict[tuple[str, str], list[Path]]:
    """Maps (split, class name) to cloud files, in the tables' order.

    A row has `file_name`, relative to the table's folder, a class in `label` (or `labels`, `class`, …), and maybe
    `split`, by one of the usual names. Without it the folder tells the split, and a file in no split's folder is for
    training.

    Args:
        root: the data set's folder.
        tables: what `find_tables` found.

    Raises:
        DatasetError: a row without a file or class, with a file outside of the folder or of an earlier row, or a split
            of another name; the message names its line.
    """
    files: dict[tuple[str, str], list[Path]] = {}
    for path, split, row, where in _files(root, tables):
        label = next((str(row[key]) for key in LABEL_NAMES if row.get(key) not in (None, "")), None)
        if label is None:
            raise DatasetError(
                f"{where}: a row must have a label, it has {listed(row)}. Add the cloud's class; columns of numbers "
                "are targets with --task regression."
            )
        files.setdefault((split, label), []).append(path)
    for split in {split for split, _ in files}:  # a class may be missing in a split
        for label in {label for _, label in files}:
            files.setdefault((split, label), [])
    return files


def read_target_tables(
    root: Path, tables: Sequence[Path], task: TargetTask, label_column: str | Sequence[str] | None
) -> tuple[dict[str, list[tuple[Path, dict[str, Any]]]], list[str]]:
    """The files of each split with their classes or targets, and the names of these, in the tables' order.

    Args:
        root: the data set's folder.
        tables: what `find_tables` found.
        task: "multi-label": one column has the names of a cloud's classes, with semicolons in a .csv and as a list
            elsewhere, or several columns have 0 or 1; "regression": columns of numbers.
        label_column: the column or columns; None for one of a usual name for labels or, of regression without such,
            for all columns besides `file_name` and `split`.

    Raises:
        DatasetError: as `read_tables`, or a row without a value, or with one that is no number, or not finite.
    """
    rows = list(_files(root, tables))
    header = [name for name in (rows[0][2] if rows else {}) if name not in ("file_name", "split", "")]
    columns = column_names(label_column, header)
    if unknown := [name for name in columns if name not in header]:
        raise DatasetError(f"{tables[0]} has no column {unknown[0]!r}; its columns are {listed(header, 20)}.")
    columns = columns or [name for name in LABEL_NAMES if name in header][:1]
    columns = columns or (header if task == "regression" else [])
    if not columns:
        raise DatasetError(f"{tables[0]} must have a column 'label' with the names of a cloud's classes.")
    of_names = task == "multi-label" and len(columns) == 1
    classes = [_classes(row.get(columns[0]), where) for _, _, row, where in rows] if of_names else []
    names = sorted({name for found in classes for name in found}) if of_names else columns
    splits: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for index, (path, split, row, where) in enumerate(rows):
        values: dict[str, Any]
        if of_names:
            values = {name: name in classes[index] for name in names}
        else:
            values = {name: checked_value(_number(row.get(name)), task, f"{where}, {name}") for name in names}
        splits.setdefault(split, []).append((path, values))
    return splits, names


def _classes(cell: Any, where: str) -> list[str]:
    """The names in a cell: a list, or a text with semicolons; an empty one names none."""
    if cell is None or isinstance(cell, (int, float)):
        raise DatasetError(f"{where}: a row must have the names of its classes, got {cell!r}. Leave it empty for none.")
    names = cell.split(";") if isinstance(cell, str) else cell
    return [str(name).strip() for name in names if str(name).strip()]


def _number(cell: Any) -> Any:
    """A cell's number: a .csv has texts; whatever is no number stays what it is."""
    try:
        return float(cell) if isinstance(cell, str) else cell
    except ValueError:
        return cell


def _files(root: Path, tables: Sequence[Path]) -> Iterator[tuple[Path, str, dict[str, Any], str]]:
    """Yields of each row the cloud's file, its split, the row and where it stands."""
    lines: dict[Path, str] = {}
    for table in tables:
        for line, row in _rows(table):
            where = f"{table}, line {line}"
            name = row.get("file_name")
            if not isinstance(name, str) or not name:
                raise DatasetError(f"{where}: a row must have file_name, it has {listed(row)}.")
            file = PurePosixPath(name.replace("\\", "/"))
            path = table.parent / file
            if file.is_absolute() or ".." in file.parts or not path.is_file():
                raise DatasetError(f"{where}: file_name must be a file in {table.parent}, got {name!r}. Correct it.")
            if path.suffix.lower() not in POINT_CLOUD_EXTENSIONS:
                raise DatasetError(f"{where}: {name!r} must end in one of {' '.join(POINT_CLOUD_EXTENSIONS)}.")
            if path in lines:
                raise DatasetError(f"{where}: {name!r} is listed in {lines[path]} already. Leave one of the rows.")
            lines[path] = where
            named = row.get("split")
            splits = [usual_split(part) for part in (str(named or ""), *path.relative_to(root).parts[:-1])]
            if named and splits[0] is None:
                raise DatasetError(f"{where}: split must be train, test or validation, got {str(named)!r}. Rename it.")
            yield path, next(filter(None, splits), "train"), row, where


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each row with the number of its line, or of the row in a .parquet."""
    try:
        if table.suffix == ".parquet":
            yield from enumerate(pyarrow.parquet.read_table(table).to_pylist(), 1)
            return
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
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, ArrowException) as error:
        raise DatasetError(f"{table} cannot be read: {error}. Write it in UTF-8, a row for each cloud.") from error
