"""Point-NN beside a plain twin of its formulas, one neighbour at a time."""

import math

import numpy as np
import pytest
import torch

from any2point_hf.few_shot import point_nn
from any2point_hf.few_shot.point_nn import (
    GAMMAS,
    aggregate,
    choose_gamma,
    class_scores,
    encode,
    encode_all,
    num_neighbors,
    point_nn_accuracy,
    trigonometric_embedding,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def plain_embedding(point, dim):
    """Eq. 4 and 5 for one point."""
    waves = dim // 6
    values = []
    for coordinate in point:
        for wave in range(waves):
            angle = 100.0 * coordinate / 1000.0 ** (wave / waves)
            values += [math.sin(angle), math.cos(angle)]
    return np.array(values)


def gelu(values):
    return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in values])


def plain_aggregation(centers, features, neighbors, neighbor_features):
    """Eq. 6 to 9 of one cloud: centres [G, 3], features [G, C], neighbours [G, K, 3], their features [G, K, C]."""
    differences = neighbor_features - features[:, None]
    offsets = neighbors - centers[:, None]
    differences = differences / (differences.std(ddof=1) + 1e-5)
    offsets = offsets / (offsets.std(ddof=1) + 1e-5)
    result = []
    for group in range(len(centers)):
        weighed = []
        for near in range(neighbors.shape[1]):
            expanded = np.concatenate([differences[group, near], features[group]])
            embedding = plain_embedding(offsets[group, near], len(expanded))
            weighed.append((expanded + embedding) * embedding)
        result.append(gelu((np.max(weighed, axis=0) + np.mean(weighed, axis=0)) / math.sqrt(1 + 1e-5)))
    return np.stack(result)


def plain_sampling(points, count):
    chosen = [0]
    while len(chosen) < count:
        distances = ((points[:, None] - points[chosen]) ** 2).sum(axis=2).min(axis=1)
        chosen.append(int(distances.argmax()))
    return chosen


def plain_encoder(points, neighbors):
    """Section 3.1 of one cloud [N, 3], sampled anew in every stage."""
    features = np.stack([plain_embedding(point, 72) for point in points])
    for _ in range(4):
        chosen = plain_sampling(points, len(points) // 2)
        nearest = np.stack([((points - points[c]) ** 2).sum(axis=1).argsort(kind="stable")[:neighbors] for c in chosen])
        pooled = plain_aggregation(points[chosen], features[chosen], points[nearest], features[nearest])
        points, features = points[chosen], pooled
    return features.max(axis=0) + features.mean(axis=0)


def clouds(count, num_points=64, seed=0):
    points = torch.randn(count, num_points, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return points / points.norm(dim=-1).amax(dim=1)[:, None, None]


def test_the_embedding():
    points = clouds(2, 5)
    embedding = trigonometric_embedding(points, 72)
    assert embedding.shape == (2, 5, 72)
    np.testing.assert_allclose(embedding[1, 3].numpy(), plain_embedding(points[1, 3].tolist(), 72), atol=1e-12)


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_the_aggregation_is_its_plain_twin(monkeypatch, block):
    monkeypatch.setattr(point_nn, "_BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    sizes = [(2, 7, 3), (2, 7, 12), (2, 7, 5, 3), (2, 7, 5, 12)]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    found = aggregate(*tensors)
    assert found.shape == (2, 7, 24)
    for cloud in range(2):
        plain = plain_aggregation(*(tensor[cloud].numpy() for tensor in tensors))
        np.testing.assert_allclose(found[cloud].numpy(), plain, rtol=1e-9, atol=1e-9)


def test_the_encoder_is_its_plain_twin():
    points = clouds(2)
    found = encode(points)
    assert found.shape == (2, 1152)
    for cloud in range(2):
        plain = plain_encoder(points[cloud].numpy(), num_neighbors(64))
        np.testing.assert_allclose(found[cloud].numpy(), plain, rtol=1e-6, atol=1e-7)


def test_neighbours_are_the_published_share():
    assert [num_neighbors(n) for n in (16, 64, 256, 1024, 8192)] == [1, 5, 22, 90, 90]


def test_a_feature_depends_on_its_cloud_alone():
    points = clouds(5, 128).float()
    together = encode_all(points, batch_size=5)
    torch.testing.assert_close(encode_all(points, batch_size=2), together, rtol=0, atol=1e-6)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5, dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 16 in a cloud, got 15"):
        encode(clouds(1, 15))


def test_the_memory_bank():
    similarities = torch.tensor([[1.0, 0.9, 0.9], [0.2, 0.1, 0.8]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])
    scores = class_scores(similarities, labels, 3, gamma=2.0)
    weights = torch.exp(-2.0 * (1 - similarities))
    expected = torch.stack([weights[:, 0], weights[:, 1] + weights[:, 2], torch.zeros(2)], dim=1)
    torch.testing.assert_close(scores, expected / expected.sum(dim=1, keepdim=True))
    assert scores.argmax(dim=1).tolist() == [1, 1]  # two clouds outweigh the nearest one
    assert class_scores(similarities, labels, 3, gamma=8192.0).argmax(dim=1).tolist() == [0, 1]  # nothing underflows


def test_gamma_is_chosen_by_clouds_left_out():
    # The nearest cloud of the 2nd to the 5th is of their class; a vote of all tells the smaller class wrongly.
    features = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.5, 1.0], [0.45, 1.0], [0.4, 1.0]], dtype=torch.float64), dim=1
    )
    labels = torch.tensor([0, 0, 1, 1, 1])
    chosen = choose_gamma(features, labels, 2)

    def num_right(gamma):
        right = 0
        for row in range(5):
            rest = [other for other in range(5) if other != row]
            scores = class_scores(features[[row]] @ features[rest].T, labels[rest], 2, gamma)
            right += int(scores.argmax() == labels[row])
        return right

    counts = [num_right(gamma) for gamma in GAMMAS]
    assert chosen == GAMMAS[counts.index(max(counts))]
    assert counts[0] < max(counts) == 5


def test_it_tells_a_ball_from_a_disc(two_classes):
    arrays = two_classes.arrays(12, 10)
    points = torch.from_numpy(arrays["points"][:, :64])
    points = points / points.norm(dim=-1).amax(dim=1)[:, None, None]
    labels = torch.from_numpy(arrays["labels"])
    assert point_nn_accuracy(points[:12], labels[:12], points[12:], labels[12:], 2) == 1.0
