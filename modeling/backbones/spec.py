"""The description of a family of backbones: where its parts are, and what its positions lie on (method.md 2 and 3).

A family is described by data. The descriptions are in `table.py`; `loading.py` and `blocks.py` act on them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

BlockArguments = Callable[[int], Mapping[str, Any]]
_NORM_EPS_NAMES = ("layer_norm_eps", "rms_norm_eps", "layer_norm_epsilon", "norm_eps")


def find(module: nn.Module, path: str) -> Any:
    """The attribute at a dotted path."""
    return reduce(getattr, path.split("."), module)


def read_tensor(module: nn.Module, path: str) -> Tensor:
    """Returns the tensor at a dotted path, or the weight of a module there, also where accelerate has offloaded it."""
    part = find(module, path)
    owner = part if isinstance(part, nn.Module) else find(module, path.rpartition(".")[0])
    tensor: Any = part.weight if isinstance(part, nn.Module) else part
    if not tensor.is_meta or not hasattr(owner, "_hf_hook"):
        return tensor
    from accelerate.utils import align_module_device

    with align_module_device(owner):
        return (owner.weight if owner is part else find(module, path)).detach().clone()


@dataclass(frozen=True)
class Always:
    """A function of a backbone's config that gives one value; unlike a lambda, it can be pickled with its model."""

    value: Any

    def __call__(self, config: PreTrainedConfig) -> Any:
        """The value, whatever the config."""
        return self.value


class PositionsInBlocks(Protocol):
    """Positions that act inside every block, as rotations or biases of its attention."""

    def arguments(
        self, backbone: PreTrainedModel, positions: Tensor, extent: tuple[int, ...], dtype: torch.dtype
    ) -> BlockArguments:
        """A block's keyword arguments for positions on a line or a grid of this extent.

        Positions are fractional: [B, M, G, 1] on a line, [B, M, G, 2] (row, column) on a grid.
        """
        ...

    def neutral(
        self, backbone: PreTrainedModel, num_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Any]:
        """A block's keyword arguments for tokens without positions, CLS included in their number."""
        ...


@dataclass(frozen=True)
class BackboneSpec:
    """Where a family keeps its parts; all paths are dotted attribute names.

    Args:
        modality: `"1d"` or `"2d"`.
        blocks: the list of blocks, from the backbone.
        feed_forward: inside a block, the module that takes the normed input, and the last one of the branch, whose
            output is added to the residual.
        num_rows: a function of the config that returns the number of usable positions on the line or the grid.
        attention: the module inside a block whose output holds the attention weights; None where the block itself
            returns them if it is called with `output_attentions`.
        attention_output: their index in that output.
        positions: the table that is added to the tokens, an embedding or a parameter, from the backbone (or a function
            of it); its usable rows are the last ones, after those of prefix tokens.
        projected_by: the linear layer from the table's width to that of the tokens, if they differ.
        in_blocks: positions that act inside the blocks.
        input_norm: the norm before the first block, if any.
        final_norm: the norm after the last block, if any.
        rms_norm: whether the final norm has no mean and no bias.
        norm_offset: what the final norm adds to its weight (Gemma: 1).
        cls_token: the CLS embedding, if the backbone has one.
        grid: for 2D, a function of the config that returns (rows, columns) of the positions.
        weights: beginnings of the names of weights that a checkpoint must hold, where these are not just the `blocks`.
        arguments: constant keyword arguments of a block.
        neutral: a block's further arguments where positions do not act in it; a function of the backbone, the number
            of tokens, dtype and device.
        prepare: a function that changes the (shared) backbone's modules, mostly to switch something off.
        resolve: a function of this spec and the config that returns one model's spec, where it depends on the config.
        note: a remark for the documentation.
        detected: whether `detector.py` made this, and nobody wrote it down.
    """

    modality: Literal["1d", "2d"]
    blocks: str
    feed_forward: tuple[str, str]
    num_rows: Callable[[PreTrainedConfig], int]
    attention: str | None = None
    attention_output: int = 1
    positions: str | Callable[[PreTrainedModel], Tensor] | None = "embeddings.position_embeddings"
    projected_by: str | None = None
    in_blocks: PositionsInBlocks | None = None
    input_norm: str | None = None
    final_norm: str | None = None
    rms_norm: bool = False
    norm_offset: float = 0.0
    cls_token: str | None = None
    grid: Callable[[PreTrainedConfig], tuple[int, int]] | None = None
    weights: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"attention_mask": None})
    neutral: Callable[[PreTrainedModel, int, torch.dtype, torch.device], dict[str, Any]] | None = None
    prepare: Callable[[PreTrainedModel], None] | None = None
    resolve: Callable[["BackboneSpec", PreTrainedConfig], "BackboneSpec"] | None = None
    note: str = ""
    detected: bool = False

    @property
    def has_positions(self) -> bool:
        """Whether the backbone has positions that a point can be given."""
        return self.positions is not None or self.in_blocks is not None

    def table(self, backbone: PreTrainedModel) -> Tensor:
        """The usable rows of the backbone's own table of positions, [R, D] (frozen)."""
        assert self.positions is not None
        rows = self.positions(backbone) if callable(self.positions) else read_tensor(backbone, self.positions)
        rows = rows.detach().reshape(-1, rows.shape[-1])[-self.num_rows(backbone.config) :]
        if self.projected_by is not None:
            project = find(backbone, self.projected_by)
            if project.weight.is_floating_point():  # a quantised layer computes in what it is given
                rows = rows.to(project.weight.dtype)
            rows = (project(rows) - project(torch.zeros_like(rows[:1]))).detach()  # positions have no part in its bias
        return rows

    def neutral_arguments(
        self, backbone: PreTrainedModel, num_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> BlockArguments:
        """Returns a function from a block's index to its arguments where positions do not act in it."""
        of = self.neutral or (self.in_blocks and self.in_blocks.neutral)
        arguments = of(backbone, num_tokens, dtype, device) if of else {}
        return lambda index: arguments


def pair(size: Any) -> tuple[int, int]:
    """(height, width) of a size that may be one number."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def patch_size(config: PreTrainedConfig) -> tuple[int, int]:
    """(height, width) in pixels of the patches of a 2D backbone."""
    size = getattr(config, "patch_size", None)
    return pair(config.tubelet_size[1:] if size is None else size)  # ViViT's patches are tubes


def norm_eps(config: PreTrainedConfig) -> float:
    """Eps of a backbone's norms; torch's 1e-5 where the config has none."""
    return next((getattr(config, name) for name in _NORM_EPS_NAMES if hasattr(config, name)), 1e-5)


def num_blocks(config: PreTrainedConfig) -> int:
    """Number of a backbone's blocks; ALBERT's groups may hold several."""
    return config.num_hidden_layers * getattr(config, "inner_group_num", 1)
