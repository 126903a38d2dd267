"""Dropout whose mask depends on the training's seed, the step and the layer's name, not on what was drawn before.

So trainings that differ in one part drop the same entries everywhere else, and a resumed one drops what it would have.
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
        # compiling first: a key that a compiler has seen would be compiled in, anew in each step
        if torch.compiler.is_compiling() or self.key is None or not is_dropping:
            return super().forward(hidden)
        generator = torch.Generator(hidden.device).manual_seed(self.key)
        kept = torch.empty_like(hidden).bernoulli_(1 - self.p, generator=generator)
        return hidden * kept.div_(1 - self.p)


def set_dropout_keys(model: nn.Module, seed: int, step: str) -> None:
    """Says which step comes next to all `NamedDropout` layers of a model.

    Args:
        model: whose layers are named by their place in it.
        seed: of the training.
        step: names the forward pass.
    """
    for name, module in model.named_modules():
        if isinstance(module, NamedDropout):
            module.key = named_seed(seed, f"{name} {step}")


def clear_dropout_keys(model: nn.Module) -> None:
    """Back to torch's own generator."""
    for module in model.modules():
        if isinstance(module, NamedDropout):
            module.key = None
