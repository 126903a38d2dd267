import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.tokenizer.fast import block_size
from any2point_hf.modeling.tokenizer.point_ops import (
    farthest_first,
    farthest_point_sampling,
    gather_points,
    nearest_neighbors,
)

# Small whole coordinates: many duplicates, and distances (and so ties) are exact.
clouds = st.integers(1, 12).flatmap(
    lambda size: st.lists(
        st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=size, max_size=size), min_size=1, max_size=3
    )
)


@given(clouds, st.data())
def test_sampling_is_the_naive_one_ties_and_duplicates_included(naive, batch, data):
    num_samples = data.draw(st.integers(1, len(batch[0])))
    found = farthest_point_sampling(torch.tensor(batch, dtype=torch.float32), num_samples)
    assert found.dtype == torch.int64
    assert found.tolist() == [naive.farthest_points(cloud, num_samples) for cloud in batch]


@given(clouds, st.data())
def test_excluded_points_are_never_picked_after_the_first(naive, batch, data):
    size = len(batch[0])
    excluded = [data.draw(st.lists(st.booleans(), min_size=size, max_size=size)) for _ in batch]
    found = farthest_point_sampling(torch.tensor(batch).float(), size, torch.tensor(excluded)).tolist()
    for cloud, mask, indices in zip(batch, excluded, found, strict=True):
        assert indices == naive.farthest_points(cloud, size, {i for i, out in enumerate(mask) if out})
        assert not any(mask[index] for index in indices if index != 0)


def test_ties_go_to_the_lowest_index():
    square = torch.tensor([[[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]]).float()
    assert farthest_point_sampling(square, 5).tolist() == [[0, 1, 2, 3, 4]]
    assert farthest_point_sampling(torch.zeros(1, 4, 3), 3).tolist() == [[0, 0, 0]]


def test_the_farthest_point_comes_first_and_then_the_others_by_coordinates(naive):
    points = torch.randn(3, 50, 3)
    ordered = gather_points(points, farthest_first(points))
    for cloud, found in zip(points, ordered, strict=True):
        np.testing.assert_array_equal(found, naive.in_own_order(cloud).astype(np.float32))


def test_of_points_equally_far_the_first_by_coordinates_starts():
    corners = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * 3) + torch.tensor([0.3, 0.7, 5.0])
    ordered = gather_points(corners[None], farthest_first(corners[None]))[0]
    assert ordered.tolist() == sorted(corners.tolist())


@given(clouds, st.randoms(use_true_random=False))
def test_the_order_of_points_by_themselves_does_not_depend_on_their_order(batch, random):
    points = torch.tensor(batch, dtype=torch.float32) / 3
    features = points.roll(1, dims=1)[..., :2]
    rows = torch.cat([points, features], dim=-1)
    order = farthest_first(points, features)
    assert all(sorted(row) == list(range(points.shape[1])) for row in order.tolist())
    permutation = random.sample(range(points.shape[1]), points.shape[1])
    permuted = rows[:, permutation]
    again = farthest_first(permuted[..., :3], permuted[..., 3:])
    assert torch.equal(gather_points(permuted, again), gather_points(rows, order))


def test_compiled_code_finds_the_same_order():
    points = torch.randint(-3, 4, (4, 40, 3)) / 3
    compiled = torch.compile(farthest_first, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(points), farthest_first(points))
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sampling_random_clouds_has_the_prefix_properties(naive, dtype):
    points = torch.randn(2, 60, 3, dtype=dtype)
    order = farthest_point_sampling(points, 30)
    assert order.tolist() == [naive.farthest_points(cloud, 30) for cloud in points.numpy()]
    assert torch.equal(farthest_point_sampling(points, 11), order[:, :11])
    again = farthest_point_sampling(gather_points(points, order), 15)
    assert again.tolist() == [list(range(15))] * 2
    assert all(len(set(row)) == 30 for row in order.tolist())


def test_sampling_does_not_depend_on_the_rest_of_the_batch():
    points = torch.randn(4, 50, 3)
    together = farthest_point_sampling(points, 25)
    assert torch.equal(together, torch.cat([farthest_point_sampling(cloud[None], 25) for cloud in points]))


