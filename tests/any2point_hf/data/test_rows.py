"""Rows of Arrow tables as arrays, and the clouds in them."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Array2D, Dataset, Features, LargeList, List, Value

from any2point_hf.data.rows import read_row, rows_of
from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.reading import PLAIN_READER


def row(cells, feature=None):
    features = feature and Features(points=feature)
    dataset = Dataset.from_dict({"points": cells}, features=features).with_format("arrow")
    return next(rows_of(dataset[len(cells) - 1]))["points"]


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("kind", [Array2D, List, LargeList, "lists of three"])
def test_numbers_keep_their_type(dtype, kind):
    cells = [np.arange(3 * size, dtype=dtype).reshape(-1, 3) for size in (4, 5)]
    if kind is Array2D:
        feature = Array2D((None, 3), dtype)
    else:
        inner = List(Value(dtype), length=3) if kind == "lists of three" else List(Value(dtype))
        feature = LargeList(inner) if kind is LargeList else List(inner)
    found = row(cells, feature)
    assert found.dtype == dtype
    assert np.array_equal(found, cells[-1])


def test_of_wider_rows_the_first_three_are_taken():
    assert np.array_equal(row([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]), [[1, 2, 3], [5, 6, 7]])


def test_what_is_no_array_stays_as_it_is():
    table = pa.table({"id": ["a"], "points": [[[1.0], [2.0, 3.0]]], "none": pa.array([None], pa.list_(pa.int8()))})
    assert next(rows_of(table)) == {"id": "a", "points": [[1.0], [2.0, 3.0]], "none": None}


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, r"has no points: its cell is empty\. Remove the row"),
        ([], "holds no points; at least 8 are needed"),
        ([[1.0, 2.0, 3.0]] * 9 + [None], "must have three numbers in every row; its rows differ in length"),
        ([[1.0, 2.0, 3.0]] * 9 + [[1.0]], "must have three numbers in every row; its rows differ in length"),
        ([[1.0, 2.0, None]] * 9, "must be finite: 9 of 9 points"),
    ],
)
def test_cells_that_hold_no_cloud(cell, reason):
    points = row([[[1.0, 2.0, 3.0]], cell], List(List(Value("float32"))))
    with pytest.raises(PointCloudError, match=f"^row 5 {reason}"):
        read_row({"points": points}, "row 5", PLAIN_READER)
