"""The ratios: a model over its own bare backbone, in one process and the same minute."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import markdown, models, timing

HELP = "the model over its bare backbone, eval and training (below 10 minutes)"
LARGEST_WARM_UP = 8  # clouds: enough to start threads and fill caches, and a few seconds instead of a minute


def cases(quick: bool) -> list[dict[str, Any]]:
    """CLIP text at two batches each, training also with freed memory kept; the other two settings at B = 8."""
    if quick:
        sizes = [("tiny", "eval", 2, "default"), ("tiny", "train", 2, "default")]
    else:
        sizes = [
            *(("clip-text-scan", "eval", batch, "default") for batch in (8, 32)),
            ("clip-text-scan", "train", 16, "default"),
            *(("clip-text-scan", "train", 8, state) for state in models.freed_memory_states()),
            *((setting, mode, 8, "default") for mode in ("eval", "train") for setting in models.OTHER_SETTINGS),
        ]
    return [case(*size) for size in sizes]


def case(setting: str, mode: str, batch: int, freed_memory: str, dtype: str = "float32") -> dict[str, Any]:
    """Arguments of `measure`."""
    return {"setting": setting, "mode": mode, "batch": batch, "freed_memory": freed_memory, "dtype": dtype}


def measure(
    setting: str, mode: str, batch: int, freed_memory: str, dtype: str = "float32", device: str = "cpu"
) -> dict[str, Any]:
    """Seconds of both, their ratio and clouds a second."""
    models.set_freed_memory(freed_memory)
    pair = models.Pair(setting, dtype, device)
    # with freed memory kept, the first pass of full size fetches what the later ones reuse
    warm_up = batch if freed_memory == "kept" or device == "cuda" else min(batch, LARGEST_WARM_UP)
    for call in pair.contestants(mode, warm_up).values():
        call()
    times = timing.take_turns(pair.contestants(mode, batch))
    seconds = {name: timing.spread(values) for name, values in times.items()}
    return {
        "seconds": seconds,
        "ratios": {"model / bare": timing.ratio(times["model"], times["bare"])},
        "clouds_per_second": batch / seconds["model"]["median"],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ratio first; medians with the lowest and the highest round."""
    lines = [
        [
            models.describe(row["arguments"]),
            markdown.with_spread(row["ratios"]["model / bare"], digits=2),
            markdown.with_spread(row["seconds"]["model"]),
            markdown.with_spread(row["seconds"]["bare"]),
            f"{row['clouds_per_second']:.1f}",
            str(row["seconds"]["model"]["rounds"]),
        ]
        for row in rows
    ]
    return markdown.table(["", "ratio", "model, s", "bare, s", "clouds / s", "rounds"], lines)
