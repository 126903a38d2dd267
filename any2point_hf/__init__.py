"""Any2Point for Hugging Face: understand 3D point clouds with the transformers you already have.

Names are loaded when first used, and the Auto classes and pipelines of transformers learn of ours when they are first
imported, so that this import costs next to nothing.
"""

import importlib
from typing import Any

from . import modeling
from .auto import registration

__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(modeling.__all__, "modeling"),
    "Any2PointProcessor": "processing_any2point",
    "AutoModelForPointCloudClassification": "auto.auto_model",
    "PointCloudClassificationPipeline": "auto.classification_pipeline",
    "PointCloudFeatureExtractionPipeline": "auto.feature_extraction_pipeline",
    "read_point_cloud": "point_clouds.files",
    **dict.fromkeys(("load_point_cloud_dataset", "load_scanobjectnn", "load_modelnet", "load_shapenetpart"), "data"),
    "compute_metrics": "training.trainer",
    "make_trainer": "training.trainer",
    "draw_point_clouds": "pictures.matplotlib_pictures",
    **dict.fromkeys(("export_onnx", "export_program"), "export"),
    **dict.fromkeys(("draw_attention", "draw_clusters", "draw_similarity", "draw_tokens"), "pictures.kinds"),
}

__all__ = ["__version__", *sorted(_HOME)]

registration.register_auto_classes()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
