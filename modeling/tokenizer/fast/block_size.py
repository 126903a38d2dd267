"""How many values are worked on at once."""

import torch

_CPU_VALUES = 1 << 20  # 4 MiB of float32: a block and its products stay in the last-level cache
DEVICE_VALUES = 1 << 28  # elsewhere every block costs launches


def values_in_block(device: torch.device) -> int:
    """Returns how many values one block of distances or rows should hold on this device."""
    return _CPU_VALUES if device.type == "cpu" else DEVICE_VALUES
