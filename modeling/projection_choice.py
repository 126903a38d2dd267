"""Chooses the lines or planes for a config and its backbone (section 3.2; method.md 2)."""

import math
import warnings
from typing import Any

from . import released_compatibility as released
from .backbones.spec import BackboneSpec, patch_size
from .configuration_any2point import Any2PointConfig
from .errors import ConfigurationError
from .projection.virtual_projection import LineProjection, PlaneProjection, VirtualProjection

DEFAULT_LINE_LENGTH = 77
DEFAULT_LINE_CELL = 2
DEFAULT_CELLS_PER_SIDE = 20


def make_projection(config: Any2PointConfig, spec: BackboneSpec) -> VirtualProjection:
    """Makes lines or planes of the config's size.

    By default lines are as long as the backbone's table, but at most 77, and planes as large as its images or
    spectrograms.

    Raises:
        ConfigurationError: the line is longer than the table, the table cannot be laid out on a plane, or the modality
            is not that of a backbone whose positions act inside its blocks.
    """
    backbone_config: Any = config.backbone_config
    modality = config.modality or spec.modality
    if spec.in_blocks is not None and modality != spec.modality and config.position_encoding == "virtual":
        raise ConfigurationError(
            f"modality must be {spec.modality!r} for a {backbone_config.model_type} backbone, whose positions "
            f'act inside its blocks, got {modality!r}. Leave it out, or choose position_encoding="sinusoidal".'
        )
    if modality == "1d":
        return _make_lines(config, spec.num_rows(backbone_config))
    return _make_planes(config, spec)


def _make_lines(config: Any2PointConfig, num_rows: int) -> LineProjection:
    length = config.line_length or min(num_rows, DEFAULT_LINE_LENGTH)
    if length > num_rows:
        raise ConfigurationError(
            f"line_length must not exceed the backbone's {num_rows} positions, got {config.line_length}."
        )
    line_class = released.ReleasedLineProjection if config.released_compatibility else LineProjection
    return line_class(config.num_views, config.line_direction, length, config.cell_size or DEFAULT_LINE_CELL)


def _make_planes(config: Any2PointConfig, spec: BackboneSpec) -> PlaneProjection:
    backbone_config: Any = config.backbone_config
    if spec.grid is None:
        grid, patch = _grid_of_line(config, spec.num_rows(backbone_config))
    else:
        grid, patch = spec.grid(backbone_config), patch_size(backbone_config)
    width, height = config.plane or (grid[1] * patch[1], grid[0] * patch[0])
    plane_class = PlaneProjection
    if config.released_compatibility:
        plane_class, grid = released.ReleasedPlaneProjection, released.viewed_grid(grid, (width, height), patch)
    cell_size = config.cell_size or math.ceil(max(width, height) / DEFAULT_CELLS_PER_SIDE)
    orthographic = config.projection == "orthographic"
    return plane_class(config.num_views, width, height, grid, cell_size, config.camera_distance, orthographic)


def _grid_of_line(config: Any2PointConfig, num_rows: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Lays out a table without a grid of its own in the proportions of the config's plane.

    Returns:
        (rows, columns) of the grid, and (height, width) of a patch.
    """
    backbone_config: Any = config.backbone_config
    width, height = config.plane or (1, 0)
    rows = round(math.sqrt(num_rows * height / width))
    columns = num_rows // max(rows, 1)
    if rows == 0 or rows * columns != num_rows or rows * width != columns * height:
        raise ConfigurationError(
            f'modality="2d" needs a backbone whose positions lie on a grid, got {backbone_config.model_type!r}, '
            f'whose {num_rows} positions lie on a line. Leave modality out, set it to "1d", or give the plane as '
            f"[width, height] whose proportions lay them out row by row; got plane={config.plane}."
        )
    return (rows, columns), (height // rows, width // columns)


def choose_position_encoding(config: Any2PointConfig, spec: BackboneSpec) -> str:
    """Returns the config's choice; "none", with a warning, where the backbone has no positions that a point could get.

    Raises:
        ConfigurationError: `released_compatibility` with a backbone whose positions act inside its blocks.
    """
    backbone_config: Any = config.backbone_config
    model_type = backbone_config.model_type
    if config.released_compatibility and spec.in_blocks is not None:
        raise ConfigurationError(
            f"released_compatibility needs a backbone whose positions are added to the tokens, got {model_type!r}, "
            "whose positions act inside its blocks. Leave it out."
        )
    if config.position_encoding != "virtual" or spec.has_positions:
        return config.position_encoding
    warnings.warn(
        f"{model_type} has no positions that a point could be given ({spec.note or 'none were found'}): it runs as "
        'with position_encoding="none". Choose "sinusoidal" or "learnable" to give the points positions of their own.',
        stacklevel=4,
    )
    return "none"
