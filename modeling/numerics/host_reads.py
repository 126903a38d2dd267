"""When Python may look at a tensor's values."""

import torch
from torch import Tensor


def host_may_read(values: Tensor) -> bool:
    """Whether reading values costs nothing: on a CPU, outside compilers.

    Elsewhere the host would wait for the device, and a compiler has no values to show.
    """
    return values.device.type == "cpu" and not torch.compiler.is_compiling()
