"""The residual bottleneck that mixes the channels of a tokenizer stage (method.md 1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..numerics.batch_norm import BatchNorm1d
from ..numerics.initialization import StartValues
from ..numerics.untouched import is_untouched

LAYERS = (nn.Linear, BatchNorm1d)  # what a bottleneck is made of


class ResidualBottleneck(nn.Module):
    """h ← ReLU(h + BN(W2 ReLU(BN(W1 h)))) on rows of channels (method.md 1).

    Shapes: input [..., C], output [..., C].
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, width)
        self.down_norm = BatchNorm1d(width)
        self.up = nn.Linear(width, channels)
        self.up_norm = BatchNorm1d(channels)

    def draw_parameters(self, start: StartValues) -> None:
        """Draws the linear layers by torch's default, as the released code does its 1×1 convolutions."""
        start.default_linear(self.down, "down")
        start.default_linear(self.up, "up")

    def forward(self, hidden: Tensor) -> Tensor:
        """Maps rows [R, C] to rows [R, C]; in training batch statistics are taken over the R rows."""
        if self.training or not is_untouched(self, ResidualBottleneck, *LAYERS):
            inner = F.relu_(self.down_norm(self.down(hidden)))
            return F.relu_(self.up_norm(self.up(inner)).add_(hidden))
        inner = F.relu_(F.linear(hidden, *fold_batch_norm(self.down, self.down_norm)))
        return F.relu_(F.linear(inner, *fold_batch_norm(self.up, self.up_norm)).add_(hidden))


def fold_batch_norm(linear: nn.Linear, norm: BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight and bias of one linear layer equal to `norm(linear(x))` with the norm's running statistics."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    if linear.bias is not None:
        bias = bias + linear.bias * scale
    return linear.weight * scale.unsqueeze(-1), bias
