from collections import Counter

import numpy as np
import pytest

from any2point_hf.data import build_dataset_dict
from any2point_hf.few_shot.folds import NUM_QUERIES, draw_fold, open_folds
from any2point_hf.modeling.errors import DatasetError


def numbered_clouds(counts):
    """Class `c` has `counts[c]` clouds of 9 points; the first coordinate is the cloud's number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    clouds = np.random.default_rng(1).normal(size=(len(labels), 9, 3)).astype(np.float32)
    clouds[:, 0, 0] = np.arange(len(labels))
    names = [f"class{index}" for index in range(len(counts))]
    return build_dataset_dict({"train": (clouds, labels.tolist())}, names)["train"], labels


def numbers_of(split):
    return [int(cloud[0, 0]) for cloud in split.with_format("numpy")["points"]]


def test_a_fold_is_what_was_asked_for():
    split, labels = numbered_clouds([40, 12, 33, 30, 50])
    fold = draw_fold(split, ways=3, shots=10, fold=0)
    names = fold["train"].features["label"].names
    assert names == sorted(names)
    assert len(names) == 3
    assert "class1" not in names  # too few clouds
    assert Counter(fold["train"]["label"]) == {0: 10, 1: 10, 2: 10}
    assert Counter(fold["test"]["label"]) == {0: NUM_QUERIES, 1: NUM_QUERIES, 2: NUM_QUERIES}
    support, queries = numbers_of(fold["train"]), numbers_of(fold["test"])
    assert len({*support, *queries}) == 3 * 30  # none twice
    for part, numbers in (("train", support), ("test", queries)):
        assert [f"class{labels[n]}" for n in numbers] == [names[label] for label in fold[part]["label"]]


def test_the_number_of_a_fold_decides_it():
    split, _ = numbered_clouds([40] * 6)
    again = [numbers_of(draw_fold(split, 3, 5, fold)["train"]) for fold in (0, 0, 1, 2)]
    assert again[0] == again[1]
    assert len({tuple(numbers) for numbers in again}) == 3
    drawn = {name for fold in range(10) for name in draw_fold(split, 3, 5, fold)["train"].features["label"].names}
    assert len(drawn) == 6


def test_more_shots_have_the_same_queries():
    split, _ = numbered_clouds([40] * 6)
    few, many = (draw_fold(split, 3, shots, 4) for shots in (5, 20))
    assert numbers_of(few["test"]) == numbers_of(many["test"])
    assert set(numbers_of(few["train"])) < set(numbers_of(many["train"]))


def test_too_few_clouds():
    split, _ = numbered_clouds([40, 29, 40])
    with pytest.raises(DatasetError, match="need 3 classes of at least 30 training clouds, and 2 of the 3 classes"):
        draw_fold(split, 3, 10, 0)


def test_folds_of_a_data_set_are_of_its_training_split(two_classes, tmp_path):
    arrays = two_classes.arrays(60, 8)
    np.savez(tmp_path / "data.npz", **arrays)
    fold = open_folds(str(tmp_path / "data.npz"))(2, 5, 0)
    train = {cloud.tobytes() for cloud in arrays["points"][:60]}
    assert all(cloud.tobytes() in train for part in fold.values() for cloud in part.with_format("numpy")["points"])
    with pytest.raises(DatasetError, match="does not exist"):
        open_folds(str(tmp_path / "nothing"))
