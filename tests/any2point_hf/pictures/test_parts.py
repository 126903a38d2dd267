"""Pictures of parts: predicted, true and wrong ones, in the colours of the files of parts."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from any2point_hf import draw_parts, label_points
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.pictures.matplotlib_pictures import _colors
from any2point_hf.pictures.parts import SHOWN_POINTS, parts_picture
from any2point_hf.pictures.picture_content import category_colors
from any2point_hf.segmentation.labelling import LabelledPoints

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("a", "b", "c", "d")


def make(parts, **changes):
    parts = np.array(parts)
    points = np.random.default_rng(0).normal(size=(len(parts), 3))
    return LabelledPoints(points, parts, np.full(len(parts), 0.75, np.float32), NAMES, **changes)


def test_a_prediction_alone(tmp_path):
    labelled = make([0, 3, 3, 0])
    picture = parts_picture(labelled)
    (panel,) = picture.panels
    assert (picture.title, picture.categories) == ("Parts", ("a", "d"))
    assert picture.colors == (category_colors(4)[0], category_colors(4)[3])
    assert panel.values.tolist() == [0, 1, 1, 0]
    assert panel.hover == ("a 0.75", "d 0.75", "d 0.75", "a 0.75")
    np.testing.assert_allclose(panel.points, labelled.points - labelled.points.mean(axis=0), atol=1e-6)


def test_truth_beside_it_and_errors():
    labelled = make([0, 3, 3, 0, 1, -100], category="robot")
    picture = parts_picture(labelled, np.array([0, 3, 2, 1, -100, 0]))
    prediction, truth, errors = picture.panels
    assert (picture.title, picture.categories) == ("Parts (robot)", NAMES)
    assert prediction.values.tolist() == [0, 3, 3, 0, 1]  # the dropped point is not shown
    assert truth.values.tolist() == [0, 3, 2, 1]
    assert len(truth.background) == 1
    assert (errors.title, errors.values.tolist()) == ("errors, 50.0 % of the points", [3, 0])
    np.testing.assert_array_equal(errors.points, prediction.points[[2, 3]])
    assert errors.hover == ("d 0.75, is c", "a 0.75, is b")
    assert len(errors.background) == 3
    assert [panel.title for panel in parts_picture(labelled, labelled.parts).panels] == ["prediction", "truth"]


def test_a_large_cloud_shows_every_nth_point():
    labelled = make(np.arange(3 * SHOWN_POINTS) % 4)
    (panel,) = parts_picture(labelled).panels
    assert panel.values.tolist() == (np.arange(0, 3 * SHOWN_POINTS, 3) % 4).tolist()


def test_the_legend_has_the_parts_names_and_colours(tmp_path):
    picture = parts_picture(make([1, 3, 3, 1]))
    colors = _colors(picture, picture.panels[0])["cmap"].colors
    assert [to_hex(color) for color in colors] == [category_colors(4)[1], category_colors(4)[3]]
    (trace,) = picture.interactive().data
    assert trace.marker.colorbar.ticktext == ("b", "d")
    assert {color for _, color in trace.marker.colorscale} == {category_colors(4)[1], category_colors(4)[3]}
    assert picture.save(tmp_path / "a.png").read_bytes() == picture.save(tmp_path / "b.png").read_bytes()


def test_draw_parts_labels_all_points(tiny_segmenter):
    cloud = np.random.default_rng(0).normal(size=(150, 3))
    expected = label_points(tiny_segmenter.model, tiny_segmenter.processor, cloud)
    picture = draw_parts(tiny_segmenter.model, tiny_segmenter.processor, cloud)
    found = [picture.categories[value] for value in picture.panels[0].values.tolist()]
    assert found == [tiny_segmenter.part_names[part] for part in expected.parts]
    for truth, said in ((np.zeros(9, int), "each of the 150 points"), (np.full(150, 5), "0…4, or be -100, got 5")):
        with pytest.raises(DatasetError, match=said):
            draw_parts(tiny_segmenter.model, tiny_segmenter.processor, cloud, truth=truth)
