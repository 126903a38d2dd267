"""What autocast means for code that does its own casting."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def compute_dtype(values: Tensor) -> torch.dtype:
    """What matrix products run in: autocast's dtype where it is on (never of float64), else the tensor's own."""
    device = values.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return values.dtype
    return values.dtype if values.dtype == torch.float64 else torch.get_autocast_dtype(device)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """What statistics are taken in."""
    return torch.promote_types(dtype, torch.float32)


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64, which MPS does not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Inside, products run in the dtype of their tensors."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
