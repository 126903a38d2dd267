"""Attention among the tokens of a cell (Attn_m of section 3.3), over the pairs that there are.

Unusual here: a token has about 4 mates among 128, so nearly all of a dense matrix of scores would be masked. On a CPU
the pairs are listed once for all blocks and only they are computed, in a fifth of the time. On other devices listing
would make the host wait, and compiled code needs fixed shapes: there a mask is used.
"""

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ...numerics.precision import without_autocast

# Of a token, on average; with more of them pairs take as long as the dense matrix, and more memory.
MOST_MATES = 24
LARGEST_SHARE = 1 / 6  # of all tokens


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
        """Sums over each row's pairs: [P, X] -> [B·G·M, X]."""
        return F.embedding_bag(torch.arange(len(values), device=values.device), values, self.starts, mode="sum")

    def maximum(self, values: Tensor) -> Tensor:
        """Maxima over each row's pairs: [P, X] -> [B·G·M, X]."""
        return torch.segment_reduce(values, "max", lengths=self.counts, unsafe=True)


def find_mates(cells: Tensor, dtype: torch.dtype) -> CellPairs | Tensor:
    """Which tokens attend to each other: those with the same cell in a view, cells [B, M, G].

    Returns:
        `CellPairs` on a CPU, outside compilers, where cells are small. Else a mask to be added to scores,
        [B·M, 1, G, G] of the dtype: 0 for tokens that attend to each other, −inf for others (one of bool would be
        turned into this in every block).
    """
    if cells.device.type == "cpu" and not torch.compiler.is_compiling():
        together = cells.transpose(1, 2).unsqueeze(-1) == cells.unsqueeze(1)  # [B, G, M, G]
        if together.count_nonzero() <= cells.numel() * min(MOST_MATES, LARGEST_SHARE * cells.shape[-1]):
            return list_pairs(together)
    apart = (cells.unsqueeze(-1) != cells.unsqueeze(-2)).flatten(0, 1).unsqueeze(1)
    return torch.zeros(apart.shape, dtype=dtype, device=apart.device).masked_fill_(apart, -torch.inf)


def list_pairs(together: Tensor) -> CellPairs:
    """The pairs of [B, G, M, G] bool: whether a token, in a view, has each token in its cell."""
    _, num_tokens, num_views, _ = together.shape
    cloud, token, view, mate = together.nonzero(as_tuple=True)
    attending = (cloud * num_tokens + token) * num_views + view
    attended = (cloud * num_tokens + mate) * num_views + view
    counts = together.sum(dim=-1).flatten()
    starts = counts.cumsum(dim=0) - counts
    # A token has the same place, by its number, among the mates of each of its mates: the cell is the same.
    place = (token == mate).nonzero().squeeze(-1) - starts
    return CellPairs(attending, attended, starts, counts, turned=starts[attended] + place[attending])


def attend_to_mates(qkv: Tensor, pairs: CellPairs, num_heads: int, scale: float) -> Tensor:
    """softmax(scale · q·k) v of every head over each row's pairs: [R, 3·width] -> [R, width].

    Args:
        qkv: in float32 or wider, because scores of half precision are few bits.
        pairs: of the R rows.
        num_heads: that the width is divided among.
        scale: of the scores.
    """
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
        del query
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
            of_value = pairs.sum((weights.index_select(0, pairs.turned) @ spread) * other)
        return torch.cat([of_query, of_key, of_value], dim=-1), None, None, None


def _spread(weights: Tensor, width: int) -> Tensor:
    """The matrix of 0 and 1 that copies a head's value to its channels: of weights [P, heads], [heads, width]."""
    num_heads = weights.shape[-1]
    return torch.eye(num_heads, dtype=weights.dtype, device=weights.device).repeat_interleave(width // num_heads, dim=1)


def _sum_channels(values: Tensor, num_heads: int) -> Tensor:
    """Over the channels of each head, [P, width] -> [P, heads]; `sum` over so short an axis takes 10 times as long."""
    return reduce(torch.add, values.view(len(values), num_heads, -1).unbind(-1))
