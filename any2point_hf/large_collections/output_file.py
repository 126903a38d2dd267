"""The file that a batch job makes."""

import os
from pathlib import Path

from ..modeling.errors import Any2PointError


def check_output_file(out: str | os.PathLike[str], task: str) -> None:
    """Checks that a path can be that of a .parquet file, which as an index of embeddings may be called .index.

    Args:
        out: the path.
        task: of the job, "embed" or "predict".

    Raises:
        Any2PointError: it ends otherwise, or a folder is there.
    """
    endings = (".parquet", ".index") if task == "embed" else (".parquet",)
    if Path(out).suffix not in endings or Path(out).is_dir():
        raise Any2PointError(f"--out must be a file that ends in {' or '.join(endings)}, got {os.fspath(out)!r}.")
