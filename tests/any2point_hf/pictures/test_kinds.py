"""What each kind of picture lays out: frames, panels, values, limits, names."""

import numpy as np
import pytest

import any2point_hf
from any2point_hf.modeling.errors import Any2PointError, PointCloudError
from any2point_hf.pictures import kinds, measures
from any2point_hf.pictures.clusters import clusters


@pytest.fixture
def cloud():
    return np.random.default_rng(3).normal(size=(400, 3)).astype(np.float32) * (3, 2, 1) + 5


def nearest_centers(shown, centers):
    return [int(np.argmin(np.square(centers - point).sum(axis=1))) for point in shown]


def test_a_picture_shows_more_of_the_cloud_than_the_model_sees(processor, cloud):
    points, shown = kinds.prepare(processor, cloud)
    np.testing.assert_array_equal(points, processor(cloud, return_tensors="np")["points"][0])
    centred = cloud - cloud.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1).max()
    assert shown.shape == (400, 3)
    np.testing.assert_allclose(shown[np.lexsort(shown.T)], expected[np.lexsort(expected.T)], atol=1e-6)


def test_a_large_cloud_is_shown_in_part_and_a_small_one_whole(processor, monkeypatch, cloud):
    monkeypatch.setattr(kinds, "SHOWN_POINTS", 300)
    assert kinds.prepare(processor, cloud).shown.shape == (300, 3)
    points, shown = kinds.prepare(processor, cloud[:128])
    np.testing.assert_array_equal(points, shown)


def test_a_file_is_read(processor, cloud, tmp_path):
    cloud = cloud.astype(np.float32)
    np.save(tmp_path / "a.npy", cloud)
    for from_file, from_array in zip(
        kinds.prepare(processor, tmp_path / "a.npy"), kinds.prepare(processor, cloud), strict=True
    ):
        np.testing.assert_array_equal(from_file, from_array)


