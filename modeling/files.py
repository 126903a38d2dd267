"""Writing files whole or not at all, so that a kill leaves what was there before; and reading records back.

Unusual here: files of a folder that is there already cannot all be replaced in one step. They are written into a folder
beside, which is then renamed to `.saved` inside the folder (the one step), and moved out of it. Whoever opens the
folder after a kill moves the rest.
"""

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import Any2PointError, CheckpointError

_SAVED = ".saved"  # a folder of whole files, which belong into the folder that it lies in
_WRITING = ".writing-"  # begins the name of a folder that is being written: process, random number, host
_LEFTOVERS = (_WRITING, ".saving-")  # the second is of earlier versions
_SECONDS_OF_A_DAY = 86400


def check_output_folder(output: Path) -> None:
    """Checks that a folder can be made or written to at this path.

    Raises:
        Any2PointError: a file is there.
    """
    if output.exists() and not output.is_dir():
        raise Any2PointError(f"--output must be a folder, and {output} is a file.")


def check_plain_files(folder: Path) -> None:
    """Checks that a folder of weights holds files and folders alone, because reading a pipe would wait for ever.

    Raises:
        CheckpointError: something else is in it, or in the folder `lora/` of it.
    """
    for path in (*folder.glob("*"), *folder.glob("lora/*")):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointError(
                f"a folder of weights must hold plain files, and {path} is a pipe, a socket or a device. Put the file "
                "itself there."
            )


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
    """Yields a new folder to write into. If the block ends without an error, its files become those of `folder`.

    What killed processes left beside is removed.

    Args:
        folder: made at the end of the block, if it is missing; its files of other names stay.
        last: name of the file that is moved after all others.
    """
    folder = folder.absolute()
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    finish_saving(folder)
    _remove_leftovers(existing)
    beside = existing / f"{_WRITING}{os.getpid()}-{uuid4().hex}-{socket.gethostname()}"
    beside.mkdir()
    try:
        yield beside
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_dir() or not _renamed(beside, folder):
            _make_way(beside, folder)
            while not _renamed(beside, folder / _SAVED):  # another process has just saved here
                finish_saving(folder)
            finish_saving(folder, last)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def finish_saving(folder: Path, last: str | None = None) -> None:
    """Moves the files of a saving that was killed after all of them were written; several processes may do so at once.

    Args:
        folder: in which `folder_written_whole` has written; nothing happens where no saving is unfinished.
        last: name of the file that is moved after all others.

    Raises:
        OSError: the folder cannot be written.
    """
    saved = folder / _SAVED
    files = sorted(file.relative_to(saved) for file in saved.rglob("*") if not file.is_dir())
    for file in sorted(files, key=lambda file: file.name == last):
        with contextlib.suppress(FileNotFoundError):  # another process has moved it
            os.replace(saved / file, folder / file)
    for place, _, _ in os.walk(saved, topdown=False):
        with contextlib.suppress(OSError):  # it is gone, or holds the files of a newer saving
            os.rmdir(place)


def _renamed(source: Path, target: Path) -> bool:
    """Renames a folder; returns False if there is one of that name with files in it."""
    try:
        os.rename(source, target)
    except OSError:
        if target.is_dir():
            return False
        raise
    return True


def _make_way(written: Path, folder: Path) -> None:
    """Makes the folders that files will be moved to.

    Raises:
        OSError: a folder is where a file belongs, or a file where a folder belongs.
    """
    for file in written.rglob("*"):
        target = folder / file.relative_to(written)
        if file.is_dir():
            target.mkdir(exist_ok=True)
        elif target.is_dir():
            raise IsADirectoryError(
                f"{target} must be a file, and is a folder. Move it away, or choose another folder."
            )


def _remove_leftovers(place: Path) -> None:
    """Removes the folders beside which killed processes of this machine left, and any that are older than a day."""
    for path in place.iterdir():
        if not path.name.startswith(_LEFTOVERS) or not path.is_dir() or path.is_symlink():
            continue
        process, _, host = path.name.removeprefix(_WRITING).partition("-")
        is_dead = host.endswith(f"-{socket.gethostname()}") and process.isdecimal() and not _is_running(int(process))
        with contextlib.suppress(OSError):
            if is_dead or time.time() - path.stat().st_mtime > _SECONDS_OF_A_DAY:
                shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's
    return True
