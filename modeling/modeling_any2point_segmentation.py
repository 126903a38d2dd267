"""Point cloud segmentation: an Any2Point model that gives every point a label (method.md 8; ours, not the paper's)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import can_return_tuple

from .backbones.loading import record_backbone
from .batch_memory import check_memory, names_batch_that_fits
from .configuration_any2point import Any2PointConfig
from .errors import ConfigurationError, require
from .head_fields import require_single_label
from .head_tasks import class_weights
from .input_checks import check_category, check_inputs, check_point_labels
from .modeling_any2point import Any2PointModel
from .modeling_outputs import PointCloudSegmenterOutput as PointCloudSegmenterOutput
from .numerics.initialization import draw_seed
from .numerics.precision import at_least_float32
from .pretrained_model import Any2PointPreTrainedModel
from .segmentation.categories import check_category_parts, parts_mask
from .segmentation.segmentation_head import CloudFeatures, SegmentationHead
from .several_adapters.mixed_batch import forward_mixed

IGNORED_LABEL = -100
"""The label of points that have none, as everywhere in torch and transformers."""

NUM_LEVELS = 3  # that the head reads of the tokenizer: all points, N/2 and N/4


class Any2PointForPointCloudSegmentation(Any2PointPreTrainedModel):
    """An Any2Point model with a segmentation head: a label for every point.

    Args:
        config: `num_labels` (or `id2label`) sets the parts; `category_parts` which of them a category has, where the
            clouds' categories are known.
        backbone: a module to use instead of the config's; it is shared and frozen, not copied.

    Raises:
        ConfigurationError: a category has no parts or unknown ones, `segmentation_blocks` names a block that tokens do
            not pass, `released_compatibility` is asked for (the authors released no segmentation code), or a field that
            is for classification alone.
    """

    head = "segmenter"
    adapter_attributes = (*Any2PointPreTrainedModel.adapter_attributes, "read_blocks")

    def __init__(self, config: Any2PointConfig, backbone: PreTrainedModel | None = None) -> None:
        start_seed = draw_seed()
        config = record_backbone(config, backbone)
        if config.released_compatibility:
            raise ConfigurationError(
                "released_compatibility computes what the authors' classification code does, and they released none "
                "for segmentation. Leave it out."
            )
        require_single_label(config, "a segmentation model")
        require(config.classifier is None, "classifier is for classification alone", config.classifier)
        num_labels: Any = config.num_labels
        categories: Any = config.category_parts
        check_category_parts(categories, num_labels)
        super().__init__(config)
        self.start_seed = start_seed
        self.any2point = Any2PointModel(config, attach=False, start_seed=start_seed)
        backbone_config: Any = config.backbone_config
        self.read_blocks = config.blocks_of_segmentation(self.any2point.used_blocks)
        self.segmenter = SegmentationHead(
            backbone_config.hidden_size,
            self.any2point.tokenizer.level_widths[:NUM_LEVELS],
            num_blocks=len(self.read_blocks),
            num_labels=num_labels,
            num_categories=len(categories or ()),
        )
        self.post_init()
        self.any2point.load_and_attach_backbone(backbone)
        self.ignore_backbone_on_save()

    @property
    def backbone(self) -> nn.Module:
        """The frozen backbone."""
        return self.any2point.backbone

    @can_return_tuple
    @names_batch_that_fits
    def forward(
        self,
        points: Tensor,
        point_features: Tensor | None = None,
        labels: Tensor | None = None,
        category: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        adapter_names: Sequence[str] | None = None,
    ) -> PointCloudSegmenterOutput:
        """Labels the points of point clouds.

        Args:
            points: [B, N, 3] float, 64 ≤ N ≤ 65536; never rescaled here.
            point_features: [B, N, F] float, what the config's `point_feature_names` name; None where F is 0.
            labels: [B, N] integers in 0…parts − 1, −100 for points without a label; if given, the loss is returned:
                the mean of the cross-entropy (with `label_smoothing` and `class_weight`, over all parts) of the points
                with a label. A batch without any has the loss 0, whose gradients are 0.
            category: [B] integers, the clouds' categories in the order of `category_parts`; needed where the config has
                any, and refused where not.
            output_hidden_states: as in `Any2PointModel`.
            output_attentions: as in `Any2PointModel`.
            return_dict: False for a tuple.
            adapter_names: names of the adapters, one for each cloud; by default the active one for all. If given,
                logits are as wide as the widest head, and −inf beyond an adapter's own parts; the loss is the mean over
                clouds of their own adapter's.

        Returns:
            Logits [B, N, parts] in the order of the points, of all parts whatever the category; `predict_parts` chooses
            among those of the category.

        Raises:
            PointCloudError: points or features of another shape or kind than the model takes, or not finite.
            BatchTooLargeError: the memory cannot hold the batch; the message names a size that fits.
            DatasetError: labels or categories of another shape than points or clouds, out of range, or missing.
            Any2PointError: a name is unknown, or there are more or fewer names than clouds.
        """
        if adapter_names is not None:
            options: Any = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            return forward_mixed(self, points, point_features, adapter_names, labels, category, **options)
        config, num_labels = self.config, self.segmenter.output.out_features
        categories: Any = config.category_parts
        check_inputs(points, point_features, config.point_feature_names)
        check_category(category, points.shape[0], categories)  # len would fix it in exports
        if labels is not None:
            check_point_labels(labels, points, num_labels, IGNORED_LABEL)
        check_memory(self, points)
        wants_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        outputs = self.any2point(
            points,
            point_features,
            output_hidden_states=True,
            output_attentions=output_attentions,
            return_dict=True,
            output_point_levels=True,
        )
        clouds = CloudFeatures(
            levels=outputs.point_levels[:NUM_LEVELS],
            centers=outputs.point_centers,
            tokens=[outputs.hidden_states[index + 1][:, 1:] for index in self.read_blocks],
            pooled=outputs.pooler_output,
        )
        logits = self.segmenter(clouds, category)
        return PointCloudSegmenterOutput(
            loss=None if labels is None else segmentation_loss(logits, labels, config),
            logits=logits,
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=outputs.pooler_output,
            point_centers=outputs.point_centers,
            hidden_states=outputs.hidden_states if wants_states else None,
            attentions=outputs.attentions,
        )

    def bytes_of_cloud(self, num_points: int) -> int:
        """Returns a lower bound on the bytes that a forward takes for each cloud, with those of the head.

        Args:
            num_points: N of the cloud.
        """
        model, weight = self.any2point, self.segmenter.output.weight
        value = 2 if torch.is_autocast_enabled(weight.device.type) else weight.element_size()
        trunk, head = model.bytes_of_cloud(num_points, True), self.segmenter.bytes_of_cloud(num_points, value)
        keeps = torch.is_grad_enabled() and model.cls_token.requires_grad
        return trunk + head if keeps else max(trunk, head)

    def predict_parts(self, logits: Tensor, category: Tensor | None = None) -> Tensor:
        """Chooses each point's part: the one of the highest logit among those of the cloud's category.

        Args:
            logits: [B, N, parts] of the forward.
            category: [B] integers where the config has categories, else None.

        Returns:
            [B, N] int64 parts.

        Raises:
            DatasetError: categories of another shape than the clouds, out of range, or missing.
        """
        return self.possible_logits(logits, category).argmax(dim=-1)

    def possible_logits(self, logits: Tensor, category: Tensor | None = None) -> Tensor:
        """The logits, −inf for the parts that a cloud of its category does not have; see `predict_parts`.

        Args:
            logits: [B, N, parts] of the forward.
            category: [B] integers where the config has categories, else None.

        Raises:
            DatasetError: categories of another shape than the clouds, out of range, or missing.
        """
        categories: Any = self.config.category_parts
        check_category(category, logits.shape[0], categories)
        if categories is None or category is None:
            return logits
        allowed = parts_mask(categories, logits.shape[-1], logits.device)[
            category.long()
        ]  # [B, parts]; uint8 would be a mask
        return logits.masked_fill(~allowed.unsqueeze(1), float("-inf"))


def segmentation_loss(logits: Tensor, labels: Tensor, config: Any) -> Tensor:
    """Mean cross-entropy of the points with a label, in at least float32; 0 where there are none.

    Points' losses are weighed by `class_weight` and divided by the number of points with a label, as in `head_loss`.

    Args:
        logits: [B, N, parts].
        labels: [B, N] integers, −100 for points without a label.
        config: whose `label_smoothing` and `class_weight` are taken.

    Raises:
        ConfigurationError: as in `class_weights`.
    """
    wide, targets = logits.flatten(0, 1).to(at_least_float32(logits.dtype)), labels.flatten().long()
    options: Any = {"ignore_index": IGNORED_LABEL, "label_smoothing": config.label_smoothing, "reduction": "sum"}
    num_labelled = (targets != IGNORED_LABEL).sum().clamp(min=1)
    return F.cross_entropy(wide, targets, weight=class_weights(config, wide), **options) / num_labelled
