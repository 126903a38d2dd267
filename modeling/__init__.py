"""The model alone: torch and transformers, nothing else. Names are loaded when first used."""

import importlib
from typing import Any

_HOME = {
    "Any2PointConfig": "configuration_any2point",
    "Any2PointModel": "modeling_any2point",
    "Any2PointModelOutput": "modeling_any2point",
    "Any2PointForPointCloudClassification": "modeling_any2point_classification",
    "PointCloudClassifierOutput": "modeling_any2point_classification",
    "ImageBindAudioConfig": "backbones.imagebind_audio.configuration_imagebind_audio",
    "ImageBindAudioModel": "backbones.imagebind_audio.modeling_imagebind_audio",
    "Any2PointError": "errors",
    "BackboneLoadError": "errors",
    "BatchTooLargeError": "errors",
    "CheckpointError": "errors",
    "ConfigurationError": "errors",
    "DatasetError": "errors",
    "HubError": "errors",
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
