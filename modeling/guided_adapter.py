"""The guided adapter of every block: bottleneck, local aggregation, ensemble (3.3, figure 4, eq. 3; method.md 3).

Unusual here: the work of all views is batched, [B, M, ...], never looped over; what a cell's tokens have in common is
computed once a cell, [B, M, C, ...] with C cells of a view, and never copied back to the tokens, [B, M, G, D].
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import initialization as init

from .batch_norm import sum_over_processes, update_running_statistics
from .initialization import reset_norm, reset_stacked_linear
from .precision import at_least_float32, without_autocast
from .token_cells import TokenCells

NORM_EPS = 1e-5  # of LN_m and of the adapters' batch norms
BATCH_NORM_MOMENTUM = 0.1
SMALLEST_WEIGHT = 1e-7  # of a view, so that views all opposite to the 3D branch count equally
SMALLEST_LENGTH = 1e-8  # of a feature, so that the cosine of a zero is 0


class Bottleneck(nn.Module):
    """A(f) = Up(Dropout(QuickGELU(Down(f)))), scaled by s. Shapes: [..., D] -> [..., D]."""

    def __init__(self, hidden_size: int, width: int, dropout: float, scale: float) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, width)
        self.up = nn.Linear(width, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.scale = scale

    def forward(self, hidden: Tensor) -> Tensor:
        """s·A(f), computed in the adapter's dtype and given back in the input's."""
        inner = self.down(hidden.to(self.down.weight.dtype))
        inner = inner * torch.sigmoid(1.702 * inner)
        return (self.scale * self.up(self.dropout(inner))).to(hidden.dtype)


class Neighborhoods(NamedTuple):
    """Which tokens share a cell; computed once for all blocks.

    Args:
        views: the segments or patches of the M views.
        voxels: the voxels, a single view.
        cell_mask: [B·M, 1, G, G] in the features' dtype, 0 for tokens that attend to each other, −inf for others (a
            mask of bool would be turned into this in every block).
    """

    views: TokenCells
    voxels: TokenCells
    cell_mask: Tensor

    @classmethod
    def of(cls, view_cells: Tensor, voxel_cells: Tensor, most_cells: int, dtype: torch.dtype) -> "Neighborhoods":
        """From cells by any number: view_cells [B, M, G], of at most `most_cells` a view, and voxel_cells [B, G]."""
        views = TokenCells.of(view_cells, most_cells, dtype)
        voxels = TokenCells.of(voxel_cells.unsqueeze(1), voxel_cells.shape[-1], dtype)
        is_apart = (views.numbers.unsqueeze(-1) != views.numbers.unsqueeze(-2)).flatten(0, 1).unsqueeze(1)
        mask = torch.zeros(is_apart.shape, dtype=dtype, device=is_apart.device).masked_fill_(is_apart, -torch.inf)
        return cls(views, voxels, mask)


class LocalAttention(nn.Module):
    """Attn_m and LN_m of all views: self-attention among the tokens of a cell, with residual. Shared by all blocks.

    Shapes:
        tokens [B, G, D], cell_mask [B·M, 1, G, G] of `Neighborhoods` -> Z [B, M, G, D].
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
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start values of method.md 5."""
        reset_norm(self.norm_weight, self.norm_bias)
        reset_stacked_linear(self.qkv_weight, self.qkv_bias)
        reset_stacked_linear(self.out_weight, self.out_bias)

    def forward(self, tokens: Tensor, cell_mask: Tensor) -> Tensor:
        """Z = X + Attn_m(LN_m(X)), [B, M, G, D]."""
        return tokens.unsqueeze(1) + self.widen(self.mix(tokens, cell_mask))

    def mix(self, tokens: Tensor, cell_mask: Tensor) -> Tensor:
        """The attention before its output layer, [B, M, G, width]; the scale of the scores is width^(−1/2)."""
        batch_size, num_tokens, hidden_size = tokens.shape
        # All views share the normalisation; its affine part goes into the products, one product for all q, k, v.
        normalized = F.layer_norm(tokens, (hidden_size,), eps=NORM_EPS)
        weight = (self.qkv_weight * self.norm_weight.unsqueeze(1)).flatten(0, 1)
        bias = self.qkv_bias + (self.qkv_weight @ self.norm_bias.unsqueeze(-1)).squeeze(-1)
        qkv = F.linear(normalized, weight, bias.flatten())  # [B, G, M·3·width]
        qkv = qkv.view(batch_size, num_tokens, self.num_views, 3, self.num_heads, -1).permute(3, 0, 2, 4, 1, 5)
        query, key, value = qkv.flatten(1, 2)  # each [B·M, heads, G, width / heads]
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=cell_mask.to(query.dtype), scale=self.width**-0.5
        )
        return mixed.transpose(1, 2).reshape(batch_size, self.num_views, num_tokens, self.width)

    def widen(self, mixed: Tensor) -> Tensor:
        """The output layer of each view: [B, M, R, width] -> [B, M, R, D]."""
        return mixed @ self.out_weight.transpose(-1, -2) + self.out_bias.unsqueeze(1)

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_views={self.num_views}, width={self.width}, num_heads={self.num_heads}"


class CellNorm(nn.Module):
    """Batch norm over the occupied cells of all processes, one for each of M branches, and GELU.

    Shapes: pooled [B, M, C, D], occupied [B, M, C] bool -> [B, M, C, D]; rows not occupied hold no meaning.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, hidden_size: int, num_branches: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_branches, hidden_size))
        self.bias = nn.Parameter(torch.empty(num_branches, hidden_size))
        self.register_buffer("running_mean", torch.empty(num_branches, hidden_size))
        self.register_buffer("running_var", torch.empty(num_branches, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Identity, and statistics of a standard normal."""
        reset_norm(self.weight, self.bias)
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)

    def statistics(self, pooled: Tensor, occupied: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean [M, D], biased variance [M, D] and number of rows [M, 1] of the occupied cells of the batch."""
        pooled = pooled.to(at_least_float32(pooled.dtype))
        weight = occupied.to(pooled.dtype).unsqueeze(2)  # [B, M, 1, C]: sums over cells are products with it
        with without_autocast(pooled.device):
            count = sum_over_processes(weight.sum(dim=(0, 3)))
            mean = sum_over_processes((weight @ pooled).sum(dim=0)) / count.unsqueeze(1)  # [M, 1, D]
            squares = (weight @ (pooled - mean).square()).sum(dim=(0, 2))
        mean, variance = mean.squeeze(1), sum_over_processes(squares) / count
        return mean, variance, count

    def forward(self, pooled: Tensor, occupied: Tensor) -> Tensor:
        """Normalises by the batch's statistics in training, by the running ones otherwise."""
        if not self.training:
            return _normalize(pooled, self.running_mean, self.running_var, self.weight, self.bias)[1]
        if torch.compiler.is_compiling():
            mean, variance, count = self.statistics(pooled, occupied)
            _, result = _normalize(pooled, mean, variance, self.weight, self.bias)
        else:
            with torch.no_grad():
                mean, variance, count = self.statistics(pooled, occupied)
            result = _TrainedNorm.apply(pooled, occupied, self.weight, self.bias, mean, variance, count)
        update_running_statistics(self, mean, variance, count, BATCH_NORM_MOMENTUM)
        return result


def _normalize(pooled: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised rows, and their GELU in the dtype of `pooled`."""
    scale = weight * torch.rsqrt(variance + NORM_EPS)
    normalized = torch.addcmul((bias - mean * scale).unsqueeze(1), pooled, scale.unsqueeze(1))
    return normalized, F.gelu(normalized).to(pooled.dtype)


class _TrainedNorm(torch.autograd.Function):
    """Norm by batch statistics and GELU, keeping only their input; autograd would keep three tensors of its size.

    Statistics come in as numbers: that they depend on the input is part of the gradient below.
    """

    @staticmethod
    def forward(ctx: Any, pooled: Tensor, occupied: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(pooled, occupied, *others)
        weight, bias, mean, variance, _ = others
        return _normalize(pooled, mean, variance, weight, bias)[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pooled, occupied, weight, bias, mean, variance, count = ctx.saved_tensors
        normalized, _ = _normalize(pooled, mean, variance, weight, bias)
        gradient = torch.ops.aten.gelu_backward(gradient.to(normalized.dtype), normalized)
        gradient = gradient.mul_(occupied.unsqueeze(-1))
        deviation = torch.sqrt(variance + NORM_EPS)
        centered = (pooled - mean.unsqueeze(1)).mul_(occupied.unsqueeze(-1))
        own = torch.stack([gradient.sum(dim=2).sum(dim=0), (gradient * centered).sum(dim=2).sum(dim=0)])  # [2, M, D]
        total, along = sum_over_processes(own)
        scale = weight / deviation
        slope = scale * along / (count * deviation.square())
        of_pooled = gradient.mul_(scale.unsqueeze(1)).addcmul_(centered, slope.unsqueeze(1), value=-1)
        of_pooled.addcmul_(occupied.unsqueeze(-1).to(scale.dtype), (scale * total / count).unsqueeze(1), value=-1)
        of_weight, of_bias = (own[1] / deviation).to(weight.dtype), own[0].to(bias.dtype)
        return of_pooled.to(pooled.dtype), None, of_weight, of_bias, None, None, None


class GuidedAggregation(nn.Module):
    """Guided local aggregation and adaptive ensemble of one block (eq. 3).

    Args:
        hidden_size: D.
        num_views: M.
        scale: c.
        max_pooling: pool a view's cell by mean + max instead of the mean.
        adaptive: weigh views by similarity to the 3D branch instead of equally.

    Shapes:
        tokens [B, G, D] (without CLS) -> [B, G, D].
    """

    def __init__(self, hidden_size: int, num_views: int, scale: float, max_pooling: bool, adaptive: bool) -> None:
        super().__init__()
        self.scale, self.max_pooling = scale, max_pooling
        self.view_norm = CellNorm(hidden_size, num_views)
        self.voxel_norm = CellNorm(hidden_size, 1) if adaptive else None

    def forward(self, tokens: Tensor, neighborhoods: Neighborhoods, attention: LocalAttention) -> Tensor:
        """X ← X + c·Σ_m w_m F_m."""
        views, voxels, cell_mask = neighborhoods
        if self.max_pooling:
            attended = attention(tokens, cell_mask)
            pooled = views.mean(attended) + views.maximum(attended)
        else:  # the mean of Z = X + Attn(X) needs no Z: the output layer is linear, and runs on C rows instead of G
            pooled = views.mean(tokens) + attention.widen(views.mean(attention.mix(tokens, cell_mask)))
        features = self.view_norm(pooled, views.occupied)  # F of each cell, [B, M, C, D]
        rows = views.rows()
        if self.voxel_norm is None:
            weights = torch.full_like(rows, 1 / rows.shape[1], dtype=features.dtype)
        else:
            pooled = voxels.mean(tokens) + voxels.maximum(tokens.unsqueeze(1))
            reference = self.voxel_norm(pooled, voxels.occupied)  # B of each voxel, [B, 1, V, D]
            weights = ensemble_weights(features, reference, rows, voxels.numbers)
        # Σ_m w_m F_m of all tokens is one product: a row of weights a token, a column a cell.
        by_cell = weights.new_zeros(*tokens.shape[:2], features.shape[1] * features.shape[2])
        by_cell = by_cell.scatter(-1, rows.transpose(1, 2), weights.transpose(1, 2))
        return tokens + self.scale * (by_cell @ features.flatten(1, 2))


def ensemble_weights(features: Tensor, reference: Tensor, rows: Tensor, voxels: Tensor) -> Tensor:
    """w_m = (cos(F_m, B) + 1) / 2 of each token, divided by their sum over views (eq. 3).

    Args:
        features: F of the cells, [B, M, C, D].
        reference: B of the voxels, [B, 1, V, D].
        rows: [B, M, G] int64, each token's row in the M·C cells.
        voxels: [B, 1, G] int64, each token's voxel.

    Returns:
        [B, M, G], summing to 1 over M.
    """
    features, reference = features.flatten(1, 2), reference.squeeze(1)
    products = features @ reference.transpose(1, 2)  # of every cell with every voxel, [B, M·C, V]
    lengths = _length(features) * _length(reference).transpose(1, 2)
    pairs = rows * reference.shape[1] + voxels
    cosines = (products / lengths).flatten(1).gather(1, pairs.flatten(1)).view_as(rows)
    weights = ((cosines + 1) / 2).clamp(min=SMALLEST_WEIGHT)
    return weights / weights.sum(dim=1, keepdim=True)


def _length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(min=SMALLEST_LENGTH)
