"""The guided adapter of every block: bottleneck, local aggregation, ensemble (3.3, figure 4, eq. 3; method.md 3).

Unusual here: the work of all views is batched, [B, M, ...], never looped over; what a cell's tokens have in common is
computed once a cell, [B, M, C, ...] with C cells of a view, and never copied back to the tokens, [B, M, G, D].
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from ..numerics.initialization import StartValues, reset_norm
from ..numerics.named_dropout import NamedDropout
from ..numerics.precision import (
    at_least_float32,
    attention_dtype,
    compute_dtype,
    head_multiple,
    layer_dtype,
    product_dtype,
    without_autocast,
)
from ..numerics.untouched import is_untouched
from .cell_norm import CellNorm
from .token_cells import TokenCells, same_cell_mask

if TYPE_CHECKING:
    from ..configuration_any2point import Any2PointConfig

NORM_EPS = 1e-5  # of LN_m
SMALLEST_WEIGHT = 1e-7  # of a view, so that views count equally where all are opposite to the 3D branch
SMALLEST_LENGTH = 1e-8  # of a feature, so that the cosine of a zero feature is 0


class Bottleneck(nn.Module):
    """A(f) = Up(Dropout(QuickGELU(Down(f)))), scaled by s. Shapes: [..., D] -> [..., D]."""

    ROWS_KEPT = 2  # tensors [..., D] that its block keeps for backward: inputs of bottleneck and attention in cells

    def __init__(self, hidden_size: int, width: int, dropout: float, scale: float) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, width)
        self.up = nn.Linear(width, hidden_size)
        self.dropout = NamedDropout(dropout)
        self.scale = scale

    @classmethod
    def of(cls, config: "Any2PointConfig", hidden_size: int) -> "Bottleneck":
        """Makes a bottleneck with the config's width, dropout and scale."""
        return cls(hidden_size, config.adapter_dim, config.adapter_dropout, config.adapter_scale)

    def draw_parameters(self, start: StartValues) -> None:
        """Start values of method.md 5; `up` is zero where adapters start by adding nothing."""
        start.linear(self.down, "down")
        start.linear(self.up, "up")
        if start.is_zero():
            init.zeros_(self.up.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns s·A(f), computed in the adapter's dtype, in the dtype of the input."""
        inner = self.down(hidden.to(layer_dtype(self.down)))
        inner = F.silu(1.702 * inner) / 1.702  # QuickGELU
        return (self.scale * self.up(self.dropout(inner))).to(hidden.dtype)


class Neighborhoods(NamedTuple):
    """Which tokens share a cell; computed once for all blocks.

    Args:
        views: the cells (segments or patches) of the M views.
        voxels: the voxels of the 3D branch, as the cells of a single view.
        mask: `same_cell_mask` of the views' cells, for the attention inside them.
        layers: of that attention; None where it is called as a module, or folds them anew.
    """

    views: TokenCells
    voxels: TokenCells
    mask: Tensor
    layers: "AttentionLayers | None" = None

    @classmethod
    def of(cls, view_cells: Tensor, voxel_cells: Tensor, most_cells: int, dtype: torch.dtype) -> "Neighborhoods":
        """Makes it from cell numbers of any size: view_cells [B, M, G] and voxel_cells [B, G].

        A view has at most `most_cells` different numbers.
        """
        views = TokenCells.of(view_cells, most_cells, dtype)
        voxels = TokenCells.of(voxel_cells.unsqueeze(1), voxel_cells.shape[-1], dtype)
        return cls(views, voxels, same_cell_mask(view_cells, attention_dtype(views.shares)))


class AttentionLayers(NamedTuple):
    """The layers of a `LocalAttention` as its blocks apply them; computed once for all blocks.

    Heads are as wide as the attention of the device takes them; what is added is zero.

    Args:
        qkv_weight: [M·3·heads·width, D] in the dtype of products; LN_m's weight is folded in.
        qkv_bias: [M·3·heads·width].
        out_weight: [B·M, heads·width + 1, D]; the bias is its last row, so that it needs no pass of its own.
    """

    qkv_weight: Tensor
    qkv_bias: Tensor
    out_weight: Tensor


class LocalAttention(nn.Module):
    """Attn_m and LN_m of all views: self-attention among the tokens of a cell, with residual. Shared by all blocks.

    Shapes:
        tokens [B, G, D], the mask of `Neighborhoods` -> Z [B, M, G, D].
    """

    def __init__(self, hidden_size: int, num_views: int, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_views, self.width, self.num_heads = num_views, width, num_heads
        self.norm_weight = nn.Parameter(torch.empty(num_views, hidden_size))
        self.norm_bias = nn.Parameter(torch.empty(num_views, hidden_size))
        self.qkv_weight = nn.Parameter(torch.empty(num_views, 3 * width, hidden_size))
        self.qkv_bias = nn.Parameter(torch.empty(num_views, 3 * width))
        self.out_weight = nn.Parameter(torch.empty(num_views, hidden_size, width))
        self.out_bias = nn.Parameter(torch.empty(num_views, hidden_size))
        self.draw_parameters(StartValues())

    @classmethod
    def of(cls, config: "Any2PointConfig", hidden_size: int) -> "LocalAttention":
        """Makes the attention with the config's views, width and heads."""
        return cls(hidden_size, config.num_views, config.local_attention_dim, config.local_attention_heads)

    def draw_parameters(self, start: StartValues) -> None:
        """Start values of method.md 5."""
        reset_norm(self.norm_weight, self.norm_bias)
        start.stacked_matrices(self.qkv_weight, "qkv_weight")
        start.stacked_matrices(self.out_weight, "out_weight")
        init.zeros_(self.qkv_bias)
        init.zeros_(self.out_bias)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Z = X + Attn_m(LN_m(X)), [B, M, G, D]."""
        layers = self.layers(tokens.shape[0])
        return self.add_to(tokens.unsqueeze(1), self.mix(tokens, mask, layers), layers)

    def layers(self, batch_size: int) -> AttentionLayers:
        """Folds weight and bias of LN_m into one product for all q, k, v, because all views share the normalisation."""
        heads, dtype = self.num_heads, compute_dtype(self.qkv_weight)
        spare = -(self.width // heads) % head_multiple(self.qkv_weight)
        with without_autocast(self.qkv_weight.device):
            weight = self.qkv_weight * self.norm_weight.unsqueeze(1)
            bias = self.qkv_bias + (self.qkv_weight @ self.norm_bias.unsqueeze(-1)).squeeze(-1)
        weight = F.pad(weight.unflatten(1, (3 * heads, -1)), (0, 0, 0, spare)).flatten(0, 2)
        bias = F.pad(bias.unflatten(1, (3 * heads, -1)), (0, spare)).flatten()
        out_weight = F.pad(self.out_weight.unflatten(2, (heads, -1)), (0, spare)).flatten(2)
        out_weight = torch.cat([out_weight, self.out_bias.unsqueeze(-1)], dim=-1).transpose(-1, -2)
        out_weight = out_weight.expand(batch_size, -1, -1, -1).flatten(0, 1)
        return AttentionLayers(weight.to(dtype), bias.to(dtype), out_weight)

    def mix(self, tokens: Tensor, mask: Tensor, layers: AttentionLayers) -> Tensor:
        """The attention before its output layer, [B, M, G, heads·width]; scores are scaled by width^(−1/2)."""
        batch_size, num_tokens, hidden_size = tokens.shape
        scale = self.width**-0.5
        normalized = F.layer_norm(tokens, (hidden_size,), eps=NORM_EPS)
        qkv = F.linear(normalized, layers.qkv_weight, layers.qkv_bias)  # [B, G, M·3·heads·width]
        dtype = qkv.dtype
        qkv = (
            qkv.to(attention_dtype(qkv))
            .view(batch_size, num_tokens, self.num_views, 3, self.num_heads, -1)
            .permute(3, 0, 2, 4, 1, 5)
        )
        query, key, value = qkv.flatten(1, 2)  # each [B·M, heads, G, width / heads]
        with without_autocast(qkv.device):
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype), scale=scale)
        return mixed.transpose(1, 2).reshape(batch_size, self.num_views, num_tokens, -1).to(dtype)

    def add_to(self, rows: Tensor, mixed: Tensor, layers: AttentionLayers) -> Tensor:
        """Adds each view's output layer of mixed [B, M, R, heads·width] to rows [B, 1 or M, R, D]: [B, M, R, D].

        The sum is computed in the layer's dtype, which under autocast is wider than that of products.
        """
        dtype = layers.out_weight.dtype
        rows = rows.to(dtype).expand(-1, self.num_views, -1, -1)
        mixed = F.pad(mixed.to(dtype), (0, 1), value=1.0)
        with without_autocast(mixed.device):
            return torch.baddbmm(rows.flatten(0, 1), mixed.flatten(0, 1), layers.out_weight).view_as(rows)

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_views={self.num_views}, width={self.width}, num_heads={self.num_heads}"


class GuidedAggregation(nn.Module):
    """Guided local aggregation and adaptive ensemble of one block (eq. 3).

    Args:
        hidden_size: D.
        num_views: M.
        scale: c.
        max_pooling: whether to pool a view's cell by mean + max instead of the mean.
        adaptive: whether to weigh views by similarity to the 3D branch instead of equally.
        follows_stream: whether c is in units of the RMS that this block's tokens had at the start (`start_scales.py`).

    Shapes:
        tokens [B, G, D] (without CLS) -> [B, G, D].
    """

    stream_rms: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        num_views: int,
        scale: float,
        max_pooling: bool,
        adaptive: bool,
        follows_stream: bool = False,
    ) -> None:
        super().__init__()
        self.scale, self.max_pooling = scale, max_pooling
        self.register_buffer("stream_rms", torch.ones(()) if follows_stream else None)
        self.view_norm = CellNorm(hidden_size, num_views)
        self.voxel_norm = CellNorm(hidden_size, 1) if adaptive else None

    @classmethod
    def of(cls, config: "Any2PointConfig", hidden_size: int) -> "GuidedAggregation":
        """Makes the aggregation of one block with the config's settings."""
        return cls(
            hidden_size,
            config.num_views,
            config.aggregation_scale,
            max_pooling=config.cell_pooling == "mean+max",
            adaptive=config.ensemble == "adaptive",
            follows_stream=config.adapter_start == "scaled",
        )

    def draw_parameters(self, start: StartValues) -> None:
        """Sets the view norm's weight, and so F, to 0 where adapters start by adding nothing.

        Otherwise the norms set their own start values.
        """
        if start.is_zero():
            init.zeros_(self.view_norm.weight)
        if self.stream_rms is not None:
            init.ones_(self.stream_rms)

    def forward(self, tokens: Tensor, neighborhoods: Neighborhoods, attention: LocalAttention) -> Tensor:
        """Returns X + c·Σ_m w_m F_m, [B, G, D]."""
        views, voxels = neighborhoods.views, neighborhoods.voxels
        narrow = tokens.to(product_dtype(tokens))  # rounded once for all products
        pooled = self._pool_attended(tokens, narrow, neighborhoods, attention)
        features = self.view_norm(pooled, views.occupied)  # F of each cell, [B, M, C, D]
        if self.voxel_norm is None:
            weights = torch.full_like(views.numbers, 1 / views.numbers.shape[1], dtype=features.dtype)
        else:
            pooled = voxels.mean(narrow) + voxels.maximum(tokens.unsqueeze(1))
            reference = self.voxel_norm(pooled, voxels.occupied)  # B of each voxel, [B, 1, V, D]
            weights = ensemble_weights(features, reference.to(features.dtype), views, voxels)
        scale = self.scale if self.stream_rms is None else self.scale * self.stream_rms
        return (tokens + views.weighted_sum(features, scale * weights)).to(tokens.dtype)

    def _pool_attended(
        self, tokens: Tensor, narrow: Tensor, neighborhoods: Neighborhoods, attention: LocalAttention
    ) -> Tensor:
        """Mean (+ max) of Z over each cell, [B, M, C, D]."""
        views, mask = neighborhoods.views, neighborhoods.mask
        if not is_untouched(attention, LocalAttention):
            attended = attention(tokens, mask)
            return views.mean(attended) + (views.maximum(attended) if self.max_pooling else 0)
        # The mean of Z = X + Attn(X) does not need Z: the output layer is linear, so it runs on C rows instead of G.
        layers = neighborhoods.layers or attention.layers(tokens.shape[0])
        mixed = attention.mix(tokens, mask, layers)
        pooled = attention.add_to(views.mean(narrow), views.mean(mixed), layers)
        if not self.max_pooling:
            return pooled
        return pooled + views.maximum(attention.add_to(tokens.unsqueeze(1), mixed, layers))


def aggregation_bytes(config: "Any2PointConfig", num_tokens: int, value: int, num_kept: int) -> int:
    """Returns a lower bound on the bytes that the aggregations of all blocks hold for a cloud.

    Args:
        config: of a model with aggregations.
        num_tokens: how many tokens the cloud has.
        value: bytes of one feature value.
        num_kept: how many aggregations keep queries, keys, values and mixed values for a backward pass.
    """
    mask = num_tokens**2 * value
    return config.num_views * (mask + num_kept * num_tokens * 4 * config.local_attention_dim * value)


def ensemble_weights(features: Tensor, reference: Tensor, views: TokenCells, voxels: TokenCells) -> Tensor:
    """w_m = (cos(F_m, B) + 1) / 2 of each token, divided by their sum over views (eq. 3).

    Args:
        features: F of the cells, [B, M, C, D].
        reference: B of the voxels, [B, 1, V, D].
        views: the cells of each token.
        voxels: the voxel of each token.

    Returns:
        [B, M, G], summing to 1 over M.
    """
    lengths = _lengths(features).flatten(1, 2) * _lengths(reference).squeeze(1).transpose(1, 2)  # [B, M·C, V]
    cosines = views.of_pairs(views.products(features, reference) / lengths, voxels)
    weights = F.threshold(cosines + 1, 2 * SMALLEST_WEIGHT, 2 * SMALLEST_WEIGHT)  # halves would sum to the same shares
    return weights / weights.sum(dim=1, keepdim=True)


def _lengths(vectors: Tensor) -> Tensor:
    """Lengths of [..., D], at least `SMALLEST_LENGTH`: [..., 1]."""
    vectors = vectors.to(at_least_float32(vectors.dtype))  # the smallest length is 0 in float16
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return F.threshold(lengths, SMALLEST_LENGTH, SMALLEST_LENGTH)
