"""Still pictures: what is drawn is read back from matplotlib's own objects."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread

import any2point_hf
from any2point_hf.pictures.matplotlib_pictures import write_png
from any2point_hf.pictures.picture_content import CATEGORY_COLORS, COLOR_SCALE


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that a picture is drawn on, not yet turned into pixels."""
    figures = []

    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    def draw(picture):
        write_png(picture, tmp_path / "drawn.png")
        return figures[-1]

    return draw


def panels_of(figure):
    return [axes for axes in figure.axes if axes.name == "3d"]


def bars_of(figure):
    return [axes for axes in figure.axes if axes.name != "3d"]


def test_points_and_values_are_those_of_the_picture(picture, drawn):
    shown = picture()
    first, second = panels_of(drawn(shown))
    behind, points, ring = first.collections
    for axis in range(3):
        np.testing.assert_array_equal(np.sort(points._offsets3d[axis]), np.sort(shown.panels[0].points[:, axis]))
    np.testing.assert_array_equal(np.sort(points.get_array()), np.sort(shown.panels[0].values))
    assert points.get_clim() == (0, 1)
    assert second.collections[0].get_clim() == (0, 2)
    assert len(behind._offsets3d[0]) == 9
    assert len(ring._offsets3d[0]) == 1
    assert [axes.get_title() for axes in (first, second)] == ["panel 0", "panel 1"]
    assert points.get_cmap()(1.0) == pytest.approx(to_rgba(COLOR_SCALE[-1]), abs=0.01)


def test_units_are_equal_along_all_axes(picture, drawn):
    (axes, _) = panels_of(drawn(picture()))
    sides = [high - low for low, high in (axes.get_xlim(), axes.get_ylim(), axes.get_zlim())]
    assert sides == pytest.approx([sides[0]] * 3)
    np.testing.assert_allclose(axes._box_aspect / axes._box_aspect[0], 1)


def test_panels_of_one_scale_share_a_bar_others_have_their_own(picture, drawn):
    apart = drawn(picture())
    assert len(bars_of(apart)) == 2
    assert apart.get_suptitle() == "A <title> & more"
    assert apart.get_supxlabel() == "share (%)"
    same = picture()
    same = replace(same, panels=tuple(replace(panel, limits=(0.0, 2.0)) for panel in same.panels))
    (bar,) = bars_of(drawn(same))
    assert bar.get_ylabel() == "share (%)"


def test_categories_have_names_and_colours_of_their_own(picture, drawn):
    shown = picture(num_panels=1, categories=("low", "middle", "high"))
    values = np.arange(600) % 3
    figure = drawn(replace(shown, panels=(replace(shown.panels[0], values=values, background=None, marked=None),)))
    (axes,), (bar,) = panels_of(figure), bars_of(figure)
    assert [text.get_text() for text in bar.get_yticklabels()] == ["low", "middle", "high"]
    points = axes.collections[0]
    colors = points.to_rgba(np.arange(3))
    np.testing.assert_allclose(colors, [to_rgba(color) for color in CATEGORY_COLORS[:3]])


@pytest.mark.parametrize(("num_panels", "expected"), [(1, 1), (2, 2), (6, 3), (7, 4), (12, 4), (10, 5)])
def test_panels_fill_their_rows(picture, drawn, num_panels, expected):
    shown = picture(num_panels=num_panels)
    few = tuple(replace(panel, points=panel.points[:9], values=panel.values[:9]) for panel in shown.panels)
    axes = panels_of(drawn(replace(shown, panels=few)))
    assert axes[0].get_subplotspec().get_gridspec().ncols == expected


def test_the_same_picture_has_the_same_bytes(picture, tmp_path):
    for name in ("a.png", "b.png"):
        write_png(picture(), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert imread(tmp_path / "a.png").std() > 0.05


def test_clouds_side_by_side(tmp_path):
    clouds = [np.random.default_rng(index).normal(size=(50, 3)) for index in range(3)]
    any2point_hf.draw_point_clouds(clouds, ["a", "b", "c"], tmp_path / "clouds.png", columns=2)
    rows, columns, _ = imread(tmp_path / "clouds.png").shape
    assert rows == columns  # two rows of two
