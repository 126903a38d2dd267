"""A backbone in use: freezing it, calling its blocks, its final norm (method.md 3, 4 and 5).

Unusual here: the backbone's forward is never run. Its blocks are called one by one, without a mask, which makes every
family bidirectional.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .spec import BackboneSpec, find, read_tensor

NO_MASK = MappingProxyType({"attention_mask": None})
# How many rows [D] per token every transformer's block holds at once, and how many it keeps for its backward pass.
ROWS_AT_ONCE = 4  # residual, queries, keys, values
ROWS_KEPT = 8  # inputs of both norms, queries, keys, values, mixed values, the feed-forward's inner layer


def freeze_backbone(backbone: PreTrainedModel, spec: BackboneSpec, layer_norm_eps: float | None) -> None:
    """Freezes the weights, switches training behaviour, causality and windows off, and sets the blocks' norm eps."""
    backbone.requires_grad_(False).eval()
    if spec.prepare is not None:
        spec.prepare(backbone)
    for module in find(backbone, spec.blocks).modules():
        module.is_causal = False  # also where it is absent, which transformers' sdpa takes for causal
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = None
        if layer_norm_eps is not None and isinstance(module, nn.LayerNorm):
            norm: Any = module
            norm.own_eps = getattr(norm, "own_eps", norm.eps)  # for the next adapter on these modules
            norm.eps = layer_norm_eps


def block_dtype(block: nn.Module) -> torch.dtype:
    """The dtype that a block computes in."""
    return next(p.dtype for p in block.parameters() if p.is_floating_point())


def call_block(block: nn.Module, hidden: Tensor, arguments: Mapping[str, Any] = NO_MASK) -> Tensor:
    """Runs one frozen block on hidden [B, L, D], with full attention over the L tokens of each cloud: [B, L, D]."""
    output = block(hidden.to(block_dtype(block)), **arguments)
    output = output[0] if isinstance(output, tuple) else output
    return output.to(hidden.device, hidden.dtype)  # accelerate may run a block on another device


@contextmanager
def record_attention(backbone: PreTrainedModel, spec: BackboneSpec, wanted: bool | None) -> Iterator[list[Tensor]]:
    """Yields a list that collects the attention weights [B, heads, L, L] of each block called inside, if wanted.

    Raises:
        ValueError: the backbone's attention implementation does not return them.
    """
    weights: list[Tensor] = []
    implementation = backbone.config._attn_implementation
    if wanted and implementation != "eager":
        raise ValueError(
            f'attentions are returned by attn_implementation="eager" alone, got {implementation!r}. Call '
            'model.set_attn_implementation("eager") first, or load the backbone with it.'
        )
    handles = []
    for block in find(backbone, spec.blocks) if wanted else ():
        attention, place = block, 1
        if spec.attention is None:
            handles.append(block.register_forward_pre_hook(_ask_for_attentions, with_kwargs=True))
        else:
            attention, place = find(block, spec.attention), spec.attention_output
        handles.append(attention.register_forward_hook(lambda _m, _i, output, at=place: weights.append(output[at])))
    try:
        yield weights
    finally:
        for handle in handles:
            handle.remove()


def _ask_for_attentions(_: nn.Module, inputs: tuple, arguments: dict) -> tuple[tuple, dict]:
    return inputs, {**arguments, "output_attentions": True}


def make_final_norm(spec: BackboneSpec, width: int, eps: float) -> nn.Module | None:
    """Makes the trained norm after the last block, of the backbone's own kind; None where the backbone has none."""
    if spec.final_norm is None:
        return None
    return nn.RMSNorm(width, eps=eps) if spec.rms_norm else nn.LayerNorm(width, eps=eps)


@torch.no_grad()
def start_final_norm(final_norm: Any, backbone: PreTrainedModel, spec: BackboneSpec) -> None:
    """Starts the trained norm from the backbone's own values."""
    assert spec.final_norm is not None
    final_norm.weight.copy_(read_tensor(backbone, f"{spec.final_norm}.weight") + spec.norm_offset)
    if getattr(find(backbone, spec.final_norm), "bias", None) is not None and not spec.rms_norm:
        final_norm.bias.copy_(read_tensor(backbone, f"{spec.final_norm}.bias"))
