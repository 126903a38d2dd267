"""Point-cloud data sets as Hugging Face data sets: built-in, official, on the Hub, of `datasets`, folders, .npz.

Names are loaded when first used, so that a path or name can be checked (`names.py`) without importing `datasets`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loading import build_dataset_dict as build_dataset_dict
    from .loading import load_point_cloud_dataset as load_point_cloud_dataset
    from .modelnet import load_modelnet as load_modelnet
    from .parts.dataset import build_part_dataset_dict as build_part_dataset_dict
    from .parts.dataset import category_parts_of as category_parts_of
    from .parts.shapes import make_part_shapes as make_part_shapes
    from .scanobjectnn import load_scanobjectnn as load_scanobjectnn
    from .shape_measures import make_measured_shapes as make_measured_shapes
    from .shapenetpart import load_shapenetpart as load_shapenetpart
    from .shapes import SHAPE_NAMES as SHAPE_NAMES
    from .shapes import make_shapes as make_shapes

_HOME = {
    **dict.fromkeys(("build_dataset_dict", "load_point_cloud_dataset"), "loading"),
    "load_modelnet": "modelnet",
    **dict.fromkeys(("build_part_dataset_dict", "category_parts_of"), "parts.dataset"),
    "make_part_shapes": "parts.shapes",
    "load_scanobjectnn": "scanobjectnn",
    "make_measured_shapes": "shape_measures",
    "load_shapenetpart": "shapenetpart",
    **dict.fromkeys(("SHAPE_NAMES", "make_shapes"), "shapes"),
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
