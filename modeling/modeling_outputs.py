"""What the forward of each model returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class Any2PointModelOutput(ModelOutput):
    """Output of `Any2PointModel`.

    Args:
        last_hidden_state: [B, 1 + G, D], CLS first, after the final norm.
        pooler_output: [B, 2D], max over point tokens and CLS in the config's `pooling` order.
        point_centers: [B, G, 3], the centres of the point tokens.
        hidden_states: tokens before block 0, then each block's output before the final norm, each [B, 1 + G, D].
        attentions: weights of each block, [B, heads, 1 + G, 1 + G]; ImageBind audio has its learned row as a last key.
        point_levels: pairs of points [B, n, 3] and the tokenizer's features of them [B, n, C]: all points in the order
            given, then the centres of each stage, N/2, N/4 and N/8.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    point_centers: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    point_levels: tuple[tuple[Tensor, Tensor], ...] | None = None


@dataclass
class PointCloudClassifierOutput(ModelOutput):
    """Output of `Any2PointForPointCloudClassification`: loss [], logits [B, classes] and the model's fields."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    point_centers: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class PointCloudSegmenterOutput(ModelOutput):
    """Output of `Any2PointForPointCloudSegmentation`: loss [], logits [B, N, parts] and the model's fields.

    Logits are of all parts, whatever the category, and in the order of the points; `predict_parts` reads them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    point_centers: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
