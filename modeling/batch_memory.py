"""Checks before a forward whether the batch fits into memory: Linux kills a process that takes too much.

Unusual here: the estimate counts only what a forward holds for certain, so that nothing that fits is refused; the batch
size that an error names leaves room for the rest. Memory that the system or malloc can reuse (pages of files, freed
tensors, swap) counts as free. On a GPU nothing is checked before: there a lack of memory raises an exception.
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import BatchTooLargeError
from .numerics.host_reads import host_may_read

SMALL = 1 << 28
"""Bytes of a batch for which the system is not asked."""

ROOM = {"a training step": 5, "inference": 14}
"""How many times its estimate a named batch may take: 1.6 to 3 were measured in training, 7 to 10 at inference."""

_LIMIT_FILES = (  # of a control group, for versions 2 and 1: files of limit and usage, counts of pages of files
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


class HoldsClouds(Protocol):
    """A model that tells how much memory a cloud takes."""

    def bytes_of_cloud(self, num_points: int) -> int:
        """Returns a lower bound on the bytes that a forward takes for each cloud, in the mode it will run in.

        Args:
            num_points: N of the clouds.
        """


def check_memory(model: HoldsClouds, points: Tensor) -> None:
    """Refuses a batch that cannot fit into a CPU's memory; on other devices, and while compiling, checks nothing.

    Args:
        model: the model that is about to run.
        points: [B, N, 3].

    Raises:
        BatchTooLargeError: the batch does not fit; it names a size that does.
    """
    if not host_may_read(points):
        return
    needed = points.shape[0] * model.bytes_of_cloud(points.shape[1])
    if needed <= SMALL:
        return
    available = available_memory(points.device)
    if available is not None and needed > available:
        raise batch_too_large(model, points.shape[0], points.shape[1], points.device)


def batch_too_large(model: HoldsClouds, batch_size: int, num_points: int, device: torch.device) -> BatchTooLargeError:
    """Makes the error that names a batch size that fits into the memory that is free now.

    Args:
        model: the model that was to run.
        batch_size: the size that was too large.
        num_points: N of the batch's clouds.
        device: the device that it was to run on.
    """
    cloud, available = model.bytes_of_cloud(num_points), available_memory(device)
    purpose = "a training step" if torch.is_grad_enabled() else "inference"
    fits = batch_size // 2 if available is None else min(batch_size // 2, available // (ROOM[purpose] * cloud))
    clouds = "clouds" if batch_size > 1 else "cloud"
    needed = f"{batch_size} {clouds} of {num_points} points need at least {_gib(batch_size * cloud)} for {purpose}"
    room = "" if available is None else f", and {_gib(available)} are free"
    if available is not None and fits < 1 < batch_size:
        fits = int(available >= cloud)
    advice = (
        f"A batch of {fits} fits: give the clouds in batches of that size (batch_size)."
        if fits
        else "Bring the clouds to fewer points (num_points of Any2PointProcessor), or free memory."
    )
    return BatchTooLargeError(f"{device.type} out of memory. {needed}{room}. {advice}")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on whatever device."""
    if isinstance(error, BatchTooLargeError):  # already names a size
        return False
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def names_batch_that_fits(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a model's forward: an allocation that fails in it becomes a `BatchTooLargeError`.

    Of decorated forwards inside each other the outermost names the size, since it alone knows all that is held.
    """

    @functools.wraps(forward)
    def guarded(self: HoldsClouds, points: Tensor, *arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return forward(self, points, *arguments, **options)
        try:
            return forward(self, points, *arguments, **options)
        except RuntimeError as error:
            if not (isinstance(error, BatchTooLargeError) or is_out_of_memory(error)):
                raise
        # outside the except block the failed forward's tensors are freed
        raise batch_too_large(self, points.shape[0], points.shape[1], points.device)

    return guarded


def available_memory(device: torch.device) -> int | None:
    """Returns the free bytes of a device, or None where they are not known.

    They are known for a CPU under Linux, unless /proc shows too little, and for CUDA devices.

    Args:
        device: of a tensor. Asking for a GPU's memory does not wait for its work.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return None
    try:
        machine = _entries(Path("/proc/meminfo"))
        own = _entries(Path("/proc/self/status"))["RssAnon"]
        free = machine["MemAvailable"] + machine["SwapFree"]
        return min([free, *_left_in_containers(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]) + _kept_by_malloc(
            own
        )
    except (OSError, KeyError, ValueError, IndexError):  # a kernel or a sandbox that shows less
        return None


def _entries(file: Path) -> dict[str, int]:
    """Reads lines such as "MemAvailable:  16384 kB" into bytes by name; lines of other kinds are left out."""
    rows = [line.split() for line in file.read_text().splitlines()]
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


def _left_in_containers(membership: Path, root: Path) -> list[int]:
    """Lists the bytes that each limited control group around this process, of either version, leaves to it."""
    left = []
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):  # those outside a container's own view do not exist in it
            left += _left_in(folder)
            if folder == top:
                break
    return left


def _left_in(folder: Path) -> list[int]:
    for limit, usage, pages_of_files in _LIMIT_FILES:
        if (folder / limit).is_file():
            allowed = (folder / limit).read_text().strip()
            if allowed == "max":
                return []
            counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            reclaimable = sum(int(counts[name]) for name in pages_of_files)
            return [max(0, int(allowed) - int((folder / usage).read_text()) + reclaimable)]
    return []


def _kept_by_malloc(anonymous: int) -> int:
    """Bytes that malloc keeps of freed memory, at most the process' anonymous memory.

    Where glibc is too old to tell (below 2.33), all the anonymous memory counts.
    """
    if not hasattr(libc := ctypes.CDLL(None), "mallinfo2"):
        return anonymous

    class Mallinfo2(ctypes.Structure):
        names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    libc.mallinfo2.restype = Mallinfo2
    return min(anonymous, libc.mallinfo2().fordblks)
