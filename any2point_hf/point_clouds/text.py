"""Points in text: one on each line, in the first three columns or in those that a header names x, y and z.

Columns are parted by spaces, tabs, commas or semicolons, and numbers may have decimal commas. Names stand on the first
line, maybe with units below, or in a comment (`#`, `//` or `%`) above it. A first line of one integer, as .pts has it,
counts the points; after them another scan may follow, with its count. Columns without names are called by their numbers
from 0.
"""

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .features import wanted_columns
from .geometry import BadFileError, Geometry, Wanted, in_plain_words

_COMMENT = re.compile(r"(?:^\s*(?:#|//|%)|(?<=\s)(?:#|//)).*")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_SEPARATOR = re.compile("sep=.")  # what Excel may write first
_UNIT = re.compile(r"\s*[\[(][^\])]*[\])]")  # such as " [m]" behind a name
_LENGTH = re.compile(r"[\[(]?(?:[mcdkuµn]?m|in(?:ch(?:es)?)?|f(?:oo|ee)?t|(?:milli|centi)?met(?:er|re)s?)[\])]?", re.I)
_AXIS = r"(?:(?:p|pos|position|point|coord|coordinate|vertex)[ _.-]?)?{}(?:[ _.-]?(?:pos|position|coord|coordinate|m))?"
_UNNAMED = {  # what columns without names are by the ending and their number
    (".xyzrgb", 6): ["x", "y", "z", "red", "green", "blue"],
    (".xyzn", 6): ["x", "y", "z", "nx", "ny", "nz"],
    (".pts", 4): ["x", "y", "z", "intensity"],
    (".pts", 6): ["x", "y", "z", "red", "green", "blue"],
    (".pts", 7): ["x", "y", "z", "intensity", "red", "green", "blue"],
}
_NO_NUMBER = ("", "na", "n/a", "null", "none")
_MOST_NAMES = 12  # of columns in a message


