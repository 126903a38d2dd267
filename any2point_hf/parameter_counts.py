"""How many parameters a model has, and how many of them are trained, part by part."""

from typing import Any

from torch import nn

from .modeling.checkpoint_integrity import HEADS
from .modeling.several_adapters.lora import LORA_TENSORS


def parameter_counts(model: nn.Module) -> dict[str, Any]:
    """`trainable`, `trainable_without_head`, `total`, and `parts` (name to trained parameters; the backbone's total).

    Args:
        model: a task model on its backbone; its tensors may be on the meta device.
    """
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.removeprefix("any2point.").split(".")[0]
        if part == "backbone" and parameter.requires_grad:
            part = "lora" if LORA_TENSORS in name else "unfrozen_blocks"
        parts[part] = parts.get(part, 0) + parameter.numel()
    trainable = sum(count for part, count in parts.items() if part != "backbone")
    return {
        "parts": parts,
        "trainable": trainable,
        "trainable_without_head": trainable - sum(parts.get(head, 0) for head in HEADS),
        "total": trainable + parts["backbone"],
    }
