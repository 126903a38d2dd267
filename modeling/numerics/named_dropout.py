"""Dropout whose mask depends on the training's seed, the step and the layer's name, not on what was drawn before.

So trainings that differ in one part drop the same entries in all others, and a resumed training drops what it would
have dropped without the break.
"""

import torch
from torch import Tensor, nn

from .initialization import named_seed


class NamedDropout(nn.Dropout):
    """`nn.Dropout` until a step gives it a key, by `set_dropout_keys`. Shapes: [...] -> [...]."""

    key: int | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Drops entries in training; a replay of the same step (gradient checkpointing) drops the same."""
        is_dropping = self.training and self.p > 0
        # asks for compiling first: a key that a compiler reads would be compiled in, again in each step
        if torch.compiler.is_compiling() or self.key is None or not is_dropping:
            return super().forward(hidden)
        generator = torch.Generator(hidden.device).manual_seed(self.key)
        kept = torch.empty_like(hidden).bernoulli_(1 - self.p, generator=generator)
        return hidden * kept.div_(1 - self.p)


def set_dropout_keys(model: nn.Module, seed: int, step: str) -> None:
    """Gives all `NamedDropout` layers of a model their keys for the next forward pass.

    Args:
        model: its layers are named by their place in it.
        seed: the training's.
        step: a name of the forward pass.
    """
    for name, module in model.named_modules():
        if isinstance(module, NamedDropout):
            module.key = named_seed(seed, f"{name} {step}")


def clear_dropout_keys(model: nn.Module) -> None:
    """Removes the keys, so that masks are drawn from torch's own generator again."""
    for module in model.modules():
        if isinstance(module, NamedDropout):
            module.key = None
