import math

import pytest
import torch

from any2point_hf.data.augmentation import Augmentation, random_subset
from any2point_hf.data.counter_random import mix
from any2point_hf.modeling import ConfigurationError


def points(batch_size=400, num_points=16):
    return torch.randn(batch_size, num_points, 3, generator=torch.Generator().manual_seed(0))


def keys_of(clouds, seed=0):
    """A key for each cloud."""
    return mix(torch.arange(len(clouds)), seed)


def augment(clouds, seed=0, **settings):
    return Augmentation(**settings)(clouds, keys_of(clouds, seed))


def drawn(clouds, augmented):
    """The factors and shifts [B, 3] that map the clouds to the augmented ones, by least squares of each axis."""
    mean, new_mean = clouds.mean(dim=1), augmented.mean(dim=1)
    centred, new_centred = clouds - mean.unsqueeze(1), augmented - new_mean.unsqueeze(1)
    factors = (centred * new_centred).sum(dim=1) / centred.square().sum(dim=1)
    return factors, new_mean - factors * mean


def test_one_factor_and_one_shift_an_axis_and_a_cloud():
    clouds = points()
    augmented = augment(clouds)
    factors, shifts = drawn(clouds, augmented)
    torch.testing.assert_close(clouds * factors.unsqueeze(1) + shifts.unsqueeze(1), augmented, atol=1e-5, rtol=1e-5)


def test_modelnet_ranges_by_default():
    clouds = points()
    factors, shifts = drawn(clouds, augment(clouds))
    assert factors.min() > 2 / 3 - 1e-4
    assert factors.max() < 3 / 2 + 1e-4
    assert shifts.abs().max() < 0.2 + 1e-4
    # uniform: mean and deviation of 400 draws an axis, by axis and so never one draw for all three
    assert factors.mean(dim=0) == pytest.approx([13 / 12] * 3, abs=0.05)
    assert factors.std(dim=0) == pytest.approx([5 / 6 / math.sqrt(12)] * 3, abs=0.03)
    assert shifts.mean(dim=0) == pytest.approx([0] * 3, abs=0.03)
    assert shifts.std(dim=0) == pytest.approx([0.4 / math.sqrt(12)] * 3, abs=0.02)
    draws = torch.cat([factors, shifts], dim=1).T
    correlations = torch.corrcoef(draws) - torch.eye(6)
    assert correlations.abs().max() < 0.2


def test_scan_ranges():
    clouds = points()
    factors, shifts = drawn(clouds, augment(clouds, scale=(0.9, 1.1), shift=0.0))
    assert 0.9 - 1e-4 < factors.min() < 0.91
    assert 1.09 < factors.max() < 1.1 + 1e-4
    assert shifts.abs().max() < 1e-4


@pytest.mark.parametrize(("axis", "kept", "first", "second"), [("x", 0, 1, 2), ("y", 1, 2, 0), ("z", 2, 0, 1)])
def test_rotation_about_an_axis(axis, kept, first, second):
    clouds = points()
    rotated = augment(clouds, scale=(1, 1), shift=0.0, rotation_axis=axis)
    torch.testing.assert_close(rotated[..., kept], clouds[..., kept], rtol=0, atol=0)
    before = torch.complex(clouds[..., first], clouds[..., second])
    after = torch.complex(rotated[..., first], rotated[..., second])
    turn = after / before
    torch.testing.assert_close(turn.abs(), torch.ones_like(turn.abs()), rtol=0, atol=1e-4)
    torch.testing.assert_close(turn, turn[:, :1].expand_as(turn), rtol=0, atol=1e-3)  # one angle a cloud
    angles = turn[:, 0].angle()
    quarters = torch.histc(angles, bins=4, min=-math.pi, max=math.pi)
    assert quarters.min() > 60  # of 400 angles, on the whole circle


