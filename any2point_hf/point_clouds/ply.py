"""PLY: text and binary of both byte orders, with lists in any element, polygons and triangle strips.

Read here and not with a library: plyfile is under the GPL and reads lists row by row, and trimesh takes lists of
different lengths, or a cut-off text file, for something else.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from .features import as_declared, wanted_columns
from .geometry import BadFileError, Geometry, Wanted, check_corners, strip_triangles, triangulate

_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4"}
_TYPES |= {"double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
_TYPES |= {"float32": "f4", "float64": "f8"}
_ByteOrder = Literal["", "<", ">"]  # "" for text
_BYTE_ORDERS: dict[str, _ByteOrder] = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_CORNERS = ("vertex_indices", "vertex_index")


class _Property(NamedTuple):
    """A number, or a list whose length comes first."""

    name: str
    dtype: np.dtype
    length: np.dtype | None


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property]


_Rows = dict[str, np.ndarray]  # by property: [count], or [count, n] and lists of arrays for lists


def read_ply(path: Path, wanted: Wanted = ()) -> Geometry:
    """Reads vertices with their faces or strips; raises ValueError."""
    data = path.read_bytes()
    elements, order, position = _read_header(data)
    body: _Text | _Binary = _Binary(data, position) if order else _Text(data[position:])
    found: dict[str, _Rows] = {}
    for element in elements:
        try:
            found[element.name.lower()] = body.read(element)
        except _CutOffError as error:
            raise BadFileError(f"its header says {element.count} of {element.name}, {error}: it is cut off") from error
    if left := body.left():
        raise BadFileError(f"{left} follow what its header says, which is more")
    vertices = {name.lower(): values for name, values in found.get("vertex", {}).items()}
    if missing := [axis for axis in "xyz" if axis not in vertices]:
        raise BadFileError(
            f"its vertices have no {', '.join(missing)}, but {', '.join(list(vertices)[:12]) or 'nothing'}"
        )
    points = np.stack([vertices[axis] for axis in "xyz"], axis=1)
    others = [name for name, values in vertices.items() if values.dtype != object and values.ndim == 1]
    types = {p.name.lower(): p.dtype for e in elements if e.name.lower() == "vertex" for p in e.properties}
    features = {
        feature: as_declared(vertices[name], types[name]) for feature, name in wanted_columns(others, wanted).items()
    }
    if found.get("tristrips"):
        strips = _lists(found["tristrips"], elements)
        triangles = [t for strip in strips for t in strip_triangles(list(strip))]
        return Geometry(points, triangulate(points, triangles), features)
    corners = _lists(found.get("face", {}), elements)
    if isinstance(corners, np.ndarray) and corners.ndim == 2 and corners.shape[1] == 3 and len(corners):
        check_corners(corners.astype(np.int64), len(points))
        return Geometry(points, corners.astype(np.int64), features)
    return Geometry(points, triangulate(points, [list(map(int, polygon)) for polygon in corners]), features)


def _lists(rows: _Rows, elements: list[_Element]) -> np.ndarray:
    """The corners of faces: the list of their usual name, else of any."""
    lists = {p.name for element in elements for p in element.properties if p.length is not None}
    for name in (*_CORNERS, *rows):
        if name in rows and name in lists:
            return rows[name]
    return np.empty((0, 3))


def _read_header(data: bytes) -> tuple[list[_Element], _ByteOrder, int]:
    """The elements, the byte order ("" for text), and where the numbers begin."""
    if not data[:1024].lstrip(b"\xef\xbb\xbf \r\n").lower().startswith(b"ply"):
        raise BadFileError("a PLY file starts with 'ply'")
    last = re.search(rb"^end_header[ \t]*(\r\n|\n|\r)", data, re.IGNORECASE | re.MULTILINE)
    last = last or re.search(rb"\rend_header[ \t]*(\r)", data, re.IGNORECASE)  # lines of the first Macs
    if not last:
        raise BadFileError("its header has no end_header")
    elements: list[_Element] = []
    order: _ByteOrder | None = None
    for line in data[: last.start()].decode("utf-8-sig", "replace").splitlines():
        words = line.split()
        kind = words[0].lower() if words else "comment"
        if kind == "format" and len(words) > 1 and words[1].lower() in _BYTE_ORDERS:
            order = _BYTE_ORDERS[words[1].lower()]
        elif kind == "element" and len(words) == 3:
            count = int(words[2])
            if not 0 <= count <= len(data):  # a row takes a byte at least
                raise BadFileError(f"its header says {count} of {words[1]}, but the file has {len(data)} bytes")
            elements.append(_Element(words[1], count, []))
        elif kind == "property" and elements and len(words) in (3, 5):
            *types, name = words[1:]
            dtypes = [np.dtype(_type(word.lower())) for word in types if word.lower() != "list"]
            if name in [p.name for p in elements[-1].properties]:
                raise BadFileError(f"its {elements[-1].name} has two properties of the name {name[:30]}")
            elements[-1].properties.append(_Property(name, dtypes[-1], dtypes[0] if len(words) == 5 else None))
        elif kind not in ("ply", "comment", "obj_info"):
            raise BadFileError(f"its header has the line {line[:60]!r}, which means nothing in PLY")
    if order is None:
        raise BadFileError(f"its format must be one of {', '.join(_BYTE_ORDERS)}")
    for element in elements:  # the format may come after them
        element.properties[:] = [
            _Property(name, dtype.newbyteorder(order or "="), length and length.newbyteorder(order or "="))
            for name, dtype, length in element.properties
        ]
    return elements, order, last.end()


def _type(word: str) -> str:
    if word not in _TYPES:
        raise BadFileError(f"its header names the type {word[:30]!r}; types are {', '.join(_TYPES)}")
    return _TYPES[word]


class _CutOffError(ValueError):
    """Fewer rows than the header says."""


class _Text:
    """The numbers of a text file, one element after the other."""

    def __init__(self, body: bytes) -> None:
        self.lines = [line for line in body.decode("utf-8", "replace").splitlines() if not line.isspace() and line]
        self.line = 0

    def read(self, element: _Element) -> _Rows:
        """Reads the element's rows, one a line."""
        lines = self.lines[self.line : self.line + element.count]
        self.line += element.count
        if len(lines) < element.count:
            raise _CutOffError(f"{len(lines)} follow")
        properties = element.properties
        if not lines or not properties:
            return {}
        widths = {len(line.split()) for line in lines}
        lists = [p for p in properties if p.length is not None]
        if not lists and widths != {len(properties)}:
            raise BadFileError(f"a {element.name} has {len(properties)} numbers, lines have {sorted(widths)[:3]}")
        if len(widths) == 1 and len(properties) == max(1, len(properties) - len(lists)):
            table = np.loadtxt(lines, ndmin=2, comments=None)
            if not lists:
                return {p.name: table[:, index] for index, p in enumerate(properties)}
            if (table[:, 0] == table.shape[1] - 1).all():
                return {properties[0].name: table[:, 1:]}
        return _ragged(element, ([float(word) for word in line.split()] for line in lines))

    def left(self) -> str:
        """What is left behind the last element."""
        return f"{len(self.lines) - self.line} lines" if len(self.lines) > self.line else ""


