"""Start values of everything trained (method.md 5).

They go through `transformers.initialization`, which leaves alone what `from_pretrained` has already loaded.
"""

from torch import Tensor, nn
from transformers import initialization as init

TOKEN_DEVIATION = 0.02


def reset_linear(linear: nn.Linear) -> None:
    """Xavier-uniform weight, zero bias."""
    init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        init.zeros_(linear.bias)


def reset_stacked_linear(weight: Tensor, bias: Tensor) -> None:
    """As `reset_linear` for each view of a stack: weight [M, out, in], bias [M, out]."""
    if not getattr(weight, "_is_hf_initialized", False):  # slices of a loaded tensor do not carry its flag
        for view_weight in weight:
            init.xavier_uniform_(view_weight)
    init.zeros_(bias)


def reset_norm(weight: Tensor, bias: Tensor) -> None:
    """Ones and zeros."""
    init.ones_(weight)
    init.zeros_(bias)


def reset_token(token: Tensor) -> None:
    """N(0, 0.02)."""
    init.normal_(token, mean=0.0, std=TOKEN_DEVIATION)
