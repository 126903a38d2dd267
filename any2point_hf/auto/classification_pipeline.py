"""`pipeline("point-cloud-classification")`: clouds -> classes with scores."""

from typing import Any

from torch import Tensor
from transformers.pipelines import PIPELINE_REGISTRY

from ..modeling.errors import ConfigurationError
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from .auto_model import AutoModelForPointCloudClassification, AutoModelForPointCloudSegmentation
from .point_cloud_pipeline import PointCloudPipeline

_AS_BEFORE: Any = object()  # top_k was not given; None would mean all classes


class PointCloudClassificationPipeline(PointCloudPipeline):
    """Classes of point clouds, as `pipeline("point-cloud-classification", model=…)` makes it.

    A cloud's result is a list of `{"label": str, "score": float}`, the best first. A call takes `top_k`: how many
    classes to give, 5 unless said otherwise; None for all.
    """

    model_classes = (Any2PointForPointCloudClassification,)

    def _sanitize_parameters(  # type: ignore[override]
        self, top_k: int | None = _AS_BEFORE, local_files_only: bool | None = None
    ) -> tuple[dict, dict, dict]:
        """The options of a call; transformers also hands on `local_files_only`, which only loading needs."""
        if top_k is _AS_BEFORE:
            return {}, {}, {}
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ConfigurationError(f"top_k must be an integer of at least 1, or None for all classes, got {top_k!r}.")
        return {}, {}, {"top_k": top_k}

    def _forward(self, model_inputs: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": self.run_model(model_inputs)["logits"]}

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Tensor], top_k: int | None = 5
    ) -> list[dict[str, Any]]:
        """Logits [1, classes] -> the classes with the highest scores."""
        model: Any = self.model
        scores = model.probabilities(model_outputs["logits"][0])
        best = scores.topk(min(top_k or len(scores), len(scores)))
        names = model.config.id2label
        return [
            {"label": names[index], "score": score}
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


# not by register_pipeline: after it, save_pretrained would copy our source into the folder
PIPELINE_REGISTRY.supported_tasks["point-cloud-classification"] = {
    "impl": PointCloudClassificationPipeline,
    # the second is for adapters of another task: the pipeline itself refuses them, and says so in one line
    "pt": (AutoModelForPointCloudClassification, AutoModelForPointCloudSegmentation),
    "default": {},
}
