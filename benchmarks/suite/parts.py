"""Where the time of a pass and of a step goes, part by part, measured within whole ones.

One clock runs all the time and is switched at the border of every part: in the forward by wrapping the parts' calls, in
the backward by hooks on the tensors that enter and leave them (autograd walks back through a part between the hook of
its output and that of its input). So the parts add up to the whole, and time between them is "the rest".
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from any2point_hf import modeling
from any2point_hf.modeling.tokenizer import point_ops

from . import markdown, models, timing

HELP = "the time of each part of a pass and of a step (about 1 minute)"
REST = "the rest"


def cases(quick: bool) -> list[dict[str, Any]]:
    """CLIP text at B = 8."""
    setting, batch = ("tiny", 2) if quick else ("clip-text-scan", 8)
    return [{"setting": setting, "mode": mode, "batch": batch} for mode in ("eval", "train")]


class PartClock:
    """Counts seconds for one part at a time."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forgets everything."""
        timing.synchronize()
        self.seconds: dict[str, float] = defaultdict(float)
        self.current, self.since = REST, time.perf_counter()

    def switch(self, part: str) -> str:
        """From now on counts for this part. Returns the one it counted for."""
        timing.synchronize()
        now = time.perf_counter()
        self.seconds[self.current] += now - self.since
        previous, self.current, self.since = self.current, part, now
        return previous

    def wrap(self, function: Callable, part: str) -> Callable:
        """The same function, counted for a part, also in the backward."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer = self.switch(part)
            self._switch_in_backward([*args, *kwargs.values()], outer)
            output = function(*args, **kwargs)
            self._switch_in_backward(output if isinstance(output, tuple | list) else [output], part)
            self.switch(outer)
            return output

        return timed

    def _switch_in_backward(self, values: Sequence[Any], part: str) -> None:
        for value in values:
            if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:

                def hook(_: Tensor) -> None:
                    self.switch(part)

                value.register_hook(hook)


def attach(clock: PartClock, model: torch.nn.Module) -> None:
    """Counts the parts of a model from now on (for good: the model is of no further use)."""
    base = model.any2point
    modules = {
        "tokenizer: stem, stages": [base.tokenizer],
        "bottlenecks": base.bottlenecks.values(),
        "guided aggregation": base.aggregations.values(),
        "final norm and head": [base.final_norm, model.classifier],
        "projection and positions": [base.projection],
    }
    for part, owners in modules.items():
        for owner in owners:
            if owner is not None:
                owner.forward = clock.wrap(owner.forward, part)
    for name in ("encode_positions", "block_arguments", "find_neighborhoods"):
        setattr(base, name, clock.wrap(getattr(base, name), "projection and positions"))
    base.call_block = clock.wrap(base.call_block, "backbone blocks")
    for name, part in (("farthest_point_sampling", "sampling"), ("nearest_neighbors", "neighbours")):
        timed = clock.wrap(getattr(point_ops, name), f"tokenizer: {part}")
        for module in users_of(name):
            setattr(module, name, timed)


def users_of(name: str) -> list[ModuleType]:
    """The model's modules that have imported this function of point_ops."""
    function = getattr(point_ops, name)
    loaded = [module for path, module in sys.modules.items() if path.startswith(f"{modeling.__name__}.")]
    return [module for module in loaded if getattr(module, name, None) is function]


def measure(setting: str, mode: str, batch: int, device: str = "cpu") -> dict[str, Any]:
    """Seconds of every part over some rounds, and their share of all."""
    pair = models.Pair(setting, device=device)
    clock, rounds = PartClock(), []
    attach(clock, pair.model)
    call = pair.contestants(mode, batch)["model"]

    def one_round() -> None:
        clock.start()
        call()
        clock.switch(REST)
        rounds.append(dict(clock.seconds))

    one_round()
    rounds.clear()
    timing.take_turns({"model": one_round})
    parts = [*sorted({part for each in rounds for part in each} - {REST}), REST]
    total = sum(sum(each.values()) for each in rounds)
    return {
        "seconds": {part: timing.spread([each.get(part, 0.0) for each in rounds]) for part in parts},
        "shares": {part: sum(each.get(part, 0.0) for each in rounds) / total for part in parts},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for each case."""
    texts = []
    for row in rows:
        lines = [
            [part, markdown.with_spread(row["seconds"][part], 1e3, 1), f"{100 * share:.1f} %"]
            for part, share in sorted(row["shares"].items(), key=lambda item: -item[1])
        ]
        texts.append(markdown.table([models.describe(row["arguments"]), "ms", "share"], lines))
    return "\n".join(texts)
