"""ShapeNetPart's metrics by hand, against a naive twin, and against published rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.errors import DatasetError
from any2point_hf.segmentation.part_metrics import part_ious, part_metrics

NAMES = ["top", "leg", "shade", "pole", "base"]
CATEGORIES = {"table": [0, 1], "lamp": [2, 3, 4]}


def naive_ious(predicted, truth, parts):
    ious = []
    for part in parts:
        points = [(p == part, t == part) for p, t in zip(predicted, truth, strict=True) if t != -100]
        union = sum(p or t for p, t in points)
        ious.append(1.0 if union == 0 else sum(p and t for p, t in points) / union)
    return ious


def naive_metrics(predicted, truth, categories, category_parts):
    shapes = []
    for p, t, c in zip(predicted, truth, categories, strict=True):
        if any(label != -100 for label in t):
            ious = naive_ious(p, t, list(category_parts.values())[c])
            shapes.append((c, sum(ious) / len(ious)))
    means = []
    for c in range(len(category_parts)):
        own = [iou for category, iou in shapes if category == c]
        if own:
            means.append(sum(own) / len(own))
    return sum(iou for _, iou in shapes) / len(shapes), sum(means) / len(means)


@st.composite
def shapes(draw):
    found = []
    for _ in range(draw(st.integers(1, 6))):
        category = draw(st.integers(0, 1))
        parts = list(CATEGORIES.values())[category]
        size = draw(st.integers(1, 12))
        truth = draw(st.lists(st.sampled_from([*parts, -100]), min_size=size, max_size=size))
        predicted = draw(st.lists(st.sampled_from(range(len(NAMES))), min_size=size, max_size=size))
        found.append((np.array(predicted), np.array(truth), category))
    return found


def test_three_of_four_points_right():
    predicted, truth = np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1])
    assert part_ious(predicted, truth, [0, 1]).tolist() == [1 / 2, 2 / 3]
    result = part_metrics([predicted], [truth], ["seat", "back"])
    assert result["instance_miou"] == pytest.approx(0.58333333333)
    assert result == {
        "instance_miou": pytest.approx(7 / 12),
        "class_miou": pytest.approx(7 / 12),
        "accuracy": 0.75,
        "per_category": {"all": pytest.approx(7 / 12)},
        "per_part": {"seat": 1 / 2, "back": 2 / 3},
    }


def test_a_part_absent_from_both_counts_as_one_and_a_part_predicted_in_vain_as_zero():
    truth = np.array([2, 2, 3])
    assert part_ious(truth, truth, [2, 3, 4]).tolist() == [1, 1, 1]
    assert part_ious(np.array([2, 4, 3]), truth, [2, 3, 4]).tolist() == [1 / 2, 1, 0]


def test_points_without_a_label_count_nowhere():
    predicted, truth = np.array([0, 1, 1, 1, 0, 4]), np.array([0, 1, 0, 1, -100, -100])
    assert part_ious(predicted, truth, [0, 1]).tolist() == [1 / 2, 2 / 3]
    unlabelled = np.full(3, -100)
    result = part_metrics([predicted, unlabelled * 0], [truth, unlabelled], NAMES, [0, 1], CATEGORIES)
    assert result["instance_miou"] == result["class_miou"] == pytest.approx(7 / 12)
    assert result["per_category"] == {"table": pytest.approx(7 / 12), "lamp": None}
    assert result["accuracy"] == 0.75


def test_classes_count_alike_in_the_class_mean_and_shapes_in_the_instance_mean():
    right, wrong = np.array([0, 1]), np.array([1, 0])
    lamp = np.array([2, 3, 4])
    result = part_metrics([right, right, right, lamp], [right, right, wrong, lamp], NAMES, [0, 0, 0, 1], CATEGORIES)
    assert result["instance_miou"] == pytest.approx(3 / 4)
    assert result["class_miou"] == pytest.approx((2 / 3 + 1) / 2)
    assert result["per_part"] == pytest.approx({"top": 2 / 3, "leg": 2 / 3, "shade": 1, "pole": 1, "base": 1})


@given(shapes())
def test_as_the_naive_twin(found):
    predicted, truth, categories = map(list, zip(*found, strict=True))
    if all((labels == -100).all() for labels in truth):
        with pytest.raises(DatasetError, match="no point of the"):
            part_metrics(predicted, truth, NAMES, categories, CATEGORIES)
        return
    result = part_metrics(predicted, truth, NAMES, categories, CATEGORIES)
    expected = naive_metrics(predicted, truth, categories, CATEGORIES)
    assert (result["instance_miou"], result["class_miou"]) == pytest.approx(expected)
    for name, parts in CATEGORIES.items():
        if result["per_category"][name] is not None:
            of_parts = [result["per_part"][NAMES[part]] for part in parts]
            assert np.mean(of_parts) == pytest.approx(result["per_category"][name])


@given(shapes(), st.randoms())
def test_the_order_of_points_and_shapes_changes_nothing(found, random):
    def result(of):
        predicted, truth, categories = map(list, zip(*of, strict=True))
        return part_metrics(predicted, truth, NAMES, categories, CATEGORIES)

    if all((labels == -100).all() for _, labels, _ in found):
        return
    mixed = []
    for predicted, truth, category in random.sample(found, len(found)):
        order = random.sample(range(len(truth)), len(truth))
        mixed.append((predicted[order], truth[order], category))
    first, second = result(found), result(mixed)
    assert first["instance_miou"] == pytest.approx(second["instance_miou"])
    assert first["per_part"] == pytest.approx(second["per_part"])


def test_sizes_that_differ_are_refused():
    two, three = np.zeros(2, int), np.zeros(3, int)
    with pytest.raises(DatasetError, match=r"shape 1 must have as many predictions as labels, got \[2\] and \[3\]"):
        part_metrics([two, two], [two, three], NAMES)
    with pytest.raises(DatasetError, match="got 1, 2 and 2 of them"):
        part_metrics([two], [two, two], NAMES, [0, 0], CATEGORIES)


def test_a_part_that_only_the_truth_gives_a_category_counts():
    """A model that was trained on tables without drawers misses them, which must not go unmeasured."""
    names, trained_on = [*NAMES, "drawer"], CATEGORIES
    predicted, truth = np.array([0, 0, 1, 1]), np.array([0, 5, 1, 1])
    result = part_metrics([predicted, truth[:1]], [truth, truth[:1]], names, [0, 0], trained_on)
    assert result["per_category"]["table"] == pytest.approx(((1 / 2 + 1 + 0) / 3 + 1) / 2)
    assert result["per_part"]["drawer"] == 0.5  # absent from both in the second shape
    assert trained_on == {"table": [0, 1], "lamp": [2, 3, 4]}


def test_lists_are_ids_too():
    result = part_metrics([[0, 1, 1, 1]], [[0, 1, 0, 1]], ["seat", "leg"])
    assert result["instance_miou"] == pytest.approx(7 / 12)


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        ([0, 1, 2], [0, 1, 1], "shape 0 must have predictions in 0…1, one for each part, got 2"),
        ([0, 1, 1], [0, 1, -1], "shape 0 must have labels in 0…1, one for each part, got -1"),
        ([0, 1, 1], [0, 5, 1], "shape 0 must have labels in 0…1, one for each part, got 5"),
    ],
)
def test_an_id_of_no_part_is_an_error(predicted, truth, message):
    with pytest.raises(DatasetError, match=message):
        part_metrics([predicted], [truth], ["seat", "leg"])
