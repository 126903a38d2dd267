"""The batch norm over cells of the guided aggregation (section 3.3; method.md 3)."""

import torch
from torch import Tensor, nn
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
            return _norm_and_gelu(pooled, self.running_mean, self.running_var, self.weight, self.bias)
        mean, variance, count = self.statistics(pooled, occupied)
        update_running_statistics(self, mean, variance, count, BATCH_NORM_MOMENTUM)
        return _norm_and_gelu(pooled, mean, variance, self.weight, self.bias)


def _normalize(pooled: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(x − mean) / deviation · weight + bias, as one multiplication and addition, in at least float32."""
    scale = weight * torch.rsqrt(variance + NORM_EPS)
    return torch.addcmul((bias - mean * scale).unsqueeze(1), pooled, scale.unsqueeze(1))


def _norm_and_gelu(pooled: Tensor, *parameters: Tensor) -> Tensor:
    """GELU of `_normalize`, in the dtype of `pooled`."""
    return F.gelu(_normalize(pooled, *parameters)).to(pooled.dtype)
