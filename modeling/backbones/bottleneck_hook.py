"""Hooks that put a bottleneck on the feed-forward branch of a backbone's block (section 3.3, Table 7; method.md 3)."""

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .spec import BackboneSpec, find


class BottleneckHook:
    """Adds a bottleneck to one block's feed-forward branch (method.md 3, Table 7).

    It is an object, not a closure, so that copying a model copies its hooks along with their bottlenecks. It belongs to
    one block and holds no state between calls, because gradient checkpointing replays it.
    """

    def __init__(self, bottleneck: nn.Module) -> None:
        self.bottleneck = bottleneck

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> Any:
        """Replaces the branch's output f by f + s·A(f) or, as a pre-hook ("before"), its input h by h + s·A(h)."""
        if output is None:
            return (inputs[0] + self.bottleneck(inputs[0]), *inputs[1:])
        return output + self.bottleneck(output)


class ParallelBottleneckHook(BottleneckHook):
    """Keeps s·A(h) of the branch's input (as a pre-hook) and adds it to the branch's output."""

    pending: Any = None  # s·A(h), from the pre-hook to the hook

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> Any:
        """As a pre-hook keeps s·A(h), as a hook adds it; each call runs both, also when checkpointing replays it."""
        if output is None:
            self.pending = self.bottleneck(inputs[0])
            return None
        pending, self.pending = self.pending, None
        return output + pending


def insert_bottleneck(
    block: nn.Module, spec: BackboneSpec, bottleneck: nn.Module, placement: str
) -> list[RemovableHandle]:
    """Hooks a bottleneck on a block's feed-forward branch, `"after"`, `"before"` or `"parallel"` to it."""
    first, last = (find(block, name) for name in spec.feed_forward)
    if placement == "after":
        return [last.register_forward_hook(BottleneckHook(bottleneck))]
    if placement == "before":
        return [first.register_forward_pre_hook(BottleneckHook(bottleneck))]
    hook = ParallelBottleneckHook(bottleneck)
    return [first.register_forward_pre_hook(hook), last.register_forward_hook(hook)]
