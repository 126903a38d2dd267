"""The Auto class of point cloud classification, which transformers lacks, of its own kind."""

from collections import OrderedDict

from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from .modeling.configuration_any2point import Any2PointConfig
from .modeling.modeling_any2point_classification import Any2PointForPointCloudClassification


class AutoModelForPointCloudClassification(_BaseAutoModelClass):
    """The point cloud classification model that a checkpoint or config is of.

    As the Auto classes of transformers: `from_pretrained(folder_or_hub_id)` and `from_config(config)`; `register(config
    class, model class)` adds a model of your own. Never made directly.
    """

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


AutoModelForPointCloudClassification.register(Any2PointConfig, Any2PointForPointCloudClassification, exist_ok=True)
