"""`pipeline("point-cloud-feature-extraction")`: clouds -> features."""

from typing import Any

from torch import Tensor
from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from ..modeling.modeling_any2point import Any2PointModel
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from .point_cloud_pipeline import PointCloudPipeline


class PointCloudFeatureExtractionPipeline(PointCloudPipeline):
    """Features of point clouds, as `pipeline("point-cloud-feature-extraction", model=…)` makes it.

    A cloud's result is its pooled feature, a list of 2D numbers. A call takes `return_tensors=True` for float32 tensors
    on the CPU in place of lists, and `return_tokens=True` for a dict of `features` [2D], `tokens` [G, D] and their
    `centers` [G, 3], in the unit of the processor's output.
    """

    model_classes = (Any2PointModel, Any2PointForPointCloudClassification)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        return_tensors: bool | None = None,
        return_tokens: bool | None = None,
        local_files_only: bool | None = None,
    ) -> tuple[dict, dict, dict]:
        """The options of a call; transformers also hands on `local_files_only`, which only loading needs."""
        forward = {} if return_tokens is None else {"return_tokens": return_tokens}
        return {}, forward, {} if return_tensors is None else {"return_tensors": return_tensors}

    def _forward(  # type: ignore[override]
        self, model_inputs: dict[str, Tensor], return_tokens: bool = False
    ) -> dict[str, Tensor]:
        outputs = self.run_model(model_inputs)
        features = {"features": outputs["pooler_output"]}
        if return_tokens:
            features |= {"tokens": outputs["last_hidden_state"][:, 1:], "centers": outputs["point_centers"]}
        return features

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Tensor], return_tensors: bool = False
    ) -> Any:
        """Outputs of one cloud, each [1, …] -> its result."""
        result: dict[str, Any] = {name: tensor[0].float() for name, tensor in model_outputs.items()}
        if not return_tensors:
            result = {name: tensor.tolist() for name, tensor in result.items()}
        return result if len(result) > 1 else result["features"]


# not by register_pipeline: after it, save_pretrained would copy our source into the folder
PIPELINE_REGISTRY.supported_tasks["point-cloud-feature-extraction"] = {
    "impl": PointCloudFeatureExtractionPipeline,
    "pt": (AutoModel,),
    "default": {},
}
