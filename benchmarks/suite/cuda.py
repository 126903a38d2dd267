"""On a CUDA GPU: ratios, memory, point operations, and that forward never waits for the GPU. No cases elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from . import end_to_end, markdown, memory, models, point_operations

HELP = "ratios, memory, point operations and synchronisation on a GPU, where there is one (about 5 minutes)"
SETTING = "clip-text-scan"
MEASURES = {"ratio": end_to_end.measure, "memory": memory.measure, "operation": point_operations.measure}


def cases(quick: bool) -> list[dict[str, Any]]:
    """Ratios in bfloat16 and float32, memory of a step, the sizes of the point operations, one look for waiting."""
    if not torch.cuda.is_available():
        return []
    setting, batches = ("tiny", (2,)) if quick else (SETTING, (32, 128))
    chosen: list[dict[str, Any]] = [
        {"kind": "ratio", **end_to_end.case(setting, mode, batch, "default", dtype), "device": "cuda"}
        for dtype in ("bfloat16", "float32")
        for mode in ("eval", "train")
        for batch in batches
    ]
    for dtype in ("bfloat16", "float32"):
        size = {"setting": setting, "mode": "train", "batch": batches[0], "freed_memory": "default", "dtype": dtype}
        for which in ("bare", "model"):
            chosen.append({"kind": "memory", **size, "which": which, "device": "cuda"})
    chosen += [{"kind": "operation", **case} for case in point_operations.cases(quick, "cuda")]
    if not quick:
        size = {"batch": 32, "points": 16384, "centers": 1024, "device": "cuda"}
        chosen.append({"kind": "operation", "operation": "sampling", **size})
    return [*chosen, {"kind": "synchronization", "setting": setting, "device": "cuda"}]


def measure(kind: str, **arguments: Any) -> dict[str, Any]:
    """One case of whatever kind."""
    return synchronization(**arguments) if kind == "synchronization" else MEASURES[kind](**arguments)


def synchronization(setting: str, device: str) -> dict[str, Any]:
    """Whether a forward of each mode makes the host wait for the GPU, and what torch says of it."""
    waits = {}
    for mode in ("eval", "train"):
        call = models.Pair(setting, device=device).contestants(mode, 2)["model"]
        call()  # whatever is done once
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
            waits[mode] = None
        except RuntimeError as error:
            waits[mode] = str(error)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"waits": waits}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables of the groups that the cases come from."""
    if not rows:
        return "No CUDA GPU was available.\n"
    of_kind: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_kind.setdefault(row["arguments"]["kind"], []).append(row)
    tables = {"ratio": end_to_end.table, "memory": memory.table, "operation": point_operations.table}
    texts = [tables[kind](found) for kind, found in of_kind.items() if kind in tables]
    waits = [row["waits"] for row in of_kind.get("synchronization", ())]
    lines = [[mode, found or "no"] for each in waits for mode, found in each.items()]
    return "\n".join([*texts, markdown.table(["forward", "waits for the GPU"], lines)])
