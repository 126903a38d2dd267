"""One residual bottleneck of the tokenizer in training: h + norm(W2 relu(norm(W1 h))), a block of rows at a time.

Names: h [R, 2C] are the rows; y [R, w] are the products W1 h; x = relu(norm(y)) [R, w] are the inner
values; z = W2 x [R, 2C] are the outer values, which are never computed as a whole. docs/performance.md derives the
formulas.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...numerics.batch_norm import BatchNorm1d, sum_over_processes, update_running_statistics
from ...numerics.precision import at_least_float32
from ..residual_bottleneck import ResidualBottleneck
from .neighbor_rows import NeighborRows
from .row_gradients import DenseGradient, WinnersGradient

_SUMS_ALONE = [False, True, True]  # of the gradients of a batch norm: not that of its input


def parameters_of(module: ResidualBottleneck) -> list[Tensor]:
    """Weight and bias of down, down_norm, up and up_norm: the order in which `TrainedBottleneck.gradients` returns."""
    layers = (module.down, module.down_norm, module.up, module.up_norm)
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


class TrainedBottleneck:
    """Forward and backward of one `ResidualBottleneck` in training mode.

    Args:
        module: the bottleneck, for its running statistics.
        parameters: the module's, in the order of `parameters_of`.
        rows: the stage's rows; products run in their dtype, statistics in at least float32.
        kept: for the backward pass, what `kept()` of the forward pass's `TrainedBottleneck` returned.
    """

    NUM_KEPT = 8  # tensors of `kept`

    def __init__(
        self,
        module: ResidualBottleneck,
        parameters: Sequence[Tensor],
        rows: NeighborRows,
        kept: Sequence[Tensor] | None = None,
    ) -> None:
        self.module, self.rows = module, rows
        dtype = rows.features.dtype
        self.parameters = [parameter.detach() for parameter in parameters]
        self.wide = at_least_float32(dtype)
        down, self.down_bias, *inner = self.parameters[:4]
        up, self.up_bias, *outer = self.parameters[4:]
        self.down, self.up = down.to(dtype), up.to(dtype)
        self.inner_weight, self.inner_bias, self.outer_weight, self.outer_bias = (
            parameter.to(self.wide) for parameter in (*inner, *outer)
        )
        if kept is not None:
            (self.products, self.count, self.product_mean, self.product_variance) = kept[:4]
            (self.inner_mean, self.inner_sum, self.inner_squares, self.outer_deviation) = kept[4:]
            self._blocks = rows.in_blocks(self.products)
            self._scale_inner()
            self._scale_outer()

    def kept(self) -> tuple[Tensor, ...]:
        """Returns the tensors that the backward pass needs: the argument `kept` of its `TrainedBottleneck`."""
        of_products = (self.products, self.count, self.product_mean, self.product_variance)
        return (*of_products, self.inner_mean, self.inner_sum, self.inner_squares, self.outer_deviation)

    # Forward.

    def start(self) -> None:
        """Allocates y [R, w], and zeros for Σ y and Σ y² [w]."""
        self.products = self.down.new_empty(self.rows.neighbors.numel(), len(self.down))
        self._blocks = self.rows.in_blocks(self.products)
        # in float64, so that the variance E[y²] − E[y]² loses nothing to rounding
        self._product_sums = torch.zeros(2, len(self.down), dtype=torch.float64, device=self.down.device)
        self._ignored = self.down.new_empty(len(self.down), dtype=self.wide)

    def project(self, hidden: Tensor, number: int) -> None:
        """Computes a block of y from its rows h [r, 2C], and adds to the sums."""
        torch.mm(hidden, self.down.t(), out=self._blocks[number])
        self._add_to_sums(self._blocks[number])

    def receive(self, products: Tensor, number: int) -> None:
        """Stores a block of y [r, w], which was computed elsewhere, and adds to the sums."""
        self._add_to_sums(self._blocks[number].copy_(products))

    def _add_to_sums(self, products: Tensor) -> None:
        """Batch norm's own pass over a block: its mean, and its variance from deviations, in at least float32."""
        statistics = torch.batch_norm_update_stats(products, self._ignored, self._ignored, 0.0)
        mean, variance = torch.stack(statistics).double()
        self._product_sums.add_(torch.stack([mean, torch.addcmul(variance, mean, mean)]), alpha=len(products))

    def finish_statistics(self) -> None:
        """Computes mean and variance of y and of z over the rows of all processes, and updates both norms."""
        self._finish_inner_norm_statistics()
        self._finish_outer_norm_statistics()

    def _finish_inner_norm_statistics(self) -> None:
        """Computes mean and variance of y over the rows of all processes."""
        count = sum_over_processes(self._product_sums.new_full((), len(self.products)))
        mean, squares = sum_over_processes(self._product_sums) / count
        variance = (squares - mean.square()).clamp(min=0)
        self.count = count.to(self.wide)
        self.product_mean, self.product_variance = torch.stack([mean, variance]).to(self.wide)
        self._update(self.module.down_norm, self.product_mean + self.down_bias, self.product_variance)
        self._scale_inner()

    def _finish_outer_norm_statistics(self) -> None:
        """Computes mean and variance of z from those of x: mean W2 E[x], variance diag(W2 Cov(x) W2ᵀ)."""
        width = len(self.down)
        # in float64, because the sums of many blocks are added up
        total = torch.zeros(width, dtype=torch.float64, device=self.up.device)
        squares = torch.zeros(width, width, dtype=torch.float64, device=self.up.device)
        about: Tensor | None = None
        for number in range(len(self._blocks)):
            inner = self.inner(number).to(self._square_dtype())
            about = inner.mean(dim=0) if about is None else about
            inner = inner - about
            total += inner.sum(dim=0, dtype=self.wide)
            squares += inner.t() @ inner
        num_rows = len(self.products)
        assert about is not None  # of the first block
        own_mean = about + total / num_rows
        mean = sum_over_processes(own_mean * num_rows) / self.count
        apart = own_mean - mean  # zero in a single process
        squares.addr_(apart, apart, alpha=num_rows).addr_(total, total, alpha=-1 / num_rows)
        covariance = sum_over_processes(squares) / self.count
        up = self.up.double()
        variance = ((up @ covariance) * up).sum(dim=1).clamp(min=0).to(self.wide)
        norm = self.module.up_norm
        self.outer_deviation = torch.sqrt(variance + norm.eps)
        self.inner_mean, self.inner_sum = mean.to(self.wide), (apart * num_rows).to(self.wide)
        self.inner_squares = squares.to(self.wide)
        outer_mean = self.up.to(self.wide) @ self.inner_mean
        self._update(norm, outer_mean + self.up_bias, variance)
        self._scale_outer()

    def _square_dtype(self) -> torch.dtype:
        """The dtype in which squares of x may be summed over a block: bfloat16 has float32's range, float16 not."""
        return torch.bfloat16 if self.up.dtype == torch.bfloat16 else self.wide

    def expand(self, hidden: Tensor, number: int) -> Tensor:
        """Returns h + norm(z) − `shift` of a block, [r, 2C], written over h."""
        return hidden.addmm_(self.inner(number), self.scaled_up.t())

    def output(self, hidden: Tensor, number: int) -> Tensor:
        """Returns relu(h + norm(z)) of a block, [r, 2C], written over h: the next bottleneck's input."""
        return self.expand(hidden, number).add_(self.shift.to(hidden.dtype)).relu_()

    def inner(self, number: int) -> Tensor:
        """Returns the inner values x of a block, [r, w]."""
        if self.down.dtype == self.wide:
            return torch.addcmul(self._inner_shift, self._blocks[number], self._inner_scale).relu_()
        normed = F.batch_norm(  # one pass over memory, in and out in half precision
            self._blocks[number],
            self.product_mean,
            self.product_variance,
            self.inner_weight,
            self.inner_bias,
            eps=self.module.down_norm.eps,
        )
        return normed.relu_()

    # Backward. The argument `gradient` is the gradient of h + norm(z).

    def start_backward(self) -> Tensor:
        """Allocates zeros for the weights' gradients and sums; returns an empty tensor [R, w] for the gradient of y."""
        self._of_up = torch.zeros_like(self.up, dtype=self.wide)
        self._of_down = torch.zeros_like(self.down, dtype=self.wide)
        self._sum = self._of_up.new_zeros(len(self.up))
        self._inner_sums = self._of_up.new_zeros(2, len(self.down))
        return torch.empty_like(self.products)

    def meet_outer_norm(self, gradient: DenseGradient | WinnersGradient, number: int) -> None:
        """Adds a block's Σ g [2C] and Σ g xᵀ [2C, w] to the sums over all rows that `finish_outer_norm` needs."""
        self._sum += gradient.sum(number)
        self._of_up += gradient.transposed_times(self.inner(number), number)

    def finish_outer_norm(self) -> None:
        """Computes b, c and the gradients of W2 and of the outer norm, where that of z is a·g − b − c·(z − E[z]).

        z itself is not needed, because z − E[z] = W2 (x − E[x]).
        """
        up = self.up.to(self.wide)
        products = self._of_up - torch.outer(self._sum, self.inner_mean)  # Σ g (x − E[x])ᵀ
        along = (up * products).sum(dim=1)  # Σ g (z − E[z])
        scale = self.outer_weight / self.outer_deviation
        shift = scale * sum_over_processes(self._sum) / self.count
        slope = scale * sum_over_processes(along) / (self.count * self.outer_deviation.square())
        of_up = scale.unsqueeze(-1) * products - torch.outer(shift, self.inner_sum)
        of_up -= slope.unsqueeze(-1) * (up @ self.inner_squares)
        self._outer_gradients = [of_up, along / self.outer_deviation, self._sum]
        mixing = up.t() @ (slope.unsqueeze(-1) * up)
        self._constant = (self.inner_mean @ mixing - shift @ up).to(self.up.dtype)
        self._mixing = mixing.neg_().to(self.up.dtype)

    def meet_inner_norm(self, gradient: DenseGradient | WinnersGradient, of_inner: Tensor, number: int) -> None:
        """Writes a block's gradient g of norm(y) to `of_inner` [r, w]; sums Σ g (y − E[y])/σ and Σ g [w]."""
        inner = self.inner(number)
        torch.addmm(self._constant, inner, self._mixing, out=of_inner)
        gradient.add_times(self.scaled_up, of_inner, number)
        torch.ops.aten.threshold_backward.grad_input(of_inner, inner, 0, grad_input=of_inner)
        statistics = (self.product_mean, self._rate)
        of_norm = torch.ops.aten.native_batch_norm_backward(
            of_inner, self._blocks[number], self.inner_weight, None, None, *statistics, True, 0.0, _SUMS_ALONE
        )
        self._inner_sums += torch.stack(of_norm[1:])

    def finish_inner_norm(self) -> None:
        """Computes a, b and c of the gradient of y, a·g − b − c·(y − E[y]), and the gradients of the inner norm."""
        along, total = sum_over_processes(self._inner_sums)
        scale = self._inner_scale
        slope, offset = torch.stack([self._rate * along, total]) * (scale / -self.count)
        self._inner_slope, self._inner_offset = slope, torch.addcmul(offset, slope, self.product_mean, value=-1)
        self._inner_gradients = list(self._inner_sums)
        self._inner_gradient_scale = scale

    def through_inner_norm(self, hidden: Tensor, of_products: Tensor, number: int) -> None:
        """Overwrites a block's gradient of norm(y) [r, w] with that of y, and adds (gradient of y)ᵀ h to that of W1.

        In the stage's first bottleneck `hidden` is only the geometry part of h; `add_to_weight` adds the other parts.
        """
        exact = of_products.to(self.wide)
        exact = torch.addcmul(self._inner_offset, exact, self._inner_gradient_scale, out=exact)
        of_products.copy_(exact.addcmul_(self._blocks[number].to(self.wide), self._inner_slope))
        self._of_down += of_products.t() @ hidden

    def add_to_weight(self, *parts: Tensor) -> None:
        """Adds parts [w, C] that were computed elsewhere, side by side, to the gradient of W1 [w, 2C]."""
        self._of_down += torch.cat(parts, dim=1)

    def gradients(self) -> list[Tensor]:
        """Returns the gradients of the parameters, in the order of `parameters_of`.

        Those of the linear layers' biases are zero, because the batch norm after each takes every constant away.
        """
        of_down_weight, of_down_bias = self._inner_gradients
        of_up, of_up_weight, of_up_bias = self._outer_gradients
        found = [self._of_down, torch.zeros_like(of_down_bias), of_down_weight, of_down_bias]
        found += [of_up, torch.zeros_like(of_up_bias), of_up_weight, of_up_bias]
        return [value.to(own.dtype) for value, own in zip(found, self.parameters, strict=True)]

    def _scale_inner(self) -> None:
        self._rate = torch.rsqrt(self.product_variance + self.module.down_norm.eps)  # 1 / deviation
        self._inner_scale = self.inner_weight * self._rate
        self._inner_shift = torch.addcmul(self.inner_bias, self.product_mean, self._inner_scale, value=-1)

    def _scale_outer(self) -> None:
        scale = self.outer_weight / self.outer_deviation
        self.shift = self.outer_bias - (self.up.to(self.wide) @ self.inner_mean) * scale
        self.scaled_up = (self.up * scale.unsqueeze(-1)).to(self.up.dtype)

    def _update(self, norm: BatchNorm1d, mean: Tensor, variance: Tensor) -> None:
        assert norm.momentum is not None  # where a user sets None, the tokenizer runs `plain_stage`
        norm.num_batches_tracked.add_(1)
        update_running_statistics(norm, mean, variance, self.count, norm.momentum)
