"""Points in text: one on each line, in the first three columns or in those that a header names x, y and z.

Columns are parted by spaces, tabs, commas or semicolons, and numbers may have decimal commas. Names stand on the first
line or in a comment (`#` or `//`) above it. A first line of one integer, as .pts has it, counts the points.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .geometry import Geometry

_COMMENT = re.compile(r"(?:#|//).*")
_DECIMAL_COMMA = re.compile(r"[-+]?\d*(?:,\d+)?(?:[eE][-+]?\d+)?")
_AXIS = r"(?:(?:p|pos|position|point|coord|coordinate|vertex)[ _.]?)?{}(?:[ _.]?(?:pos|position|coord|coordinate))?"
_UNIT = r"(?: ?[\[(].*[\])])?"  # such as "x [m]"
_MOST_NAMES = 12  # of columns in a message


def read_text(path: Path) -> Geometry:
    """Reads .txt, .xyz, .csv and other text; raises ValueError."""
    text = decode(path.read_bytes())
    lines = text.splitlines()
    has_comments = "#" in text or "//" in text
    rows = list(_rows(lines, has_comments))
    if not rows:
        raise ValueError("it has no line of three numbers")
    layout = _layout(rows, _names_in_comments(lines) if has_comments else None)
    rows = rows[layout.skipped :]
    if not rows:
        raise ValueError("it has no line of three numbers")
    if layout.declared not in (None, len(rows)):
        more = "more" if len(rows) > (layout.declared or 0) else "fewer: it is cut off"
        raise ValueError(f"its first line counts {layout.declared} points, {len(rows)} lines follow, {more}")
    try:
        return Geometry(_numbers(rows, layout))
    except _RowError as error:
        numbers = list(_rows(lines, has_comments, numbered=True))
        raise ValueError(f"line {numbers[error.row + layout.skipped]}: {error}") from error


def decode(data: bytes) -> str:
    """UTF-8 or, with its mark, UTF-16; byte order marks are left out."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if b"\0" in data:
        raise ValueError("it is binary, or UTF-16 without its mark; expected text with a point on each line")
    return data.decode("utf-8-sig", "replace")


class _Layout(NamedTuple):
    """Where the numbers are: lines before them, their delimiter (None: white space), columns of a row, x y z."""

    skipped: int
    delimiter: str | None
    has_decimal_commas: bool
    width: int
    axes: list[int]
    declared: int | None


class _RowError(ValueError):
    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def _rows(lines: list[str], has_comments: bool, numbered: bool = False) -> Iterator:
    """Yields the lines that hold something besides a comment, or their numbers in the file, from 1."""
    for number, line in enumerate(lines, 1):
        kept = _COMMENT.sub("", line) if has_comments else line
        if not kept.isspace() and kept:
            yield number if numbered else kept


def _names_in_comments(lines: list[str]) -> list[str] | None:
    """Finds a comment above the numbers that names x, y and z, and returns its words."""
    for line in lines:
        if line.strip() and _COMMENT.sub("", line).strip():
            return None
        said = line.strip().lstrip("#/").strip()
        for delimiter in (",", ";", "\t", None):
            if _axes(words := _split(said, delimiter)):
                return words
    return None


def _layout(rows: list[str], commented: list[str] | None) -> _Layout:
    first, second = rows[0], rows[min(1, len(rows) - 1)]
    declared = int(first) if first.strip().isdigit() and len(rows) > 1 else None
    skipped = 0 if declared is None else 1
    first, second = rows[skipped], rows[min(skipped + 1, len(rows) - 1)]
    delimiter, has_decimal_commas = _delimiter(second, first)
    words, sample = _split(first, delimiter), _split(second, delimiter)
    names = None
    if not any(_is_number(word, has_decimal_commas) for word in words) or _counts_columns(words, sample, delimiter):
        names, skipped, words = words, skipped + 1, sample
        if len(rows) <= skipped:
            raise ValueError("it has no line of three numbers")
    width = len(words)
    if width < 3:
        raise ValueError(f"a line needs at least three columns (x, y, z), the first has {width}")
    if names is not None:
        axes = _named_axes(names, width)
    else:
        axes = (_axes(commented) if commented and len(commented) == width else None) or [0, 1, 2]
    return _Layout(skipped, delimiter, has_decimal_commas, width, axes, declared)


