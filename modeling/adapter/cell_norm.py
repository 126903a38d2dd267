"""The batch norm over cells of the guided aggregation (section 3.3; method.md 3)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import initialization as init

from ..numerics.batch_norm import sum_over_processes, update_running_statistics
from ..numerics.initialization import reset_norm
from ..numerics.precision import at_least_float32, without_autocast

NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1


class CellNorm(nn.Module):
    """Batch norm over the occupied cells of all processes, one for each of M branches, and GELU.

    Shapes: pooled [B, M, C, D], occupied [B, M, C] bool -> [B, M, C, D]; rows that are not occupied mean nothing.
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
        """Sets weight 1 and bias 0, running mean 0 and running variance 1."""
        reset_norm(self.weight, self.bias)
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)

    def num_rows(self, occupied: Tensor) -> tuple[Tensor, Tensor | None]:
        """How many rows [M, 1] the batch's statistics are over, the occupied cells of all processes.

        Also the share [M, 1] of rows of zeros among them; None for no such rows.
        """
        count = occupied.sum(dim=(0, 2), dtype=at_least_float32(self.weight.dtype))
        return sum_over_processes(count).unsqueeze(-1), None

    def forward(self, pooled: Tensor, occupied: Tensor) -> Tensor:
        """Normalises by the batch's statistics in training, by the running ones otherwise."""
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + NORM_EPS)
            shift = self.bias - self.running_mean * scale
            return F.gelu(torch.addcmul(shift.unsqueeze(1), pooled, scale.unsqueeze(1))).to(pooled.dtype)
        count, zeros = self.num_rows(occupied)
        shares = (occupied.unsqueeze(2) / count.unsqueeze(1)).to(count.dtype)
        # A compiler makes a backward pass of its own.
        norm = _norm if torch.compiler.is_compiling() else _TrainedCellNorm.apply
        normed, mean, variance, *_ = norm(pooled, shares, zeros, self.weight, self.bias)
        update_running_statistics(self, mean, variance, count, BATCH_NORM_MOMENTUM)
        return normed


def _norm(
    pooled: Tensor, shares: Tensor, zeros: Tensor | None, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns GELU of the norm, mean and biased variance [M, D]; and what its gradient needs.

    Args:
        pooled: [B, M, C, D].
        shares: [B, M, 1, C], the weight of each row in the statistics.
        zeros: [M, 1], the weight of rows of zeros beside them; None for no such rows.
        weight: [M, D].
        bias: [M, D].
    """
    with without_autocast(pooled.device):
        rows = pooled.to(shares.dtype)
        mean = sum_over_processes((shares @ rows).sum(dim=0))  # [M, 1, D]
        centered = rows - mean
        variance = sum_over_processes((shares @ centered.square()).sum(dim=0))
    if zeros is not None:
        variance = variance + zeros.unsqueeze(1) * mean.square()
    rate = torch.rsqrt(variance + NORM_EPS)
    normed = torch.addcmul(bias.unsqueeze(1), centered, weight.unsqueeze(1) * rate)
    return F.gelu(normed).to(pooled.dtype), mean.squeeze(1), variance.squeeze(1), centered, rate


class _TrainedCellNorm(torch.autograd.Function):
    """`_norm` with a backward pass of its own: one tensor kept instead of three, a third of the launches."""

    @staticmethod
    def forward(
        ctx: Any, pooled: Tensor, shares: Tensor, zeros: Tensor | None, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        normed, mean, variance, centered, rate = _norm(pooled, shares, zeros, weight, bias)
        ctx.save_for_backward(centered, shares, rate, weight, bias)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, variance)
        return normed, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 5
        centered, shares, rate, weight, bias = ctx.saved_tensors
        scale = weight.unsqueeze(1) * rate
        normed = torch.addcmul(bias.unsqueeze(1), centered, scale)
        of_normed = torch.ops.aten.gelu_backward(gradient.to(normed.dtype), normed)
        own = torch.stack([of_normed.sum(dim=(0, 2)), (of_normed * centered).sum(dim=(0, 2))])  # [2, M, D]
        total, along = sum_over_processes(own).unsqueeze(2)
        of_rows = torch.addcmul(total, centered, along * rate.square())
        of_rows = torch.addcmul(of_normed, of_rows, shares.transpose(2, 3), value=-1).mul_(scale)
        return of_rows.to(gradient.dtype), None, None, own[1] * rate.squeeze(1), own[0]
