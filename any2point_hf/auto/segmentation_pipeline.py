"""`pipeline("point-cloud-segmentation")`: clouds -> a part for every point.

Unusual here: a cloud is not brought to one number of points, so clouds go through the model one by one, each in as many
subsets as it needs; `batch_size` is how many of them go at once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.pipelines import PIPELINE_REGISTRY

from ..modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from ..modeling.segmentation.large_clouds import SUBSETS_AT_ONCE
from ..processing_any2point import Any2PointProcessor
from ..segmentation.labelling import LabelledPoints, category_number, category_parts_of, label_whole_cloud
from ..segmentation.whole_cloud import WholeCloud
from .auto_model import AutoModelForPointCloudClassification, AutoModelForPointCloudSegmentation
from .point_cloud_pipeline import NamedCloud, PointCloudPipeline, cloud_of_row, prepared_by


class PointCloudSegmentationPipeline(PointCloudPipeline):
    """A part for every point of clouds, as `pipeline("point-cloud-segmentation", model=…)` makes it.

    A cloud's result is a dict: `parts` and `scores`, lists of N ids and probabilities in the order of the cloud's own
    points; `labels`, for each part that occurs its `id`, `label`, `share` of the points and mean `score`; and the
    `category`. Points that were dropped as invalid have the part −100 and the score NaN.

    A call takes `category`, the name or id of all clouds' category, which a model with categories needs; and
    `return_tensors=True` for tensors on the CPU in place of the two lists.
    """

    model_classes = (Any2PointForPointCloudSegmentation,)
    default_batch_size = SUBSETS_AT_ONCE

    def _sanitize_parameters(  # type: ignore[override]
        self,
        category: str | int | None = None,
        return_tensors: bool | None = None,
        subsets_at_once: int | None = None,
        local_files_only: bool | None = None,
    ) -> tuple[dict, dict, dict]:
        """The options of a call; transformers also hands on `local_files_only`, which only loading needs."""
        forward = {"category": category, "subsets_at_once": subsets_at_once}
        post = {} if return_tensors is None else {"return_tensors": return_tensors}
        return {}, {name: value for name, value in forward.items() if value is not None}, post

    def __call__(self, inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        """Labels one cloud or several, as `PointCloudPipeline` says.

        Args:
            inputs: as there.
            options: as there, and the pipeline's own.

        Raises:
            DatasetError: the category is missing, unknown, or given to a model that has none.
        """
        category = options.get("category", self._forward_params.get("category"))
        category_number(category_parts_of(self.model), category)  # before clouds are read
        return super().__call__(inputs, **options)

    def batch_options(self, batch_size: int) -> dict[str, Any]:
        """One cloud at a time, in batches of its subsets."""
        return {"batch_size": 1, "subsets_at_once": batch_size}

    def prepare(self, clouds: Sequence[NamedCloud], num_workers: int) -> list[WholeCloud]:
        """All points of each cloud."""
        return prepared_by(_whole_clouds, clouds, self.feature_extractor, num_workers)

    def preprocess(self, input_: Any) -> WholeCloud:  # type: ignore[override]
        """All points of one cloud of a stream; what has already been prepared stays as it is."""
        if isinstance(input_, WholeCloud):
            return input_
        cloud = cloud_of_row(input_.cloud, input_.name, self.feature_extractor.point_feature_names)
        return self.feature_extractor.all_points(cloud, name=input_.name)

    def _forward(  # type: ignore[override]
        self, model_inputs: WholeCloud, category: str | int | None = None, subsets_at_once: int = SUBSETS_AT_ONCE
    ) -> LabelledPoints:
        model: Any = self.model
        number = category_number(category_parts_of(model), category)
        num_points = self.feature_extractor.num_points
        return label_whole_cloud(model, model_inputs, number, num_points, subsets_at_once)

    def postprocess(  # type: ignore[override]
        self, model_outputs: LabelledPoints, return_tensors: bool = False
    ) -> dict[str, Any]:
        """The answers for one cloud -> its result."""
        summary = model_outputs.summary()
        parts, scores = torch.from_numpy(model_outputs.parts), torch.from_numpy(model_outputs.probabilities)
        return {
            "parts": parts if return_tensors else parts.tolist(),
            "scores": scores if return_tensors else scores.tolist(),
            "labels": [
                {"id": part["id"], "label": part["name"], "share": part["share"], "score": part["confidence"]}
                for part in summary["parts"]
            ],
            "category": model_outputs.category,
        }


def _whole_clouds(processor: Any2PointProcessor, clouds: list[Any], names: list[str]) -> list[WholeCloud]:
    return [processor.all_points(cloud, name=name) for cloud, name in zip(clouds, names, strict=True)]


# not by register_pipeline: after it, save_pretrained would copy our source into the folder
PIPELINE_REGISTRY.supported_tasks["point-cloud-segmentation"] = {
    "impl": PointCloudSegmentationPipeline,
    # the second is for adapters of another task: the pipeline itself refuses them, and says so in one line
    "pt": (AutoModelForPointCloudSegmentation, AutoModelForPointCloudClassification),
    "default": {},
}
