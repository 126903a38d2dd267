"""The model alone, without data, training and commands; it imports nothing from the packages that use it.

Each name is imported when it is first used; tools that only read the source find them below `TYPE_CHECKING`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones.imagebind_audio.configuration_imagebind_audio import ImageBindAudioConfig as ImageBindAudioConfig
    from .backbones.imagebind_audio.modeling_imagebind_audio import ImageBindAudioModel as ImageBindAudioModel
    from .configuration_any2point import Any2PointConfig as Any2PointConfig
    from .custom_heads import register_classifier as register_classifier
    from .errors import Any2PointError as Any2PointError
    from .errors import BackboneLoadError as BackboneLoadError
    from .errors import BatchTooLargeError as BatchTooLargeError
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigurationError as ConfigurationError
    from .errors import DatasetError as DatasetError
    from .errors import HubError as HubError
    from .errors import MissingPackageError as MissingPackageError
    from .errors import PointCloudError as PointCloudError
    from .errors import UnsupportedBackboneError as UnsupportedBackboneError
    from .modeling_any2point import Any2PointModel as Any2PointModel
    from .modeling_any2point_classification import (
        Any2PointForPointCloudClassification as Any2PointForPointCloudClassification,
    )
    from .modeling_any2point_segmentation import (
        Any2PointForPointCloudSegmentation as Any2PointForPointCloudSegmentation,
    )
    from .modeling_outputs import Any2PointModelOutput as Any2PointModelOutput
    from .modeling_outputs import PointCloudClassifierOutput as PointCloudClassifierOutput
    from .modeling_outputs import PointCloudSegmenterOutput as PointCloudSegmenterOutput
    from .segmentation.large_clouds import label_large_cloud as label_large_cloud
    from .segmentation.scenes import label_scene as label_scene

_HOME = {
    "Any2PointConfig": "configuration_any2point",
    "Any2PointModel": "modeling_any2point",
    "Any2PointModelOutput": "modeling_outputs",
    "Any2PointForPointCloudClassification": "modeling_any2point_classification",
    "PointCloudClassifierOutput": "modeling_outputs",
    "Any2PointForPointCloudSegmentation": "modeling_any2point_segmentation",
    "PointCloudSegmenterOutput": "modeling_outputs",
    "register_classifier": "custom_heads",
    "label_large_cloud": "segmentation.large_clouds",
    "label_scene": "segmentation.scenes",
    "ImageBindAudioConfig": "backbones.imagebind_audio.configuration_imagebind_audio",
    "ImageBindAudioModel": "backbones.imagebind_audio.modeling_imagebind_audio",
    "Any2PointError": "errors",
    "BackboneLoadError": "errors",
    "BatchTooLargeError": "errors",
    "CheckpointError": "errors",
    "ConfigurationError": "errors",
    "DatasetError": "errors",
    "HubError": "errors",
    "MissingPackageError": "errors",
    "PointCloudError": "errors",
    "UnsupportedBackboneError": "errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
