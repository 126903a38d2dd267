import numpy as np
import pytest
from datasets import DatasetDict

from any2point_hf.data import build_dataset_dict
from any2point_hf.data.parts.shapes import make_part_shapes
from any2point_hf.data.validation import hold_out_validation
from any2point_hf.modeling import DatasetError


def clouds(labels):
    return np.arange(len(labels) * 24.0, dtype=np.float32).reshape(-1, 8, 3), list(labels)


def dataset(train=(0,) * 20 + (1,) * 10, **splits):
    return build_dataset_dict({"train": clouds(train), "test": clouds((0, 1)), **splits}, ["a", "b"])


def first_numbers(split):
    return [float(cloud[0][0]) for cloud in split["points"]]


def test_every_class_gives_its_share_and_no_cloud_is_in_two_splits():
    whole = dataset()
    held_out = hold_out_validation(whole, 0.2)
    assert sorted(held_out["validation"]["label"]) == [0] * 4 + [1] * 2
    assert sorted(held_out["train"]["label"]) == [0] * 16 + [1] * 8
    both = first_numbers(held_out["train"]) + first_numbers(held_out["validation"])
    assert sorted(both) == first_numbers(whole["train"])
    assert first_numbers(held_out["test"]) == first_numbers(whole["test"])


def test_always_the_same_clouds():
    first, second = (hold_out_validation(dataset(), 0.3)["validation"] for _ in range(2))
    assert first_numbers(first) == first_numbers(second)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 3])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(DatasetError, match=f"between 0 and 1, got {share}"):
        hold_out_validation(dataset(), share)


def test_a_class_with_too_few_clouds():
    with pytest.raises(DatasetError, match=r"0.2 of the training split cannot be held out from every class: "):
        hold_out_validation(dataset(train=(0,) * 9 + (1,)), 0.2)


def test_a_validation_split_of_its_own():
    with pytest.raises(DatasetError, match="validation split of its own, which is used"):
        hold_out_validation(dataset(validation=clouds((0, 1))), 0.2)


def test_a_data_set_of_parts_gives_its_share_of_each_category():
    parts = make_part_shapes(20, 5, 16)
    split = hold_out_validation(parts, 0.25)
    assert sorted(split["validation"]["category"][:]) == [0, 1, 2, 3, 4]
    assert split["train"].num_rows == 15
    without = DatasetDict({name: rows.remove_columns("category") for name, rows in parts.items()})
    assert hold_out_validation(without, 0.25)["validation"].num_rows == 5
