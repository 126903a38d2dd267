"""Precision and outliers."""

import numpy as np
import pytest

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.checks import check_no_point_is_far, check_points, fits_float32, local_float32


def cloud(num_points=200, seed=0):
    return np.random.default_rng(seed).normal(size=(num_points, 3))


def test_numbers_keep_their_precision():
    for dtype, expected in (
        (np.float32, "f4"),
        (np.float64, "f8"),
        (np.int64, "f8"),
        (np.float16, "f4"),
        (">f8", "f8"),
    ):
        assert check_points(np.ones((2, 3), dtype), "points").dtype == expected
    large = np.array([[2**53 - 1, 0, 0], [2**53 - 2, 0, 0]])
    assert np.array_equal(check_points(large, "points"), large)


def test_map_coordinates_do_not_fit_float32_and_are_moved():
    points = cloud() + np.array([4.5e5, 5.3e6, 100])
    assert not fits_float32(points)
    assert fits_float32(points - np.array([4.5e5, 5.3e6, 100]))
    assert fits_float32(1e6 * cloud())
    moved = local_float32(points)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, points - points.mean(axis=0), atol=1e-6)
    assert np.array_equal(local_float32(cloud()), cloud().astype(np.float32))
    order = np.random.default_rng(1).permutation(len(points))
    assert np.array_equal(local_float32(points[order]), moved[order])


def test_a_far_point():
    points = cloud()
    points[7] = [0, 100, 0]
    check_no_point_is_far(points, "scan")
    for distance in (1e37, 1e5):
        points[7, 1] = distance
        with pytest.raises(PointCloudError, match=r"scan must not have points far .*: 1 of 200 .*single spot"):
            check_no_point_is_far(points, "scan")
