"""Nearest neighbours on the GPU are those on the CPU, and those of float64."""

import pytest
import torch

from any2point_hf.modeling.tokenizer.point_ops import farthest_first, farthest_point_sampling, nearest_neighbors


def cloud(*shape):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(0))


AXIS = torch.arange(8.0)
CASES = {  # points, number of centres, K
    "100_points": (cloud(3, 100), 50, 8),
    "all_are_neighbors": (cloud(2, 64), 32, 64),
    "512_points": (cloud(2, 512), 256, 16),
    "2048_points": (cloud(2, 2048), 1024, 64),
    "several_blocks": (cloud(10, 4096), 2048, 8),  # 84 M distances, and a block holds 67 M
    "grid": (torch.cartesian_prod(AXIS, AXIS, AXIS).unsqueeze(0), 256, 16),  # many are equally far
    "duplicates": (cloud(2, 100).repeat(1, 4, 1), 200, 8),
}


@pytest.mark.parametrize("case", CASES)
def test_they_are_those_of_the_cpu_and_of_float64(case, device):
    points, num_centers, num_neighbors = CASES[case]
    order = farthest_point_sampling(points, num_centers)
    centers = points.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))
    found = nearest_neighbors(points.to(device), centers.to(device), num_neighbors).cpu()
    assert found.shape == (len(points), num_centers, num_neighbors)
    expected = nearest_neighbors(points, centers, num_neighbors)
    wrong = (found.sort(dim=-1).values != expected.sort(dim=-1).values).any(dim=-1)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.numel()} centres have other neighbours than on the CPU"

    some = slice(0, 64)
    distances = torch.cdist(centers[:, some].double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    smallest = distances.topk(num_neighbors, largest=False).values
    own = distances.gather(-1, found[:, some]).sort(dim=-1).values
    torch.testing.assert_close(own, smallest, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_points_own_order_is_that_of_the_cpu(case, device):
    points = CASES[case][0]
    assert torch.equal(farthest_first(points.to(device)).cpu(), farthest_first(points))
