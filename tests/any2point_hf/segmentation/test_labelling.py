"""`label_points`: a part for all of a cloud's own points in their order, whatever the cloud's size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf import Any2PointProcessor, label_points, label_scene
from any2point_hf.modeling.errors import ConfigurationError, DatasetError, PointCloudError

pytestmark = pytest.mark.usefixtures("one_thread")


def make_cloud(size, seed=0):
    return (5 + np.random.default_rng(seed).normal(size=(size, 3))).astype(np.float32)


@torch.no_grad()
def naive_parts(segmenter, cloud, allowed=None, category=None):
    """Parts and probabilities of a cloud that the model takes as it is."""
    centred = cloud.astype(np.float64) - cloud.astype(np.float64).mean(axis=0)
    unit = torch.tensor(centred / np.linalg.norm(centred, axis=1).max(), dtype=torch.float32)
    logits = segmenter.model(unit.unsqueeze(0), category=category).logits[0]
    allowed = allowed or range(logits.shape[-1])
    probabilities = logits[:, list(allowed)].double().softmax(dim=-1)
    return np.array(allowed)[probabilities.argmax(dim=-1)], probabilities.amax(dim=-1).numpy()


def test_a_cloud_of_num_points(tiny_segmenter):
    cloud = make_cloud(64)
    labelled = label_points(tiny_segmenter.model, tiny_segmenter.processor, cloud)
    parts, probabilities = naive_parts(tiny_segmenter, cloud)
    np.testing.assert_array_equal(labelled.parts, parts)
    np.testing.assert_allclose(labelled.probabilities, probabilities, atol=1e-4)
    assert len(set(parts)) > 1
    assert labelled.parts.dtype == np.int64
    assert (labelled.part_names, labelled.category) == (tiny_segmenter.part_names, None)
    np.testing.assert_array_equal(labelled.points, cloud)


@pytest.mark.parametrize(("category", "allowed"), [("zebra", [2, 3, 4]), (0, [2, 3, 4]), ("ant", [0, 1]), (1, [0, 1])])
def test_parts_are_those_of_the_category(segmenter_with_categories, category, allowed):
    cloud, number = make_cloud(64), 0 if category in ("zebra", 0) else 1
    labelled = label_points(
        segmenter_with_categories.model, segmenter_with_categories.processor, cloud, category=category
    )
    parts, probabilities = naive_parts(segmenter_with_categories, cloud, allowed, torch.tensor([number]))
    np.testing.assert_array_equal(labelled.parts, parts)
    np.testing.assert_allclose(labelled.probabilities, probabilities, atol=1e-4)
    assert labelled.category == ("zebra", "ant")[number]


def test_squares_of_a_scene_are_labelled_each_like_a_cloud_of_its_own(tiny_segmenter):
    """Two squares far from the origin, of 64 points each, without context: as if each were given alone."""
    model, processor = tiny_segmenter.model, tiny_segmenter.processor
    corner = np.array([500_000.0, 4_000_000.0, 20.0])
    squares = [corner + np.random.default_rng(seed).random((64, 3)) + [2 * seed, 0, 0] for seed in (0, 1)]
    squares[0][0] = corner  # where the first square begins
    scene = np.concatenate(squares)
    labelled = label_points(model, processor, scene, block=2.0, context=0.0)
    alone = [label_points(model, processor, square) for square in squares]
    np.testing.assert_array_equal(labelled.parts, np.concatenate([cloud.parts for cloud in alone]))
    expected = np.concatenate([cloud.probabilities for cloud in alone])
    np.testing.assert_allclose(labelled.probabilities, expected, atol=1e-5)
    whole = label_points(model, processor, scene)
    assert np.abs(whole.probabilities - expected).max() > 1e-3  # what the block changes


@pytest.mark.parametrize("kind", [">f8", ">f4", np.longdouble, np.int64, np.float16])
def test_a_scene_may_be_an_array_of_any_kind_of_numbers(tiny_segmenter, kind):
    model, processor = tiny_segmenter.model, tiny_segmenter.processor
    scene = (100 * np.random.default_rng(0).random((200, 3))).astype(kind)
    labelled = label_points(model, processor, scene, block=50.0)
    expected = label_points(model, processor, scene.astype(np.float64), block=50.0)
    np.testing.assert_array_equal(labelled.parts, expected.parts)


def test_a_small_scene_is_labelled_as_a_small_cloud_is(tiny_segmenter):
    cloud = make_cloud(40)
    whole = label_points(tiny_segmenter.model, tiny_segmenter.processor, cloud)
    scene = label_points(tiny_segmenter.model, tiny_segmenter.processor, cloud, block=100.0)
    np.testing.assert_array_equal(scene.parts, whole.parts)
    np.testing.assert_allclose(scene.probabilities, whole.probabilities, atol=1e-5)


@pytest.mark.parametrize("widths", [{"block": "4"}, {"block": 1.0, "context": "1"}, {"block": 0.0}])
def test_widths_of_a_scene_are_numbers(tiny_segmenter, widths):
    with pytest.raises(ConfigurationError, match="must be a"):
        label_points(tiny_segmenter.model, tiny_segmenter.processor, make_cloud(64), **widths)


def test_invalid_points_of_a_scene_have_no_part(tiny_segmenter):
    processor = Any2PointProcessor(64, drop_invalid=True)
    scene = np.random.default_rng(0).random((300, 3))
    scene[7] = np.nan
    with pytest.warns(UserWarning, match="1 "):
        labelled = label_points(tiny_segmenter.model, processor, scene, block=0.5)
    assert np.flatnonzero(labelled.parts == -100).tolist() == [7]
    expected = label_scene(tiny_segmenter.model, torch.from_numpy(np.delete(scene, 7, axis=0)), 0.5, num_points=64)
    np.testing.assert_array_equal(np.delete(labelled.parts, 7), expected.numpy())


def test_a_context_needs_its_block(tiny_segmenter):
    with pytest.raises(ConfigurationError, match="context needs a block"):
        label_points(tiny_segmenter.model, tiny_segmenter.processor, make_cloud(64), context=1.0)


@given(st.integers(8, 400), st.integers(0, 50))
def test_parts_follow_their_points_in_clouds_of_any_size(tiny_segmenter, size, seed):
    cloud, order = make_cloud(size, seed), np.random.default_rng(seed).permutation(size)
    one, other = (label_points(tiny_segmenter.model, tiny_segmenter.processor, c) for c in (cloud, cloud[order]))
    assert one.parts.shape == one.probabilities.shape == (size,)
    np.testing.assert_array_equal(one.parts[order], other.parts)
    np.testing.assert_allclose(one.probabilities[order], other.probabilities, atol=1e-5)
    assert one.probabilities.min() >= 0.2 - 1e-6  # the most likely of five


@pytest.mark.parametrize("size", [8, 40, 63])
def test_points_of_the_smallest_clouds_are_repeated(tiny_segmenter, size):
    cloud = make_cloud(size)
    labelled = label_points(tiny_segmenter.model, tiny_segmenter.processor, cloud)
    repeats = -(-64 // size)
    parts, _ = naive_parts(tiny_segmenter, np.tile(cloud, (repeats, 1)))
    np.testing.assert_array_equal(labelled.parts, parts[:size])


def test_batch_size_changes_nothing(tiny_segmenter):
    cloud = make_cloud(1000)
    one, other = (
        label_points(tiny_segmenter.model, tiny_segmenter.processor, cloud, batch_size=size) for size in (1, 16)
    )
    np.testing.assert_array_equal(one.parts, other.parts)


def test_dropped_points_have_no_part_but_keep_their_row(tiny_segmenter, tmp_path):
    cloud = make_cloud(100).astype(np.float64)
    spoiled = np.insert(cloud, [3, 50], [[np.nan, 1, 2], [np.inf, 0, 0]], axis=0)
    np.save(tmp_path / "a.npy", spoiled)
    expected = label_points(tiny_segmenter.model, tiny_segmenter.processor, cloud)
    processor = Any2PointProcessor(64, drop_invalid=True)
    for given_cloud in (spoiled, tmp_path / "a.npy"):
        with pytest.warns(UserWarning, match="2 of 102 points are dropped"):
            labelled = label_points(tiny_segmenter.model, processor, given_cloud)
        np.testing.assert_array_equal(labelled.points, spoiled)
        is_dropped = np.isin(np.arange(102), [3, 51])
        np.testing.assert_array_equal(labelled.parts, np.insert(expected.parts, [3, 50], -100))
        np.testing.assert_array_equal(np.isnan(labelled.probabilities), is_dropped)
        np.testing.assert_allclose(labelled.probabilities[~is_dropped], expected.probabilities, atol=1e-5)
        assert (labelled.summary()["points"], labelled.summary()["dropped"]) == (102, 2)
        assert sum(part["points"] for part in labelled.summary()["parts"]) == 100


def test_summary_counts_points_and_shares(tiny_segmenter):
    labelled = label_points(tiny_segmenter.model, tiny_segmenter.processor, make_cloud(200))
    summary = labelled.summary()
    assert summary["confidence"] == pytest.approx(labelled.probabilities.mean(), abs=1e-5)
    for part in summary["parts"]:
        of_part = labelled.parts == part["id"]
        assert part["name"] == tiny_segmenter.part_names[part["id"]]
        assert (part["points"], part["share"]) == (of_part.sum(), pytest.approx(of_part.mean(), abs=1e-6))
        assert part["confidence"] == pytest.approx(labelled.probabilities[of_part].mean(), abs=1e-5)
    assert {part["id"] for part in summary["parts"]} == set(labelled.parts.tolist())


@pytest.mark.parametrize(
    ("category", "said"),
    [
        (None, "category is one of zebra, ant, got none"),
        ("zebre", 'must be one of zebra, ant, got "zebre". Did you mean zebra?'),
        (2, "an id in 0…1 (zebra, ant), got 2"),
        (True, "must be a name or an id of zebra, ant, got True"),
    ],
)
def test_categories_that_are_refused(segmenter_with_categories, category, said):
    with pytest.raises(DatasetError) as refused:
        label_points(segmenter_with_categories.model, segmenter_with_categories.processor, make_cloud(64), category)
    assert said in str(refused.value)


def test_clouds_that_are_refused(tiny_segmenter, bert):
    label = tiny_segmenter.model, tiny_segmenter.processor
    with pytest.raises(DatasetError, match='this model has no categories, got category "ant"'):
        label_points(*label, make_cloud(64), "ant")
    with pytest.raises(PointCloudError, match="cloud must have at least 8 distinct points, got 7"):
        label_points(*label, make_cloud(7))
    processor = Any2PointProcessor(64, point_feature_names=["intensity"])
    cloud = {"points": make_cloud(64), "intensity": np.where(np.arange(64) == 9, np.nan, 0.5)}
    with pytest.raises(PointCloudError, match="intensity"):
        label_points(tiny_segmenter.model, processor, cloud)
