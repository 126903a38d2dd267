"""Virtual projection of 3D centres onto 1D lines or 2D planes, without parameters (section 3.2, eq. 1; method.md 2).

All views are computed at once: coordinates are [B, M, G, 1] on lines and [B, M, G, 2] (x, y pixels) on planes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ..numerics.precision import without_autocast
from .position_encoding import average_over_views, line_rows, on_grid, plane_rows

_QUARTER = math.pi / 2
# Rotation angles about x, y and z of PointCLIP's views.
VIEW_ANGLES = (
    (0, 0, _QUARTER),
    (_QUARTER, 0, _QUARTER),
    (2 * _QUARTER, 0, _QUARTER),
    (3 * _QUARTER, 0, _QUARTER),
    (0, -_QUARTER, _QUARTER),
    (0, _QUARTER, _QUARTER),
    (_QUARTER / 2, 0, _QUARTER),
    (3 * _QUARTER / 2, 0, _QUARTER),
    (5 * _QUARTER / 2, 0, _QUARTER),
    (7 * _QUARTER / 2, 0, _QUARTER),
)
ORTHOGRAPHIC_SHRINK = 0.8  # PointCLIP v2's margin around the object
SMALLEST_DEPTH = 1e-6
SMALLEST_ENTRY = 1e-7


def rotation_matrices(num_views: int) -> Tensor:
    """Returns R = Rx(θx) Ry(θy) Rz(θz) of the first M views; in a view a row vector p becomes p' = p Rᵀ.

    Returns:
        [M, 3, 3] float32.
    """
    cos_x, cos_y, cos_z = torch.tensor(VIEW_ANGLES[:num_views], dtype=torch.float64).cos().unbind(-1)
    sin_x, sin_y, sin_z = torch.tensor(VIEW_ANGLES[:num_views], dtype=torch.float64).sin().unbind(-1)
    one, zero = torch.ones_like(cos_x), torch.zeros_like(cos_x)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=-1).view(-1, 3, 3)

    about_x = matrix(one, zero, zero, zero, cos_x, -sin_x, zero, sin_x, cos_x)
    about_y = matrix(cos_y, zero, sin_y, zero, one, zero, -sin_y, zero, cos_y)
    about_z = matrix(cos_z, -sin_z, zero, sin_z, cos_z, zero, zero, zero, one)
    rotations = about_x @ about_y @ about_z
    # cos(π/2) is 6e-17 in floating point; on a cloud flat along a line it would be stretched to the line's length.
    return torch.where(rotations.abs() < SMALLEST_ENTRY, 0.0, rotations).float()


class VirtualProjection(nn.Module):
    """What lines and planes share: the rotations, and reading the backbone's table at the coordinates (eq. 2)."""

    rotations: Tensor

    def __init__(self, num_views: int, cell_size: float) -> None:
        super().__init__()
        self.num_views = num_views
        self.cell_size = cell_size
        self.register_buffer("rotations", rotation_matrices(num_views), persistent=False)

    def reset_parameters(self) -> None:
        """Rebuilds the rotations, which are not in the checkpoint."""
        init.copy_(self.rotations, rotation_matrices(self.num_views))

    def rotate(self, centers: Tensor) -> Tensor:
        """Rotates the centres to all views, [B, G, 3] -> [B, M, G, 3]; in their own dtype, also under autocast."""
        with without_autocast(centers.device):
            return centers.unsqueeze(1) @ self.rotations.to(centers).transpose(-1, -2)

    def encode(self, coordinates: Tensor, table: Tensor) -> Tensor:
        """The table's rows at coordinates [B, M, G, A], averaged over views: table [R, D] -> [B, G, D]."""
        return average_over_views(table, *self.rows(coordinates))

    def rows(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows of the table each token reads, and with what weights: both [B, M, G, P]."""
        raise NotImplementedError

    @property
    def num_cells(self) -> int:
        """How many cells a view has, empty ones included."""
        raise NotImplementedError

    @property
    def extent(self) -> tuple[int, ...]:
        """How many of the backbone's positions lie on the line, (n,), or on the grid, (rows, columns)."""
        raise NotImplementedError

    def positions(self, coordinates: Tensor) -> Tensor:
        """Returns the backbone's fractional positions: [B, M, G, 1] on the line or [B, M, G, 2] (row, column)."""
        raise NotImplementedError

    def cells(self, coordinates: Tensor) -> Tensor:
        """The cell of each token, numbered within its view: [B, M, G, A] -> [B, M, G] int64."""
        raise NotImplementedError


class LineProjection(VirtualProjection):
    """Projects onto M lines through the cloud's centre (eq. 1), scaled by the cloud's own range in each view.

    Args:
        num_views: M.
        direction: of the line before its rotations.
        length: n; coordinates lie in [0, n − 1].
        cell_size: length of a segment.

    Shapes:
        centers [B, G, 3] -> coordinates [B, M, G, 1].
    """

    def __init__(self, num_views: int, direction: Sequence[float], length: int, cell_size: float) -> None:
        super().__init__(num_views, cell_size)
        norm = math.sqrt(sum(value * value for value in direction))
        self.direction = [value / norm for value in direction]
        self.length = length

    def project(self, centers: Tensor) -> Tensor:
        """Signed distances along each line, from the mean of the cloud's centres: [B, G, 3] -> [B, M, G]."""
        views = self.rotate(centers - centers.mean(dim=1, keepdim=True))
        x, y, z = self.direction
        return views[..., 0] * x + views[..., 1] * y + views[..., 2] * z

    def forward(self, centers: Tensor) -> Tensor:
        """Coordinates [B, M, G, 1]; a degenerate range (all centres at one place) gives the middle."""
        distances = self.project(centers)
        lowest, highest = distances.amin(dim=-1, keepdim=True), distances.amax(dim=-1, keepdim=True)
        extent = highest - lowest
        fraction = torch.where(extent > 0, (distances - lowest) / torch.where(extent > 0, extent, 1.0), 0.5)
        return (fraction * (self.length - 1)).unsqueeze(-1)

    def rows(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Linear interpolation: rows and weights [B, M, G, 2]."""
        return line_rows(coordinates, self.length)

    @property
    def extent(self) -> tuple[int, ...]:
        """(length,)."""
        return (self.length,)

    def positions(self, coordinates: Tensor) -> Tensor:
        """The coordinates themselves."""
        return coordinates

    @property
    def num_cells(self) -> int:
        """Cells of one line, empty ones included (39 on the line of 77)."""
        return math.ceil(self.length / self.cell_size)

    def cells(self, coordinates: Tensor) -> Tensor:
        """Segment of each token: [B, M, G, 1] -> [B, M, G] int64."""
        return (coordinates.squeeze(-1) / self.cell_size).floor().long()


class PlaneProjection(VirtualProjection):
    """Projects onto M planes as PointCLIP (perspective) or PointCLIP v2 (orthographic) does.

    Args:
        num_views: M.
        width: W of the canvas in pixels.
        height: H of the canvas in pixels.
        grid: (rows, columns) of the backbone's table.
        cell_size: side of a square patch in pixels.
        camera_distance: d, added to the depth by the perspective projection.
        orthographic: whether the projection is PointCLIP v2's: bounding box centred, longest side to [−1, 1], x and y
            × 0.8.

    Shapes:
        centers [B, G, 3] -> coordinates [B, M, G, 2], x and y in pixels.
    """

    def __init__(
        self,
        num_views: int,
        width: int,
        height: int,
        grid: tuple[int, int],
        cell_size: float,
        camera_distance: float = 1.4,
        orthographic: bool = False,
    ) -> None:
        super().__init__(num_views, cell_size)
        self.width, self.height, self.grid = width, height, grid
        self.camera_distance = camera_distance
        self.orthographic = orthographic

    def project(self, centers: Tensor) -> Tensor:
        """Returns image coordinates X, Y, in [−1, 1] where the cloud fits into the view: [B, G, 3] -> [B, M, G, 2]."""
        views = self.rotate(centers)
        if not self.orthographic:
            depth = views[..., 2:] + self.camera_distance
            depth = torch.where(depth.abs() < SMALLEST_DEPTH, SMALLEST_DEPTH, depth)
            return views[..., :2] / depth
        lowest, highest = views.amin(dim=2, keepdim=True), views.amax(dim=2, keepdim=True)
        longest = (highest - lowest).amax(dim=-1, keepdim=True)
        scaled = (views - (lowest + highest) / 2) * 2 / torch.where(longest > 0, longest, 1.0)
        return scaled[..., :2] * ORTHOGRAPHIC_SHRINK

    def pixels(self, projected: Tensor) -> Tensor:
        """Converts image coordinates to pixels, not yet clamped: [B, M, G, 2] -> same."""
        x = (projected[..., 0] + 1) * (self.width / 2) - 0.5
        y = (projected[..., 1] + 1) * (self.height / 2) - 0.5
        return torch.stack([x, y], dim=-1)

    def forward(self, centers: Tensor) -> Tensor:
        """Pixels [B, M, G, 2], clamped to the canvas [0, W − 1] × [0, H − 1]."""
        x, y = self.pixels(self.project(centers)).unbind(-1)
        return torch.stack([x.clamp(0, self.width - 1), y.clamp(0, self.height - 1)], dim=-1)

    def rows(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Bilinear interpolation: rows and weights [B, M, G, 4]."""
        return plane_rows(coordinates, (self.width, self.height), self.grid)

    @property
    def extent(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return self.grid

    def positions(self, coordinates: Tensor) -> Tensor:
        """Converts pixels (x, y) to fractional (row, column): [B, M, G, 2] -> same."""
        return on_grid(coordinates, (self.width, self.height), self.grid)

    @property
    def num_cells(self) -> int:
        """Cells of one plane, empty ones included (400 for DINOv2)."""
        return math.ceil(self.width / self.cell_size) * math.ceil(self.height / self.cell_size)

    def cells(self, coordinates: Tensor) -> Tensor:
        """Patch of each token, row by row: [B, M, G, 2] -> [B, M, G] int64."""
        columns = math.ceil(self.width / self.cell_size)
        x, y = (coordinates / self.cell_size).floor().long().unbind(-1)
        return x + y * columns


def voxel_cells(centers: Tensor, voxel_size: float) -> Tensor:
    """Numbers the voxel of each centre; the grid's origin is the cloud's minimum (the 3D branch of method.md 3).

    Args:
        centers: [B, G, 3].
        voxel_size: edge g, in the units of the centres.

    Returns:
        [B, G] int64, equal within a voxel.
    """
    voxels = ((centers - centers.amin(dim=1, keepdim=True)) / voxel_size).floor().long()
    x, y, z = voxels.unbind(-1)
    num_x, num_y = x.amax(dim=1, keepdim=True) + 1, y.amax(dim=1, keepdim=True) + 1
    return x + num_x * (y + num_y * z)
