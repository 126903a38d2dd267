"""Start values of everything trained (method.md 5).

Unusual here: every tensor is drawn by a generator of its own, seeded by the model's start seed and the tensor's name.
So two models that differ in one part start alike in all others, and rows of a table differ by what they are about.
Values go through `transformers.initialization`, which leaves alone what `from_pretrained` has already loaded.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init

TOKEN_DEVIATION = 0.02
LINEAR_DEVIATION = 0.02  # of the released ModelNet settings


def draw_seed() -> int:
    """One draw from torch's generator, which decides all start values of a model."""
    return int(torch.randint(2**62, (), device="cpu"))


def named_seed(seed: int, name: str) -> int:
    """The seed of a part: a function of both, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "little")


@contextmanager
def torch_draws(seed: int, name: str) -> Iterator[None]:
    """For parts that others draw: torch's generator gives what seed and name decide, and goes on as it was after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(named_seed(seed, name))
        yield


@dataclass(frozen=True)
class StartValues:
    """How parts start.

    Args:
        kind: `adapter_start` of the config.
        seed: of all parts of a model; None draws from torch's generator.
        name: of the part, which its tensors' names continue.
    """

    kind: str = "modelnet"
    seed: int | None = None
    name: str = ""

    def is_zero(self) -> bool:
        """Whether adapters start by adding nothing."""
        return self.kind == "zero"

    def linear(self, linear: nn.Linear, name: str) -> None:
        """A linear layer of adapters: Xavier-uniform in the scan group, else a truncated normal; zero bias."""
        self.matrix(linear.weight, f"{name}.weight")
        if linear.bias is not None:
            init.zeros_(linear.bias)

    def matrix(self, weight: Tensor, name: str) -> None:
        """The weight of such a layer, [out, in]."""
        generator = self._generator(weight, name)
        if self.kind == "scan":
            init.xavier_uniform_(weight, generator=generator)
        else:
            init.trunc_normal_(weight, std=LINEAR_DEVIATION, generator=generator)

    def stacked_matrices(self, weight: Tensor, name: str) -> None:
        """As `matrix` for each view of a stack [M, out, in]."""
        if not getattr(weight, "_is_hf_initialized", False):  # slices of a loaded tensor do not carry its flag
            for view, view_weight in enumerate(weight):
                self.matrix(view_weight, f"{name}.{view}")

    def default_linear(self, linear: nn.Linear, name: str) -> None:
        """Torch's own default: weight and bias uniform within ±1/√(inputs)."""
        bound = 1 / math.sqrt(linear.in_features)
        for part in ("weight", "bias"):
            tensor = getattr(linear, part)
            if tensor is not None:
                init.uniform_(tensor, -bound, bound, generator=self._generator(tensor, f"{name}.{part}"))

    def linear_of_head(self, linear: nn.Linear, name: str) -> None:
        """Stem and head: torch's default in the scan group, as `linear` in the others."""
        (self.default_linear if self.kind == "scan" else self.linear)(linear, name)

    def token(self, token: Tensor, name: str) -> None:
        """N(0, 0.02)."""
        init.normal_(token, mean=0.0, std=TOKEN_DEVIATION, generator=self._generator(token, name))

    def _generator(self, tensor: Tensor, name: str) -> torch.Generator | None:
        if self.seed is None:
            return None
        return torch.Generator(tensor.device).manual_seed(named_seed(self.seed, f"{self.name}.{name}"))


def reset_norm(weight: Tensor, bias: Tensor) -> None:
    """Ones and zeros."""
    init.ones_(weight)
    init.zeros_(bias)