def test_rotation_keeps_a_right_handed_frame():
    frame = torch.eye(3).unsqueeze(0)
    for axis in "xyz":
        rotated = augment(frame, scale=(1, 1), shift=0.0, rotation_axis=axis)
        assert torch.linalg.det(rotated[0]).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_half_of_the_clouds_are_mirrored_along_an_axis(axis):
    clouds, index = points(), "xyz".index(axis)
    mirrored = augment(clouds, scale=(1, 1), shift=0.0, mirror_axis=axis)
    others = [number for number in range(3) if number != index]
    assert torch.equal(mirrored[..., others], clouds[..., others])
    is_same = (mirrored[..., index] == clouds[..., index]).all(dim=1)
    assert torch.equal(mirrored[~is_same][..., index], -clouds[~is_same][..., index])
    assert 160 < is_same.sum() < 240  # of 400
    plain, both = augment(clouds), augment(clouds, mirror_axis=axis)  # other draws are the same
    assert torch.equal(both[is_same], plain[is_same])


def test_rotation_comes_after_scale_and_shift():
    clouds = points(8)
    plain = augment(clouds)
    rotated = augment(clouds, rotation_axis="y")
    torch.testing.assert_close(rotated[..., 1], plain[..., 1], rtol=0, atol=0)
    radius = plain[..., ::2].norm(dim=-1)
    torch.testing.assert_close(rotated[..., ::2].norm(dim=-1), radius, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [None, "y"])
def test_the_input_is_left_alone_and_its_dtype_kept(axis):
    clouds = points(3).double()
    copy = clouds.clone()
    augmented = augment(clouds, rotation_axis=axis)
    assert torch.equal(clouds, copy)
    assert augmented.dtype == torch.float64
    assert not torch.equal(augmented, clouds)


def test_draws_depend_on_the_key_alone():
    clouds = points(6)
    settings = {"rotation_axis": "z", "jitter": 0.01, "drop": 0.5}
    whole = augment(clouds, **settings)
    assert torch.equal(whole, augment(clouds, **settings))
    keys, order = keys_of(clouds), torch.tensor([4, 0, 5])
    assert torch.equal(Augmentation(**settings)(clouds[order], keys[order]), whole[order])  # whatever the batch
    assert not torch.equal(augment(clouds, seed=1, **settings), whole)


def test_jitter_is_normal_noise_clipped_at_five_deviations():
    clouds = points(400, 64)
    noise = augment(clouds, scale=(1, 1), shift=0.0, jitter=0.02) - clouds
    assert noise.mean() == pytest.approx(0, abs=3e-4)
    assert noise.std() == pytest.approx(0.02, rel=0.02)
    assert noise.abs().max() <= 0.1 + 1e-6
    assert (noise.abs() > 0.04).float().mean() == pytest.approx(0.0455, abs=0.005)  # beyond two deviations
    correlations = torch.corrcoef(noise.flatten(0, 1).T) - torch.eye(3)
    assert correlations.abs().max() < 0.03


def test_lost_points_are_put_onto_the_first():
    clouds = points(400, 64)
    kept = augment(clouds, scale=(1, 1), shift=0.0, drop=0.8)
    lost = (kept != clouds).any(dim=-1)
    assert torch.equal(kept[lost], clouds[:, :1].expand_as(clouds)[lost])
    shares = lost.float().mean(dim=1)
    assert shares.mean() == pytest.approx(0.4, abs=0.03)  # half of the largest share
    assert shares.std() == pytest.approx(0.8 / math.sqrt(12), abs=0.03)  # drawn for each cloud
    assert shares.max() < 0.95


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"scale": (0, 1)}, "range of positive factors.*got 0 to 1"),
        ({"scale": (2, 1)}, "low to high, got 2 to 1"),
        ({"shift": -1.0}, "shift must be finite and not negative, got -1.0"),
        ({"jitter": math.inf}, "jitter must be finite"),
        ({"drop": 1.0}, r"drop must lie in \[0, 1\), got 1.0"),
        ({"rotation_axis": "w"}, "rotation_axis must be x, y, z or none, got 'w'"),
        ({"mirror_axis": "w"}, "mirror_axis must be x, y, z or none, got 'w'"),
    ],
)
def test_settings_out_of_range(settings, rule):
    with pytest.raises(ConfigurationError, match=rule):
        Augmentation(**settings)


