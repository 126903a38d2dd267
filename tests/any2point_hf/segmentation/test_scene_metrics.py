import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.errors import DatasetError
from any2point_hf.segmentation.scene_metrics import point_confusion, scene_metrics

NAMES = ["floor", "wall", "door"]


def test_points_of_all_clouds_count_together():
    confusion = point_confusion(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1]), 3)
    confusion += point_confusion(np.array([0, 0, 2]), np.array([0, 0, -100]), 3)
    assert confusion.tolist() == [[3, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert scene_metrics(confusion, NAMES) == {
        "scene_miou": pytest.approx((3 / 4 + 2 / 3) / 2),  # no door anywhere: it counts in no mean
        "mean_part_accuracy": pytest.approx((3 / 4 + 1) / 2),
        "accuracy": pytest.approx(5 / 6),
        "per_part": {"floor": 3 / 4, "wall": 2 / 3, "door": None},
    }


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 2, -100])), min_size=1, max_size=30))
def test_as_the_naive_twin(points):
    labelled = [(p, t) for p, t in points if t != -100]
    confusion = point_confusion(*(np.array(column) for column in zip(*points, strict=True)), 3)
    if not labelled:
        with pytest.raises(DatasetError, match="no point"):
            scene_metrics(confusion, NAMES)
        return
    result = scene_metrics(confusion, NAMES)
    for part, name in enumerate(NAMES):
        union = sum(p == part or t == part for p, t in labelled)
        expected = sum(p == t == part for p, t in labelled) / union if union else None
        assert result["per_part"][name] == (None if expected is None else pytest.approx(expected))
    assert result["accuracy"] == pytest.approx(sum(p == t for p, t in labelled) / len(labelled))
    assert result["scene_miou"] == pytest.approx(
        np.mean([iou for iou in result["per_part"].values() if iou is not None])
    )
