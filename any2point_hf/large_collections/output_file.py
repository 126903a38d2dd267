"""The file that a batch job makes."""

import os
from pathlib import Path

from ..modeling.errors import Any2PointError


def check_output_file(out: str | os.PathLike[str]) -> None:
    """Checks that a path can be that of a .parquet file.

    Raises:
        Any2PointError: it ends otherwise, or a folder is there.
    """
    if Path(out).suffix != ".parquet" or Path(out).is_dir():
        raise Any2PointError(f"--out must be a file that ends in .parquet, got {os.fspath(out)!r}.")
