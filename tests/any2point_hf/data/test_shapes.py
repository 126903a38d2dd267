import numpy as np
import pytest

from any2point_hf.data import shapes
from any2point_hf.data.shapes import NUM_BINS, SHAPE_NAMES, draw_proportions, make_cloud, make_shapes
from any2point_hf.data.surfaces import boxes, revolve, sample_surfaces
from any2point_hf.modeling.errors import DatasetError


def clouds_of(name, count=20, num_points=512, split="train"):
    first = SHAPE_NAMES.index(name)
    return [make_cloud(split, first + len(SHAPE_NAMES) * i, num_points, 0).astype(float) for i in range(count)]


def test_classes_are_ten_in_alphabetical_order_and_balanced():
    dataset = make_shapes(num_train=30, num_test=20, num_points=16)
    assert dataset["train"].features["label"].names == list(SHAPE_NAMES) == sorted(SHAPE_NAMES)
    assert len(SHAPE_NAMES) == 10
    assert np.bincount(dataset["train"]["label"]).tolist() == [3] * 10
    assert np.bincount(dataset["test"]["label"]).tolist() == [2] * 10
    defaults = make_shapes.__defaults__
    assert defaults[0] % 10 == defaults[1] % 10 == 0


def test_clouds_are_finite_float32_of_distinct_points():
    dataset = make_shapes(num_train=20, num_test=10, num_points=200).with_format("numpy")
    for split in ("train", "test"):
        points = dataset[split][:]["points"]
        assert points.dtype == np.float32
        assert points.shape == (len(dataset[split]), 200, 3)
        assert np.isfinite(points).all()
        assert all(len(np.unique(cloud, axis=0)) == 200 for cloud in points)


def test_same_seed_same_clouds_whatever_the_count():
    first = make_shapes(20, 10, 64, seed=3).with_format("numpy")
    second = make_shapes(30, 10, 64, seed=3).with_format("numpy")
    assert first["train"][:]["points"].tobytes() == second["train"][:20]["points"].tobytes()
    assert first["test"][:]["points"].tobytes() == second["test"][:]["points"].tobytes()


def test_other_seed_split_or_index_gives_another_cloud():
    cloud = make_cloud("train", 4, 64, 0)
    for other in (
        make_cloud("train", 4, 64, 1),
        make_cloud("test", 4, 64, 0),
        make_cloud("train", 14, 64, 0),
    ):
        assert not np.isin(cloud, other).any()


def test_train_and_test_proportions_come_from_disjoint_bins():
    generator = np.random.default_rng(0)
    bins = {
        split: set(np.floor(draw_proportions(generator, split, 5000) * NUM_BINS).astype(int).tolist())
        for split in ("train", "test")
    }
    assert bins["test"] == set(range(0, NUM_BINS, 4))
    assert bins["train"] == set(range(NUM_BINS)) - bins["test"]


def test_every_cloud_draws_its_proportions_from_the_bins_of_its_split(monkeypatch):
    drawn = []

    def record(generator, split, count):
        drawn.append((split, draw_proportions(generator, split, count)))
        return drawn[-1][1]

    monkeypatch.setattr(shapes, "draw_proportions", record)
    make_shapes(20, 20, 8)
    of_test = {split: [] for split in ("train", "test")}
    for split, proportions in drawn:
        of_test[split].extend((np.floor(proportions * NUM_BINS) % 4 == 0).tolist())
    assert not any(of_test["train"])
    assert all(of_test["test"])
    assert len(of_test["train"]) == len(of_test["test"]) == 2 * 30


def test_noise_is_one_to_two_percent_of_the_size():
    ratios = []
    for cloud in clouds_of("cylinder", count=30, num_points=2000):
        height = np.quantile(cloud[:, 2], 0.99) - np.quantile(cloud[:, 2], 0.01)
        radius = np.hypot(cloud[:, 0], cloud[:, 1])
        side = radius[(np.abs(cloud[:, 2]) < 0.35 * height) & (radius > 0.1 * height)]
        ratios.append(side.std() / height)
    assert min(ratios) > 0.009
    assert max(ratios) < 0.0215
    assert max(ratios) - min(ratios) > 0.006


