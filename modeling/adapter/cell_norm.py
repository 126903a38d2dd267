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
            return _norm_and_gelu(pooled, self.running_mean, self.running_var, self.weight, self.bias)
        if torch.compiler.is_compiling():
            mean, variance, count = self.statistics(pooled, occupied)
            result = _norm_and_gelu(pooled, mean, variance, self.weight, self.bias)
        else:
            with torch.no_grad():
                mean, variance, count = self.statistics(pooled, occupied)
            result = _TrainedNorm.apply(pooled, mean, variance, self.weight, self.bias, occupied, count)
        update_running_statistics(self, mean, variance, count, BATCH_NORM_MOMENTUM)
        return result


def _normalize(pooled: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(x − mean) / deviation · weight + bias, as one multiplication and addition, in at least float32."""
    scale = weight * torch.rsqrt(variance + NORM_EPS)
    return torch.addcmul((bias - mean * scale).unsqueeze(1), pooled, scale.unsqueeze(1))


def _norm_and_gelu(pooled: Tensor, *parameters: Tensor) -> Tensor:
    """GELU of `_normalize`, in the dtype of `pooled`."""
    return F.gelu(_normalize(pooled, *parameters)).to(pooled.dtype)


class _TrainedNorm(torch.autograd.Function):
    """Norm by batch statistics and GELU, keeping only their input; autograd would keep three tensors of its size.

    Statistics come in as numbers: that they depend on the input is part of the gradient, which with σ for the deviation
    and g for the gradient of the norm is weight/σ · (g − Σg/n − (x − mean) · Σg(x − mean)/(n σ²)).
    """

    @staticmethod
    def forward(pooled: Tensor, *others: Tensor) -> Tensor:
        return _norm_and_gelu(pooled, *others[:-2])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pooled, mean, variance, weight, bias, occupied, count = ctx.saved_tensors
        normalized = _normalize(pooled, mean, variance, weight, bias)
        gradient = torch.ops.aten.gelu_backward(gradient.to(normalized.dtype), normalized)
        del normalized
        centered = pooled - mean.unsqueeze(1)
        counted = occupied.to(gradient.dtype).unsqueeze(2)  # sums over occupied cells are products with it
        with without_autocast(counted.device):
            sums = [(counted @ values).sum(dim=0).squeeze(1) for values in (gradient, gradient * centered)]
        own_total, own_along = sums  # Σg and Σg(x − mean), each [M, D]
        total, along = sum_over_processes(torch.stack(sums))
        deviation = torch.sqrt(variance + NORM_EPS)
        scale = weight / deviation
        slope = scale * along / (count * deviation.square())
        of_pooled = torch.addcmul((-scale * total / count).unsqueeze(1), centered, slope.unsqueeze(1), value=-1)
        of_pooled.addcmul_(gradient, scale.unsqueeze(1)).mul_(occupied.unsqueeze(-1))
        of_weight, of_bias = (own_along / deviation).to(weight.dtype), own_total.to(bias.dtype)
        return of_pooled.to(pooled.dtype), None, None, of_weight, of_bias, None, None
