"""Point cloud classification and regression: an Any2Point model and the head of method.md 4, or one of one's own."""

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import can_return_tuple

from .backbones.loading import record_backbone
from .configuration_any2point import Any2PointConfig
from .custom_heads import check_outputs, custom_head
from .errors import ConfigurationError
from .head_fields import MULTI_LABEL, REGRESSION, problem_of
from .head_tasks import check_targets, head_loss, in_units_of_targets
from .modeling_any2point import Any2PointModel
from .modeling_outputs import PointCloudClassifierOutput as PointCloudClassifierOutput
from .numerics.batch_norm import BatchNorm1d
from .numerics.initialization import StartValues, draw_seed
from .numerics.named_dropout import NamedDropout
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
    """An Any2Point model with a head that says something of each cloud: a class, several, or numbers.

    Args:
        config: `num_labels` (or `id2label`) sets the classes or targets, `problem_type` what they are.
        backbone: a module to use instead of the config's; it is shared and frozen, not copied.
        classifier: a head of one's own, a module [B, 2D] -> [B, num_labels]; it becomes part of the model and is
            trained and saved with it. By default the paper's, or a new one of the class that `config.classifier` names.

    Raises:
        ConfigurationError: `config.classifier` names a class that is not registered (`register_classifier`).
    """

    head = "classifier"

    def __init__(
        self, config: Any2PointConfig, backbone: PreTrainedModel | None = None, classifier: nn.Module | None = None
    ) -> None:
        start_seed = draw_seed()
        config = record_backbone(config, backbone)
        super().__init__(config)
        self.start_seed = start_seed
        self.any2point = Any2PointModel(config, attach=False, start_seed=start_seed)
        backbone_config: Any = config.backbone_config
        num_labels: Any = config.num_labels
        width = 2 * backbone_config.hidden_size
        if classifier is None and config.classifier is None:
            self.classifier: nn.Module = ClassificationHead(width, num_labels, config.head_bias)
        else:
            self.classifier = custom_head(config, width, classifier, start_seed)
        self.post_init()
        self.any2point.load_and_attach_backbone(backbone)
        self.ignore_backbone_on_save()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        classifier: nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Loads an adapter as `Any2PointPreTrainedModel.from_pretrained` does.

        Args:
            pretrained_model_name_or_path: folder, Hub id or bare name of the adapter.
            model_args: of `PreTrainedModel.from_pretrained`.
            classifier: a module that the saved head is loaded into, where its class is one's own and not registered.
            kwargs: of `Any2PointPreTrainedModel.from_pretrained`.
        """
        if classifier is not None:
            model_args = (None, classifier)  # of our __init__; the backbone is attached later
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

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
        """Classifies point clouds, or gives numbers for them.

        Args:
            points: [B, N, 3] float, 64 ≤ N ≤ 65536; never rescaled here.
            point_features: [B, N, F] float, what the config's `point_feature_names` name; None where F is 0.
            labels: [B] int64 in 0…classes − 1, or what `problem_type` asks for (`head_tasks`): [B, classes] of 0 and
                1, or [B, targets] numbers; if given, the loss is returned.
            output_hidden_states: as in `Any2PointModel`.
            output_attentions: as in `Any2PointModel`.
            return_dict: False for a tuple.
            adapter_names: names of the adapters, one for each cloud; by default the active one for all. If given,
                logits are as wide as the widest head, and −inf beyond an adapter's own classes.

        Returns:
            `logits` [B, num_labels]; those of a regression are its answers in the targets' own units, in float32.

        Raises:
            PointCloudError: points or features of another shape or kind than the model takes, or not finite.
            BatchTooLargeError: the memory cannot hold the batch; the message names a size that fits.
            Any2PointError: a name is unknown, or there are more or fewer names than clouds.
            DatasetError: labels of another kind or shape than `problem_type` asks for, outside the classes or not
                finite.
        """
        if adapter_names is not None:
            options: Any = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            return forward_mixed(self, points, point_features, adapter_names, labels, **options)
        if labels is not None:
            check_targets(labels, points.shape[0], self.config)
        outputs = self.any2point(
            points,
            point_features,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        head_outputs = self.classifier(outputs.pooler_output)
        if self.config.classifier is not None:
            check_outputs(head_outputs, points.shape[0], self.config)
        loss = None if labels is None else head_loss(head_outputs, labels, self.config)
        is_regression = self.config.problem_type == REGRESSION
        logits = in_units_of_targets(head_outputs, self.config) if is_regression else head_outputs
        return PointCloudClassifierOutput(loss=loss, logits=logits, **outputs)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes, by the config's `temperature`: [..., classes] -> [..., classes] float32.

        Of several classes a cloud each has its own, by a sigmoid; of one class they add up to 1.

        Raises:
            ConfigurationError: a regression has none.
        """
        problem = problem_of(self.config)
        if problem == REGRESSION:
            raise ConfigurationError("a regression has numbers, its logits, and no probabilities of classes.")
        scaled = logits.float() / self.config.temperature
        return scaled.sigmoid() if problem == MULTI_LABEL else scaled.softmax(dim=-1)
