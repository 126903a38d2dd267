import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.evaluation.retrieval import neighbor_accuracy, retrieval_scores


def naive_scores(features, labels):
    """Query by query with plain lists; (hits, average precision) of those that have another of their class."""
    rows = []
    for query in range(len(labels)):
        others = [other for other in range(len(labels)) if other != query]
        cosine = {
            other: features[query] @ features[other] / np.linalg.norm(features[query]) / np.linalg.norm(features[other])
            for other in others
        }
        ranking = sorted(others, key=lambda other: -cosine[other])
        found, precisions = 0, []
        for place, other in enumerate(ranking, start=1):
            if labels[other] == labels[query]:
                found += 1
                precisions.append(found / place)
        if found:
            rows.append((labels[query], labels[ranking[0]] == labels[query], sum(precisions) / found))
    return rows


@given(st.integers(0, 2**32 - 1), st.integers(4, 25))
def test_as_query_by_query(seed, size):
    generator = np.random.default_rng(seed)
    features, labels = generator.normal(size=(size, 5)), generator.integers(3, size=size)
    rows, scores = naive_scores(features, labels), retrieval_scores(features, labels, 4)
    assert scores["recall_at_1"] == (pytest.approx(np.mean([hit for _, hit, _ in rows])) if rows else None)
    for label in range(4):
        of_class = [precision for row_label, _, precision in rows if row_label == label]
        assert scores["average_precision"][label] == (pytest.approx(np.mean(of_class)) if of_class else None)
    known = [value for value in scores["average_precision"] if value is not None]
    assert scores["mean_average_precision"] == (pytest.approx(np.mean(known)) if known else None)


def test_a_worked_example():
    """Angles on a circle: the neighbours of each point can be read off."""
    angles = np.radians([0, 10, 25, 180])
    features = np.column_stack([np.cos(angles), np.sin(angles)]) * [[1], [5], [0.1], [2]]  # lengths do not matter
    scores = retrieval_scores(features, np.array([0, 1, 0, 1]), 2)
    assert scores["recall_at_1"] == 0
    # 0 finds b a b: 1/2; 2 finds b a b: 1/2; 1 finds a a b: 1/3; 3 finds a b a: 1/2
    assert scores["average_precision"] == [pytest.approx(1 / 2), pytest.approx((1 / 3 + 1 / 2) / 2)]


def test_a_class_with_a_single_cloud_has_no_score():
    scores = retrieval_scores(np.eye(3), np.array([0, 1, 1]), 2)
    assert scores["average_precision"][0] is None
    assert scores["mean_average_precision"] == scores["average_precision"][1]


def test_the_neighbours_vote_and_ties_go_to_the_more_similar():
    train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    labels = np.array([0, 0, 1, 1])
    queries = np.array([[1.0, 0.2], [0.3, 1.0]])  # two votes each, one pair is closer
    assert neighbor_accuracy(train, labels, queries, np.array([0, 1]), 2) == 1
    assert neighbor_accuracy(train, labels, queries, np.array([1, 1]), 2) == 0.5
    many = np.concatenate([np.tile([[0.0, 1.0]], (6, 1)), np.tile([[1.0, 0.0]], (5, 1))])
    voters = np.array([0] * 6 + [1] * 5)  # the tenth neighbour of (1, 0) is one of class 0: five votes each
    assert neighbor_accuracy(many, voters, np.array([[1.0, 0.0]]), np.array([1]), 2) == 1