def test_a_subset_holds_different_points_of_its_own_cloud():
    clouds = torch.arange(5 * 75 * 3.0).reshape(5, 75, 3)
    subset = random_subset(clouds, 64, keys_of(clouds))
    assert subset.shape == (5, 64, 3)
    for cloud, chosen in zip(clouds, subset, strict=True):
        rows = {tuple(point) for point in chosen.tolist()}
        assert len(rows) == 64
        assert rows <= {tuple(point) for point in cloud.tolist()}
    dropped = [set(range(75)) - set((chosen[:, 0] / 3 - 75 * i).int().tolist()) for i, chosen in enumerate(subset)]
    assert len({frozenset(indices) for indices in dropped}) == 5  # each cloud its own draw


def test_every_point_is_as_likely():
    clouds = torch.arange(10.0).view(1, 10, 1).expand(3000, 10, 3)
    counts = torch.bincount(random_subset(clouds, 4, keys_of(clouds))[..., 0].flatten().long(), minlength=10)
    assert counts.sum() == 12000
    assert counts.min() > 1200 - 6 * 27  # binomial: mean 1200, deviation 27
    assert counts.max() < 1200 + 6 * 27


@pytest.mark.parametrize("available", [10, 64])
def test_nothing_to_choose_from(available):
    clouds = points(2, available)
    assert torch.equal(random_subset(clouds, 64, keys_of(clouds)), clouds)


def sphere(keys, num_points=64):
    """Rows [B, N, 7] of a unit sphere: points, a number that names the point, and its normal, the point itself."""
    points = torch.nn.functional.normalize(torch.randn(len(keys), num_points, 3), dim=-1)
    numbers = torch.arange(num_points).expand(len(keys), -1).unsqueeze(-1)
    return torch.cat([points, numbers, points], dim=-1)


@pytest.mark.parametrize("mirror", [None, "y"])
@pytest.mark.parametrize("axis", [None, "x", "y", "z"])
def test_normals_stay_normal_to_their_surface(axis, mirror):
    keys = torch.arange(5)
    rows = sphere(keys)
    augmentation = Augmentation(scale=(0.5, 2.0), shift=0.0, rotation_axis=axis, mirror_axis=mirror)
    changed = augmentation(rows, keys, [4, 5, 6])
    assert torch.equal(changed[..., :3], augmentation(rows[..., :3], keys))
    # A stretched sphere is an ellipsoid x' A x = 1, whose normal at x is A x; A is found from the points themselves.
    for cloud in changed.double():
        x, y, z = cloud[:, :3].T
        terms = torch.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], dim=1)
        a, b, c, d, e, f = torch.linalg.lstsq(terms, torch.ones(len(x), 1, dtype=torch.float64)).solution.flatten()
        matrix = torch.stack([torch.stack([a, d, e]), torch.stack([d, b, f]), torch.stack([e, f, c])])
        expected = torch.nn.functional.normalize(cloud[:, :3] @ matrix, dim=-1)
        torch.testing.assert_close(cloud[:, 4:], expected, rtol=1e-4, atol=1e-4)


def test_features_stay_with_their_points():
    keys = torch.arange(3)
    rows = sphere(keys, 200)
    kept = random_subset(rows, 50, keys)
    numbers = kept[..., 3].long()
    assert all(len(set(cloud.tolist())) == 50 for cloud in numbers)
    assert torch.equal(kept, rows.gather(1, numbers.unsqueeze(-1).expand(-1, -1, 7)))
    changed = Augmentation(jitter=0.02, rotation_axis="z", drop=0.5)(kept, keys, [4, 5, 6])
    lost = changed[..., 3] != kept[..., 3]
    assert lost.any()
    assert torch.equal(changed[lost], changed[:, :1].expand_as(changed)[lost])


def test_a_normal_of_no_length_stays_one():
    rows = torch.cat([torch.randn(1, 8, 3), torch.zeros(1, 8, 3)], dim=-1)
    assert torch.equal(
        Augmentation(rotation_axis="y")(rows, torch.zeros(1, dtype=torch.int64), [3, 4, 5])[..., 3:], rows[..., 3:]
    )
