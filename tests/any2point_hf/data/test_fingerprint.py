import numpy as np
import pytest

from any2point_hf.data import build_dataset_dict, build_part_dataset_dict
from any2point_hf.data.fingerprint import data_fingerprint
from any2point_hf.data.parts.dataset import LabelledCloud


def dataset(change=None, names=("a", "b"), labels=(0, 1, 1), sizes=(8, 9, 10)):
    clouds = [np.arange(size * 3, dtype=np.float32).reshape(-1, 3) for size in sizes]
    if change is not None:
        clouds[change][-1, -1] += 1e-3
    return build_dataset_dict({"train": (clouds, labels), "test": (clouds[:2], labels[:2])}, names)


def test_the_same_data_have_the_same_fingerprint_wherever_they_are(tmp_path):
    from datasets import load_from_disk

    first = data_fingerprint(dataset())
    assert first == data_fingerprint(dataset())
    assert len(first) == 16
    dataset().save_to_disk(tmp_path)
    assert data_fingerprint(load_from_disk(tmp_path)) == first


@pytest.mark.parametrize(
    "changes",
    [{"change": 2}, {"names": ("a", "c")}, {"labels": (0, 1, 0)}, {"sizes": (8, 10, 9)}, {"sizes": (9, 8, 10)}],
)
def test_other_data_have_another(changes):
    assert data_fingerprint(dataset(**changes)) != data_fingerprint(dataset())


def part_dataset(part=0, names=("a", "b"), categories=(0, 1)):
    clouds = [LabelledCloud(np.arange(24, dtype=np.float32).reshape(8, 3), [0, 1] * 3 + [part] * 2) for _ in range(2)]
    return build_part_dataset_dict({"train": (clouds, categories)}, names, None if categories is None else ["x", "y"])


@pytest.mark.parametrize("changes", [{"part": 1}, {"part": -100}, {"names": ("a", "c")}, {"categories": (1, 0)}])
def test_labels_of_points_and_categories_count(changes):
    assert data_fingerprint(part_dataset()) == data_fingerprint(part_dataset())
    assert data_fingerprint(part_dataset(**changes)) != data_fingerprint(part_dataset())
    assert data_fingerprint(part_dataset(categories=None)) != data_fingerprint(part_dataset())
