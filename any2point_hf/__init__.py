"""Any2Point for Hugging Face: understand 3D point clouds with the transformers you already have.

Names are loaded when first used, and the Auto classes and pipelines of transformers learn of ours when they are first
imported, so that this import costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import modeling
from .auto import registration

if TYPE_CHECKING:
    from .auto.auto_model import AutoModelForPointCloudClassification as AutoModelForPointCloudClassification
    from .auto.auto_model import AutoModelForPointCloudSegmentation as AutoModelForPointCloudSegmentation
    from .auto.classification_pipeline import PointCloudClassificationPipeline as PointCloudClassificationPipeline
    from .auto.feature_extraction_pipeline import (
        PointCloudFeatureExtractionPipeline as PointCloudFeatureExtractionPipeline,
    )
    from .auto.segmentation_pipeline import PointCloudSegmentationPipeline as PointCloudSegmentationPipeline
    from .data import category_parts_of as category_parts_of
    from .data import load_modelnet as load_modelnet
    from .data import load_point_cloud_dataset as load_point_cloud_dataset
    from .data import load_scanobjectnn as load_scanobjectnn
    from .data import load_shapenetpart as load_shapenetpart
    from .export import export_onnx as export_onnx
    from .export import export_program as export_program
    from .modeling import Any2PointConfig as Any2PointConfig
    from .modeling import Any2PointError as Any2PointError
    from .modeling import Any2PointForPointCloudClassification as Any2PointForPointCloudClassification
    from .modeling import Any2PointForPointCloudSegmentation as Any2PointForPointCloudSegmentation
    from .modeling import Any2PointModel as Any2PointModel
    from .modeling import Any2PointModelOutput as Any2PointModelOutput
    from .modeling import BackboneLoadError as BackboneLoadError
    from .modeling import BatchTooLargeError as BatchTooLargeError
    from .modeling import CheckpointError as CheckpointError
    from .modeling import ConfigurationError as ConfigurationError
    from .modeling import DatasetError as DatasetError
    from .modeling import HubError as HubError
    from .modeling import ImageBindAudioConfig as ImageBindAudioConfig
    from .modeling import ImageBindAudioModel as ImageBindAudioModel
    from .modeling import MissingPackageError as MissingPackageError
    from .modeling import PointCloudClassifierOutput as PointCloudClassifierOutput
    from .modeling import PointCloudError as PointCloudError
    from .modeling import PointCloudSegmenterOutput as PointCloudSegmenterOutput
    from .modeling import UnsupportedBackboneError as UnsupportedBackboneError
    from .modeling import label_large_cloud as label_large_cloud
    from .modeling import label_scene as label_scene
    from .modeling import register_classifier as register_classifier
    from .pictures.kinds import draw_attention as draw_attention
    from .pictures.kinds import draw_clusters as draw_clusters
    from .pictures.kinds import draw_similarity as draw_similarity
    from .pictures.kinds import draw_tokens as draw_tokens
    from .pictures.matplotlib_pictures import draw_point_clouds as draw_point_clouds
    from .pictures.parts import draw_parts as draw_parts
    from .point_clouds.files import PointCloud as PointCloud
    from .point_clouds.files import read_point_cloud as read_point_cloud
    from .point_clouds.files import read_point_cloud_with_features as read_point_cloud_with_features
    from .processing_any2point import Any2PointProcessor as Any2PointProcessor
    from .segmentation.labelling import LabelledPoints as LabelledPoints
    from .segmentation.labelling import label_points as label_points
    from .segmentation.part_files import write_parts as write_parts
    from .segmentation.part_metrics import part_metrics as part_metrics
    from .segmentation.scene_metrics import scene_metrics as scene_metrics
    from .training.collator import DataCollatorForPointClouds as DataCollatorForPointClouds
    from .training.trainer import compute_metrics as compute_metrics
    from .training.trainer import make_trainer as make_trainer

__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(modeling.__all__, "modeling"),
    "Any2PointProcessor": "processing_any2point",
    **dict.fromkeys(("AutoModelForPointCloudClassification", "AutoModelForPointCloudSegmentation"), "auto.auto_model"),
    "PointCloudClassificationPipeline": "auto.classification_pipeline",
    "PointCloudFeatureExtractionPipeline": "auto.feature_extraction_pipeline",
    "PointCloudSegmentationPipeline": "auto.segmentation_pipeline",
    **dict.fromkeys(("PointCloud", "read_point_cloud", "read_point_cloud_with_features"), "point_clouds.files"),
    **dict.fromkeys(("load_point_cloud_dataset", "load_scanobjectnn", "load_modelnet", "load_shapenetpart"), "data"),
    **dict.fromkeys(("LabelledPoints", "label_points"), "segmentation.labelling"),
    "write_parts": "segmentation.part_files",
    "category_parts_of": "data",
    "part_metrics": "segmentation.part_metrics",
    "scene_metrics": "segmentation.scene_metrics",
    "DataCollatorForPointClouds": "training.collator",
    "compute_metrics": "training.trainer",
    "make_trainer": "training.trainer",
    "draw_point_clouds": "pictures.matplotlib_pictures",
    **dict.fromkeys(("export_onnx", "export_program"), "export"),
    **dict.fromkeys(("draw_attention", "draw_clusters", "draw_similarity", "draw_tokens"), "pictures.kinds"),
    "draw_parts": "pictures.parts",
}

__all__ = ["__version__", *sorted(_HOME)]

registration.register_auto_classes()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
