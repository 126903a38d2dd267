"""Whether a batch fits into memory, asked before a forward starts: on Linux a process that takes too much is killed.

Unusual here: the estimate counts only what a forward holds for certain, so that nothing that fits is refused; the batch
size that an error names leaves room for the rest. On a GPU nothing is asked: there a lack of memory is an exception.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .available_memory import available_memory
from .backbones.loading import block_dtype
from .errors import BatchTooLargeError

if TYPE_CHECKING:
    from .modeling_any2point import Any2PointModel

SMALL = 1 << 28
"""Bytes of a batch for which the system is not asked."""

ROOM = {"a training step": 5, "inference": 14}
"""How many times its estimate a named batch may take: 1.6 to 3 were measured in training, 7 to 10 at inference."""

# Rows of a token's width that every transformer's block holds (at once; and keeps for its backward pass).
_ROWS_AT_ONCE = 4  # residual, queries, keys, values
_ROWS_KEPT = 8  # inputs of both norms, queries, keys, values, mixed values, the feed-forward's inner layer
_ROWS_OF_ADAPTER = 2  # inputs of the bottleneck and of the attention in cells


def cloud_memory(model: "Any2PointModel", num_points: int) -> int:
    """Bytes that a forward certainly takes for each cloud, beyond what it takes for any number of them.

    Args:
        model: in the mode it will run in; whether gradients are wanted is asked of torch.
        num_points: N of the cloud.
    """
    wants_gradients = torch.is_grad_enabled()
    blocks = model.blocks()
    halved = torch.is_autocast_enabled(model.cls_token.device.type)
    value = 2 if halved or not blocks else min(4, block_dtype(blocks[0]).itemsize)
    tokens = num_points // 8 + 1
    row = tokens * model.config.backbone_config.hidden_size * value
    views = 0 if model.local_attention is None else model.config.num_views
    if not (wants_gradients and model.cls_token.requires_grad):
        trunk = _ROWS_AT_ONCE * row
    elif model.gradient_checkpointing and model.training:
        trunk = len(blocks) * row
    else:
        trunk = (_ROWS_KEPT * len(blocks) + _ROWS_OF_ADAPTER * len(model.bottlenecks)) * row
        trunk += len(model.aggregations) * views * tokens * 4 * model.config.local_attention_dim * value
    trunk += views * tokens**2 * 2  # which tokens share a cell: two tables of one byte an entry

    tokenizer = model.tokenizer
    value = 2 if halved else tokenizer.stem.weight.element_size()
    embedded = num_points * tokenizer.stem.out_features * value
    found = []  # of each stage: indices and offsets of the neighbours; and what its bottlenecks keep
    for number, stage in enumerate(tokenizer.stages, start=1):
        neighbors = (num_points >> number) * min(stage.num_neighbors, num_points >> (number - 1))
        inner = sum(bottleneck.down.out_features for bottleneck in stage.bottlenecks) * value
        found.append((neighbors * (8 + 3 * 4), neighbors * inner))
    if wants_gradients and tokenizer.stem.weight.requires_grad:
        return trunk + embedded + sum(map(sum, found))
    return max(trunk, embedded + max(places for places, _ in found))


def check_memory(model: "Any2PointModel", points: Tensor) -> None:
    """Refuses a batch for which a CPU's memory cannot suffice; elsewhere, and while compiling, nothing is asked.

    Args:
        model: that is about to run.
        points: [B, N, 3].

    Raises:
        BatchTooLargeError: the batch does not fit; it names a size that does.
    """
    if points.device.type != "cpu" or torch.compiler.is_compiling():
        return
    needed = points.shape[0] * cloud_memory(model, points.shape[1])
    if needed <= SMALL:
        return
    available = available_memory(points.device)
    if available is not None and needed > available:
        raise batch_too_large(model, *points.shape[:2], points.device)


def batch_too_large(
    model: "Any2PointModel", batch_size: int, num_points: int, device: torch.device
) -> BatchTooLargeError:
    """The error that names the batch size that fits into the memory there is now.

    Args:
        model: that was to run.
        batch_size: that was too large.
        num_points: N of its clouds.
        device: where.
    """
    cloud, available = cloud_memory(model, num_points), available_memory(device)
    purpose = "a training step" if torch.is_grad_enabled() else "inference"
    fits = batch_size // 2 if available is None else min(batch_size // 2, available // (ROOM[purpose] * cloud))
    clouds = "clouds" if batch_size > 1 else "cloud"
    needed = f"{batch_size} {clouds} of {num_points} points need at least {_gib(batch_size * cloud)} for {purpose}"
    room = "" if available is None else f", and {_gib(available)} are free"
    if fits < 1 < batch_size:
        fits = int(available >= cloud)
    advice = (
        f"A batch of {fits} fits: give the clouds in batches of that size (batch_size)."
        if fits
        else "Bring the clouds to fewer points (num_points of Any2PointProcessor), or free memory."
    )
    return BatchTooLargeError(f"{device.type} out of memory. {needed}{room}. {advice}")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on whatever device."""
    if isinstance(error, BatchTooLargeError):  # has been told
        return False
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def names_batch_that_fits(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a model's forward: an allocation that fails in it becomes a `BatchTooLargeError`."""

    @functools.wraps(forward)
    def guarded(self: "Any2PointModel", points: Tensor, *arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return forward(self, points, *arguments, **options)
        try:
            return forward(self, points, *arguments, **options)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        raise batch_too_large(self, *points.shape[:2], points.device)  # here the failed forward's tensors are freed

    return guarded
