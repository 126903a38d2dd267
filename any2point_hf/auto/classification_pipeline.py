"""`pipeline("point-cloud-classification")`: clouds -> classes with scores, or named numbers."""

from typing import Any

from torch import Tensor
from transformers.pipelines import PIPELINE_REGISTRY

from ..modeling.errors import ConfigurationError
from ..modeling.head_fields import MULTI_LABEL, REGRESSION, problem_of
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from .auto_model import AutoModelForPointCloudClassification, AutoModelForPointCloudSegmentation
from .point_cloud_pipeline import PointCloudPipeline

DEFAULT_TOP = 5  # classes, of models that choose one
_AS_BEFORE: Any = object()  # top_k was not given; None would mean all classes


class PointCloudClassificationPipeline(PointCloudPipeline):
    """Classes of point clouds, as `pipeline("point-cloud-classification", model=…)` makes it.

    A cloud's result is a list of `{"label": str, "score": float}`, the best first. A call takes `top_k`: how many
    classes to give, 5 unless said otherwise; None for all.

    Of a model with several classes a cloud, scores are probabilities of each class by itself, and all are given unless
    `top_k` is; `threshold` leaves out those of lower scores. A regression gives `{"label": str, "value": float}` for
    each target in the model's order, and takes neither option.
    """

    model_classes = (Any2PointForPointCloudClassification,)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        top_k: int | None = _AS_BEFORE,
        threshold: float | None = None,
        local_files_only: bool | None = None,
    ) -> tuple[dict, dict, dict]:
        """The options of a call; transformers also hands on `local_files_only`, which only loading needs."""
        model: Any = self.model
        problem = problem_of(model.config)
        options: dict[str, Any] = {} if threshold is None else {"threshold": threshold}
        options |= {} if top_k is _AS_BEFORE else {"top_k": top_k}
        if options and problem == REGRESSION:
            raise ConfigurationError(f"{next(iter(options))} is for classes, and this model is for {problem}.")
        if threshold is not None and problem != MULTI_LABEL:
            raise ConfigurationError(f"threshold is for models with several classes a cloud, got one for {problem}.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigurationError(f"threshold must lie in 0…1, got {threshold}.")
        if top_k is _AS_BEFORE:
            return {}, {}, options
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ConfigurationError(f"top_k must be an integer of at least 1, or None for all classes, got {top_k!r}.")
        return {}, {}, options

    def _forward(self, model_inputs: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": self.run_model(model_inputs)["logits"]}

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Tensor], top_k: int | None = _AS_BEFORE, threshold: float = 0.0
    ) -> list[dict[str, Any]]:
        """Logits [1, num_labels] -> the classes with the highest scores, or the numbers."""
        model: Any = self.model
        problem, names = problem_of(model.config), model.config.id2label
        if problem == REGRESSION:
            values = model_outputs["logits"][0].tolist()
            return [{"label": names[index], "value": value} for index, value in enumerate(values)]
        if top_k is _AS_BEFORE:
            top_k = None if problem == MULTI_LABEL else DEFAULT_TOP
        scores = model.probabilities(model_outputs["logits"][0])
        best = scores.topk(min(top_k or len(scores), len(scores)))
        return [
            {"label": names[index], "score": score}
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if score >= threshold
        ]


# not by register_pipeline: after it, save_pretrained would copy our source into the folder
PIPELINE_REGISTRY.supported_tasks["point-cloud-classification"] = {
    "impl": PointCloudClassificationPipeline,
    # the second is for adapters of another task: the pipeline itself refuses them, and says so in one line
    "pt": (AutoModelForPointCloudClassification, AutoModelForPointCloudSegmentation),
    "default": {},
}
