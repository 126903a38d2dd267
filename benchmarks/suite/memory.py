"""Peak memory of one pass or one training step, each in a process that holds nothing else."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil  # comes with accelerate
import torch

from . import markdown, models

HELP = "peak memory of a pass and of a step, bare and ours in processes of their own (about 8 minutes)"
GIB = 2**30


def peak_resident() -> int:
    """Bytes of this process in memory at its peak, since it began."""
    if sys.platform == "linux":  # not getrusage: its peak is inherited from the process that started this one
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak(device: str) -> int:
    """Bytes at the peak: resident on a CPU, allocated by torch on a GPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_resident()


def cases(quick: bool) -> list[dict[str, Any]]:
    """Bare and ours for the batches of the ratios, and a step of 32 clouds."""
    if quick:
        batches = [("tiny", "train", 2, "default")]
    else:
        batches = [
            *(("clip-text-scan", "eval", batch, "default") for batch in (8, 32)),
            *(("clip-text-scan", "train", batch, "default") for batch in (16, 32)),
            *(("clip-text-scan", "train", 8, state) for state in models.freed_memory_states()),
            *((setting, mode, 8, "default") for setting in models.OTHER_SETTINGS for mode in ("eval", "train")),
        ]
    return [
        {"setting": setting, "mode": mode, "batch": batch, "freed_memory": freed_memory, "which": which}
        for setting, mode, batch, freed_memory in batches
        for which in ("bare", "model")
    ]


def measure(
    setting: str,
    mode: str,
    batch: int,
    freed_memory: str,
    which: str,
    dtype: str = "float32",
    device: str = "cpu",
) -> dict[str, Any]:
    """Builds one of the two, calls it twice, and reads the peak before and after."""
    models.set_freed_memory(freed_memory)
    pair = models.Pair(setting, dtype, device, only=which)
    built = peak(device)
    call = pair.contestants(mode, batch)[which]
    call()
    call()
    total = peak(device)
    return {"peak_bytes": total, "built_bytes": built, "above_built_bytes": total - built}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Bare and ours beside each other."""
    pairs: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        arguments = dict(row["arguments"])
        which = arguments.pop("which")
        pairs.setdefault(tuple(arguments.items()), {})[which] = row
    lines = []
    for key, both in pairs.items():
        case = models.describe(dict(key))
        cells = [
            f"{both[which][part] / GIB:.2f}" if which in both else "failed"
            for which in ("bare", "model")
            for part in ("peak_bytes", "above_built_bytes")
        ]
        lines.append([case, *cells])
    above = "above one that only built it"
    return markdown.table(["GiB", "bare, peak", f"bare, {above}", "model, peak", f"model, {above}"], lines)
