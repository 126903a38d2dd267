import hashlib

import numpy as np
import pytest

from any2point_hf.data.corruptions import CORRUPTIONS, corrupt
from any2point_hf.modeling.errors import DatasetError


@pytest.fixture(scope="module")
def sphere():
    """1024 points on the unit sphere, spread evenly (a Fibonacci lattice)."""
    heights = 1 - 2 * (np.arange(1024) + 0.5) / 1024
    turns = np.arange(1024) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - heights**2)
    return np.column_stack([radius * np.cos(turns), radius * np.sin(turns), heights])


SIZES = {
    "scale": [1024] * 5,
    "jitter": [1024] * 5,
    "rotate": [1024] * 5,
    "drop-global": [768, 640, 512, 384, 256],
    "drop-local": [924, 824, 724, 624, 524],
    "add-global": [1034, 1044, 1054, 1064, 1074],
    "add-local": [1124, 1224, 1324, 1424, 1524],
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_numbers_of_points_are_the_published_ones(sphere, name):
    assert [len(corrupt(sphere, name, level, index=0)) for level in range(1, 6)] == SIZES[name]


def test_they_are_in_the_published_order_and_complete():
    assert list(CORRUPTIONS) == list(SIZES)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_depend_on_seed_level_and_place_alone(sphere, name):
    first = corrupt(sphere, name, 3, index=7, seed=1)
    np.testing.assert_array_equal(corrupt(sphere, name, 3, index=7, seed=1), first)
    assert not np.array_equal(corrupt(sphere, name, 3, index=8, seed=1), first)
    assert not np.array_equal(corrupt(sphere, name, 3, index=7, seed=2), first)


def test_scale_is_of_each_axis_and_ends_in_the_unit_sphere(sphere):
    for index in range(50):
        scaled = corrupt(sphere, "scale", 5, index)
        np.testing.assert_allclose(np.linalg.norm(scaled, axis=1).max(), 1, atol=1e-4)
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
        ratios = np.ptp(scaled, axis=0) / np.ptp(sphere, axis=0)
        assert ratios.max() / ratios.min() <= 4 + 1e-3  # from a half to twice
        expected = sphere * ratios
        np.testing.assert_allclose(scaled, expected - expected.mean(axis=0), atol=1e-4)


def test_jitter_has_the_levels_deviation(sphere):
    for level in range(1, 6):
        noise = corrupt(sphere, "jitter", level, index=0) - sphere
        assert noise.std() == pytest.approx(0.01 * level, rel=0.05)


def test_rotation_keeps_lengths_and_turns_by_at_most_the_levels_angles(sphere):
    for level in (1, 5):
        angles = []
        for index in range(100):
            turned = corrupt(sphere, "rotate", level, index)
            matrix = np.linalg.lstsq(sphere, turned, rcond=None)[0].T
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-3)
            assert np.linalg.det(matrix) > 0
            cosine = (np.trace(matrix) - 1) / 2
            angles.append(np.degrees(np.arccos(min(1, cosine))))
        assert max(angles) <= 6 * level * np.sqrt(3) * 1.02  # three turns at once
        assert max(angles) > 6 * level * 0.9


def test_global_loss_keeps_points_as_they_are(sphere):
    kept = corrupt(sphere, "drop-global", 5, index=0)
    distance = np.linalg.norm(kept[:, None] - sphere[None], axis=-1).min(axis=1)
    assert distance.max() < 3e-5
    assert len(np.unique(kept, axis=0)) == 256
    assert np.linalg.norm(kept.mean(axis=0)) < 0.2  # from all over the sphere


def test_local_loss_takes_what_lies_together(sphere):
    """What a single cluster loses is the nearest to one point; with more clusters it is a union of such."""
    for index in range(20):
        kept = corrupt(sphere, "drop-local", 5, index)
        is_kept = (np.abs(kept[:, None] - sphere[None]).max(axis=-1) < 3e-5).any(axis=0)
        lost = sphere[~is_kept]
        assert len(lost) == 500
        neighbors = np.argsort(np.linalg.norm(lost[:, None] - sphere[None], axis=-1), axis=1)[:, 1:5]
        assert (~is_kept)[neighbors].mean() > 0.75  # at random it would be a half


def test_added_points_follow_the_clouds_own(sphere):
    for name in ("add-global", "add-local"):
        np.testing.assert_allclose(corrupt(sphere, name, 5, index=0)[:1024], sphere, atol=1e-5)


def test_globally_added_points_fill_the_ball_evenly(sphere):
    added = np.concatenate([corrupt(sphere, "add-global", 5, index)[1024:] for index in range(200)])
    radius = np.linalg.norm(added, axis=1)
    assert radius.max() <= 1 + 1e-4
    assert np.mean(radius**3) == pytest.approx(0.5, abs=0.02)  # uniform in volume
    np.testing.assert_allclose(added.mean(axis=0), 0, atol=0.03)


def test_locally_added_points_cluster_around_points_of_the_cloud_inside_the_ball(sphere):
    spreads = []
    for index in range(40):
        added = corrupt(sphere, "add-local", 1, index)[1024:]
        radius = np.linalg.norm(added, axis=1)
        assert radius.max() <= 1 + 1e-4
        assert radius.mean() > 0.7  # the cloud is the sphere itself
        spreads.append(np.linalg.norm(added - added.mean(axis=0), axis=1).mean())
    assert min(spreads) < 0.25  # where there is a single cluster


def test_numbers_of_points_grow_with_the_cloud(sphere):
    assert len(corrupt(sphere[:512], "add-local", 2, index=0)) == 512 + 100
    assert len(corrupt(sphere[:512], "drop-local", 2, index=0)) == 512 - 100


def test_results_are_the_same_on_every_machine(sphere):
    """Recorded once. The grid to which coordinates are rounded is far coarser than where machines differ."""
    digest = hashlib.sha256()
    for name in CORRUPTIONS:
        for level in (1, 5):
            digest.update(corrupt(np.round(sphere, 4), name, level, index=3, seed=5).tobytes())
    assert digest.hexdigest() == "92e1736ddd2d2f8ec0942b6e54e030578349c322453d495e794bf7c5b08d7291"


def test_unknown_corruption_and_level(sphere):
    with pytest.raises(DatasetError, match=r"one of scale, jitter.*got 'fog'"):
        corrupt(sphere, "fog", 1, index=0)
    with pytest.raises(DatasetError, match="1…5, got 6"):
        corrupt(sphere, "scale", 6, index=0)
