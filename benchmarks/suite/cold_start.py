"""Cold start in fresh interpreters: what importing this package adds to transformers, and loading an adapter."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cold_start as command  # benchmarks/cold_start.py

from . import markdown, timing

HELP = "importing the package beside transformers alone, and loading an adapter (about 1 minute)"
SMALL = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}  # MiniLM
TINY = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}


def cases(quick: bool) -> list[dict[str, Any]]:
    """One case: everything takes turns."""
    return [{"size": "tiny", "rounds": 1} if quick else {"size": "MiniLM", "rounds": 5}]


def measure(size: str, rounds: int) -> dict[str, Any]:
    """Seconds that fresh interpreters count themselves, without their own start."""
    alone, with_ours = command.IMPORTS
    codes = {name: command.TIMED.format(code=code) for name, code in command.IMPORTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        codes["from_pretrained (warm files)"] = command.LOAD.format(model=_save_adapter(Path(folder), size))
        times: dict[str, list[float]] = {name: [] for name in codes}
        for _ in range(rounds):
            for name, code in codes.items():
                times[name] += command.seconds(code, repeat=1)
    return {
        "seconds": {name: timing.spread(values) for name, values in times.items()},
        "ratios": {"import with ours / without": timing.ratio(times[with_ours], times[alone])},
    }


def _save_adapter(folder: Path, size: str) -> str:
    from transformers import BertConfig, BertModel

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification

    BertModel(BertConfig(**(TINY if size == "tiny" else SMALL))).save_pretrained(folder / "backbone")
    config = Any2PointConfig(backbone=str(folder / "backbone"), num_labels=15)
    Any2PointForPointCloudClassification(config).save_pretrained(folder / "adapter")
    return str(folder / "adapter")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds of each, and the ratio of the imports."""
    lines = [[name, markdown.with_spread(spread, digits=3)] for row in rows for name, spread in row["seconds"].items()]
    lines += [
        [f"{name} (ratio)", markdown.with_spread(spread, digits=2)]
        for row in rows
        for name, spread in row["ratios"].items()
    ]
    return markdown.table(["", "seconds"], lines)
