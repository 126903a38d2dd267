"""One run at a time in a folder, of whichever command: a file there says which process is at work."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..modeling.errors import Any2PointError

LOCK_FILE = ".output.lock"
_SECONDS_TO_WRITE = 60  # an empty file older than this was left by a kill between making and filling it
_held: set[Path] = set()  # by this process, because its number alone cannot tell an earlier process of this number


@contextmanager
def output_lock(output: Path) -> Iterator[None]:
    """Keeps other runs out of a folder as long as the block runs.

    The lock file has the process's number and name and the machine's name. One whose process is gone is taken over; of
    a process on another machine this cannot be told, so a person has to delete it.

    Args:
        output: made if it is missing, and removed again if nothing was written to it.

    Raises:
        Any2PointError: another run is at work in the folder.
    """
    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    lock = output.resolve() / LOCK_FILE
    holder = {"pid": os.getpid(), "host": platform.node(), "name": psutil.Process().name(), "id": uuid4().hex}
    while not _make(lock, json.dumps(holder)):
        found = _read(lock)
        if found is None:  # released meanwhile
            continue
        if not _is_stale(lock, found):
            raise Any2PointError(_refusal(output, found))
        _remove(lock, found)
    _held.add(lock)
    try:
        yield
    finally:
        _held.discard(lock)
        if _read(lock) == holder:
            lock.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # it is not empty
                output.rmdir()


@contextmanager
def output_lock_of_all(output: Path) -> Iterator[None]:
    """`output_lock` for the processes of one run: the first of them has it, all are refused.

    Args:
        output: as there.

    Raises:
        Any2PointError: as there.
    """
    with ExitStack() as stack:
        fault = None
        if PartialState().is_main_process:
            try:
                stack.enter_context(output_lock(output))
            except Any2PointError as error:
                fault = str(error)
        (fault,) = broadcast_object_list([fault])
        if fault:
            raise Any2PointError(fault)
        yield


def _make(lock: Path, content: str) -> bool:
    """Whether there was no lock file, and there is one now; of many processes, one alone makes it."""
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _read(lock: Path) -> dict[str, Any] | None:
    """The record of a lock file; empty if it cannot be understood, None if there is no file."""
    try:
        record = json.loads(lock.read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _is_stale(lock: Path, holder: dict[str, Any]) -> bool:
    """Whether the process that made a lock is known to be gone."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid < 0:
        try:
            return time.time() - lock.stat().st_mtime > _SECONDS_TO_WRITE
        except FileNotFoundError:
            return True
    if holder.get("host") != platform.node():
        return False
    if pid == os.getpid():  # as after the restart of a container
        return lock not in _held
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.name() != holder.get("name")
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _remove(lock: Path, stale: dict[str, Any]) -> None:
    """Removes a stale lock, but not one that another process has put in its place since it was read."""
    aside = lock.with_name(f"{lock.name}.{uuid4().hex}")
    try:
        os.replace(lock, aside)
    except FileNotFoundError:
        return
    if _read(aside) == stale:
        aside.unlink()
    else:
        os.replace(aside, lock)


def _refusal(output: Path, holder: dict[str, Any]) -> str:
    pid, host = holder.get("pid", "?"), holder.get("host", "?")
    return (
        f"{output} must have one run at a time, and process {pid} on {host} is at work there. Wait for it, or "
        f"choose another folder. If that process is gone, delete {output / LOCK_FILE}."
    )
