"""Pictures of point clouds."""

import os
from collections.abc import Sequence

import numpy as np

PANEL_INCHES = 2.6


def draw_point_clouds(
    clouds: Sequence[np.ndarray],
    titles: Sequence[str],
    path: str | os.PathLike,
    *,
    colors: Sequence[str] | None = None,
    columns: int = 5,
) -> None:
    """Draws clouds side by side, z up, each under its title, and writes a picture.

    Args:
        clouds: arrays [N, 3].
        titles: one a cloud, such as its predicted class and probability.
        path: .png, .svg or .pdf.
        colors: of each title; black by default.
        columns: clouds a row.
    """
    # The object-oriented interface needs no screen and leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(clouds) // columns)
    columns = min(columns, len(clouds))
    figure = Figure(figsize=(PANEL_INCHES * columns, PANEL_INCHES * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (cloud, title) in enumerate(zip(clouds, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1, projection="3d")
        x, y, z = np.asarray(cloud, dtype=np.float32).T
        axes.scatter(x, y, z, c=z, cmap="viridis", s=4, linewidths=0)
        axes.set_title(title, fontsize=10, color="black" if colors is None else colors[index])
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.view_init(elev=20, azim=-60)
    figure.savefig(path, dpi=110)
