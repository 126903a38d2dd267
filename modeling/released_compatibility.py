"""What the authors' released code computes instead of the method (method.md 6), for those who have its checkpoints.

`Any2PointConfig.released_compatibility` switches it on. Each quirk is one small function or method that names its
evidence: numbers of findings are those of the notes that came with the golden numbers; file names are those of
github.com/Ivan-Tang-3D/Any2Point at 4e03b69. Norm eps, pooling order, head bias, line direction and where positions are
injected are plain config fields.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .adapter.cell_norm import CellNorm
from .backbones.blocks import NO_MASK, call_block
from .numerics.batch_norm import sum_over_processes
from .projection.position_encoding import plane_rows
from .projection.virtual_projection import LineProjection, PlaneProjection
from .tokenizer.point_tokenizer import PointTokenizer

NEAR_ORIGIN = 1e-3


def near_origin(points: Tensor) -> Tensor:
    """Finding 14: pointnet2_ops' sampling skips points with |p|² ≤ 1e-3 after the first. [B, N, 3] -> [B, N] bool."""
    return points.square().sum(dim=-1) <= NEAR_ORIGIN


def unguarded_extent_normalization(offsets: Tensor) -> Tensor:
    """Finding 10: Point_PN.py:105-109 divides by the largest magnitude without an eps; a flat axis gives NaN."""
    return offsets / offsets.abs().amax(dim=2, keepdim=True)


def batch_deviation_normalization(offsets: Tensor) -> Tensor:
    """Finding 10: Point_PN.py:100-103 takes one deviation over the whole batch."""
    return offsets / (offsets.std() + 1e-5)


_NORMALIZATIONS = {"extent": unguarded_extent_normalization, "deviation": batch_deviation_normalization}


class ReleasedPointTokenizer(PointTokenizer):
    """The point tokenizer with the released sampling and normalisation."""

    def __init__(self, hidden_size: int, num_neighbors: int, normalization: str, *others: Any) -> None:
        super().__init__(hidden_size, num_neighbors, normalization, *others)
        stage: Any
        for stage in self.stages:
            stage.normalize = _NORMALIZATIONS[normalization]

    def excluded_from_sampling(self, points: Tensor) -> Tensor:
        """Points near the origin, [B, N] bool."""
        return near_origin(points)


def wrapped_line(fraction: Tensor, length: int) -> Tensor:
    """Finding 6: mv_utils.py:203-234 scales to [0, n], minus ½, modulo n, so both ends land on n − ½."""
    return torch.remainder(fraction * length - 0.5, length)


