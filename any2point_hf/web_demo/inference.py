"""What the web page computes, without the page: loading adapters, the class of a cloud or the parts of its points."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.shapes import SHAPE_NAMES, make_cloud
from ..modeling.backbones.loading import load_backbone
from ..modeling.configuration_any2point import Any2PointConfig, recorded_path
from ..modeling.errors import Any2PointError, CheckpointError, UnsupportedBackboneError
from ..modeling.head_fields import REGRESSION, problem_of
from ..modeling.hub.names import pinned_name
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from ..modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from ..modeling.tokenizer.point_ops import split_features
from ..pictures.measures import cls_attention, on_points
from ..point_clouds.checks import check_cloud
from ..point_clouds.files import PointCloud
from ..point_clouds.invalid import DroppedPoints
from ..processing_any2point import Any2PointProcessor
from ..segmentation.labelling import LabelledPoints, category_names_of, label_points
from ..trained_adapter import load_either

EXAMPLE_POINTS = SHOWN_POINTS = 4096
EXAMPLE_SEED = 1  # not that of the built-in data set


@dataclass(frozen=True)
class Adapter:
    """A model that the page offers.

    Args:
        model: on its backbone, whose weights adapters of the same backbone share.
        processor: of its clouds.
    """

    model: Any2PointForPointCloudClassification | Any2PointForPointCloudSegmentation
    processor: Any2PointProcessor
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def num_blocks(self) -> int:
        """How many blocks of its backbone the tokens pass."""
        return len(self.model.any2point.blocks())

    @property
    def is_segmenter(self) -> bool:
        """Whether it gives every point a part, rather than the cloud a class."""
        return isinstance(self.model, Any2PointForPointCloudSegmentation)

    @property
    def categories(self) -> tuple[str, ...]:
        """Of a segmenter; none where it has none."""
        return category_names_of(self.model) if self.is_segmenter else ()


@dataclass(frozen=True)
class Prediction:
    """What is shown of one cloud.

    Args:
        points: [N, 3] float32, taken from the whole cloud, N ≤ `SHOWN_POINTS`; the model itself sees as many points as
            its processor samples.
        probabilities: class name to probability, the most probable first.
        attention: [blocks, N] float32, CLS's share of attention at each point; None where the backbone's attention
            weights cannot be obtained.
    """

    points: np.ndarray
    probabilities: dict[str, float]
    attention: np.ndarray | None


def load_adapters(models: Sequence[str], backbone: str | None = None) -> dict[str, Adapter]:
    """Loads adapters; those that record the same backbone share one copy of it.

    Args:
        models: folders or Hub ids.
        backbone: Hub id or folder, instead of the one that each adapter records.

    Returns:
        The adapters by the name that the page shows: the Hub id or the folder's own name, with a number where several
        have the same name.

    Raises:
        Any2PointError: an adapter or its backbone cannot be loaded.
    """
    adapters: dict[str, Adapter] = {}
    backbones: dict[Any, PreTrainedModel] = {}
    names: Counter[str] = Counter()
    for source in models:
        pinned = pinned_name(source)
        config = _config(pinned, backbone)
        record: Any = (config.backbone, config.backbone_revision, config.modality)
        if config.backbone is not None and record not in backbones:
            loaded: Any = load_backbone(*record)  # never changed: models change copies that share its tensors
            backbones[record] = loaded.to(
                "cuda" if torch.cuda.is_available() else "cpu"
            )  # as they, which share it then
        model, processor = load_either(pinned, backbones.get(record))
        if problem_of(model.config) == REGRESSION:
            raise Any2PointError(f"the demo shows classes or parts, and {source} is for {REGRESSION}. Use predict.")
        name = Path(source).resolve().name if Path(source).is_dir() else source
        names[name] += 1
        adapters[name if names[name] == 1 else f"{name} ({names[name]})"] = Adapter(model, processor)
    return adapters


def _config(source: str, backbone: str | None) -> Any2PointConfig:
    """The config of an adapter, with `backbone`, if it is given, in place of the recorded one."""
    try:
        config = Any2PointConfig.from_pretrained(source)
    except Any2PointError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"an adapter must have a valid config.json, and that of {source!r} is none. Check whether it was copied "
            f"whole. The loader said: {error}"
        ) from error
    if backbone is not None:
        config.backbone, config.backbone_revision = recorded_path(backbone), None
    return config


def example_cloud(shape: str, variation: int = 0) -> np.ndarray:
    """One of the built-in shapes that no training on them has seen.

    Args:
        shape: one of `SHAPE_NAMES`.
        variation: 0, 1, … for other proportions of it.

    Returns:
        [EXAMPLE_POINTS, 3] float32.
    """
    index = SHAPE_NAMES.index(shape) + len(SHAPE_NAMES) * variation
    return make_cloud("test", index, EXAMPLE_POINTS, EXAMPLE_SEED)


def classify(adapter: Adapter, cloud: PointCloud | np.ndarray) -> Prediction:
    """Classes of one cloud, and where the model looks.

    Args:
        adapter: which model.
        cloud: points [N, 3] in any unit, with the features that the model takes.

    Raises:
        Any2PointError: the points are no usable cloud.
    """
    prepared = adapter.processor.rows(cloud, ["the cloud"])
    points = cloud.points if isinstance(cloud, PointCloud) else cloud
    if adapter.processor.drop_invalid:
        points = check_cloud(points, "the cloud", DroppedPoints())  # the processor has told what is dropped
    model: Any = adapter.model
    shown = _shown(adapter.processor, points)
    with adapter.one_at_a_time, torch.no_grad():
        logits = model(*split_features(prepared.to(model.device))).logits[0].float().cpu()
        try:
            attention = on_points(shown, *cls_attention(model, prepared[0]))
        except UnsupportedBackboneError:
            attention = None
    best = model.probabilities(logits).sort(descending=True)
    id2label: Any = model.config.id2label
    names = [id2label[index] for index in best.indices.tolist()]
    return Prediction(shown, dict(zip(names, best.values.tolist(), strict=True)), attention)


def embed(adapter: Adapter, cloud: PointCloud) -> np.ndarray:
    """The pooled feature of one cloud, [2D] float32, as `any2point embed` writes it; arguments as of `classify`."""
    prepared = adapter.processor.rows(cloud, ["the cloud"])
    model: Any = adapter.model
    with adapter.one_at_a_time, torch.no_grad():
        outputs = model.any2point(*split_features(prepared.to(model.device)))
    return outputs.pooler_output[0].float().cpu().numpy()


def segment(adapter: Adapter, cloud: PointCloud, category: str | None) -> LabelledPoints:
    """The parts of every n-th point of a cloud, of at most `SHOWN_POINTS`.

    Args:
        adapter: a segmenter.
        cloud: points [N, 3] in any unit, with the features that the model takes.
        category: of the cloud, where the adapter has categories.

    Raises:
        Any2PointError: the points are no usable cloud.
    """
    step = -(-len(cloud.points) // SHOWN_POINTS)
    thinned = PointCloud(cloud.points[::step], {name: values[::step] for name, values in cloud.features.items()})
    model: Any = adapter.model
    with adapter.one_at_a_time:
        return label_points(model, adapter.processor, thinned, category, name="the cloud")


def _shown(processor: Any2PointProcessor, points: np.ndarray) -> np.ndarray:
    """Every n-th of the cloud's points, at most `SHOWN_POINTS`, in the frame of those that the model sees."""
    num_points = max(len(points), processor.num_points)
    whole = Any2PointProcessor(num_points, processor.scale_to_unit_sphere, sampling_start="first")  # in their order
    step = -(-len(points) // SHOWN_POINTS)
    return whole(points, return_tensors="np")["points"][0][: len(points) : step]
