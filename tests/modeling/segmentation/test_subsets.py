import numpy as np
import pytest
import torch

from any2point_hf.modeling.segmentation.subsets import PointAnswers, deal, own_order, share_answers_of_equal_points


@pytest.mark.parametrize("total", [64, 65, 200, 256])
def test_every_number_is_dealt_once_and_the_last_subset_is_filled_up(total):
    dealt = list(deal(total, 64, seed=3))
    assert len(dealt) == -(-total // 64)
    assert all(len(numbers) == len(numbers.unique()) == 64 for numbers, _ in dealt)
    asked = torch.cat([numbers[is_asked] for numbers, is_asked in dealt])
    assert sorted(asked.tolist()) == list(range(total))
    assert asked.tolist() != list(range(total))
    assert torch.equal(asked, torch.cat([numbers[is_asked] for numbers, is_asked in deal(total, 64, seed=3)]))
    assert not torch.equal(asked, torch.cat([numbers[is_asked] for numbers, is_asked in deal(total, 64, seed=4)]))


def test_the_own_order_is_that_of_columns_from_left_to_right():
    points, features = torch.randint(3, (200, 3)).float(), torch.randint(3, (200, 2)).float()
    columns = np.concatenate([points, features], axis=1).T[::-1]
    assert own_order(points, features).tolist() == np.lexsort(columns).tolist()
    assert own_order(points, None).tolist() == np.lexsort(points.numpy().T[::-1]).tolist()


@pytest.mark.parametrize("num_features", [0, 1])
def test_equal_points_share_the_label_of_the_first(num_features):
    points = torch.randint(3, (200, 3)).float()
    features = torch.randint(2, (200, 1)).float() if num_features else None
    labels, order = torch.randint(50, (200,)), own_order(points, features)
    first = {}
    rows = points if features is None else torch.cat([points, features], dim=1)
    for place in order.tolist():
        first.setdefault(tuple(rows[place].tolist()), labels[place].item())
    expected = [first[tuple(row.tolist())] for row in rows]
    answers = PointAnswers(labels.clone(), labels / 7)
    shared, probabilities = share_answers_of_equal_points(answers, order, points, features)
    assert torch.equal(probabilities, shared / 7)
    assert shared.tolist() == expected
    assert len(first) < 200
    alone = torch.arange(200).float().unsqueeze(1).expand(-1, 3)
    answers = PointAnswers(labels.clone(), labels / 7)
    assert torch.equal(share_answers_of_equal_points(answers, torch.arange(200), alone, None).parts, labels)
