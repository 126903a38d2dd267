"""The point tokenizer alone, beside the bare backbone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from . import markdown, models, timing
from .clouds import random_clouds

HELP = "the tokenizer over the bare backbone (about 2 minutes)"


def cases(quick: bool) -> list[dict[str, Any]]:
    """CLIP text's tokenizer in eval at two batches and in training at one."""
    sizes = [("eval", 8), ("eval", 32), ("train", 8)]
    if quick:
        return [{"setting": "tiny", "mode": mode, "batch": 2} for mode in ("eval", "train")]
    return [{"setting": "clip-text-scan", "mode": mode, "batch": batch} for mode, batch in sizes]


def measure(setting: str, mode: str, batch: int) -> dict[str, Any]:
    """Forward in eval; forward and backward to its weights in training."""
    pair = models.Pair(setting)
    for warm_up in (True, False):
        clouds = min(batch, 8) if warm_up else batch
        contestants = {"tokenizer": _call(pair, mode, clouds), "bare": pair.contestants(mode, clouds)["bare"]}
        if warm_up:
            for call in contestants.values():
                call()
    times = timing.take_turns(contestants)
    return {
        "seconds": {name: timing.spread(values) for name, values in times.items()},
        "ratios": {"tokenizer / bare": timing.ratio(times["tokenizer"], times["bare"])},
    }


def _call(pair: models.Pair, mode: str, batch: int) -> Callable[[], None]:
    tokenizer = pair.model.any2point.tokenizer.train(mode == "train")
    points = random_clouds(batch, pair.config.num_points)

    def call() -> None:
        with torch.set_grad_enabled(mode == "train"):
            tokens, _ = tokenizer(points)
        if mode == "train":
            tokens.sum().backward()
            tokenizer.zero_grad()

    return call


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds a cloud, and the ratio."""
    lines = [
        [
            models.describe(row["arguments"]),
            markdown.with_spread(row["ratios"]["tokenizer / bare"], digits=2),
            markdown.with_spread(row["seconds"]["tokenizer"]),
            f"{1e3 * row['seconds']['tokenizer']['median'] / row['arguments']['batch']:.1f}",
        ]
        for row in rows
    ]
    return markdown.table(["", "over bare", "seconds", "ms a cloud"], lines)
