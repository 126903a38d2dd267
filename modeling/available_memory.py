"""How much more memory a tensor could have on a device, as far as the system tells.

Unusual here: memory that can be had back counts as free (pages of files, what malloc keeps of freed tensors, swap), so
that the answer is rather too high than too low.
"""

import ctypes
import sys
from pathlib import Path

import torch

_LIMIT_FILES = (  # of a container, by version of the kernel's control groups: limit, usage, pages of files
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)


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
