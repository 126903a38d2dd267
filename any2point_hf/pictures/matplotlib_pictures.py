"""Still pictures of clouds (matplotlib), side by side. The same picture always gives the same bytes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .packages import from_extra
from .picture_content import BACKGROUND_COLOR, COLOR_SCALE, MARK_COLOR, Panel, PictureContent

with from_extra():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap, Normalize
    from matplotlib.figure import Figure

PANEL_INCHES = 2.6
DOTS_PER_INCH = 110
FEW_POINTS = 512  # a cloud of at most this many has larger points
ELEVATION, AZIMUTH = 20, -60  # degrees


def draw_point_clouds(
    clouds: Sequence[np.ndarray],
    titles: Sequence[str],
    path: str | os.PathLike,
    *,
    colors: Sequence[str] | None = None,
    columns: int = 5,
) -> None:
    """Draws clouds side by side, z up and coloured by height, each under its title, and writes a picture.

    Args:
        clouds: arrays [N, 3].
        titles: one a cloud, such as its predicted class and probability.
        path: .png, .svg or .pdf.
        colors: one for each title; black by default.
        columns: clouds a row.
    """
    figure, all_axes = _figure(len(clouds), columns)
    for index, (cloud, title) in enumerate(zip(clouds, titles, strict=True)):
        cloud = np.asarray(cloud, dtype=np.float32)
        _scatter(all_axes[index], cloud, c=cloud[:, 2], cmap="viridis")
        _finish(all_axes[index], cloud, title, "black" if colors is None else colors[index])
    figure.savefig(path, dpi=DOTS_PER_INCH)


def write_png(picture: PictureContent, path: Path) -> None:
    """Draws all panels of a picture, with one colour bar if they share its limits, and otherwise one for each."""
    figure, all_axes = _figure(len(picture.panels), picture.columns)
    colors = [_colors(picture, panel) for panel in picture.panels]
    for axes, panel, own in zip(all_axes, picture.panels, colors, strict=True):
        _draw(axes, panel, own)
    if len({panel.limits for panel in picture.panels}) == 1:
        _add_bar(figure, picture, colors[0], all_axes, location="right", shrink=0.8, aspect=30)
    else:
        for axes, own in zip(all_axes, colors, strict=True):
            bar = _add_bar(figure, picture, own, axes, location="bottom", shrink=0.7, aspect=25, pad=0.01)
            bar.set_label("")
        figure.supxlabel(picture.label, fontsize=9)
    figure.suptitle(picture.title, fontsize=11)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _figure(num_panels: int, columns: int | None) -> tuple[Figure, list[Any]]:
    """A figure and its axes; the object-oriented interface needs no screen and leaves pyplot's state alone."""
    columns = min(num_panels, columns or next((few for few in (4, 3, 5) if num_panels % few == 0), 4))
    rows = -(-num_panels // columns)
    figure = Figure(figsize=(PANEL_INCHES * columns, PANEL_INCHES * rows), layout="constrained")
    FigureCanvasAgg(figure)
    options = {"projection": "3d", "computed_zorder": False}  # what is drawn later lies in front
    return figure, [figure.add_subplot(rows, columns, index + 1, **options) for index in range(num_panels)]


def _colors(picture: PictureContent, panel: Panel) -> dict[str, Any]:
    """The colour map and norm of a panel's values."""
    if not picture.categories:
        return {"cmap": LinearSegmentedColormap.from_list("scale", COLOR_SCALE), "norm": Normalize(*panel.limits)}
    count = len(picture.categories)
    return {
        "cmap": ListedColormap(picture.colors_of_categories()),
        "norm": BoundaryNorm(np.arange(count + 1) - 0.5, count),
    }


def _draw(axes: Any, panel: Panel, colors: dict[str, Any]) -> None:
    everything = panel.points
    if panel.background is not None:
        everything = np.concatenate([panel.points, panel.background])
        _scatter(axes, panel.background, color=BACKGROUND_COLOR, s=1, zorder=1)
    size = 14 if len(panel.points) <= FEW_POINTS else 5
    _scatter(axes, panel.points, c=panel.values, s=size, zorder=2, **colors)
    if panel.marked is not None:
        _scatter(axes, panel.marked, s=130, facecolors="none", edgecolors=MARK_COLOR, linewidths=2, zorder=3)
    _finish(axes, everything, panel.title, "black")


def _scatter(axes: Any, points: np.ndarray, **options: Any) -> None:
    x, y, z = np.asarray(points, np.float32).T
    axes.scatter(x, y, z, **{"s": 4, "linewidths": 0, "depthshade": False, **options})


def _finish(axes: Any, points: np.ndarray, title: str, color: str) -> None:
    """Equal units along all axes, no box around, seen from above the front."""
    middle, reach = (points.max(axis=0) + points.min(axis=0)) / 2, np.ptp(points, axis=0).max() / 2
    axes.set(**{f"{axis}lim": (m - reach, m + reach) for axis, m in zip("xyz", middle.tolist(), strict=True)})
    axes.set_box_aspect((1, 1, 1), zoom=1.45)
    axes.set_axis_off()
    axes.view_init(elev=ELEVATION, azim=AZIMUTH)
    axes.set_title(title, fontsize=10, color=color)


def _add_bar(figure: Figure, picture: PictureContent, colors: dict[str, Any], axes: Any, **options: Any) -> Any:
    """Adds a colour bar; where the values are categories, it shows their names."""
    ticks = range(len(picture.categories)) if picture.categories else None
    bar = figure.colorbar(ScalarMappable(**colors), ax=axes, ticks=ticks, **options)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)
    bar.set_label(picture.label, fontsize=9)
    if picture.categories:
        bar.set_ticklabels(picture.categories)
    return bar
