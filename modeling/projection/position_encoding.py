"""Reading a backbone's own table of positions at fractional coordinates (eq. 2), and the variants of Table 4.

Unusual here: reading a table at a coordinate is a weighted sum of 2 (line) or 4 (plane) of its rows, and the mean over
views is a sum of those; one `embedding_bag` does both, without a tensor for each view.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..numerics.initialization import StartValues
from ..tokenizer.geometry_encoding import geometry_encoding

LEARNABLE_WIDTH = 128  # as in the coordinate network of Point-BERT and Point-MAE


def line_rows(coordinates: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Rows and weights of linear interpolation on a line.

    Args:
        coordinates: [..., 1] in [0, length − 1].
        length: rows of the table that the line covers.

    Returns:
        rows [..., 2] int64 and weights [..., 2].
    """
    position = coordinates.squeeze(-1)
    left = position.floor().clamp(0, max(length - 2, 0))
    fraction = position - left
    rows = torch.stack([left, (left + 1).clamp(max=length - 1)], dim=-1)
    return rows.long(), torch.stack([1 - fraction, fraction], dim=-1)


def plane_rows(coordinates: Tensor, plane: tuple[int, int], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and weights of bilinear interpolation on a grid whose corner cells lie under the canvas' corner pixels.

    Args:
        coordinates: [..., 2], x and y pixels on the canvas.
        plane: (width, height) of the canvas.
        grid: (rows, columns) of the table, stored row by row.

    Returns:
        rows [..., 4] int64 and weights [..., 4].
    """
    return grid_rows(on_grid(coordinates, plane, grid), grid)


def on_grid(coordinates: Tensor, plane: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Pixels (x, y) to fractional (row, column) of the grid, [..., 2] -> same; see `plane_rows`."""
    (width, height), (num_rows, num_columns) = plane, grid
    x, y = coordinates.unbind(-1)
    return torch.stack([y * ((num_rows - 1) / (height - 1)), x * ((num_columns - 1) / (width - 1))], dim=-1)


def grid_rows(positions: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and weights of bilinear interpolation on a grid stored row by row.

    Args:
        positions: [..., 2], fractional (row, column).
        grid: (rows, columns).

    Returns:
        rows [..., 4] int64 and weights [..., 4].
    """
    num_rows, num_columns = grid
    row, row_weight = line_rows(positions[..., :1], num_rows)
    column, column_weight = line_rows(positions[..., 1:], num_columns)
    rows = row.unsqueeze(-1) * num_columns + column.unsqueeze(-2)
    weights = row_weight.unsqueeze(-1) * column_weight.unsqueeze(-2)
    return rows.flatten(-2), weights.flatten(-2)


def average_over_views(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Reads the table at each token in every view, and averages over views (eq. 2).

    Args:
        table: [R, D], the usable rows.
        rows: [B, M, G, P] int64.
        weights: [B, M, G, P], the weight of each row within its view.

    Returns:
        [B, G, D], in the weights' dtype.
    """
    batch_size, num_views, num_tokens, _ = rows.shape
    rows = rows.transpose(1, 2).reshape(batch_size * num_tokens, -1)
    weights = weights.transpose(1, 2).reshape(batch_size * num_tokens, -1) / num_views
    table = table.to(weights)
    if torch.compiler.is_compiling():  # in ONNX an embedding bag is a loop over the bags
        summed = (F.embedding(rows, table) * weights.unsqueeze(-1)).sum(dim=1)
    else:
        summed = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
    return summed.view(batch_size, num_tokens, -1)


def sinusoidal_encoding(centers: Tensor, hidden_size: int) -> Tensor:
    """Fixed sines and cosines of the 3D coordinates, zero-padded to D (Table 4): [B, G, 3] -> [B, G, D]."""
    channels = hidden_size // 6 * 6
    return F.pad(geometry_encoding(centers, channels), (0, hidden_size - channels))


class LearnableEncoding(nn.Sequential):
    """A small network of the 3D coordinates (Table 4): [B, G, 3] -> [B, G, D]."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(nn.Linear(3, LEARNABLE_WIDTH), nn.GELU(), nn.Linear(LEARNABLE_WIDTH, hidden_size))

    def draw_parameters(self, start: StartValues) -> None:
        """Draws both layers as the adapters' linear layers."""
        first: Any = self[0]
        last: Any = self[2]
        start.linear(first, "0")
        start.linear(last, "2")
