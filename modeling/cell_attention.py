"""Attention among the tokens of a cell (Attn_m of section 3.3), over the pairs that there are.

Unusual here: a cell holds 4 of 128 tokens, so that of a dense matrix of scores, as `scaled_dot_product_attention` makes
it under a mask, 19 entries of 20 are nothing. On a CPU the pairs are listed once for all blocks and only they are
computed, 4 times as fast. Elsewhere to list them would make the host wait for the device, and a mask it is.
"""

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .precision import at_least_float32, without_autocast

MOST_MATES = 1 / 8  # of all tokens, on average: where cells hold more the dense matrix is as fast


class CellPairs(NamedTuple):
    """Pairs of tokens of a cell, sorted by the row that attends. A row is a token in a view: (b·G + g)·M + m.

    Args:
        attending, attended: [P] int64, rows.
        starts: [B·G·M] int64, each row's first pair.
        counts: [B·G·M] int64, each row's number of pairs.
        turned: [P] int64, the pair with the same two rows the other way round.
    """

    attending: Tensor
    attended: Tensor
    starts: Tensor
    counts: Tensor
    turned: Tensor

    def sum(self, values: Tensor) -> Tensor:
        """Over the pairs of each row: [P, X] -> [B·G·M, X]."""
        return F.embedding_bag(torch.arange(len(values)), values, self.starts, mode="sum")

    def maximum(self, values: Tensor) -> Tensor:
        """Over the pairs of each row: [P, X] -> [B·G·M, X]."""
        return torch.segment_reduce(values, "max", lengths=self.counts, unsafe=True)


def find_mates(cells: Tensor, dtype: torch.dtype) -> CellPairs | Tensor:
    """Which tokens attend to each other: those with the same cell in a view, cells [B, M, G].

    Returns:
        `CellPairs` on a CPU where cells are small. Else a mask to be added to scores, [B·M, 1, G, G] of the dtype: 0
        for tokens that attend to each other, −inf for others (one of bool would be turned into this in every block).
    """
    if cells.device.type == "cpu" and not torch.compiler.is_compiling():
        together = cells.transpose(1, 2).unsqueeze(-1) == cells.unsqueeze(1)  # [B, G, M, G]
        if together.count_nonzero() <= MOST_MATES * together.numel():
            return _list_pairs(together)
    apart = (cells.unsqueeze(-1) != cells.unsqueeze(-2)).flatten(0, 1).unsqueeze(1)
    return torch.zeros(apart.shape, dtype=dtype, device=apart.device).masked_fill_(apart, -torch.inf)


def _list_pairs(together: Tensor) -> CellPairs:
    """The pairs of [B, G, M, G]: whether a token, in a view, has each token in its cell."""
    _, num_tokens, num_views, _ = together.shape
    cloud, token, view, mate = together.nonzero(as_tuple=True)
    attending = (cloud * num_tokens + token) * num_views + view
    attended = (cloud * num_tokens + mate) * num_views + view
    counts = together.sum(dim=-1).flatten()
    starts = counts.cumsum(dim=0) - counts
    rank_in_cell = (token == mate).nonzero().squeeze(-1) - starts  # of each row; the same for all who attend to it
    turned = starts[attended] + rank_in_cell[attending]
    return CellPairs(attending, attended, starts, counts, turned)


def attend_to_mates(qkv: Tensor, pairs: CellPairs, num_heads: int, scale: float) -> Tensor:
    """softmax(scale · q·k) v of every head over each row's pairs: [R, 3·width] -> [R, width], at least in float32."""
    qkv = qkv.to(at_least_float32(qkv.dtype))
    with without_autocast(qkv.device):
        return _CellAttention.apply(qkv, pairs, num_heads, scale)[0]


class _CellAttention(torch.autograd.Function):
    """Channels are ordered [heads, width / heads]; gives back the weights of the pairs, [P, heads], too."""

    @staticmethod
    def forward(qkv: Tensor, pairs: CellPairs, num_heads: int, scale: float) -> tuple[Tensor, Tensor]:
        width = qkv.shape[-1] // 3
        query = (scale * qkv[:, :width]).index_select(0, pairs.attending)
        key, value = qkv[:, width:].index_select(0, pairs.attended).split(width, dim=-1)
        scores = _sum_channels(query * key, num_heads)
        weights = (scores - pairs.maximum(scores).index_select(0, pairs.attending)).exp_()
        weights /= pairs.sum(weights).index_select(0, pairs.attending)
        return pairs.sum((weights @ _spread(weights, width)).mul_(value)), weights

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, CellPairs, int, float], output: tuple[Tensor, Tensor]) -> None:
        qkv, ctx.pairs, _, ctx.scale = inputs
        mixed, weights = output
        ctx.mark_non_differentiable(weights)
        ctx.save_for_backward(qkv, mixed, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        qkv, mixed, weights = ctx.saved_tensors
        pairs, num_heads, width = ctx.pairs, weights.shape[-1], mixed.shape[-1]
        with without_autocast(qkv.device):
            own, mean = torch.cat([gradient, mixed], dim=-1).index_select(0, pairs.attending).split(width, dim=-1)
            attended = torch.cat([qkv, gradient], dim=-1).index_select(0, pairs.attended)
            query, key, value, other = attended.split(width, dim=-1)
            # What a score does to the loss: its weight times g · (value − mean value).
            of_scores = _sum_channels((value - mean).mul_(own), num_heads).mul_(weights)
            spread = _spread(weights, width)
            scaled = ctx.scale * spread
            of_query = pairs.sum((of_scores @ scaled).mul_(key))
            of_key = pairs.sum((of_scores.index_select(0, pairs.turned) @ scaled).mul_(query))
            of_value = pairs.sum((weights.index_select(0, pairs.turned) @ spread).mul_(other))
        return torch.cat([of_query, of_key, of_value], dim=-1), None, None, None


def _spread(weights: Tensor, width: int) -> Tensor:
    """The matrix of 0 and 1 that copies a head's value to its channels: of weights [P, heads], [heads, width]."""
    num_heads = weights.shape[-1]
    return torch.eye(num_heads, dtype=weights.dtype).repeat_interleave(width // num_heads, dim=1)


def _sum_channels(values: Tensor, num_heads: int) -> Tensor:
    """Over the channels of each head, [P, width] -> [P, heads]; `sum` over so short an axis takes 10 times as long."""
    return reduce(torch.add, values.unflatten(-1, (num_heads, -1)).unbind(-1))
