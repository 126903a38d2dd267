"""Positions that act inside the blocks: rotations (rotary) and biases of the attention, at fractional coordinates.

Unusual here: all heads share one rotation, so views are not averaged; instead view m turns the frequency channels f
with f mod M = m. A bias is read from the family's own table, interpolated at the difference of two tokens' coordinates,
and averaged over views. CLS, the first token, is not turned and has no bias.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..projection.position_encoding import average_over_views, grid_rows, line_rows
from .spec import BlockArguments, find


def view_of_channel(num_frequencies: int, num_views: int, device: torch.device) -> Tensor:
    """Returns the number of the view whose coordinate turns each frequency: [F] int64."""
    return torch.arange(num_frequencies, device=device) % num_views


@dataclass(frozen=True)
class RotaryOnLine:
    """Rotary positions of language models: the backbone's own module, called at fractional positions.

    Args:
        path: of the module, from the backbone.
        by_layer_type: whether the module is called once for each of the config's `layer_types`.
        interleaved: whether a frequency's two channels are neighbours; if not, one lies in each half.
    """

    path: str = "rotary_emb"
    by_layer_type: bool = False
    interleaved: bool = False

    def arguments(
        self, backbone: PreTrainedModel, positions: Tensor, extent: tuple[int, ...], dtype: torch.dtype
    ) -> BlockArguments:
        """Gives every block cosines and sines [B, 1 + G, channels] of positions [B, M, G, 1]."""
        with_cls = F.pad(positions.squeeze(-1), (1, 0))  # position 0 turns by nothing
        return self._of_blocks(backbone, with_cls, dtype)

    def neutral(
        self, backbone: PreTrainedModel, num_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Any]:
        """Gives every block cosines 1 and sines 0, no rotation; it is the same for every layer type."""
        zeros = torch.zeros(1, 1, num_tokens, device=device)
        return dict(self._of_blocks(backbone, zeros, dtype)(0))

    def _of_blocks(self, backbone: PreTrainedModel, positions: Tensor, dtype: torch.dtype) -> BlockArguments:
        rotary = find(backbone, self.path)
        like = torch.empty(0, dtype=dtype, device=positions.device)
        if not self.by_layer_type:
            arguments = {"position_embeddings": self._mix_views(positions, *rotary(like, positions.flatten(0, 1)))}
            return lambda index: arguments
        types = backbone.config.layer_types
        rotations = {
            kind: self._mix_views(positions, *rotary(like, positions.flatten(0, 1), kind))
            for kind in dict.fromkeys(types)
        }
        return lambda index: {"position_embeddings": rotations[types[index]]}

    def _mix_views(self, positions: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
        """Takes each channel from its frequency's view: [B·M, L, C] -> [B, L, C]; each frequency has two channels."""
        batch_size, num_views, num_tokens = positions.shape
        channels = cosines.shape[-1]
        view = view_of_channel(channels // 2, num_views, positions.device)
        view = view.repeat_interleave(2) if self.interleaved else view.repeat(2)
        index = view.view(1, 1, 1, channels).expand(batch_size, 1, num_tokens, channels)
        shape = (batch_size, num_views, num_tokens, channels)
        cosines, sines = (values.view(shape).gather(1, index) for values in (cosines, sines))
        return cosines.squeeze(1), sines.squeeze(1)


@dataclass(frozen=True)
class RotaryOnGrid:
    """Rotary positions of DINOv3: half the frequencies turn by the row, half by the column, both in [−1, 1].

    Args:
        path: of the module with `inv_freq`, from the backbone.
    """

    path: str = "rope_embeddings"

    def arguments(
        self, backbone: PreTrainedModel, positions: Tensor, extent: tuple[int, ...], dtype: torch.dtype
    ) -> BlockArguments:
        """Gives every block cosines and sines [B, 1, G, channels] of positions [B, M, G, 2], without the prefix CLS."""
        frequencies = find(backbone, self.path).inv_freq.to(positions)
        row, column = positions.unbind(-1)
        centered = torch.stack([(row + 0.5) / extent[0], (column + 0.5) / extent[1]], dim=-1) * 2 - 1
        view = view_of_channel(len(frequencies), positions.shape[1], positions.device)
        angles = 2 * math.pi * centered[:, view].permute(0, 2, 3, 1) * frequencies  # [B, G, 2, F]
        angles = angles.flatten(2).tile(2).unsqueeze(1)
        arguments = {"position_embeddings": (angles.cos().to(dtype), angles.sin().to(dtype))}
        return lambda index: arguments

    def neutral(
        self, backbone: PreTrainedModel, num_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Any]:
        """Gives every block cosines 1 and sines 0: no rotation."""
        channels = 4 * len(find(backbone, self.path).inv_freq)
        ones = torch.ones(1, 1, num_tokens - 1, channels, dtype=dtype, device=device)
        return {"position_embeddings": (ones, torch.zeros_like(ones))}


def _bias(table: Tensor, rows: Tensor, weights: Tensor, num_tokens: int, dtype: torch.dtype) -> Tensor:
    """Reads a bias table [R, H] at every pair of G tokens, and averages over views.

    Rows and weights [B, M, G·G, P] -> [B, H, 1 + G, 1 + G], with 0 for CLS.
    """
    values = average_over_views(table, rows, weights)  # [B, G·G, H]
    values = values.transpose(1, 2).unflatten(-1, (num_tokens, num_tokens))
    return F.pad(values, (1, 0, 1, 0)).to(dtype)


@dataclass(frozen=True)
class BiasOnLine:
    """Relative biases by buckets of distance (T5, MPNet), interpolated between whole distances.

    Args:
        table: path of the buckets' embedding [buckets, H], from the backbone.
        bucket: a function of the backbone and of whole distances, key minus query, that returns their buckets.
    """

    table: str
    bucket: Callable[[PreTrainedModel, Tensor], Tensor]

    def arguments(
        self, backbone: PreTrainedModel, positions: Tensor, extent: tuple[int, ...], dtype: torch.dtype
    ) -> BlockArguments:
        """Gives every block the bias [B, H, 1 + G, 1 + G] of positions [B, M, G, 1]."""
        position = positions.squeeze(-1)
        distances = (position.unsqueeze(-2) - position.unsqueeze(-1)).flatten(2)  # key minus query, [B, M, G·G]
        farthest = extent[0] - 1
        whole = torch.arange(-farthest, farthest + 1, device=positions.device)
        table = find(backbone, self.table).weight.detach()[self.bucket(backbone, whole)]
        rows, weights = line_rows((distances + farthest).unsqueeze(-1), len(table))
        arguments = {"position_bias": _bias(table, rows, weights, positions.shape[2], dtype)}
        return lambda index: arguments

    def neutral(
        self, backbone: PreTrainedModel, num_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Any]:
        """Gives every block a bias of zeros, [1, H, L, L]; without the argument, the blocks would compute their own."""
        heads = find(backbone, self.table).weight.shape[-1]
        return {"position_bias": torch.zeros(1, heads, num_tokens, num_tokens, dtype=dtype, device=device)}


@dataclass(frozen=True)
class BiasOnGrid:
    """Relative biases over differences of rows and columns (BEiT, data2vec-vision), interpolated bilinearly.

    Args:
        tables: a function of the backbone that lists each block's module with `relative_position_bias_table`.
        argument: name of the block's argument that takes the bias.
    """

    tables: Callable[[PreTrainedModel], list[Any]]
    argument: str

    def arguments(
        self, backbone: PreTrainedModel, positions: Tensor, extent: tuple[int, ...], dtype: torch.dtype
    ) -> BlockArguments:
        """Gives each block its bias [B, H, 1 + G, 1 + G] of positions [B, M, G, 2], computed when it is asked for."""
        rows, columns = extent
        differences = (positions.unsqueeze(-2) - positions.unsqueeze(-3)).flatten(2, 3)  # query minus key
        by_row, by_column = differences.unbind(-1)
        shifted = torch.stack([by_row + (rows - 1), by_column + (columns - 1)], dim=-1)
        places, weights = grid_rows(shifted, (2 * rows - 1, 2 * columns - 1))
        tables = self.tables(backbone)
        computed: dict[nn.Module, Mapping[str, Any]] = {}

        def of_block(index: int) -> Mapping[str, Any]:
            module = tables[index]
            if module not in computed:
                computed.clear()  # a block's own bias is used once, a shared one by all
                table = module.relative_position_bias_table.detach()[:-3]  # the last three are of CLS
                computed[module] = {self.argument: _bias(table, places, weights, positions.shape[2], dtype)}
            return computed[module]

        return of_block

    def neutral(
        self, backbone: PreTrainedModel, num_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Any]:
        """Gives every block no argument, and so no bias."""
        return {}
