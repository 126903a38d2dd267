"""A picture that can be saved or shown; both ways to draw it take all they show from its content."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..modeling.errors import Any2PointError
from .picture_content import Panel, PictureContent

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["FORMATS", "Panel", "Picture"]
FORMATS = (".png", ".html")


class Picture(PictureContent):
    """Clouds with numbers on their points, as a still picture or one to turn; its arguments are `PictureContent`'s."""

    def save(self, path: str | os.PathLike) -> Path:
        """Writes a still picture (.png) or one to turn and to page through (.html, which needs no network).

        Args:
            path: its extension names the format; its folder is made.

        Returns:
            The path.

        Raises:
            Any2PointError: the extension is neither.
            MissingPackageError: the extra `pictures` is not installed.
        """
        path = Path(path)
        if path.suffix.lower() not in FORMATS:
            raise Any2PointError(f"a picture must be a file ending in {' or '.join(FORMATS)}, got {str(path)!r}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".png":
            from .matplotlib_pictures import write_png

            write_png(self, path)
        else:
            from .interactive_pictures import write_html

            write_html(self, path)
        return path

    def interactive(self) -> "Figure":
        """A plotly figure, which notebooks show when it is a cell's last line."""
        from .interactive_pictures import picture_figure

        return picture_figure(self)