def _delimiter(row: str, header: str) -> tuple[str | None, bool]:
    """Finds what parts the columns of a row of numbers, and whether its numbers have decimal commas."""
    if ";" in row:
        return ";", "," in row
    words = row.split()
    if "," in row and len(words) >= 3 and all(map(_DECIMAL_COMMA.fullmatch, words)):
        return None, True
    if "," in row:
        return ",", False
    has_spaces_in_names = "\t" in row and len(header.split("\t")) == len(row.split("\t")) < len(header.split())
    return ("\t" if has_spaces_in_names else None), False


def _split(line: str, delimiter: str | None) -> list[str]:
    """Cuts a line into its columns, without quotes and spaces around them; an empty last one is none."""
    if delimiter is None:
        words = line.split()
    elif '"' in line:
        words = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    else:
        words = line.split(delimiter)
    words = [word.strip().strip("\"'") for word in words]
    return words[:-1] if len(words) > 1 and not words[-1] else words


def _is_number(word: str, has_decimal_commas: bool) -> bool:
    try:
        float(word.replace(",", ".") if has_decimal_commas else word)
    except ValueError:
        return False
    return True


def _counts_columns(words: list[str], sample: list[str], delimiter: str | None) -> bool:
    """Whether these are the names 0, 1, 2, … that pandas gives, perhaps after an empty one, and not a point."""
    named = words[1:] if words[0] == "" else words
    is_counted = delimiter is not None and len(named) >= 3 and named == [str(index) for index in range(len(named))]
    return is_counted and (words[0] == "" or any(not word.lstrip("+-").isdigit() for word in sample))


def _named_axes(names: list[str], width: int) -> list[int]:
    """The columns of x, y and z by their names."""
    start = 1 if names[0] == "" else 0  # an index, that pandas leaves without a name
    if names[start:] == [str(index) for index in range(len(names) - start)]:
        return [start, start + 1, start + 2]
    shown = ", ".join(name[:20] for name in names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    axes = _axes(names)
    if axes is None:
        raise ValueError(f"its header must name one column each x, y and z; it names {shown}. Rename the columns")
    if len(names) != width:
        raise ValueError(f"its header names {len(names)} columns ({shown}), the first line of numbers has {width}")
    return axes


def _axes(names: list[str]) -> list[int] | None:
    """Finds the columns of x, y and z, such as "X", "pos_x" or "x [m]"; None unless there is one of each."""
    for pattern in ("{}", _AXIS + _UNIT):
        matches = [
            [i for i, name in enumerate(names) if re.fullmatch(pattern.format(axis), name.strip().lower())]
            for axis in "xyz"
        ]
        if all(len(found) == 1 for found in matches):
            return [found[0] for found in matches]
    return None


def _numbers(rows: list[str], layout: _Layout) -> np.ndarray:
    """The coordinates [N, 3] of all rows, which must be as wide as the first."""
    delimiter = layout.delimiter
    if any('"' in row for row in rows):
        split = [_split(row, delimiter) for row in rows]
        widths = [len(words) for words in split]
        rows, delimiter = ["\t".join(word.replace("\t", " ") for word in words) for words in split], "\t"
    elif delimiter is None:
        widths = [len(row.split()) for row in rows]
    else:
        rows = [row.rstrip() for row in rows]
        widths = [row.count(delimiter) + (not row.endswith(delimiter)) for row in rows]
    for index, width in enumerate(widths):
        if width != layout.width:
            raise _RowError(index, f"it has {width} columns, the first line of numbers has {layout.width}")
    if layout.has_decimal_commas:
        rows = [row.replace(",", ".") for row in rows]
    try:
        return np.loadtxt(rows, delimiter=delimiter, usecols=layout.axes, ndmin=2, comments=None)
    except ValueError as error:
        place = re.search(r" at row (\d+)", str(error))
        if place is None:
            raise
        raise _RowError(int(place[1]), str(error)[: place.start()]) from error
