"""Reading uploads, and the program of the process that does (`reader_process.py` starts it, and ends it).

It takes a request in a line of JSON on standard input and answers on standard output: a line of JSON, then the numbers.
Unusual here: uploads are limited twice: the server limits their bytes, and this module their unpacked size and their
points. No message names a folder of this machine. Nothing here imports torch, so that the process starts in half a
second.
"""

import contextlib
import errno
import json
import os
import signal
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.errors import PointCloudError
from ..point_clouds.checks import check_cloud, local_float32
from ..point_clouds.files import CHECK_FILE, ParserError, PointCloud, read_cloud
from ..point_clouds.invalid import DroppedPoints

MAX_POINTS = 1_000_000
"""The most points of an uploaded cloud: farthest point sampling takes seconds there."""

MAX_UNPACKED_BYTES = 100_000_000  # of an .npz, whose arrays may be a thousand times its size
NO_MEMORY = "memory"  # the answer where there is none left
READY = b"ready\n"


def read_upload(path: str | Path, names: Sequence[str], seed: int, dropped: DroppedPoints | None = None) -> PointCloud:
    """Reads an uploaded cloud or mesh; errors name the file, not where it lies on this machine.

    Args:
        path: a file of a format that `read_point_cloud` knows.
        names: of the features that are needed.
        seed: of the samples of a mesh.
        dropped: drops invalid points and counts them; None refuses them.

    Returns:
        Points [N, 3] float32, N ≤ `MAX_POINTS`, moved to their mean where float32 cannot hold them; and features.

    Raises:
        PointCloudError: it cannot be read (without the parser's words), holds no usable cloud, or too large a one.
        MemoryError: this process may take no more memory.
    """
    path = Path(path)
    if not path.is_file():
        raise PointCloudError(f"{path.name} is no longer on the server, which keeps uploads briefly. Upload it again.")
    _check_unpacked_size(path)
    try:
        points, features = read_cloud(path, names, seed, dropped)
    except PointCloudError as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            raise MemoryError from error
        if isinstance(error, ParserError):
            raise PointCloudError(
                f"{path.name} cannot be read as {path.suffix.lower()}: it is damaged, cut off or of another format. "
                f"{CHECK_FILE}"
            ) from error
        raise PointCloudError(str(error).replace(str(path), path.name)) from error
    if len(points) > MAX_POINTS:
        step = -(-len(points) // MAX_POINTS)
        raise PointCloudError(
            f"a cloud on this page has at most {MAX_POINTS:,} points, {path.name} has {len(points):,}. Keep one point "
            f"in {step}, or run any2point predict on your own machine."
        )
    points = local_float32(check_cloud(points, path.name, dropped))
    return PointCloud(points, features if dropped is None else dropped.along(features))


def _check_unpacked_size(path: Path) -> None:
    """Refuses an archive whose declared sizes are too large, because a small .npz can hold arrays that fill the memory.

    The declared sizes suffice: reading an archive never goes beyond them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        return  # no archive, or a damaged one, which its reader will report
    if size > MAX_UNPACKED_BYTES:
        raise PointCloudError(
            f"an archive on this page unpacks to at most {MAX_UNPACKED_BYTES:,} bytes, {path.name} to {size:,}. Save "
            "fewer points in it."
        )


def _limit_memory(extra: int) -> None:
    """Lets this process take so many bytes more than it has; only where Linux tells how many it has."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + extra
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    dropped = DroppedPoints() if request["drop_invalid"] else None
    try:
        points, features = read_upload(request["path"], request["names"], request["seed"], dropped)
    except PointCloudError as error:
        return {"error": str(error)}, []
    except MemoryError:
        return {"error": NO_MEMORY}, []
    described = {"points": len(points), "features": list(features), "dropped": 0 if dropped is None else dropped.count}
    return described, [points, *features.values()]


def main(memory: int, seconds: float) -> None:
    """Answers requests until standard input ends.

    Args:
        memory: bytes that reading may take.
        seconds: for one request, after which an alarm ends the process even if nobody else is there to.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a parser prints is no answer
    with contextlib.suppress(ImportError):
        import trimesh  # noqa: F401 - now rather than in the time of the first mesh
    _limit_memory(memory)
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds)
        described, arrays = _answer(json.loads(line))
        answers.write(json.dumps(described).encode() + b"\n")
        for array in arrays:
            answers.write(np.ascontiguousarray(array, np.float32).tobytes())
        answers.flush()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