def test_invalid_points_are_shown_no_more_than_the_model_sees_them(processor, cloud, tmp_path):
    cloud = cloud.astype(np.float32)  # as a file holds it
    spoiled = np.concatenate([cloud, np.zeros_like(cloud)])
    with pytest.raises(PointCloudError, match="more than a quarter of its points at one place"):
        kinds.prepare(processor, spoiled)
    dropping = any2point_hf.Any2PointProcessor(processor.num_points, drop_invalid=True)
    np.save(tmp_path / "a.npy", spoiled)
    for given in (spoiled, tmp_path / "a.npy"):
        with pytest.warns(UserWarning, match="points are dropped as invalid") as caught:
            prepared = kinds.prepare(dropping, given)
        assert len(caught) == 1
        for found, expected in zip(prepared, kinds.prepare(processor, cloud), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_attention_has_a_panel_for_each_block(picture_model, processor, cloud):
    picture = any2point_hf.draw_attention(picture_model(), processor, cloud)
    points, shown = kinds.prepare(processor, cloud)
    centers, weights = measures.cls_attention(picture_model(), points)
    assert [panel.title for panel in picture.panels] == ["block 0", "block 1", "block 2"]
    assert "%" in picture.label
    for panel, of_block in zip(picture.panels, weights, strict=True):
        np.testing.assert_array_equal(panel.points, shown)
        np.testing.assert_allclose(panel.values, 100 * of_block[nearest_centers(shown, centers)], rtol=1e-6)
        assert panel.limits == (0, panel.values.max())


@pytest.mark.parametrize("draw", [kinds.draw_attention, kinds.draw_clusters])
def test_one_block_is_that_of_all(picture_model, processor, cloud, draw):
    (alone,) = draw(picture_model(), processor, cloud, block=1).panels
    among = draw(picture_model(), processor, cloud).panels[1]
    assert alone.title == among.title == "block 1"
    np.testing.assert_array_equal(alone.values, among.values)
    for block in (-1, 3):
        with pytest.raises(Any2PointError, match=rf"0…2 .*got {block}"):
            draw(picture_model(), processor, cloud, block=block)


def test_clusters_are_of_the_tokens(picture_model, processor, cloud):
    picture = any2point_hf.draw_clusters(picture_model(), processor, cloud)
    points, shown = kinds.prepare(processor, cloud)
    centers, similarities = measures.cls_similarity(picture_model(), points)
    assert len(picture.categories) == 3
    for panel, of_block in zip(picture.panels, similarities, strict=True):
        np.testing.assert_array_equal(panel.values, clusters(of_block)[nearest_centers(shown, centers)])


def test_similarity_shows_the_average_then_the_views_on_one_scale(picture_model, processor, cloud):
    picture = any2point_hf.draw_similarity(picture_model(), processor, cloud, token=5)
    points, shown = kinds.prepare(processor, cloud)
    centers, averaged, per_view = measures.position_similarity(picture_model(), points, 5)
    nearest = nearest_centers(shown, centers)
    assert [panel.title for panel in picture.panels] == ["mean of views", "view 0", "view 1", "view 2"]
    for panel, expected in zip(picture.panels, [averaged, *per_view], strict=True):
        np.testing.assert_array_equal(panel.values, expected[nearest])
        np.testing.assert_array_equal(panel.marked, centers[5:6])
    ((low, high),) = {panel.limits for panel in picture.panels}
    smallest = min(averaged.min(), per_view.min())
    assert high == 1
    assert smallest - 0.1 < low <= smallest


def test_similarity_without_views_is_one_panel(picture_model, processor, cloud):
    model = picture_model("bert", position_encoding="sinusoidal")
    assert [panel.title for panel in any2point_hf.draw_similarity(model, processor, cloud).panels] == ["encodings"]


def test_tokens_on_lines(picture_model, processor, cloud):
    picture = any2point_hf.draw_tokens(picture_model(), processor, cloud)
    points, shown = kinds.prepare(processor, cloud)
    centers, positions, _, cells = measures.token_positions(picture_model(), points)
    assert [panel.title for panel in picture.panels] == ["view 0", "view 1", "view 2"]
    for view, panel in enumerate(picture.panels):
        np.testing.assert_array_equal(panel.points, centers)
        np.testing.assert_array_equal(panel.background, shown)
        np.testing.assert_array_equal(panel.values, positions[view, :, 0])
        assert panel.limits == (0, 19)
        assert panel.hover[7] == f"token 7: position {positions[view, 7, 0]:.1f}, cell {cells[view, 7]}"


def test_tokens_on_planes_have_rows_and_columns(picture_model, processor, cloud):
    picture = any2point_hf.draw_tokens(picture_model("vit"), processor, cloud)
    _, positions, *_ = measures.token_positions(picture_model("vit"), kinds.prepare(processor, cloud).points)
    assert [panel.title for panel in picture.panels[2:4]] == ["view 2, rows", "view 0, columns"]
    np.testing.assert_array_equal(picture.panels[2].values, positions[2, :, 0])
    np.testing.assert_array_equal(picture.panels[3].values, positions[0, :, 1])
    assert (len(picture.panels), picture.columns, picture.panels[0].limits) == (6, 3, (0, 3))


def test_a_bad_cloud_is_refused(picture_model, processor, tmp_path):
    with pytest.raises(PointCloudError, match="NaN"):
        any2point_hf.draw_tokens(picture_model(), processor, np.full((100, 3), np.nan))
    with pytest.raises(PointCloudError, match="does not exist"):
        any2point_hf.draw_tokens(picture_model(), processor, tmp_path / "no.ply")
    with pytest.raises(PointCloudError, match=r"\[2, 100, 3\]"):
        any2point_hf.draw_tokens(picture_model(), processor, np.zeros((2, 100, 3)))


def test_a_model_without_blocks_has_no_block_to_show(tiny_adapter):
    fields = {"backbone": tiny_adapter.model.config.backbone, "num_points": 64, "num_neighbors": 8}
    config = any2point_hf.Any2PointConfig(backbone_blocks=0, **fields)
    model = any2point_hf.Any2PointForPointCloudClassification(config).eval()
    with pytest.raises(Any2PointError, match="the model uses none"):
        kinds.draw_attention(model, any2point_hf.Any2PointProcessor(64), tiny_adapter.points[0].numpy())
