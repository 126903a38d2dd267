"""`pipeline("point-cloud-feature-extraction")`: clouds -> features."""

from typing import Any

from torch import Tensor
from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from ..modeling.modeling_any2point import Any2PointModel
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from ..modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from ..modeling.segmentation.point_interpolation import interpolate_to_points
from .point_cloud_pipeline import PointCloudPipeline


class PointCloudFeatureExtractionPipeline(PointCloudPipeline):
    """Features of point clouds, as `pipeline("point-cloud-feature-extraction", model=…)` makes it.

    A cloud's result is its pooled feature, a list of 2D numbers. A call takes `return_tensors=True` for float32 tensors
    on the CPU in place of lists. With `return_tokens=True` the result is a dict of `features` [2D], `tokens` [G, D] and
    their `centers` [G, 3]; with `return_points=True` it also has the `points` [N, 3] that the model sees and
    `point_features` [N, D], the tokens carried to them from the nearest centres (`interpolate_to_points`). Places are
    in the unit of the processor's output.
    """

    model_classes = (Any2PointModel, Any2PointForPointCloudClassification, Any2PointForPointCloudSegmentation)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        return_tensors: bool | None = None,
        return_tokens: bool | None = None,
        return_points: bool | None = None,
        local_files_only: bool | None = None,
    ) -> tuple[dict, dict, dict]:
        """The options of a call; transformers also hands on `local_files_only`, which only loading needs."""
        given = {"return_tokens": return_tokens, "return_points": return_points}
        forward = {name: value for name, value in given.items() if value is not None}
        return {}, forward, {} if return_tensors is None else {"return_tensors": return_tensors}

    def _forward(  # type: ignore[override]
        self, model_inputs: dict[str, Tensor], return_tokens: bool = False, return_points: bool = False
    ) -> dict[str, Tensor]:
        outputs = self.run_model(model_inputs, self.model.base_model)  # a segmenter's head asks for a category
        features = {"features": outputs["pooler_output"]}
        tokens, centers = outputs["last_hidden_state"][:, 1:], outputs["point_centers"]
        if return_tokens:
            features |= {"tokens": tokens, "centers": centers}
        if return_points:
            points = model_inputs["points"].to(centers.dtype)
            features |= {"points": points, "point_features": interpolate_to_points(points, centers, tokens)}
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
