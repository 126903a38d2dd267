"""Whether a batch fits into memory, asked before a forward starts: on Linux a process that takes too much is killed.

Unusual here: the estimate counts only what a forward holds for certain, so that nothing that fits is refused; the batch
size that an error names leaves room for the rest. What can be had back (pages of files, what malloc keeps of freed
tensors, swap) counts as free. On a GPU nothing is asked: there a lack of memory is an exception.
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

_LIMIT_FILES = (  # of a container, by version of the kernel's control groups: limit, usage, pages of files
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


class HoldsClouds(Protocol):
    """A model that tells how much memory a cloud takes."""

    def bytes_of_cloud(self, num_points: int) -> int:
        """Bytes that a forward certainly takes for each cloud of `num_points`, in the mode it will run in."""


def check_memory(model: HoldsClouds, points: Tensor) -> None:
    """Refuses a batch for which a CPU's memory cannot suffice; elsewhere, and while compiling, nothing is asked.

    Args:
        model: that is about to run.
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
    """The error that names the batch size that fits into the memory there is now.

    Args:
        model: that was to run.
        batch_size: that was too large.
        num_points: N of its clouds.
        device: where.
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
    if isinstance(error, BatchTooLargeError):  # has been told
        return False
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def names_batch_that_fits(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a model's forward: an allocation that fails in it becomes a `BatchTooLargeError`."""

    @functools.wraps(forward)
    def guarded(self: HoldsClouds, points: Tensor, *arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return forward(self, points, *arguments, **options)
        try:
            return forward(self, points, *arguments, **options)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # here the failed forward's tensors are freed
        raise batch_too_large(self, points.shape[0], points.shape[1], points.device)

    return guarded


def available_memory(device: torch.device) -> int | None:
    """Bytes, or None where that is not known: of a CPU on systems other than Linux, and of devices other than CUDA's.

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
    """Lines such as "MemAvailable:  16384 kB" as bytes by name; lines of other kinds are left out."""
    rows = [line.split() for line in file.read_text().splitlines()]
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


def _left_in_containers(membership: Path, root: Path) -> list[int]:
    """What each control group around this process, of either version, leaves to it."""
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
    """Freed memory not given back to the system; all of the process, where glibc is too old to tell (below 2.33)."""
    if not hasattr(libc := ctypes.CDLL(None), "mallinfo2"):
        return anonymous

    class Mallinfo2(ctypes.Structure):
        names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    libc.mallinfo2.restype = Mallinfo2
    return min(anonymous, libc.mallinfo2().fordblks)