def test_turns_are_about_z_only_and_in_all_directions():
    tilts, directions = [], []
    for cloud in clouds_of("chair", count=100):
        # A chair's back rises over its seat: the topmost quarter shows its tilt and heading.
        upper = cloud[cloud[:, 2] > cloud[:, 2].min() + 0.75 * np.ptp(cloud[:, 2])]
        _, vectors = np.linalg.eigh(np.cov(upper.T))
        tilts.append(abs(vectors[2, 0]))
        directions.append(np.arctan2(vectors[0, 0], vectors[1, 0]) % np.pi)
    assert np.median(tilts) < 0.05
    assert len(np.unique(np.floor(np.array(directions) / (np.pi / 8)))) == 8


def test_scale_varies_between_half_and_double():
    heights = np.array([np.ptp(cloud[:, 2]) for cloud in clouds_of("bottle", count=60)])
    assert 0.5 <= heights.min() < 0.7
    assert 1.7 < heights.max() < 2.3


def test_partial_view_drops_up_to_a_third_on_one_side():
    # A whole torus has its centroid in the axis, which is at x = y = 0 with the view cut or not.
    shifts = []
    for cloud in clouds_of("torus", count=60):
        extent = np.hypot(cloud[:, 0], cloud[:, 1]).max()
        shifts.append(np.hypot(*cloud[:, :2].mean(axis=0)) / extent)
    assert min(shifts) < 0.08
    assert 0.25 < max(shifts) < 0.5


@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_parts_get_points_by_their_area(name):
    """The mean of the mixed parts is the mean of their own means by area."""
    build, intervals = shapes._SHAPES[name]
    surfaces = build(*np.mean(intervals, axis=1))
    points, parts = sample_surfaces(surfaces, 40_000, np.random.default_rng(0))
    assert points.shape == (40_000, 3)
    assert {*parts.tolist()} == {part for surface in surfaces for part in surface.parts}
    halves = [surface.sample(20_000, np.random.default_rng(1))[0] for surface in surfaces]
    expected = sum(surface.area * half.mean(axis=0) for surface, half in zip(surfaces, halves, strict=True))
    np.testing.assert_allclose(points.mean(axis=0), expected / sum(surface.area for surface in surfaces), atol=0.02)


def test_cone_and_sphere_match_their_closed_forms():
    area, sample, *_ = revolve("cone", (0.5, 0), (0, 1))
    points, _ = sample(50_000, np.random.default_rng(0))
    assert area == pytest.approx(np.pi * 0.5 * np.hypot(0.5, 1))
    assert points[:, 2].mean() == pytest.approx(1 / 3, abs=0.005)  # a cone's side: a third of its height
    np.testing.assert_allclose(np.hypot(points[:, 0], points[:, 1]), 0.5 * (1 - points[:, 2]), atol=1e-12)
    ((area, sample, *_),) = shapes._ellipsoid(1.0)
    height = sample(50_000, np.random.default_rng(0))[0][:, 2]
    assert area == pytest.approx(4 * np.pi, rel=0.005)
    assert np.abs(np.histogram(height, bins=10, range=(-1, 1))[0] / 5000 - 1).max() < 0.06  # Archimedes


def test_boxes_have_points_on_each_face_by_its_area():
    area, sample, *_ = boxes("box", (1, 2, 3, 1.0, 2.0, 4.0))
    points = sample(28_000, np.random.default_rng(0))[0] - (1, 2, 3)
    on_face = np.isclose(np.abs(points), (0.5, 1.0, 2.0))
    assert area == 28.0
    assert on_face.any(axis=1).all()
    np.testing.assert_allclose(on_face.sum(axis=0), (16_000, 8_000, 4_000), rtol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 0}, "num_train must be at least 1, got 0"),
        ({"num_test": -1}, "num_test must be at least 1, got -1"),
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(DatasetError, match=message):
        make_shapes(**arguments)
