"""The figures of the page: a cloud coloured by attention, a trace for each block, or by part.

Unusual here: the camera stands where it does, so the cloud is scaled until the sphere around it fits into the picture,
however it is turned. The page keeps the picture at least as wide as high.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..pictures.interactive_pictures import CAMERA, cloud_figure, picture_figure
from ..pictures.picture import Picture
from ..pictures.picture_content import Panel
from .inference import Prediction

ATTENTION = "share of the CLS token's attention (%)"  # as in the pictures
SIGHT = np.pi / 4  # plotly's angle from the lower edge of a scene to the upper one
FILLED = 0.92  # of the sphere that fits; the rest is for the size of the points
_FLATTEST = 0.01  # side of a cloud's box as a share of the longest, where it has none


def attention_figure(prediction: Prediction, block: int) -> go.Figure:
    """The points coloured by attention, a trace for each block, one of them visible; by height without attention.

    Args:
        prediction: of a cloud.
        block: the visible one, 0 for the first.
    """
    points, attention = prediction.points, prediction.attention
    if attention is None:
        figure = cloud_figure(points, points[:, 2], "", label="height")
        hover = "%{marker.color:.4f}<extra></extra>"
    else:
        panels = tuple(Panel("", points, row, (0.0, float(row.max()))) for row in 100 * attention)
        figure = picture_figure(Picture("", ATTENTION, panels))
        hover = "%{marker.color:.3g} %<extra></extra>"
    for index, trace in enumerate(figure.data):
        trace.visible = index == block or attention is None
    # instead of a text for each point, the larger part of the figure
    figure.update_traces(text=None, hovertemplate=hover)
    return _laid_out(figure, points)


def parts_figure(picture: Picture) -> go.Figure:
    """The points coloured by part, with a legend; pointing at one names its part."""
    (panel,) = picture.panels
    return _laid_out(picture_figure(picture), panel.points)


def _laid_out(figure: go.Figure, points: np.ndarray) -> go.Figure:
    """The figure without title and slider, of a size at which the cloud fits however it is turned."""
    sides = dict(zip("xyz", scene_sides(points).tolist(), strict=True))
    figure.layout.sliders = []
    bar = {"orientation": "h", "len": 0.7, "thickness": 10, "y": -0.1, "title_side": "top"}
    figure.update_traces(marker_colorbar=bar)
    figure.update_layout(
        title=None,
        scene={"domain": {"y": [0.1, 1]}, "aspectmode": "manual", "aspectratio": sides},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        modebar={"remove": ["zoom3d", "pan3d", "tableRotation", "orbitRotation", "resetCameraLastSave3d"]},
    )
    return figure


def scene_sides(points: np.ndarray) -> np.ndarray:
    """The sides of plotly's box around a cloud [N, 3], [3], at which the sphere about the box's middle is in sight."""
    low, high = points.min(axis=0), points.max(axis=0)
    radius = np.linalg.norm(points - (low + high) / 2, axis=1).max()
    eye: Any = CAMERA["eye"]
    distance = np.linalg.norm([eye[axis] for axis in "xyz"])
    sides = (high - low) * FILLED * distance * np.sin(SIGHT / 2) / radius
    return np.maximum(sides, _FLATTEST * sides.max())
