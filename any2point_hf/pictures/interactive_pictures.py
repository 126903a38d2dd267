"""Pictures to turn with the mouse (plotly): one cloud at a time, with a slider where there are several panels.

The HTML holds plotly.js itself: it opens without a network. The same picture always gives the same bytes.
"""

import html
from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.files import write_whole
from .packages import from_extra
from .picture_content import BACKGROUND_COLOR, COLOR_SCALE, MARK_COLOR, Panel, PictureContent

with from_extra():
    import plotly.graph_objects as go

POINT_SIZE = 4
FEW_POINTS = 512  # a cloud of at most this many has larger points
CAMERA = {"eye": {"x": 0.9, "y": -1.5, "z": 0.7}, "up": {"x": 0, "y": 0, "z": 1}}
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"


def cloud_figure(
    points: np.ndarray, values: np.ndarray, title: str, label: str = "", limits: tuple[float, float] | None = None
) -> go.Figure:
    """One cloud with a number on each point.

    Args:
        points: [N, 3], z up.
        values: [N].
        title: what is shown.
        label: what the numbers are, with their unit.
        limits: the values at both ends of the colour scale; by default the smallest and the largest.
    """
    values = np.asarray(values)
    limits = limits or (float(values.min()), float(values.max()))
    return picture_figure(PictureContent(title, label, (Panel("", np.asarray(points), values, limits),)))


def picture_figure(picture: PictureContent) -> go.Figure:
    """All of a picture as a plotly figure; the slider chooses the panel."""
    shown = [_traces(picture, panel) for panel in picture.panels]
    figure = go.Figure([trace for traces in shown for trace in traces])
    steps: list[Any] = []
    start = 0
    for panel, traces in zip(picture.panels, shown, strict=True):
        visible = [start <= index < start + len(traces) for index in range(len(figure.data))]
        steps.append(
            {
                "label": html.escape(panel.title.replace("\n", ", "), quote=False),
                "method": "restyle",
                "args": [{"visible": visible}],
            }
        )
        start += len(traces)
    for trace, visible in zip(figure.data, steps[0]["args"][0]["visible"], strict=True):
        trace.visible = visible
    hidden = {"visible": False}
    figure.update_layout(
        title={"text": html.escape(picture.title, quote=False), "x": 0.5, "xanchor": "center", "font": {"size": 16}},
        font={"family": FONT, "color": "#22272e"},
        paper_bgcolor="white",
        margin={"l": 10, "r": 10, "t": 56, "b": 10},
        showlegend=False,
        scene={"aspectmode": "data", "xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "camera": CAMERA},
        uirevision="fixed",
    )
    if len(steps) > 1:
        figure.update_layout(sliders=[{"steps": steps, "active": 0, "pad": {"l": 50, "r": 30, "b": 10, "t": 10}}])
    return figure


def write_html(picture: PictureContent, path: Path) -> None:
    """Writes the figure with plotly.js inside, filling the window."""
    page = picture_figure(picture).to_html(
        include_plotlyjs=True,
        div_id="picture",
        default_height="100vh",
        config={"displaylogo": False, "responsive": True},
    )
    head = f"<head><title>{html.escape(picture.title)}</title><style>body {{margin: 0; overflow: hidden}}</style>"
    write_whole(path, page.replace("<head>", head, 1))


def _traces(picture: PictureContent, panel: Panel) -> list[go.Scatter3d]:
    """The traces of a panel: its coloured points, the grey points behind them, and the marks."""
    names, values = picture.categories, panel.values
    texts = panel.hover or [names[value] if names else f"{value:.4g} {picture.label}" for value in values.tolist()]
    marker = {"size": 2 * POINT_SIZE if len(values) <= FEW_POINTS else POINT_SIZE, **_colors(picture, panel)}
    traces = [_scatter(panel.points, marker, text=[html.escape(text, quote=False) for text in texts], hoverinfo="text")]
    if panel.background is not None:
        traces.append(_scatter(panel.background, {"size": 1.5, "color": BACKGROUND_COLOR}, hoverinfo="skip"))
    if panel.marked is not None:
        mark = {"size": 11, "symbol": "diamond", "color": MARK_COLOR, "line": {"width": 2, "color": "white"}}
        traces.append(_scatter(panel.marked, mark, hoverinfo="skip"))
    return traces


def _colors(picture: PictureContent, panel: Panel) -> dict[str, Any]:
    """The part of a marker that says how values are coloured."""
    bar: dict[str, Any] = {"title": {"text": picture.label, "side": "right"}, "len": 0.7, "thickness": 14}
    count = len(picture.categories)
    if not count:
        low, high = panel.limits
        return {"color": panel.values, "cmin": low, "cmax": high, "colorscale": COLOR_SCALE, "colorbar": bar}
    colors = picture.colors_of_categories()
    steps = [(edge / count, colors[index]) for index in range(count) for edge in (index, index + 1)]
    bar |= {"tickvals": list(range(count)), "ticktext": [html.escape(name, quote=False) for name in picture.categories]}
    return {"color": panel.values, "cmin": -0.5, "cmax": count - 0.5, "colorscale": steps, "colorbar": bar}


def _scatter(points: np.ndarray, marker: dict[str, Any], **options: Any) -> go.Scatter3d:
    x, y, z = np.asarray(points, np.float32).T
    return go.Scatter3d(x=x, y=y, z=z, mode="markers", marker={"opacity": 1, **marker}, **options)