def read_text(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads .txt, .xyz, .csv and other text; raises ValueError."""
    text = decode(path.read_bytes()).rstrip("\x1a")
    rows, numbers, comments = _rows(text)
    declared = None
    if len(rows) > 1 and rows[0].strip().isdigit():
        declared, rows, numbers = int(rows[0]), rows[1:], numbers[1:]
    if _has_units(rows):
        del rows[1], numbers[1]
    layout = _layout(rows, comments)
    rows, numbers = rows[layout.has_header :], numbers[layout.has_header :]
    if declared is not None:
        rows, numbers = _counted(declared, rows, numbers)
    numbered = [str(column) for column in range(layout.width)]
    names = layout.names or _UNNAMED.get((path.suffix.lower(), layout.width), numbered)
    others = {name: i for i, name in enumerate(names) if i not in layout.axes}
    features = {feature: others[name] for feature, name in wanted_columns(others, wanted).items()}
    try:
        table = _numbers(rows, layout, [*layout.axes, *features.values()])
        return Geometry(table[:, :3], features=dict(zip(features, table[:, 3:].T, strict=True)))
    except _RowError as error:
        raise BadFileError(f"line {numbers[error.row]}: {error}") from error


def decode(data: bytes) -> str:
    """UTF-8 or, with its mark, UTF-16; byte order marks are left out."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if b"\0" in data:
        raise BadFileError("it is binary, or UTF-16 without its mark; expected text with a point on each line")
    return data.decode("utf-8-sig", "replace")


class _Layout(NamedTuple):
    """How the rows are cut into columns, and which of these are x, y and z."""

    has_header: bool
    delimiter: str | None  # None: white space
    has_decimal_commas: bool
    width: int
    axes: list[int]
    names: list[str] = []  # noqa: RUF012 - of all columns, or none


class _RowError(ValueError):
    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def _rows(text: str) -> tuple[list[str], list[int], list[str]]:
    """The lines that hold something, their numbers in the file, and the comments above the first of them."""
    has_comments = any(mark in text for mark in ("#", "//", "%"))
    rows, numbers, comments = [], [], []
    for number, line in enumerate(text.splitlines(), 1):
        kept = _COMMENT.sub("", line) if has_comments else line
        if kept.strip(" \t\r,;") and not (number == 1 and _SEPARATOR.fullmatch(kept.strip())):
            rows.append(kept)
            numbers.append(number)
        elif kept != line and (not rows or (len(rows) == 1 and rows[0].strip().isdigit())):
            comments.append(line)
    return rows, numbers, comments


def _has_units(rows: list[str]) -> bool:
    """Whether the second row has units of length, such as "m" or "[m]", below the names in the first."""
    if len(rows) < 3:
        return False
    names, units = (re.split(r"[\s,;]+", row.replace('"', "").strip()) for row in (_UNIT.sub("", rows[0]), rows[1]))
    return _axes(names) is not None and sum(bool(_LENGTH.fullmatch(word)) for word in units) >= 3


def _counted(count: int, rows: list[str], numbers: list[int]) -> tuple[list[str], list[int]]:
    """The points of one scan or several; a line before each counts its points, the first of which was `count`."""
    points: list[int] = []
    line, start = "its first line", 0
    while count != len(rows) - start:
        end = start + count
        if end >= len(rows) or not rows[end].strip().isdigit():
            more = "fewer: it is cut off" if end > len(rows) else "more"
            raise BadFileError(f"{line} counts {count} points, {len(rows) - start} lines follow, {more}")
        points += range(start, end)
        line, count, start = f"line {numbers[end]}", int(rows[end]), end + 1
    points += range(start, len(rows))
    return [rows[point] for point in points], [numbers[point] for point in points]


def _layout(rows: list[str], comments: list[str]) -> _Layout:
    if not rows:
        raise BadFileError("it has no line of three numbers")
    sample = rows[min(1, len(rows) - 1)]
    delimiter, has_decimal_commas = _delimiter(rows)
    first, second = _split(_without_units(rows[0], delimiter), delimiter), _split(sample, delimiter)
    if _is_header(first, second, rows, delimiter, has_decimal_commas):
        if len(rows) == 1:
            raise BadFileError("it has no line of three numbers")
        return _Layout(True, delimiter, has_decimal_commas, *_named(first, rows[1:], delimiter))
    width = len(first)
    if width < 3:
        raise BadFileError(f"a line needs at least three columns (x, y, z), the first has {width}")
    axes, names = _commented_axes(comments, width) or ([0, 1, 2], [])
    return _Layout(False, delimiter, has_decimal_commas, width, axes, names)


def _delimiter(rows: list[str]) -> tuple[str | None, bool]:
    """Finds what parts the columns (None: white space), and whether numbers have decimal commas."""
    header, *others = rows if len(rows) > 1 else [rows[0], rows[0]]
    row = next((other for other in others if "," in other), others[0])
    if ";" in others[0]:
        return ";", "," in row
    words = row.split()
    decimals = [bool(_DECIMAL_COMMA.fullmatch(word)) for word in words]
    if any(decimals) and "," not in header:
        return ("\t" if "\t" in header else None), True
    if any(decimals) and len(words) >= 3 and all(map(_is_number, words, decimals)):
        return None, True
    if "," in row:
        if len(words) >= 3 and all("," in word[:-1] for word in words) and all(w.endswith(",") for w in words[:-1]):
            raise BadFileError(
                "its commas part columns and decimals alike. Write decimal points, or semicolons between"
            )
        cells = _split(row, ",") if '"' in row else []
        return ",", any(map(_DECIMAL_COMMA.fullmatch, cells))
    return ("\t" if header.count("\t") >= 2 and not _are_numbers(header.split()) else None), False


def _split(line: str, delimiter: str | None) -> list[str]:
    """Cuts a line into its columns, without quotes and spaces around them; an empty last one is none."""
    if delimiter is None:
        words = line.split()
    elif '"' in line:
        words = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    else:
        words = line.rstrip("\r\n").split(delimiter)
    words = [word.strip().strip("\"'") for word in words]
    return words[:-1] if len(words) > 1 and not words[-1] else words


def _without_units(header: str, delimiter: str | None) -> str:
    return header if delimiter is None and not _UNIT.search(header) else _UNIT.sub("", header)


def _is_number(word: str, has_decimal_commas: bool = False) -> bool:
    try:
        float(word.replace(",", ".") if has_decimal_commas else word)
    except ValueError:
        return False
    return True


def _are_numbers(words: list[str]) -> bool:
    return all(map(_is_number, words))


def _is_header(
    first: list[str], second: list[str], rows: list[str], delimiter: str | None, has_decimal_commas: bool
) -> bool:
    """Whether the first row names the columns: by words where numbers follow, or by 0, 1, 2, as pandas does."""
    numeric = [_is_number(word, has_decimal_commas) for word in first]
    following = [_is_number(word, has_decimal_commas) for word in second]
    if not any(numeric) or any(b and not a for a, b in zip(numeric, following, strict=False)):
        return True
    start = 1 if first[0] == "" else 0
    others = [word for index, word in enumerate(first[start:]) if word != str(index)]
    counted = first[start : start + 3] == ["0", "1", "2"] and not any(_is_number(word) for word in others)
    some = [_split(row, delimiter)[start : start + 3] for row in rows[1:20]]
    return counted and (start == 1 or any(not word.lstrip("+-").isdigit() for words in some for word in words))


def _named(names: list[str], rows: list[str], delimiter: str | None) -> tuple[int, list[int], list[str]]:
    """How many columns the rows have, which are x, y and z by their names, and all names."""
    width = len(_split(rows[0], delimiter))
    if delimiter is None and len(names) == width - 1 and _counts_rows(rows):
        names = ["", *names]  # R and pandas give an index no name
    start = 1 if names[0] == "" else 0
    axes = _axes(names)
    if axes is None and names[start : start + 3] == ["0", "1", "2"]:
        axes = [start, start + 1, start + 2]
    shown = ", ".join(name[:20] for name in names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    if axes is None:
        raise BadFileError(f"its header must name one column each x, y and z; it names {shown}. Rename the columns")
    if delimiter is not None:
        width = rows[0].count(delimiter) + 1 if '"' not in rows[0] else width
        width -= width == len(names) + 1 and rows[0].rstrip(" \r").endswith(delimiter)
    if len(names) != width:
        raise BadFileError(f"its header names {len(names)} columns ({shown}), the first line of numbers has {width}")
    return width, axes, names


def _counts_rows(rows: list[str]) -> bool:
    """Whether the first column counts the rows, from 0 or 1."""
    firsts = [row.split(maxsplit=1)[0].strip('"') for row in rows]
    return firsts in ([str(i) for i in range(len(rows))], [str(i) for i in range(1, len(rows) + 1)])


def _commented_axes(comments: list[str], width: int) -> tuple[list[int], list[str]] | None:
    """The columns of x, y and z by the comment that names as many columns as there are, and all names.

    Raises:
        ValueError: a comment names x, y and z, but not as the first three, and none names all columns.
    """
    doubtful = None
    for comment in comments:
        said = re.sub(r"^[\s#/%]+(?:[\w ]+:)?", "", comment)
        for delimiter in (",", ";", "\t", None):
            names = _split(_UNIT.sub("", said), delimiter)
            axes = _axes(names)
            if axes and len(names) == width:
                return axes, names
            if axes and axes != [0, 1, 2]:
                doubtful = comment.strip()
    if doubtful:
        raise BadFileError(
            f"a comment must name all {width} columns if x, y and z are not the first three, got {doubtful[:80]!r}. "
            "Put names into the first line"
        )
    return None


def _axes(names: list[str]) -> list[int] | None:
    """Finds the columns of x, y and z, such as "X" or "pos_x"; None unless there is one of each."""
    for pattern in ("{}", _AXIS):
        matches = [
            [i for i, name in enumerate(names) if re.fullmatch(pattern.format(axis), name.strip().lower())]
            for axis in "xyz"
        ]
        if all(len(found) == 1 for found in matches):
            return [found[0] for found in matches]
    return None


def _numbers(rows: list[str], layout: _Layout, columns: list[int]) -> np.ndarray:
    """The numbers [N, columns] of all rows, which must be as wide as the first."""
    delimiter, expected = layout.delimiter, layout.width
    if any('"' in row for row in rows):
        split = [_split(row, delimiter) for row in rows]
        widths = [len(words) for words in split]
        rows, delimiter = ["\t".join(word.replace("\t", " ") for word in words) for words in split], "\t"
    elif delimiter is None:
        widths = [len(row.split()) for row in rows]
    else:
        widths = [row.count(delimiter) + 1 for row in rows]
        for index, width in enumerate(widths):
            if width == expected + 1 and rows[index].rstrip(" \r").endswith(delimiter):
                widths[index] = expected
    for index, width in enumerate(widths):
        if width != expected:
            raise _RowError(index, f"it has {width} columns, the first line of numbers has {expected}")
    if layout.has_decimal_commas:
        rows = [row.replace(",", ".") for row in rows]
    try:
        return _parsed(rows, delimiter, columns)
    except _RowError:
        return _parsed([_without_gaps(row, delimiter) for row in rows], delimiter, columns)


def _without_gaps(row: str, delimiter: str | None) -> str:
    """The row with "nan" for what pandas and R write where there is no number."""
    cells = [cell.strip() for cell in row.split(delimiter)]
    return (delimiter or " ").join("nan" if cell.lower() in _NO_NUMBER else cell for cell in cells)


def _parsed(rows: list[str], delimiter: str | None, columns: list[int]) -> np.ndarray:
    try:
        return np.loadtxt(rows, delimiter=delimiter, usecols=columns, ndmin=2, comments=None)
    except ValueError as error:
        place = re.search(r" at row (\d+)", str(error))
        if place is None:
            raise
        raise _RowError(int(place[1]), in_plain_words(str(error)[: place.start()])) from error
