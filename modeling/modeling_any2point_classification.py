"""Point cloud classification: an Any2Point model and the head of method.md 4."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import can_return_tuple

from .backbones.loading import record_backbone
from .configuration_any2point import Any2PointConfig
from .input_checks import check_labels
from .modeling_any2point import Any2PointModel
from .modeling_outputs import PointCloudClassifierOutput as PointCloudClassifierOutput
from .numerics.batch_norm import BatchNorm1d
from .numerics.initialization import StartValues, draw_seed
from .numerics.named_dropout import NamedDropout
from .numerics.precision import at_least_float32
from .pretrained_model import Any2PointPreTrainedModel
from .several_adapters.mixed_batch import forward_mixed

HEAD_WIDTH = 256
HEAD_DROPOUT = 0.5


class ClassificationHead(nn.Module):
    """2D → 256 → 256 → classes with batch norm, ReLU and dropout (method.md 4). Shapes: [B, 2D] -> [B, classes]."""

    def __init__(self, in_features: int, num_labels: int, bias: bool) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(in_features, HEAD_WIDTH, bias=bias)
        self.norm1 = BatchNorm1d(HEAD_WIDTH)
        self.hidden2 = nn.Linear(HEAD_WIDTH, HEAD_WIDTH, bias=bias)
        self.norm2 = BatchNorm1d(HEAD_WIDTH)
        self.dropout1 = NamedDropout(HEAD_DROPOUT)
        self.dropout2 = NamedDropout(HEAD_DROPOUT)
        self.output = nn.Linear(HEAD_WIDTH, num_labels)

    def draw_parameters(self, start: StartValues) -> None:
        """Start values of method.md 5."""
        for name in ("hidden1", "hidden2", "output"):
            start.linear_of_head(getattr(self, name), name)

    def forward(self, feature: Tensor) -> Tensor:
        """Returns logits [B, classes] of pooled features [B, 2D]."""
        feature = self.dropout1(F.relu(self.norm1(self.hidden1(feature))))
        feature = self.dropout2(F.relu(self.norm2(self.hidden2(feature))))
        return self.output(feature)


class Any2PointForPointCloudClassification(Any2PointPreTrainedModel):
    """An Any2Point model with a classification head.

    Args:
        config: `num_labels` (or `id2label`) sets the classes.
        backbone: a module to use instead of the config's; it is shared and frozen, not copied.
    """

    head = "classifier"

    def __init__(self, config: Any2PointConfig, backbone: PreTrainedModel | None = None) -> None:
        start_seed = draw_seed()
        config = record_backbone(config, backbone)
        super().__init__(config)
        self.start_seed = start_seed
        self.any2point = Any2PointModel(config, attach=False, start_seed=start_seed)
        backbone_config: Any = config.backbone_config
        num_labels: Any = config.num_labels
        self.classifier = ClassificationHead(2 * backbone_config.hidden_size, num_labels, config.head_bias)
        self.post_init()
        self.any2point.load_and_attach_backbone(backbone)
        self.ignore_backbone_on_save()

    @property
    def backbone(self) -> nn.Module:
        """The frozen backbone."""
        return self.any2point.backbone

    @can_return_tuple
    def forward(
        self,
        points: Tensor,
        point_features: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        adapter_names: Sequence[str] | None = None,
    ) -> PointCloudClassifierOutput:
        """Classifies point clouds.

        Args:
            points: [B, N, 3] float, 64 ≤ N ≤ 65536; never rescaled here.
            point_features: [B, N, F] float, what the config's `point_feature_names` name; None where F is 0.
            labels: [B] int64 in 0…classes − 1; if given, the loss (cross-entropy with `label_smoothing`) is returned.
            output_hidden_states: as in `Any2PointModel`.
            output_attentions: as in `Any2PointModel`.
            return_dict: False for a tuple.
            adapter_names: names of the adapters, one for each cloud; by default the active one for all. If given,
                logits are as wide as the widest head, and −inf beyond an adapter's own classes.

        Raises:
            PointCloudError: points or features of another shape or kind than the model takes, or not finite.
            BatchTooLargeError: the memory cannot hold the batch; the message names a size that fits.
            Any2PointError: a name is unknown, or there are more or fewer names than clouds.
            ValueError: a label outside the classes.
        """
        if adapter_names is not None:
            options: Any = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            return forward_mixed(self, points, point_features, adapter_names, labels, **options)
        if labels is not None:
            num_labels: Any = self.config.num_labels
            check_labels(labels, num_labels)
        outputs = self.any2point(
            points,
            point_features,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            wide = logits.to(at_least_float32(logits.dtype))
            loss = F.cross_entropy(wide, labels, label_smoothing=self.config.label_smoothing)
        return PointCloudClassifierOutput(loss=loss, logits=logits, **outputs)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes, by the config's `temperature`: [..., classes] -> [..., classes] float32."""
        return (logits.float() / self.config.temperature).softmax(dim=-1)
