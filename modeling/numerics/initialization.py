"""Start values of everything trained (method.md 5).

Unusual here: every tensor is drawn by a generator of its own, seeded by the model's start seed and the tensor's name.
So two models that differ in one part start alike in all others, and rows of a table differ only in what they compare.
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
    """Draws a seed, which decides all start values of a model, from torch's generator."""
    return int(torch.randint(2**62, (), device="cpu"))


def named_seed(seed: int, name: str) -> int:
    """Returns the seed of a part, computed from a seed and the part's name; it is the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "little")


@contextmanager
def torch_draws(seed: int, name: str) -> Iterator[None]:
    """Seeds torch's CPU generator by seed and name inside the block, and restores its state afterwards.

    It is for parts whose values other libraries draw.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(named_seed(seed, name))
        yield


@dataclass(frozen=True)
class StartValues:
    """Sets the start values of a part's tensors.

    Args:
        kind: `adapter_start` of the config.
        seed: one for all parts of a model; None draws from torch's generator.
        name: the part's name, which the names of its tensors continue.
    """

    kind: str = "modelnet"
    seed: int | None = None
    name: str = ""

    def is_zero(self) -> bool:
        """Whether adapters start by adding nothing."""
        return self.kind == "zero"

    def linear(self, linear: nn.Linear, name: str) -> None:
        """Starts a linear layer of the adapters: weight as in `matrix`, bias 0."""
        self.matrix(linear.weight, f"{name}.weight")
        if linear.bias is not None:
            init.zeros_(linear.bias)

    def matrix(self, weight: Tensor, name: str) -> None:
        """Starts a weight [out, in]: Xavier-uniform if the kind is "scan", else from a truncated normal."""
        generator = self._generator(weight, name)
        if self.kind == "scan":
            init.xavier_uniform_(weight, generator=generator)
        else:
            init.trunc_normal_(weight, std=LINEAR_DEVIATION, generator=generator)

    def stacked_matrices(self, weight: Tensor, name: str) -> None:
        """Starts a stack of weights [M, out, in], each view's as in `matrix`."""
        if not getattr(weight, "_is_hf_initialized", False):  # slices of a loaded tensor do not carry its flag
            for view, view_weight in enumerate(weight):
                self.matrix(view_weight, f"{name}.{view}")

    def default_linear(self, linear: nn.Linear, name: str) -> None:
        """Starts a linear layer by torch's own default: weight and bias uniform within ±1/√(inputs)."""
        bound = 1 / math.sqrt(linear.in_features)
        for part in ("weight", "bias"):
            tensor = getattr(linear, part)
            if tensor is not None:
                init.uniform_(tensor, -bound, bound, generator=self._generator(tensor, f"{name}.{part}"))

    def linear_of_head(self, linear: nn.Linear, name: str) -> None:
        """Starts a linear layer of stem or head: by torch's default if the kind is "scan", else as in `linear`."""
        (self.default_linear if self.kind == "scan" else self.linear)(linear, name)

    def token(self, token: Tensor, name: str) -> None:
        """Draws a token from a normal distribution of mean 0 and deviation 0.02."""
        init.normal_(token, mean=0.0, std=TOKEN_DEVIATION, generator=self._generator(token, name))

    def embedding(self, weight: Tensor, name: str) -> None:
        """Draws a table of embeddings from a normal distribution of mean 0 and deviation 1, torch's own default."""
        init.normal_(weight, mean=0.0, std=1.0, generator=self._generator(weight, name))

    def _generator(self, tensor: Tensor, name: str) -> torch.Generator | None:
        if self.seed is None:
            return None
        return torch.Generator(tensor.device).manual_seed(named_seed(self.seed, f"{self.name}.{name}"))


def reset_norm(weight: Tensor, bias: Tensor) -> None:
    """Sets a norm's weight to 1 and its bias to 0."""
    init.ones_(weight)
    init.zeros_(bias)
