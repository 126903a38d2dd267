"""Surfaces that the built-in shapes are made of, with points drawn uniformly on them and their parts' names."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

Box: TypeAlias = tuple[float, float, float, float, float, float]
"""Centre x, y, z and side lengths x, y, z."""


class Surface(NamedTuple):
    """A surface of several pieces, such as boxes.

    Attributes:
        area: of all pieces.
        sample: (count, generator) -> points [count, 3] uniform on it, and the piece of each, int [count].
        parts: for each piece, the name of the shape's part that it belongs to.
        profile: of a surface of revolution, the corners (radius, height) of the polyline, float64 [n, 2].
        boxes: of boxes, their centres and sides, float64 [n, 6].
    """

    area: float
    sample: Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]
    parts: tuple[str, ...]
    profile: np.ndarray | None = None
    boxes: np.ndarray | None = None


def sample_surfaces(
    surfaces: Sequence[Surface], count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points [count, 3] uniform on all surfaces together, and the name of each one's part [count]."""
    areas = np.array([surface.area for surface in surfaces])
    shares = generator.multinomial(count, areas / areas.sum())
    sampled = [surface.sample(share, generator) for surface, share in zip(surfaces, shares, strict=True)]
    parts = [np.array(surface.parts)[piece] for surface, (_, piece) in zip(surfaces, sampled, strict=True)]
    return np.concatenate([points for points, _ in sampled]), np.concatenate(parts)


def revolve(parts: str | Sequence[str], *profile: tuple[float, float], sweep: float = 2 * np.pi) -> Surface:
    """Turns a polyline of (radius, height) about z.

    Args:
        parts: the part's name, or one for each line of the profile.
        profile: the polyline's corners.
        sweep: how far it is turned, in radians, centred on +x.
    """
    corners = np.array(profile)
    start, step = corners[:-1], np.diff(corners, axis=0)
    inner, outer = corners[:-1, 0], corners[1:, 0]
    areas = sweep * np.hypot(step[:, 0], step[:, 1]) * (inner + outer) / 2

    def sample(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        unit = generator.random((3, count))
        piece = np.searchsorted(np.cumsum(areas)[:-1], unit[0] * areas.sum(), side="right")
        first, last = inner[piece], outer[piece]
        along = 1.0 - unit[1]  # in (0, 1], which keeps the quotient below finite
        # A frustum's area up to radius r grows with r²: r² is uniform, solved for the place along the piece.
        along = along * (first + last) / (first + np.sqrt(first**2 + along * (last**2 - first**2)))
        radius, height = (start[piece] + along[:, None] * step[piece]).T
        angle = sweep * (unit[2] - 0.5)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1), piece

    return Surface(areas.sum(), sample, _one_each(parts, len(areas)), profile=corners)


def boxes(parts: str | Sequence[str], *centres_and_sizes: Box) -> Surface:
    """Boxes along the axes.

    Args:
        parts: the part's name, or one for each box.
        centres_and_sizes: of the boxes.
    """
    table = np.array(centres_and_sizes)
    centres, sizes = table[:, :3], table[:, 3:]
    areas = 2 * (sizes[:, [1, 2, 0]] * sizes[:, [2, 0, 1]]).ravel()  # the two faces across each axis

    def sample(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        faces = np.searchsorted(np.cumsum(areas)[:-1], generator.random(count) * areas.sum(), side="right")
        box, axis = np.divmod(faces, 3)
        points = generator.random((count, 3)) - 0.5
        rows = np.arange(count)
        points[rows, axis] = np.where(points[rows, axis] < 0, -0.5, 0.5)
        return centres[box] + points * sizes[box], box

    return Surface(areas.sum(), sample, _one_each(parts, len(table)), boxes=table)


def ring(part: str, major: float, minor: float, sweep: float = 2 * np.pi) -> Surface:
    """A torus about z, or the share of it that `sweep` radians centred on +x give."""
    angles = np.linspace(0.0, 2 * np.pi, 25)
    return revolve(part, *zip(major + minor * np.cos(angles), minor * np.sin(angles), strict=True), sweep=sweep)


def four_legs(spread_x: float, spread_y: float, height: float, width: float) -> list[Box]:
    """Square legs of this width from the ground to a height, at (±spread_x, ±spread_y)."""
    return [(x * spread_x, y * spread_y, height / 2, width, width, height) for x in (-1, 1) for y in (-1, 1)]


def _one_each(parts: str | Sequence[str], count: int) -> tuple[str, ...]:
    return (parts,) * count if isinstance(parts, str) else tuple(parts)
