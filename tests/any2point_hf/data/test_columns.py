"""Which columns are the points and the label."""

import numpy as np
import pytest
from datasets import Dataset

from any2point_hf.data.columns import with_own_names
from any2point_hf.modeling.errors import DatasetError


def nested():
    generator = np.random.default_rng(0)
    return [generator.normal(size=(9 + number, 3)).tolist() for number in range(4)]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("points", "xyz"), "points"),
        (("normal", "xyz"), "xyz"),
        (("normals", "rgb", "anything"), "anything"),
        (("vertices", "pos"), "pos"),
        (("blob",), "blob"),
    ],
)
def test_the_column_of_points(columns, found):
    rows = {name: nested() for name in columns} | {"label": [0, 0, 1, 1], "id": list("abcd")}
    dataset = with_own_names(Dataset.from_dict(rows), "the set")
    others = [name for name in columns if name != found]
    assert dataset.column_names == [*("points" if name == found else name for name in columns), "label", "id"]
    assert {*others} <= {*dataset.column_names}


def test_two_possible_columns_are_named():
    with pytest.raises(DatasetError, match=r"the set must have a column 'points'.*several may be it: scan, model"):
        with_own_names(Dataset.from_dict({"scan": nested(), "model": nested()}), "the set")


def test_no_possible_column_is_told_with_the_types():
    rows = {"x": [1.0], "name": ["a"], "edges": [[[1, 2]]]}
    with pytest.raises(DatasetError, match=r"its columns are x \(float64\), name \(string\), edges \(List\)"):
        with_own_names(Dataset.from_dict(rows), "the set")


@pytest.mark.parametrize("first", [None, [], [[]]])
def test_the_first_rows_may_be_empty(first):
    dataset = with_own_names(Dataset.from_dict({"xyz": [first, *nested()]}), "the set")
    assert dataset.column_names == ["points"]


@pytest.mark.parametrize(
    ("cell", "kind"),
    [("a.ply", "string"), ({"x": [1.0], "y": [2.0]}, "dict"), ([{"x": 1.0}], "List"), (0.5, "float64")],
)
def test_points_of_a_type_that_is_not_read(cell, kind):
    with pytest.raises(DatasetError, match=rf"column 'points' must have numbers \[N, 3\] or meshes, got {kind}\."):
        with_own_names(Dataset.from_dict({"points": [cell]}), "the set")
