"""Splits by their names, and the test split that is made where there is none."""

import warnings

import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Dataset, Features
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.data.splits import check_trains, with_own_splits
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.point_clouds.reading import CloudReader

FEATURES = Features(points=Array2D((None, 3), "float32"), label=ClassLabel(names=["a", "b", "c"]))


def make_split(labels, first=0):
    """Clouds whose first coordinate is their number."""
    points = [np.full((9, 3), first + number, np.float32) for number in range(len(labels))]
    return Dataset.from_dict({"points": points, "label": labels}, features=FEATURES)


def numbers(split):
    return [int(cloud[0, 0]) for cloud in split.with_format("numpy")["points"][:]]


@pytest.mark.parametrize(
    "names", [("train", "test", "validation"), ("training", "testing", "val"), ("Train", "TEST", "dev")]
)
def test_usual_names(names):
    parts = {name: make_split([0, 1], first) for name, first in zip(names, (0, 10, 20), strict=True)}
    dataset = with_own_splits(parts, "the set")
    assert {name: numbers(split) for name, split in dataset.items()} == {
        "train": [0, 1],
        "test": [10, 11],
        "validation": [20, 21],
    }


def test_other_splits_are_kept():
    parts = {"train": make_split([0, 1]), "test": make_split([1]), "hard": make_split([0], 5)}
    assert numbers(with_own_splits(parts, "the set")["hard"]) == [5]


def test_the_validation_split_is_the_test_split_where_there_is_no_other():
    parts = {"train": make_split([0, 1]), "valid": make_split([0, 1], 10)}
    with pytest.warns(
        UserWarning, match="the set has no test split with labels: its validation split is the test split"
    ):
        dataset = with_own_splits(parts, "the set")
    assert {name: numbers(split) for name, split in dataset.items()} == {"train": [0, 1], "test": [10, 11]}
    parts["test"] = make_split([-1, -1])
    with pytest.warns(UserWarning, match="no test split with labels"):
        assert numbers(with_own_splits(parts, "the set")["test"]) == [10, 11]


@given(st.lists(st.integers(2, 13), min_size=3, max_size=3), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_share_of_every_class_is_held_out(counts, seed, random):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    random.shuffle(labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = with_own_splits(make_split(labels), "the set", CloudReader(seed))
        again = with_own_splits({"all": make_split(labels)}, "the set", CloudReader(seed))
    held_out = [max(1, round(0.2 * count)) for count in counts]
    assert np.bincount(dataset["test"]["label"][:]).tolist() == held_out
    assert sorted(numbers(dataset["train"]) + numbers(dataset["test"])) == list(range(len(labels)))
    assert numbers(dataset["test"]) == sorted(numbers(dataset["test"])) == numbers(again["test"])
    said = [str(warning.message) for warning in caught]  # others may be of files that the garbage collector closes
    assert any(f"{sum(held_out)} of its {len(labels)} clouds" in message for message in said)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"part1": [0], "part2": [1]}, "must have a split 'train', or 'test' alone, got part1, part2"),
        ({}, "must have a split 'train', or 'test' alone, got none"),
        ({"train": [], "test": [0]}, "has no clouds in its split 'train'"),
        ({"val": [0], "dev": [0], "train": [0]}, "has two splits for 'validation': val, dev, train"),
    ],
)
def test_what_cannot_be_trained_on(parts, reason):
    with pytest.raises(DatasetError, match=reason):
        with_own_splits({name: make_split(labels) for name, labels in parts.items()}, "the set")


@pytest.mark.parametrize("parts", [{"test": [0, 1]}, {"train": [-1, -1], "test": [0, 1]}])
def test_what_can_only_be_tested_on(parts):
    dataset = with_own_splits({name: make_split(labels) for name, labels in parts.items()}, "the set")
    assert [*dataset] == ["test"]
    with pytest.raises(DatasetError, match="training needs a split 'train' with labels, got test"):
        check_trains(dataset)


@pytest.mark.parametrize("kind", ["streamed", "list", "number"])
def test_what_is_no_data_set(kind):
    source = {"streamed": {"train": make_split([0]).to_iterable_dataset()}, "list": {"train": [1]}, "number": 3}[kind]
    with pytest.raises(DatasetError, match="must be a Dataset of `datasets`, or a DatasetDict, got"):
        with_own_splits(source, "the set")


def test_messages_stay_short():
    many = {f"a_split_with_a_long_name_{number}": make_split([0, 1]) for number in range(60)}
    with pytest.raises(DatasetError, match=r"must have a split 'train', .* and 52 more") as told:
        with_own_splits(many, "the set")
    assert len(str(told.value)) < 500