def skewed_line_rows(coordinates: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Finding 5: pointvit.py:24-41 scales by the batch's range without subtracting its minimum.

    Weights are ⌈x⌉ − x and x − ⌊x⌋ of the clamped rows: a whole x, and any x ≥ n − 1, gives a zero encoding.
    """
    position = coordinates.squeeze(-1)
    position = position * (length - 1) / (position.max() - position.min())
    left, right = position.floor().clamp(0, length - 1), position.ceil().clamp(0, length - 1)
    rows = torch.stack([left, right], dim=-1)
    return rows.long(), torch.stack([right - position, position - left], dim=-1)


class ReleasedLineProjection(LineProjection):
    """Lines that wrap around, whose rows are read with a scale that depends on the batch."""

    def forward(self, centers: Tensor) -> Tensor:
        """Coordinates [B, M, G, 1] in [0, n)."""
        distances = self.project(centers)
        lowest, highest = distances.amin(dim=-1, keepdim=True), distances.amax(dim=-1, keepdim=True)
        return wrapped_line((distances - lowest) / (highest - lowest), self.length).unsqueeze(-1)

    def rows(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Returns rows and weights, each [B, M, G, 2]."""
        return skewed_line_rows(coordinates, self.length)


def wrapped_pixels(pixels: Tensor, width: int, height: int) -> Tensor:
    """Finding 7: mv_utils.py:203-241 takes pixels modulo the canvas instead of clamping. [..., 2] -> same."""
    x, y = pixels.unbind(-1)
    return torch.stack([torch.remainder(x, width), torch.remainder(y, height)], dim=-1)


def stretched_to_canvas(projected: Tensor, width: int, height: int) -> Tensor:
    """Finding 7: mv_utils.py:217 (audio) multiplies Y by H / W, so that it leaves the canvas and wraps. [..., 2]."""
    x, y = projected.unbind(-1)
    return torch.stack([x, y * (height / width)], dim=-1)


def fade_outside(weights: Tensor, coordinates: Tensor, plane: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Finding 7: grid_sample pads with zeros, so a pixel in (W − 1, W) fades with its distance from the last cell."""
    (width, height), (num_rows, num_columns) = plane, grid
    beyond_column = (coordinates[..., 0] / (width - 1) - 1).clamp(min=0) * (num_columns - 1)
    beyond_row = (coordinates[..., 1] / (height - 1) - 1).clamp(min=0) * (num_rows - 1)
    return weights * ((1 - beyond_column) * (1 - beyond_row)).unsqueeze(-1)


def scramble(encoding: Tensor) -> Tensor:
    """Finding 3: pointvit.py:285 reshapes the sampled [D, G] block to [G, D] instead of transposing it.

    Element (t, c) becomes channel ⌊(D t + c) / G⌋ of token (D t + c) mod G. [B, G, D] -> [B, G, D].
    """
    return encoding.transpose(1, 2).reshape(encoding.shape)


def viewed_grid(grid: tuple[int, int], plane: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Finding 8: pointvit.py:110 (audio) views the table as the canvas' patches, 19 × 12 instead of 12 × 19.

    Args:
        grid: (rows, columns) of the table.
        plane: (width, height) of the canvas.
        patch: (height, width).
    """
    rows, columns = plane[1] // patch[0], plane[0] // patch[1]
    return (rows, columns) if rows * columns == math.prod(grid) else grid


class ReleasedPlaneProjection(PlaneProjection):
    """Planes that wrap around, whose encodings are scrambled."""

    def forward(self, centers: Tensor) -> Tensor:
        """Pixels [B, M, G, 2] in [0, W) × [0, H)."""
        projected = stretched_to_canvas(self.project(centers), self.width, self.height)
        return wrapped_pixels(self.pixels(projected), self.width, self.height)

    def rows(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Returns rows and weights, each [B, M, G, 4]."""
        plane = (self.width, self.height)
        x, y = coordinates.unbind(-1)
        on_canvas = torch.stack([x.clamp(max=self.width - 1), y.clamp(max=self.height - 1)], dim=-1)
        rows, weights = plane_rows(on_canvas, plane, self.grid)
        return rows, fade_outside(weights, coordinates, plane, self.grid)

    def encode(self, coordinates: Tensor, table: Tensor) -> Tensor:
        """The scrambled mean over views, [B, G, D]."""
        return scramble(super().encode(coordinates, table))


class ReleasedCellNorm(CellNorm):
    """Finding 9: attention.py:107-112 counts the empty cells of the grid as zeros in the batch's statistics."""

    def __init__(self, hidden_size: int, num_branches: int, num_cells: int) -> None:
        super().__init__(hidden_size, num_branches)
        self.num_cells = num_cells

    def num_rows(self, occupied: Tensor) -> tuple[Tensor, Tensor | None]:
        """All cells of the batch, [M, 1], and the share of the empty ones."""
        occupied_rows, _ = super().num_rows(occupied)
        all_rows = sum_over_processes(torch.full_like(occupied_rows, len(occupied) * self.num_cells))
        return all_rows, 1 - occupied_rows / all_rows


def call_block_across_batch(block: nn.Module, hidden: Tensor, arguments: Mapping[str, Any] = NO_MASK) -> Tensor:
    """Finding 1: attention.py:65 (CLIP) feeds [B, L, D] to an attention whose first axis is the length.

    Token t of a cloud attends to token t of the other clouds of the batch and never to its own cloud's tokens.
    """
    return call_block(block, hidden.transpose(0, 1), arguments).transpose(0, 1)


def leave_out_key_value_rows(backbone: nn.Module) -> None:
    """Finding on loading: ckpt_util.py:150-163 (audio) leaves ImageBind's `bias_k` and `bias_v` unused."""
    module: Any
    for module in backbone.modules():
        if hasattr(module, "append_key_value_rows"):
            module.append_key_value_rows = False


def warn_of_attention_across_batch() -> None:
    """Warns that answers depend on the rest of the batch, because attention runs across it (finding 1)."""
    warnings.warn(
        "this converted model computes what the released CLIP code computes: attention runs across the batch, so its "
        "answer for a cloud depends on the clouds beside it, and a single cloud is outside what it was trained for. "
        "Batches of 64 were published. Train the preset anew in the default mode for one answer a cloud "
        "(docs/released_models.md).",
        stacklevel=2,
    )
