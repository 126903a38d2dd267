import pytest

from any2point_hf.evaluation.corruption_errors import DGCNN, DGCNN_CLEAN, Robustness


def levels_around(accuracies):
    """Five levels whose mean is the given accuracy."""
    return {name: [value + step / 100 for step in (2, 1, 0, -1, -2)] for name, value in accuracies.items()}


def test_the_published_dgcnn_has_errors_of_one():
    robustness = Robustness(DGCNN_CLEAN, levels_around(DGCNN))
    assert robustness.mean_corruption_error == pytest.approx(1, abs=1e-12)
    assert robustness.relative_mean_corruption_error == pytest.approx(1, abs=1e-12)
    for errors in (robustness.corruption_error, robustness.relative_corruption_error):
        assert errors == {name: pytest.approx(1, abs=1e-12) for name in DGCNN}


def test_errors_are_ratios_and_their_means():
    accuracies = {**DGCNN, "jitter": 0.842, "rotate": 0.57}  # half of the error, and twice as much
    robustness = Robustness(0.9, levels_around(accuracies))
    assert robustness.corruption_error["jitter"] == pytest.approx(0.5)
    assert robustness.corruption_error["rotate"] == pytest.approx(2)
    assert robustness.mean_corruption_error == pytest.approx((5 + 0.5 + 2) / 7)
    assert robustness.relative_corruption_error["rotate"] == pytest.approx((0.9 - 0.57) / (0.926 - 0.785))
    assert robustness.as_dict()["mCE"] == robustness.mean_corruption_error
