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


def read_record(file: Path, *objects: str, fix: str = "Start again in another folder.") -> dict[str, Any]:
    """Reads a JSON object that `write_whole` has written.

    Args:
        file: the record.
        objects: names of the objects in it that will be read.
        fix: what the error advises.

    Raises:
        Any2PointError: the file is missing or holds something else.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        found = record if isinstance(record, dict) else {}
        problem = next((f"it has no {name}" for name in objects if not isinstance(found.get(name), dict)), None)
        if not isinstance(record, dict):
            problem = f"it holds a {type(record).__name__}"
    except (ValueError, FileNotFoundError) as error:
        problem = str(error)
    if problem:
        raise Any2PointError(f"{file} must be a JSON object as it was written, and is damaged: {problem}. {fix}")
    return record


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
