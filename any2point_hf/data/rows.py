"""Reads the clouds in rows of a data set, out of Arrow tables.

Unusual here: the numpy format of `datasets` would take a thousand times as long for nested lists, and would lose the
type of integers, which tells the scale of colours and intensities.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..modeling.errors import PointCloudError
from ..point_clouds.features import spread_groups
from ..point_clouds.files import PointCloud
from ..point_clouds.reading import CloudReader

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table: numbers as arrays of their own type, everything else as in Python.

    Of `points` with more than three numbers, the first three are x, y, z.
    """
    for index in range(table.num_rows):
        row = {name: _value(table.column(name)[index]) for name in table.column_names}
        points = row.get("points")
        if isinstance(points, np.ndarray) and points.ndim == 2 and points.shape[1] > 3:
            row["points"] = points[:, :3]
        yield row


def _value(scalar: Any) -> Any:
    if isinstance(scalar, pa.ExtensionScalar):  # an Array2D
        scalar = scalar.value
    if isinstance(scalar, pa.ListScalar):
        return None if scalar.values is None else _array(scalar.values)
    return scalar.as_py()


def _array(values: Any) -> Any:
    """An array of nested lists; the lists themselves where they differ in length, and [0, 3] where there are none."""
    shape = [len(values)]
    while any(is_list(values.type) for is_list in _LISTS):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if not lengths:
            return np.empty((0, 3))
        if len(lengths) > 1 or lengths[0] is None:
            return values.to_pylist()
        shape += lengths
        values = values.flatten()
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return values.to_pylist()
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def read_row(row: Mapping[str, Any], name: str, reader: CloudReader) -> PointCloud:
    """The cloud in a row of a data set.

    Args:
        row: `points`, as numbers [N, 3], or as a file `{"bytes": …, "path": …}`, such as an undecoded Mesh; and
            maybe arrays of features by their names or their groups', such as `rgb` [N, 3].
        name: of the row, for the error message.
        reader: of the clouds.

    Raises:
        PointCloudError: it cannot be read, or is no usable cloud.
    """
    value = row["points"]
    if value is None:
        raise PointCloudError(
            f"{name} has no points: its cell is empty. Remove the row, for example by Dataset.filter."
        )
    if isinstance(value, Mapping):
        return reader.checked(_read_file(value, name, reader), name)
    features = spread_groups({key: values for key, values in row.items() if key != "points"}, len(value), name)
    return reader.checked(PointCloud(value, features), name)


def _read_file(value: Mapping[str, Any], name: str, reader: CloudReader) -> PointCloud:
    path, content = value.get("path") or "", value.get("bytes")
    if not path and content is None:
        raise PointCloudError(f"{name} holds no file: neither bytes nor a path. Remove the row.")
    if content is None:
        return reader.read(path)
    if not Path(path).suffix:
        raise PointCloudError(f"{name} must have a path whose ending tells the format of its bytes, got {path!r}.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "cloud").with_suffix(Path(path).suffix)
        file.write_bytes(content)
        try:
            return reader.read(file)
        except PointCloudError as error:
            raise PointCloudError(str(error).replace(str(file), f"{name} ({path})")) from error
