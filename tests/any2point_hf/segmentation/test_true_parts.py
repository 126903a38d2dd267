"""Clouds whose parts are known come in the model's own numbering."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from any2point_hf.modeling.errors import DatasetError
from any2point_hf.segmentation.true_parts import row_with_parts, shape_with_parts

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rows_of_a_data_set_in_the_model_s_numbering(segmenter_with_categories):
    of_data = ["zebra/tail", "ant/body", "ant/head"]
    types = Features(
        points=List(List(Value("float32"))),
        part=List(ClassLabel(names=of_data)),
        category=ClassLabel(names=["ant", "zebra"]),
    )
    clouds = np.random.default_rng(0).normal(size=(2, 30, 3)).astype(np.float32)
    parts = [([1, 2, -100] * 10), [0] * 30]
    rows = {"points": clouds.tolist(), "part": parts, "category": ["ant", "zebra"]}
    data = DatasetDict(train=Dataset.from_dict(rows, types), test=Dataset.from_dict(rows, types))
    arguments = (segmenter_with_categories.model, segmenter_with_categories.processor)
    known = row_with_parts(*arguments, data, 0)
    assert known.truth.tolist() == [1, 0, -100] * 10
    assert known.category == "ant"
    np.testing.assert_array_equal(known.cloud, clouds[0])
    assert row_with_parts(*arguments, data, 1).truth.tolist() == [4] * 30
    with pytest.raises(DatasetError, match=r"--row must lie in 0…1"):
        row_with_parts(*arguments, data, 2)


def test_built_in_shapes_know_parts_of_their_names(tiny_segmenter, segmenter_of):
    assert shape_with_parts(tiny_segmenter.model, "chair", 70).truth is None
    names = {0: "lamp/pole", 1: "chair/leg", 2: "chair/seat", 3: "chair/back"}
    model = segmenter_of(id2label=names, category_parts={"lamp": [0], "chair": [1, 2, 3]})
    known = shape_with_parts(model, "chair", 70)
    assert set(known.truth.tolist()) <= {1, 2, 3}
    assert (known.category, len(known.cloud)) == ("chair", 70)
