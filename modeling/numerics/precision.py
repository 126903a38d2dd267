"""Dtypes, and autocast, for code that does its own casting."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def compute_dtype(values: Tensor) -> torch.dtype:
    """The dtype for matrix products of a tensor: autocast's where it is on, else its own; float64 stays."""
    device = values.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return values.dtype
    return values.dtype if values.dtype == torch.float64 else torch.get_autocast_dtype(device)


def product_dtype(values: Tensor) -> torch.dtype:
    """The dtype for products that add up many values: `compute_dtype`, but never float16, whose range they leave."""
    dtype = compute_dtype(values)
    return torch.float32 if dtype == torch.float16 else dtype


def layer_dtype(layer: nn.Module) -> torch.dtype:
    """The dtype that a linear layer computes in; float32 where `quantize_dynamic` left no parameters."""
    parameter = next(layer.parameters(), None)
    return torch.float32 if parameter is None else compute_dtype(parameter)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The wider of the dtype and float32; statistics use it."""
    return torch.promote_types(dtype, torch.float32)


def attention_dtype(values: Tensor) -> torch.dtype:
    """The dtype for attention: on a CPU at least float32, because torch takes three times as long in half precision."""
    return at_least_float32(values.dtype) if values.device.type == "cpu" else values.dtype


def head_multiple(values: Tensor) -> int:
    """What the width of an attention's heads must be a multiple of for a device's fused kernels; 1 on a CPU."""
    return 1 if values.device.type == "cpu" else 8


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context without autocast: products inside it run in the dtype of their tensors."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
