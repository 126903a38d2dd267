"""The guided adapter of every block: bottleneck, local aggregation, ensemble (3.3, figure 4, eq. 3; method.md 3).

Unusual here: the work of all views is batched, [B, M, G, ...], never looped over; a cell is named by its first token,
so that pooling is a sum onto that token's row and copying back is a gather, whatever the number of cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .batch_norm import sum_over_processes, update_running_statistics
from .initialization import reset_norm, reset_stacked_linear
from .point_ops import cell_max, cell_representatives, cell_sum, copy_back

NORM_EPS = 1e-5  # of LN_m and of the adapters' batch norms
BATCH_NORM_MOMENTUM = 0.1
SMALLEST_WEIGHT = 1e-7  # of a view, so that views all opposite to the 3D branch count equally


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
        views: [B, M, G] int64, the first token in each token's cell, of every view.
        view_counts: [B, M, G] float, tokens in the cell, at the first token's row (1 elsewhere).
        same_cell: [B·M, 1, G, G] bool, which tokens attend to each other.
        voxels: [B, 1, G] int64, the first token in each token's voxel.
        voxel_counts: [B, 1, G] float.
    """

    views: Tensor
    view_counts: Tensor
    same_cell: Tensor
    voxels: Tensor
    voxel_counts: Tensor

    @classmethod
    def of(cls, view_cells: Tensor, voxel_cells: Tensor, dtype: torch.dtype) -> "Neighborhoods":
        """From cell numbers: view_cells [B, M, G] and voxel_cells [B, G], int64."""
        views, voxels = cell_representatives(view_cells), cell_representatives(voxel_cells).unsqueeze(1)
        same_cell = (views.unsqueeze(-1) == views.unsqueeze(-2)).flatten(0, 1).unsqueeze(1)
        return cls(views, _counts(views, dtype), same_cell, voxels, _counts(voxels, dtype))


def _counts(representatives: Tensor, dtype: torch.dtype) -> Tensor:
    ones = torch.ones_like(representatives, dtype=dtype)
    return torch.zeros_like(ones).scatter_add(-1, representatives, ones).clamp(min=1)


class LocalAttention(nn.Module):
    """Attn_m and LN_m of all views: self-attention among the tokens of a cell, with residual. Shared by all blocks.

    Shapes:
        tokens [B, G, D], same_cell [B·M, 1, G, G] bool -> Z [B, M, G, D].
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

    def forward(self, tokens: Tensor, same_cell: Tensor) -> Tensor:
        """Z = X + Attn_m(LN_m(X)), [B, M, G, D]; the scale of the scores is width^(−1/2)."""
        batch_size, num_tokens, hidden_size = tokens.shape
        # All views share the normalisation; its affine part goes into the products, one product for all q, k, v.
        normalized = F.layer_norm(tokens, (hidden_size,), eps=NORM_EPS)
        weight = (self.qkv_weight * self.norm_weight.unsqueeze(1)).flatten(0, 1)
        bias = self.qkv_bias + (self.qkv_weight @ self.norm_bias.unsqueeze(-1)).squeeze(-1)
        qkv = F.linear(normalized, weight, bias.flatten())  # [B, G, M·3·width]
        qkv = qkv.view(batch_size, num_tokens, self.num_views, 3, self.num_heads, -1).permute(3, 0, 2, 4, 1, 5)
        query, key, value = qkv.flatten(1, 2)  # each [B·M, heads, G, width / heads]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=same_cell, scale=self.width**-0.5)
        mixed = mixed.transpose(1, 2).reshape(batch_size, self.num_views, num_tokens, self.width)
        attended = mixed @ self.out_weight.transpose(-1, -2) + self.out_bias.unsqueeze(1)
        return attended + tokens.unsqueeze(1)

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_views={self.num_views}, width={self.width}, num_heads={self.num_heads}"


class CellNorm(nn.Module):
    """Batch norm over the occupied cells of all processes, one for each of M branches.

    Shapes: pooled [B, M, G, D], occupied [B, M, G] bool -> [B, M, G, D]; rows not occupied hold no meaning.
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
        weight = occupied.to(pooled.dtype).unsqueeze(-1)  # [B, M, G, 1]
        count = sum_over_processes(weight.sum(dim=(0, 2)))
        mean = sum_over_processes((pooled * weight).sum(dim=(0, 2))) / count
        squares = (pooled - mean.unsqueeze(1)).square() * weight
        variance = sum_over_processes(squares.sum(dim=(0, 2))) / count
        return mean, variance, count

    def forward(self, pooled: Tensor, occupied: Tensor) -> Tensor:
        """Normalises by the batch's statistics in training, by the running ones otherwise."""
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance, count = self.statistics(pooled, occupied)
            update_running_statistics(self, mean, variance, count, BATCH_NORM_MOMENTUM)
        scale = self.weight * torch.rsqrt(variance + NORM_EPS)
        return torch.addcmul((self.bias - mean * scale).unsqueeze(1), pooled, scale.unsqueeze(1))


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
        attended = attention(tokens, neighborhoods.same_cell)
        views, counts = neighborhoods.views, neighborhoods.view_counts
        features = _pool(attended, views, counts, self.max_pooling, self.view_norm)  # F [B, M, G, D]
        if self.voxel_norm is None:
            return tokens + self.scale * features.mean(dim=1)
        voxels, counts = neighborhoods.voxels, neighborhoods.voxel_counts
        reference = _pool(tokens.unsqueeze(1), voxels, counts, True, self.voxel_norm)  # B [B, 1, G, D]
        weights = ensemble_weights(features, reference)
        return tokens + self.scale * (weights.unsqueeze(-1) * features).sum(dim=1)


def _pool(features: Tensor, representatives: Tensor, counts: Tensor, add_max: bool, norm: CellNorm) -> Tensor:
    """Mean (+ max) of each cell, batch norm, GELU, copied back to its tokens: [B, M, G, D] -> same."""
    pooled = cell_sum(features, representatives) / counts.unsqueeze(-1)
    if add_max:
        pooled = pooled + cell_max(features, representatives)
    own_index = torch.arange(representatives.shape[-1], device=representatives.device)
    pooled = F.gelu(norm(pooled, representatives == own_index))
    return copy_back(pooled, representatives)


def ensemble_weights(features: Tensor, reference: Tensor) -> Tensor:
    """w_m = (cos(F_m, B) + 1) / 2, divided by their sum over views (eq. 3).

    Args:
        features: F, [B, M, G, D].
        reference: B, [B, 1, G, D].

    Returns:
        [B, M, G], summing to 1 over M.
    """
    cosines = F.cosine_similarity(features, reference, dim=-1)
    weights = ((cosines + 1) / 2).clamp(min=SMALLEST_WEIGHT)
    return weights / weights.sum(dim=1, keepdim=True)
