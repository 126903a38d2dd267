"""Batch norm over all processes: a batch split among them is normalised as the whole one is (docs/many_devices.md).

Unusual here: torch's SyncBatchNorm runs only on GPUs, so this module all-reduces the sums itself, on any device. A
single process uses torch's own batch norm. The variance is the mean square of deviations from the common mean, never
E[x²] − E[x]².
"""

from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn
from transformers import initialization as init

from ..errors import DatasetError
from .initialization import reset_norm


def in_many_processes() -> bool:
    """Whether torch.distributed runs this model in more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def sum_over_processes(values: Tensor) -> Tensor:
    """Sums values over all processes, with gradients; in a single process returns them unchanged.

    Args:
        values: of the same shape and dtype in every process; all of them have to call this.
    """
    return _all_reduce(values) if in_many_processes() else values


@torch.compiler.disable  # a compiled model breaks its graph here, in many processes alone
def _all_reduce(values: Tensor) -> Tensor:
    return _SumOverProcesses.apply(values)


class _SumOverProcesses(torch.autograd.Function):
    """Every process' loss depends on the sum, so the gradient is a sum over processes too."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.apply(gradient)


class RunningStatistics(Protocol):
    """A norm that keeps its running mean and variance in buffers."""

    running_mean: Tensor
    running_var: Tensor


@torch.no_grad()
def update_running_statistics(
    norm: RunningStatistics, mean: Tensor, variance: Tensor, count: Tensor, momentum: float
) -> None:
    """Moves a norm's `running_mean` and `running_var` towards a batch's mean and unbiased variance.

    Args:
        norm: has both buffers.
        mean: the batch's, of the buffers' shape.
        variance: the batch's biased variance, of the buffers' shape.
        count: number of rows that both were taken over, broadcastable to their shape.
        momentum: weight of the batch's statistics in the new running ones.
    """
    unbiased = variance * count / (count - 1).clamp(min=1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)


class BatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` on rows whose training statistics are taken over the rows of all processes.

    Shapes: [R, C] -> [R, C]; R may differ between processes.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float | None  # None: a mean of all batches, as a user may set it; the tokenizer then runs `plain_stage`

    def reset_parameters(self) -> None:
        """Sets weight 1, bias 0, running mean 0, running variance 1, except what `from_pretrained` has loaded."""
        reset_norm(self.weight, self.bias)
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)
        init.zeros_(self.num_batches_tracked)

    def forward(self, rows: Tensor) -> Tensor:
        """Normalises by the statistics of all processes' rows in training, by the running ones otherwise.

        Raises:
            DatasetError: a single row in training, which has no statistics.
        """
        if not (self.training and in_many_processes()):
            if self.training and len(rows) == 1 and not torch.compiler.is_compiling():
                raise DatasetError(
                    "training needs at least 2 clouds in a batch, because batch norms take statistics over them; got "
                    "1. Choose a batch size that leaves no last batch of one, or leave it out by drop_last=True of the "
                    "DataLoader: dataloader_drop_last=True in TrainingArguments, which does so in evaluation too."
                )
            return super().forward(rows)
        values = rows.to(torch.promote_types(rows.dtype, torch.float32))  # as in torch's, never half precision
        count = sum_over_processes(values.new_full((), len(values)))
        mean = sum_over_processes(values.sum(dim=0)) / count
        centered = values - mean
        variance = sum_over_processes(centered.square().sum(dim=0)) / count
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # as torch's own
        update_running_statistics(self, mean, variance, count, momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias, centered, scale).to(rows.dtype)
