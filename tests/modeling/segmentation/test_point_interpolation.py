import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.segmentation.point_interpolation import interpolate_to_points, inverse_distance_weights


def naive_interpolation(points, centers, features):
    """Plain loops in float64; of centres equally far those of the lowest index are taken."""
    carried = np.zeros((*points.shape[:2], features.shape[-1]))
    for cloud in range(len(points)):
        for number, point in enumerate(points[cloud]):
            squared = ((centers[cloud] - point) ** 2).sum(axis=-1)
            nearest = np.argsort(squared, kind="stable")[:3]
            on_it = nearest[squared[nearest] == 0]
            shares = np.ones(len(on_it)) if len(on_it) else 1 / squared[nearest]
            rows = on_it if len(on_it) else nearest
            carried[cloud, number] = (shares / shares.sum()) @ features[cloud, rows]
    return carried


@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3, 7, 40]), st.sampled_from([1e-15, 1.0, 1e15]))
def test_equals_the_naive_one_at_any_scale(seed, num_centers, scale):
    generator = torch.Generator().manual_seed(seed)
    centers = scale * torch.randn(2, num_centers, 3, generator=generator, dtype=torch.float64)
    points = scale * torch.randn(2, 20, 3, generator=generator, dtype=torch.float64)
    points[:, :1] = centers[:, :1]  # one lies on a centre
    features = torch.randn(2, num_centers, 5, generator=generator, dtype=torch.float64)
    expected = naive_interpolation(points.numpy(), centers.numpy(), features.numpy())
    np.testing.assert_allclose(interpolate_to_points(points, centers, features), expected, atol=1e-12)


@pytest.mark.parametrize(("num_points", "num_centers"), [(1024, 512), (3000, 1500)], ids=["blocks", "leaves"])
def test_large_clouds_are_interpolated_alike(num_points, num_centers):
    points = torch.randn(1, num_points, 3)
    features = torch.randn(1, num_centers, 4)
    centers = points[:, :num_centers]
    found = interpolate_to_points(points, centers, features)
    expected = naive_interpolation(points.numpy(), centers.numpy(), features.double().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_constant_features_stay_constant_and_a_point_on_a_centre_gets_its_own():
    centers = torch.randn(2, 9, 3)
    points, features = torch.cat([torch.randn(2, 30, 3), centers], dim=1), torch.randn(2, 9, 4)
    constant = interpolate_to_points(points, centers, torch.full((2, 9, 4), 0.7))
    torch.testing.assert_close(constant, torch.full((2, 39, 4), 0.7), atol=1e-6, rtol=0)
    assert torch.equal(interpolate_to_points(points, centers, features)[:, 30:], features)


def test_centres_that_share_a_place_share_the_weight():
    weights = inverse_distance_weights(torch.tensor([[0.0, 0.0, 1.0], [4.0, 1.0, 2.0], [1e-40, 1e30, 1e38]]))
    expected = torch.tensor([[0.5, 0.5, 0.0], [1 / 7, 4 / 7, 2 / 7], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(weights, expected)


def test_gradients_are_those_of_differences():
    torch.manual_seed(1)
    inputs = [torch.randn(1, n, c, dtype=torch.float64, requires_grad=True) for n, c in ((5, 3), (4, 3), (4, 2))]
    assert torch.autograd.gradcheck(interpolate_to_points, inputs)


def test_gradients_are_finite_on_a_centre():
    points = torch.randn(1, 6, 3, requires_grad=True)
    interpolate_to_points(points, points[:, :3].detach(), torch.randn(1, 3, 2)).sum().backward()
    assert points.grad.isfinite().all()


def test_a_cloud_does_not_know_the_clouds_beside_it():
    points, features = torch.randn(3, 50, 3), torch.randn(3, 10, 4)
    together = interpolate_to_points(points, points[:, :10], features)
    for cloud in range(3):
        alone = interpolate_to_points(
            points[cloud : cloud + 1], points[cloud : cloud + 1, :10], features[cloud : cloud + 1]
        )
        torch.testing.assert_close(alone[0], together[cloud], atol=1e-6, rtol=0)
