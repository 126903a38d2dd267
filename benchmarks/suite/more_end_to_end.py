"""The ratios that `end_to_end.py` has no time for, and bfloat16 where the processor has it."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import end_to_end, markdown, models
from .end_to_end import case, measure
from .environment import has_bfloat16

__all__ = ["HELP", "cases", "measure", "table"]

HELP = "the other settings' larger batches, freed memory kept, and bfloat16 (about 8 minutes, 12 with bfloat16)"


def cases(quick: bool) -> list[dict[str, Any]]:
    """All settings at both batches that are not among the ratios; float32 beside bfloat16 is in the other group."""
    if quick:
        return [case("tiny", mode, 2, "default", "bfloat16") for mode in ("eval", "train")]
    clip, *others = ("clip-text-scan", *models.OTHER_SETTINGS)
    chosen = [case(setting, "eval", 32, "default") for setting in others]
    chosen += [case(setting, "train", 16, "default") for setting in others]
    chosen += [case(clip, "train", 16, state) for state in models.freed_memory_states() if state != "default"]
    if has_bfloat16():
        chosen += [
            case(clip, "eval", batch, "default", dtype) for batch in (8, 32) for dtype in ("float32", "bfloat16")
        ]
        chosen += [case(clip, "train", 8, "default", dtype) for dtype in ("float32", "bfloat16")]
    return chosen


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The ratios, how many times faster bfloat16 is, or why it was not measured."""
    text = end_to_end.table(rows)
    by_arguments = {tuple(sorted(row["arguments"].items())): row for row in rows}
    lines = []
    for row in rows:
        float32 = by_arguments.get(tuple(sorted({**row["arguments"], "dtype": "float32"}.items())))
        if row["arguments"]["dtype"] == "bfloat16" and float32 is not None:
            before, now = (each["seconds"]["model"]["median"] for each in (float32, row))
            lines.append([models.describe(row["arguments"]), f"{before / now:.2f}"])
    if lines:
        text += "\n" + markdown.table(["", "times faster than float32"], lines)
    if not has_bfloat16():
        text += "\nThis processor has no bfloat16 hardware (AVX512-BF16, AMX): full-size bfloat16 was not measured.\n"
    return text
