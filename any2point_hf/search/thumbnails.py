"""A page that shows queries beside what was found for them: one HTML file that needs nothing else."""

import html
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..modeling.errors import Any2PointError

_SIZE, _MOST_POINTS, _RADIUS = 120, 600, 1.3  # pixels, points of a thumbnail, pixels
_TURN, _TILT = np.radians(35), np.radians(20)  # of the view, z up
_NEAR, _FAR = np.array([31, 78, 121]), np.array([190, 208, 224])  # colours

_STYLE = """
body { font: 14px system-ui, sans-serif; margin: 2em; color: #222; }
.row { display: flex; flex-wrap: wrap; gap: 12px; margin-bottom: 2em; }
figure { margin: 0; width: 132px; }
figure.query { border-right: 2px solid #999; padding-right: 12px; }
figcaption { font-size: 12px; overflow-wrap: anywhere; }
"""


def check_page(page: str | os.PathLike) -> None:
    """Raises an Any2PointError for a path that is not that of an .html file."""
    if Path(page).suffix not in (".html", ".htm"):
        raise Any2PointError(f"--html must be a file that ends in .html, got {os.fspath(page)!r}.")


def thumbnail(points: np.ndarray | None) -> str:
    """A small picture of a cloud as SVG, seen from above the front, farther points paler; a blank one for None.

    Args:
        points: [N, 3] finite, z up, in any unit.
    """
    head = f'<svg width="{_SIZE}" height="{_SIZE}" viewBox="0 0 {_SIZE} {_SIZE}" role="img">'
    if points is None:
        return f'{head}<text x="8" y="{_SIZE // 2}" font-size="12">cannot be read</text></svg>'
    chosen = points[np.linspace(0, len(points) - 1, min(len(points), _MOST_POINTS)).astype(int)].astype(np.float64)
    chosen = chosen - (chosen.min(axis=0) + chosen.max(axis=0)) / 2
    x, y, z = (chosen / max(np.linalg.norm(chosen, axis=1).max(), 1e-30)).T
    right, forward = x * np.cos(_TURN) - y * np.sin(_TURN), x * np.sin(_TURN) + y * np.cos(_TURN)
    up, depth = z * np.cos(_TILT) + forward * np.sin(_TILT), forward * np.cos(_TILT) - z * np.sin(_TILT)
    half = _SIZE / 2
    dots = []
    for place in np.argsort(-depth, kind="stable"):  # the nearest last, on top
        red, green, blue = (_NEAR + (_FAR - _NEAR) * (depth[place] + 1) / 2).astype(int)
        dots.append(
            f'<circle cx="{half + right[place] * (half - 4):.1f}" cy="{half - up[place] * (half - 4):.1f}" '
            f'r="{_RADIUS}" fill="#{red:02x}{green:02x}{blue:02x}"/>'
        )
    return f"{head}{''.join(dots)}</svg>"


def thumbnail_page(rows: Sequence[Sequence[tuple[str, np.ndarray | None]]], title: str) -> str:
    """A page with a row for each query: first the query itself, then what was found.

    Args:
        rows: of each query, a caption and points [N, 3] (None where they cannot be read) for each picture.
        title: of the page.
    """
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"]
    parts.append(f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>")
    for row in rows:
        parts.append('<div class="row">')
        for place, (caption, points) in enumerate(row):
            kind = ' class="query"' if place == 0 else ""
            lines = "<br>".join(html.escape(line) for line in caption.splitlines())
            parts.append(f"<figure{kind}>{thumbnail(points)}<figcaption>{lines}</figcaption></figure>")
        parts.append("</div>")
    return "\n".join(parts) + "</html>\n"
