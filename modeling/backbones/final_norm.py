"""The norm after the last block, which is trained and starts as the backbone has it (method.md 4 and 5)."""

import torch
from torch import nn

from .spec import BackboneSpec, find, read_tensor


def make_final_norm(spec: BackboneSpec, width: int, eps: float) -> nn.Module:
    """The trained norm after the last block, of the backbone's own kind."""
    return nn.RMSNorm(width, eps=eps) if spec.rms_norm else nn.LayerNorm(width, eps=eps)


@torch.no_grad()
def start_final_norm(final_norm: nn.Module, backbone: nn.Module, spec: BackboneSpec) -> None:
    """Starts the trained norm from the backbone's own values."""
    final_norm.weight.copy_(read_tensor(backbone, f"{spec.final_norm}.weight") + spec.norm_offset)
    if getattr(find(backbone, spec.final_norm), "bias", None) is not None and not spec.rms_norm:
        final_norm.bias.copy_(read_tensor(backbone, f"{spec.final_norm}.bias"))
