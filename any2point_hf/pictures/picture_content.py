"""What a picture shows: clouds side by side, the numbers on them and what the numbers are."""

import colorsys
from dataclasses import dataclass

import numpy as np

# of Okabe and Ito, apart for every kind of colour vision
CATEGORY_COLORS = ("#0072b2", "#e69f00", "#cc79a7", "#009e73", "#d55e00", "#56b4e9", "#b5a400", "#7f7f7f")
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
_GOLDEN_RATIO = 0.6180339887498949
_LIGHTNESS = (0.4, 0.65, 0.25)


def category_colors(count: int) -> tuple[str, ...]:
    """Colours of categories 0, 1, …, always the same: the first eight are `CATEGORY_COLORS`.

    Later ones go round the hues by the golden ratio, in three lightnesses, so that ids near each other differ.

    Args:
        count: how many.
    """
    colors = list(CATEGORY_COLORS[:count])
    for index in range(len(colors), count):
        lightness = _LIGHTNESS[index % len(_LIGHTNESS)]
        channels = colorsys.hls_to_rgb(index * _GOLDEN_RATIO % 1, lightness, 0.7)
        colors.append("#" + "".join(f"{round(255 * channel):02x}" for channel in channels))
    return tuple(colors)


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
        colors: of the categories; by default `category_colors`.
        columns: how many panels stand in a row of the still picture; by default a number that fills every row, if 4, 3
            or 5 does, else 4.
    """

    title: str
    label: str
    panels: tuple[Panel, ...]
    categories: tuple[str, ...] = ()
    columns: int | None = None
    colors: tuple[str, ...] = ()

    def colors_of_categories(self) -> tuple[str, ...]:
        """A colour for each category."""
        return self.colors or category_colors(len(self.categories))
