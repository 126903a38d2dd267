import numpy as np
import pytest

from any2point_hf import load_point_cloud_dataset
from any2point_hf.data.shape_measures import MEASURED, MEASURES, make_measured_cloud, make_measured_shapes, measure
from any2point_hf.data.shapes import draw_shape
from any2point_hf.data.surfaces import boxes, revolve, ring
from any2point_hf.modeling.errors import DatasetError


def inside(surfaces, points):
    """Naively, whether each point [n, 3] lies in a box or within a turned profile."""
    found = np.zeros(len(points), dtype=bool)
    for surface in surfaces:
        if surface.boxes is not None:
            for box in surface.boxes:
                found |= (np.abs(points - box[:3]) < box[3:] / 2).all(axis=1)
        else:
            radius, height = np.hypot(points[:, 0], points[:, 1]), points[:, 2]
            crossings = np.zeros(len(points), dtype=int)
            for (r1, z1), (r2, z2) in zip(surface.profile[:-1], surface.profile[1:], strict=True):
                between = (z1 <= height) != (z2 <= height)
                with np.errstate(divide="ignore", invalid="ignore"):
                    at = r1 + (height - z1) / (z2 - z1) * (r2 - r1)
                crossings += between & (at > radius)
            found |= crossings % 2 == 1
    return found


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("seed", [0, 3])  # a table with a round top and one with a square one
def test_volume_and_extents_are_those_of_counted_points(name, seed):
    surfaces = draw_shape(name, "train", np.random.default_rng(seed))
    volume, _, low, high = measure(surfaces)
    generator = np.random.default_rng(0)
    points = low + (high - low) * generator.random((200_000, 3))
    counted = inside(surfaces, points).mean() * np.prod(high - low)
    assert volume == pytest.approx(counted, rel=0.03)
    outside = low + (high - low) * generator.choice([-0.01, 1.01], (1000, 3))
    assert not inside(surfaces, outside).any()
    sampled = np.concatenate([surface.sample(20_000, generator)[0] for surface in surfaces])
    np.testing.assert_allclose(sampled.min(axis=0), low, atol=0.01)
    np.testing.assert_allclose(sampled.max(axis=0), high, atol=0.01)


def test_measures_of_known_solids():
    volume, area, low, high = measure([revolve("cone", (0, 0), (3, 0), (0, 4))])
    assert volume == pytest.approx(12 * np.pi)
    assert area == pytest.approx(9 * np.pi + 15 * np.pi)
    assert (*low, *high) == (-3, -3, 0, 3, 3, 4)
    volume, area, *_ = measure([ring("torus", 1.0, 0.25)])  # of 24 sides, by Pappus
    assert volume == pytest.approx(2 * np.pi * 24 / 2 * np.sin(np.pi / 12) * 0.25**2)
    assert area == pytest.approx(2 * np.pi * 24 * 2 * 0.25 * np.sin(np.pi / 24))
    cross = boxes("cross", (0, 0, 0, 3, 1, 1), (0, 0, 0, 1, 3, 1))  # overlap in a unit cube
    assert measure([cross])[:2] == pytest.approx((5, 10 + 12))
    steps = boxes("steps", (0, 0, 0, 1, 1, 1), (1, 0, 0, 1, 1, 1))  # touch
    assert measure([steps])[:2] == pytest.approx((2, 10))
    top = revolve("top", (0, 1), (2, 1), (2, 2), (0, 2))
    volume, area, *_ = measure([top, boxes("leg", (0, 0, 0.5, 1, 1, 1))])
    assert volume == pytest.approx(4 * np.pi + 1)
    assert area == pytest.approx(8 * np.pi + 4 * np.pi + 6 - 2)


def test_units_are_those_of_the_points():
    for index in range(16):
        points, measures = make_measured_cloud("test", index, 4096, seed=0)
        extents = np.ptp(points, axis=0)
        np.testing.assert_allclose(extents, [measures[f"extent_{axis}"] for axis in "xyz"], rtol=0.03)
        assert 0.5 <= max(measures["extent_x"], measures["extent_y"], measures["extent_z"]) <= 1.5
        assert 0 < measures["volume"] <= np.prod([measures[f"extent_{axis}"] for axis in "xyz"]) * (1 + 1e-9)


def test_the_data_set_is_repeatable_and_train_and_test_share_no_shape():
    made, again = make_measured_shapes(16, 8, 64), make_measured_shapes(8, 8, 64)
    assert made["train"].features["label"].keys() == {*MEASURES}
    assert made["train"][:8] == again["train"][:]
    assert not {row["volume"] for row in made["train"]["label"]} & {row["volume"] for row in made["test"]["label"]}
    assert make_measured_shapes(8, 8, 64, seed=1)["train"][0] != made["train"][0]


def test_it_is_for_regression_alone():
    with pytest.raises(DatasetError, match="'shapes-measures' is for regression, got task='classification'"):
        load_point_cloud_dataset("shapes-measures", task="classification")
