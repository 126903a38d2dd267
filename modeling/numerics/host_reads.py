"""When Python may look at a tensor's values, and whether an exporter is at work."""

import torch
from torch import Tensor


def host_may_read(values: Tensor) -> bool:
    """Whether reading values costs nothing: on a CPU, outside compilers.

    Elsewhere the host would wait for the device, and a compiler has no values to show.
    """
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Whether `torch.export` or ONNX records the model; other runtimes do not have our operators."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()  # torch 2.6 knows no is_exporting
