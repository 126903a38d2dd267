"""Writing files whole or not at all, so that a kill leaves what was there before; and reading records back."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import Any2PointError


def write_whole(file: Path, text: str) -> None:
    """Writes text to a new file beside `file`, then moves it into its place; makes the folder if it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{uuid4().hex}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)


def read_record(file: Path) -> dict[str, Any]:
    """Reads a JSON object that `write_whole` has written.

    Raises:
        Any2PointError: the file holds something else.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(record, dict):
        raise _damaged(file, f"it holds a {type(record).__name__}")
    return record


def _damaged(file: Path, why: str) -> Any2PointError:
    return Any2PointError(f"{file} must be a JSON object as it was written, and is damaged: {why}. Delete it to go on.")


@contextmanager
def folder_written_whole(folder: Path, last: str | None = None) -> Iterator[Path]:
    """Yields a new folder to write into. If the block ends without an error, its files move to `folder`, one by one.

    Args:
        folder: made at the end of the block, if it is missing; its files of other names stay.
        last: name of the file that is moved after all others.
    """
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=existing) as beside:
        yield Path(beside)
        files = sorted(file.relative_to(beside) for file in Path(beside).rglob("*") if file.is_file())
        for file in sorted(files, key=lambda file: file.name == last):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(beside) / file, folder / file)
