"""What a picture shows: clouds side by side, the numbers on them and what the numbers are."""

from dataclasses import dataclass

import numpy as np

CATEGORY_COLORS = ("#0072b2", "#e69f00", "#cc79a7")  # of Okabe and Ito, apart for every kind of colour vision
# Magma without its ends, from pale to dark on white: perceptually uniform, and read alike by every colour vision.
COLOR_SCALE = (
    "#fec68a",
    "#fd9467",
    "#f2645c",
    "#d2426f",
    "#a8327d",
    "#7c2382",
    "#52137c",
    "#271258",
    "#06051a",
)
BACKGROUND_COLOR = "#b8bec6"
MARK_COLOR = "#0072b2"


@dataclass(frozen=True)
class Panel:
    """One cloud of a picture.

    Args:
        title: above it.
        points: [N, 3], z up.
        values: [N], a number or the index of a category for each point.
        limits: the values at both ends of the colour scale.
        hover: [N] texts that the interactive picture shows at each point; by default the values.
        background: [K, 3] further points, in grey.
        marked: [J, 3] places to be marked.
    """

    title: str
    points: np.ndarray
    values: np.ndarray
    limits: tuple[float, float]
    hover: tuple[str, ...] | None = None
    background: np.ndarray | None = None
    marked: np.ndarray | None = None


@dataclass(frozen=True)
class PictureContent:
    """Clouds with numbers on their points.

    Args:
        title: what is shown.
        label: what the numbers are, with their unit.
        panels: at least one.
        categories: what the values 0, 1, … stand for, where they are categories.
        columns: how many panels stand in a row of the still picture; by default a number that fills every row, if 4, 3
            or 5 does, else 4.
    """

    title: str
    label: str
    panels: tuple[Panel, ...]
    categories: tuple[str, ...] = ()
    columns: int | None = None