def _ragged(element: _Element, rows: Iterable[list[float]]) -> _Rows:
    """The columns of an element whose lists differ in length; each row is its numbers, a list's length before it."""
    columns: dict[str, list] = {p.name: [] for p in element.properties}
    for row in rows:
        position = 0
        for name, _, length in element.properties:
            size = 1 if length is None else int((row[position : position + 1] or [-1])[0])
            position += length is not None
            values = row[position : position + size]
            if size < 0 or len(values) < size:
                raise _CutOffError(f"a row has {len(row)} numbers, too few for its lists")
            columns[name].append(values[0] if length is None else values)
            position += size
        if position != len(row):
            raise BadFileError(f"a row has {len(row)} numbers, {position} of which are its lists' and others'")
    lists = {p.name for p in element.properties if p.length is not None}
    return {name: _objects(values) if name in lists else np.array(values) for name, values in columns.items()}


def _objects(lists: list) -> np.ndarray:
    """Lists of any lengths in one array, [count] of lists."""
    array = np.empty(len(lists), dtype=object)
    array[:] = lists
    return array


class _Binary:
    """The bytes of a binary file, one element after the other."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position

    def read(self, element: _Element) -> _Rows:
        """Reads the element's rows; all lists as long as those of the first row, in one go."""
        dtype = self._dtype_of_first(element)
        table = self._table(dtype, element.count)
        lengths = [p.name for p in element.properties if p.length is not None]
        is_alike = all((table["length of " + name] == table.dtype[name].shape[0]).all() for name in lengths)
        if not lengths and len(table) < element.count:
            raise _CutOffError(f"{len(table)} follow")
        if is_alike and len(table) == element.count:
            self.position += table.nbytes
            return {p.name: table[p.name] for p in element.properties}
        return _ragged(element, self._rows(element))

    def left(self) -> str:
        """What is left behind the last element; some programs end a file with a line end."""
        left = len(self.data) - self.position
        return f"{left} bytes" if left > 2 else ""

    def _table(self, dtype: np.dtype, count: int) -> np.ndarray:
        if not dtype.itemsize:
            return np.zeros(count, dtype)
        there = (len(self.data) - self.position) // dtype.itemsize
        return np.frombuffer(self.data, dtype, min(count, there), self.position)

    def _dtype_of_first(self, element: _Element) -> np.dtype:
        fields: list[tuple] = []
        position = self.position
        for name, dtype, length in element.properties:
            if length is None:
                fields.append((name, dtype))
                position += dtype.itemsize
                continue
            if element.count and position + length.itemsize > len(self.data):
                raise _CutOffError("0 follow")
            size = int(np.frombuffer(self.data, length, 1, position)[0]) if element.count else 0
            if size < 0 or size * dtype.itemsize > len(self.data):
                raise _CutOffError(f"its first list has {size} entries")
            fields += [("length of " + name, length), (name, dtype, (size,))]
            position += length.itemsize + size * dtype.itemsize
        return np.dtype(fields)

    def _rows(self, element: _Element) -> Iterator[list[float]]:
        """Yields each row's numbers, a list's length before its entries."""
        for number in range(element.count):
            row: list[float] = []
            for _, dtype, length in element.properties:
                size = 1
                if length is not None:
                    row += self._take(length, 1, number)
                    size = int(row[-1])
                row += self._take(dtype, size, number)
            yield row

    def _take(self, dtype: np.dtype, count: int, number: int) -> list[float]:
        size = count * dtype.itemsize
        if count < 0 or self.position + size > len(self.data):
            raise _CutOffError(f"{number} follow")
        values = np.frombuffer(self.data, dtype, count, self.position).tolist()
        self.position += size
        return values
