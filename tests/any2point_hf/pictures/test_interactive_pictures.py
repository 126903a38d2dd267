"""Interactive pictures: the figure's data are the picture's, and the page needs nothing but itself."""

import re
from dataclasses import replace

import numpy as np

from any2point_hf.pictures.interactive_pictures import cloud_figure, picture_figure, write_html
from any2point_hf.pictures.picture_content import CATEGORY_COLORS, COLOR_SCALE


def test_points_and_values_are_those_of_the_picture(picture):
    shown = picture()
    points, behind, ring, second = picture_figure(shown).data
    np.testing.assert_array_equal(np.stack([points.x, points.y, points.z], axis=1), shown.panels[0].points)
    np.testing.assert_array_equal(points.marker.color, shown.panels[0].values)
    assert (points.marker.cmin, points.marker.cmax) == (0, 1)
    assert (second.marker.cmin, second.marker.cmax) == (0, 2)
    assert [color for _, color in points.marker.colorscale] == list(COLOR_SCALE)
    assert points.marker.colorbar.title.text == "share (%)"
    assert points.text[3] == f"{shown.panels[0].values[3]:.4g} share (%)"
    assert (len(behind.x), len(ring.x)) == (9, 1)
    np.testing.assert_array_equal([ring.x[0], ring.y[0], ring.z[0]], shown.panels[0].marked[0])


def test_the_slider_shows_one_panel_at_a_time(picture):
    figure = picture_figure(picture())
    assert [trace.visible for trace in figure.data] == [True, True, True, False]
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["panel 0", "panel 1"]
    assert [step.args[0]["visible"] for step in slider.steps] == [[True] * 3 + [False], [False] * 3 + [True]]
    assert len(picture_figure(picture(num_panels=1)).layout.sliders) == 0


def test_units_are_equal_along_all_axes_and_z_is_up(picture):
    layout = picture().interactive().layout
    assert layout.scene.aspectmode == "data"
    assert layout.scene.camera.up.to_plotly_json() == {"x": 0, "y": 0, "z": 1}
    assert layout.title.text == "A &lt;title&gt; &amp; more"


def test_categories_have_names_and_colours_of_their_own(picture):
    shown = picture(num_panels=1, categories=("low", "middle", "high"))
    shown = replace(shown, panels=(replace(shown.panels[0], values=np.arange(600) % 3),))
    marker = picture_figure(shown).data[0].marker
    assert picture_figure(shown).data[0].text[:3] == ("low", "middle", "high")
    assert list(marker.colorbar.ticktext) == ["low", "middle", "high"]
    for value in range(3):
        place = (value - marker.cmin) / (marker.cmax - marker.cmin)
        below = [color for edge, color in marker.colorscale if edge <= place]
        assert below[-1] == CATEGORY_COLORS[value]


def test_one_cloud_for_a_page_of_ones_own():
    points = np.random.default_rng(0).normal(size=(100, 3))
    figure = cloud_figure(points, points[:, 2], "height", label="m")
    (trace,) = figure.data
    np.testing.assert_allclose(trace.z, points[:, 2], rtol=1e-6)
    np.testing.assert_array_equal(trace.marker.color, points[:, 2])
    assert (trace.marker.cmin, trace.marker.cmax) == (points[:, 2].min(), points[:, 2].max())
    assert (figure.layout.title.text, trace.marker.colorbar.title.text) == ("height", "m")
    assert cloud_figure(points, points[:, 2], "height", limits=(0, 5)).data[0].marker.cmax == 5


def test_the_page_is_whole_safe_and_always_the_same(picture, tmp_path):
    for name in ("a.html", "b.html"):
        write_html(picture(), tmp_path / name)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "<title>A &lt;title&gt; &amp; more</title>" in page
    assert 'id="picture"' in page
    assert len(page) > 3e6  # plotly.js itself
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page[:2000] + page[-20000:])
    assert tags
    assert not [tag for tag in tags if "src=" in tag or "href=" in tag]
    assert not re.search(r"<script[^>]+src", page)
