"""Auto classes for point cloud classification and segmentation, built like those of transformers, which has none."""

import os
from collections import OrderedDict
from typing import Any

from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ..modeling.configuration_any2point import Any2PointConfig
from ..modeling.errors import CheckpointError
from ..modeling.hub.names import pull_options, pulled_folder
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from ..modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation


class _AutoModelForPointClouds(_BaseAutoModelClass):
    """What the Auto classes share: loading a model of the class that is registered for its config."""

    _model_mapping: Any = None
    _task: str = ""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *model_args: Any, **kwargs: Any
    ) -> PreTrainedModel:
        """Loads a model of whatever class its config says; code of the Hub is never run.

        Args:
            pretrained_model_name_or_path: folder, Hub id or bare name (`hub/names.py`).
            model_args: further arguments of the class' `from_pretrained`.
            kwargs: keyword arguments of it, such as `backbone` or `dtype`.

        Raises:
            CheckpointError: no such checkpoint, or one of another kind of model.
        """
        kwargs.pop("code_revision", None)  # it is for remote code; pipelines pass it
        config = kwargs.get("config")
        if config is None:
            folder = pulled_folder(pretrained_model_name_or_path, ("config.json",), **pull_options(kwargs))
            try:
                config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    "an adapter must have a valid config.json of a model_type that transformers knows, and that of "
                    f"{str(pretrained_model_name_or_path)!r} is none. The loader said: {str(error)[:250]}"
                ) from error
            if not os.path.isdir(pretrained_model_name_or_path):
                kwargs["revision"] = folder.name  # the model is of the same commit
        if type(config) not in cls._model_mapping:
            known = ", ".join(known.__name__ for known in cls._model_mapping)
            raise CheckpointError(
                f"a point cloud {cls._task} model has a config of the class {known}, and the one of "
                f"{str(pretrained_model_name_or_path)!r} is {type(config).__name__}. Is it the backbone?"
            )
        model_class = cls._model_mapping[type(config)]
        return model_class.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)


class AutoModelForPointCloudClassification(_AutoModelForPointClouds):
    """Makes the point cloud classification model that a checkpoint or config belongs to.

    It is used like the Auto classes of transformers: `from_pretrained(name)` and `from_config(config)`;
    `register(config class, model class)` adds a model of your own. It cannot be instantiated itself.
    """

    _model_mapping: Any = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())
    _task = "classification"


class AutoModelForPointCloudSegmentation(_AutoModelForPointClouds):
    """Makes the point cloud segmentation model that a checkpoint or config belongs to.

    It is used like `AutoModelForPointCloudClassification`.
    """

    _model_mapping: Any = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())
    _task = "segmentation"


AutoModelForPointCloudClassification.register(Any2PointConfig, Any2PointForPointCloudClassification, exist_ok=True)
AutoModelForPointCloudSegmentation.register(Any2PointConfig, Any2PointForPointCloudSegmentation, exist_ok=True)