@given(clouds, st.data())
def test_neighbors_are_the_nearest_points(naive, batch, data):
    num_neighbors = data.draw(st.integers(1, len(batch[0])))
    points = torch.tensor(batch, dtype=torch.float32)
    centers = points[:, : data.draw(st.integers(1, points.shape[1]))]
    found = nearest_neighbors(points, centers, num_neighbors)
    assert (found.dtype, found.shape) == (torch.int64, (len(batch), centers.shape[1], num_neighbors))
    for b, cloud in enumerate(batch):
        for g, center in enumerate(centers[b].tolist()):
            indices = found[b, g].tolist()
            assert len(set(indices)) == num_neighbors
            expected = naive.nearest_points(cloud, center, num_neighbors)
            assert set(indices) == set(expected)  # of tied points those of the lowest indices


@pytest.mark.parametrize("scale", [1e-22, 0.3, 1e15])
def test_ties_of_neighbors_go_to_the_lowest_index_also_when_exported(monkeypatch, scale):
    points = scale * torch.randint(-2, 3, (2, 300, 3)).float()  # 125 places: duplicates, and ties of distinct points
    centers = points[:, :40]
    distances = (centers.unsqueeze(2) - points.unsqueeze(1)).square()
    distances = distances[..., 0] + distances[..., 1] + distances[..., 2]
    expected = distances.argsort(dim=-1, stable=True)[..., :21].sort(dim=-1).values
    assert torch.equal(nearest_neighbors(points, centers, 21).sort(dim=-1).values, expected)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(nearest_neighbors(points, centers, 21).sort(dim=-1).values, expected)


def test_exporters_see_a_scan_that_samples_as_the_loop_does(monkeypatch):
    points = torch.randint(-3, 4, (2, 40, 3)) / 3  # many are equally far
    excluded = torch.rand(2, 40) < 0.3
    expected = farthest_point_sampling(points, 25, excluded)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(farthest_point_sampling(points, 25, excluded), expected)


def test_sampling_and_neighbors_keep_the_rules_of_operators():
    planes = (*torch.randn(3, 2, 30).unbind(), torch.full((2, 30), torch.inf))
    torch.library.opcheck(torch.ops.any2point.farthest_points.default, (*planes, 7))
    points = torch.randn(2, 30, 3)
    torch.library.opcheck(torch.ops.any2point.nearest_neighbors.default, (points, points[:, :9].contiguous(), 5))


@pytest.mark.parametrize("block", [1, 500, 1 << 20])
def test_neighbors_of_random_points_are_the_same_sets_in_any_blocks(naive, monkeypatch, block):
    monkeypatch.setattr(block_size, "_CPU_VALUES", block)
    points = torch.randn(3, 40, 3, dtype=torch.float64)
    centers = torch.randn(3, 7, 3, dtype=torch.float64)
    found = nearest_neighbors(points, centers, 9)
    for b in range(3):
        for g in range(7):
            expected = naive.nearest_points(points[b].tolist(), centers[b, g].tolist(), 9)
            assert set(found[b, g].tolist()) == set(expected)


def test_a_point_is_its_own_neighbor_and_all_points_are_found_when_k_is_n():
    points = torch.randn(2, 20, 3)
    assert torch.equal(nearest_neighbors(points, points, 1)[..., 0], torch.arange(20).expand(2, -1))
    every = nearest_neighbors(points, points[:, :5], 20).sort(dim=-1).values
    assert torch.equal(every, torch.arange(20).expand(2, 5, -1))


@pytest.mark.parametrize("count", [0, 11])
def test_counts_outside_the_cloud_are_refused(count):
    points = torch.randn(1, 10, 3)
    with pytest.raises(ValueError, match=rf"num_samples must lie in 1…10 .*got {count}"):
        farthest_point_sampling(points, count)
    with pytest.raises(ValueError, match=rf"num_neighbors must lie in 1…10 .*got {count}"):
        nearest_neighbors(points, points, count)


def test_sampling_and_neighbors_take_points_that_need_gradients():
    points = torch.randn(1, 10, 3, requires_grad=True)
    assert farthest_point_sampling(points, 4).shape == (1, 4)
    assert nearest_neighbors(points, points, 4).shape == (1, 10, 4)


@pytest.mark.parametrize("shape", [(5,), (5, 2), (3, 2, 2)])
def test_gathering_takes_the_rows_of_each_cloud(shape):
    features, indices = torch.randn(2, 6, 4), torch.randint(6, (2, *shape))
    gathered = gather_points(features, indices)
    assert gathered.shape == (2, *shape, 4)
    for b in range(2):
        assert torch.equal(gathered[b], features[b][indices[b]])
