import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from any2point_hf.evaluation.head_metrics import (
    average_precision,
    head_metrics,
    multi_label_metrics,
    regression_metrics,
)


def naive_average_precision(scores, truth):
    """The precision among all answers that score at least as much, averaged over right answers."""
    return np.mean([truth[scores >= score].mean() for score in scores[truth]])


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_average_precision_whatever_the_ties(answers):
    scores, truth = np.array([score / 5 for score, _ in answers]), np.array([is_right for _, is_right in answers])
    found = average_precision(scores, truth)
    if not truth.any():
        assert found is None
    else:
        assert found == pytest.approx(naive_average_precision(scores, truth))
        assert found == pytest.approx(metrics.average_precision_score(truth, scores))


@pytest.fixture
def several():
    generator = np.random.default_rng(0)
    targets = (generator.random((200, 4)) < [0.1, 0.5, 0.3, 0.7]).astype(np.float32)
    return 1 / (1 + np.exp(-(2 * targets - 1 + generator.normal(size=targets.shape)))), targets


def test_several_classes_are_measured_as_by_scikit_learn(several):
    probabilities, targets = several
    found, answers = multi_label_metrics(probabilities, targets, "abcd"), probabilities >= 0.5
    assert found["mean_average_precision"] == pytest.approx(metrics.average_precision_score(targets, probabilities))
    assert found["f1_micro"] == pytest.approx(metrics.f1_score(targets, answers, average="micro"))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(targets, answers, average="macro"))
    assert found["exact_match"] == pytest.approx(metrics.accuracy_score(targets, answers))
    each = metrics.f1_score(targets, answers, average=None)
    for index, name in enumerate("abcd"):
        assert found["per_class"][name]["f1"] == pytest.approx(each[index])
        assert found["per_class"][name]["num_clouds"] == targets[:, index].sum()
    logits = np.log(probabilities / (1 - probabilities))
    assert head_metrics(logits, targets, "abcd", "multi-label")["f1_micro"] == pytest.approx(found["f1_micro"])
    assert head_metrics(1e4 * logits, targets, "abcd", "multi-label")["f1_micro"] == pytest.approx(found["f1_micro"])


def test_classes_that_no_cloud_has_are_in_no_mean(several):
    probabilities, targets = several
    targets[:, 2] = 0
    found = multi_label_metrics(probabilities, targets, "abcd")
    assert found["per_class"]["c"] == {"average_precision": None, "f1": None, "num_clouds": 0}
    others = [0, 1, 3]
    expected = metrics.average_precision_score(targets[:, others], probabilities[:, others])
    assert found["mean_average_precision"] == pytest.approx(expected)


def test_numbers_are_measured_as_by_scikit_learn():
    generator = np.random.default_rng(0)
    targets = generator.normal([5, -100], [1, 30], (50, 2)).astype(np.float32)
    predicted = targets + generator.normal(0, [0.3, 20], (50, 2))
    found = regression_metrics(predicted, targets, ["one", "two"])
    assert found["r2"] == pytest.approx(metrics.r2_score(targets, predicted))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(targets, predicted))
    each = metrics.root_mean_squared_error(targets, predicted, multioutput="raw_values")
    assert [found["per_target"][name]["rmse"] for name in ("one", "two")] == pytest.approx(each)
    assert found["rmse"] == pytest.approx(each.mean())


def test_a_target_that_never_changes_has_no_share_of_variance():
    targets = np.array([[1.0, 2.0], [2.0, 2.0]])
    found = regression_metrics(targets + np.array([0.0, 0.5]), targets, ["one", "two"])
    assert (found["per_target"]["two"]["r2"], found["r2"]) == (None, 1.0)
    assert regression_metrics(targets[:, 1:], targets[:, 1:], ["two"])["r2"] is None
