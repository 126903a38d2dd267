import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.tokenizer import point_ops
from any2point_hf.modeling.tokenizer.fast import leaf_search
from any2point_hf.modeling.tokenizer.fast.leaf_search import search_leaves
from any2point_hf.modeling.tokenizer.point_ops import nearest_neighbors


def every_point(points, centers, num_neighbors):
    """What looking at every point finds, ties to the lowest index: [G, K], sorted."""
    distances = torch.stack([(points - center).square() for center in centers])
    distances = distances[..., 0] + distances[..., 1] + distances[..., 2]
    return distances.sort(dim=1, stable=True).indices[:, :num_neighbors].sort(dim=1).values


# Small whole coordinates: many duplicates, and distances (and so ties) are exact.
coordinates = st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=200)


@given(coordinates, coordinates, st.data())
def test_ties_and_duplicates_are_those_of_looking_at_every_point(own, others, data):
    points, centers = torch.tensor(own).float(), torch.tensor(others).float()
    num_neighbors = data.draw(st.integers(1, len(points)))
    found = search_leaves(points, centers, num_neighbors)
    assert found.dtype == torch.int64
    assert torch.equal(found.sort(dim=1).values, every_point(points, centers, num_neighbors))


CLOUDS = {
    "volume": lambda: torch.randn(3000, 3),
    "surface": lambda: torch.nn.functional.normalize(torch.randn(3000, 3), dim=1),
    "flat": lambda: torch.randn(3000, 3) * torch.tensor([1.0, 1, 0]),
    "line": lambda: torch.randn(3000, 3) * torch.tensor([0.0, 1, 0]),
    "one_place": lambda: torch.ones(3000, 3),
    "two_densities": lambda: torch.cat([1e-3 * torch.randn(2900, 3), 10 + torch.randn(100, 3)]),
    "far_from_zero": lambda: 1000 + torch.randn(3000, 3),
    "grid": lambda: torch.cartesian_prod(*[torch.arange(14.0)] * 3),
}


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize("num_neighbors", [1, 32, 81])
def test_large_clouds_of_every_shape(kind, num_neighbors):
    points = CLOUDS[kind]()
    centers = torch.cat([points[::50], 3 * torch.randn(20, 3)])  # centres far from every point too
    found = search_leaves(points, centers, num_neighbors)
    assert torch.equal(found.sort(dim=1).values, every_point(points, centers, num_neighbors))


def test_large_clouds_on_a_cpu_are_searched_in_leaves(monkeypatch):
    points, searched = torch.randn(2, 1100, 3), []
    monkeypatch.setattr(point_ops, "search_leaves", lambda *cloud: searched.append(cloud) or search_leaves(*cloud))
    found = nearest_neighbors(points, points[:, :70], 20)
    assert len(searched) == 2
    monkeypatch.setattr(point_ops, "LARGE_CLOUD", 2000)
    assert torch.equal(found.sort().values, nearest_neighbors(points, points[:, :70], 20).sort().values)
    assert len(searched) == 2


def test_most_centers_look_into_few_leaves(monkeypatch):
    looked_into = []
    keys = leaf_search._keys
    monkeypatch.setattr(
        leaf_search, "_keys", lambda *parts: looked_into.append(parts[2].numel() * parts[1].shape[1]) or keys(*parts)
    )
    points = torch.nn.functional.normalize(torch.randn(16384, 3), dim=1)
    search_leaves(points, points[:1000], 32)
    assert sum(looked_into) < 0.05 * 16384 * 1000


def test_another_default_dtype_changes_nothing():
    points = torch.randn(1500, 3)
    expected = search_leaves(points, points[:9], 5)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(search_leaves(points, points[:9], 5), expected)
    finally:
        torch.set_default_dtype(torch.float32)
