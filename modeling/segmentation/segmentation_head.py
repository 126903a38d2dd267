"""The head that gives every point logits of the parts (method.md 8; ours, not the paper's).

Unusual here: every source of features is projected to the head's width where it lives, at tokens or centres, and only
then carried to the points and added. That is what a linear layer over their concatenation would compute, with less to
carry. Norms are layer norms, each of one point alone: a cloud's logits depend neither on its batch nor, through running
statistics, on what was trained last, and a batch of a single cloud can be trained.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..numerics.initialization import StartValues
from ..numerics.named_dropout import NamedDropout
from ..tokenizer.point_tokenizer import PointLevel
from .point_interpolation import interpolate_to_points

HEAD_WIDTH = 96
HEAD_DROPOUT = 0.3
# How many rows [width] of each point are held at once: the stem's, the sum so far, what is added, and the new sum. As
# many are kept for the backward pass: the inputs of both norms, and what both ReLUs give.
_ROWS = 4


class CloudFeatures(NamedTuple):
    """What the head reads of a batch of clouds.

    Args:
        levels: of the tokenizer: all points with the stem's features, then N/2 and N/4 centres.
        centers: [B, G, 3] of the tokens.
        tokens: [B, G, D] of each block that is read.
        pooled: [B, 2D], max over tokens and CLS after the final norm.
    """

    levels: Sequence[PointLevel]
    centers: Tensor
    tokens: Sequence[Tensor]
    pooled: Tensor


class NormedProjection(nn.Module):
    """Linear(LayerNorm(x)) without bias. Shapes: [..., C] -> [..., width]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, width, bias=False)

    def draw_parameters(self, start: StartValues) -> None:
        """Start values of method.md 8."""
        start.linear_of_head(self.linear, "linear")

    def forward(self, features: Tensor) -> Tensor:
        """Returns the projected features."""
        return self.linear(self.norm(features.to(self.norm.weight.dtype)))


class SegmentationHead(nn.Module):
    """Adds up all that is known of a point, and gives it logits by a small network of its own.

    h = stem + Σ_s I(P_s level_s) + I(Σ_b P_b tokens_b) + P pooled + e(category), I being `interpolate_to_points`;
    logits = W3 ReLU(LN(W2 Dropout(ReLU(LN(h))))).

    Args:
        hidden_size: D of the backbone.
        level_widths: channels of the tokenizer's levels that are read, the stem's first.
        num_blocks: number of blocks whose tokens are read.
        num_labels: number of parts.
        num_categories: 0 for none.

    Shapes:
        `CloudFeatures`, category [B] int64 or None -> [B, N, parts].
    """

    def __init__(
        self, hidden_size: int, level_widths: Sequence[int], num_blocks: int, num_labels: int, num_categories: int
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(NormedProjection(width, HEAD_WIDTH) for width in level_widths)
        self.blocks = nn.ModuleList(NormedProjection(hidden_size, HEAD_WIDTH) for _ in range(num_blocks))
        self.pooled = NormedProjection(2 * hidden_size, HEAD_WIDTH)
        self.categories = nn.Parameter(torch.empty(num_categories, HEAD_WIDTH)) if num_categories else None
        self.norm1 = nn.LayerNorm(HEAD_WIDTH)
        self.dropout = NamedDropout(HEAD_DROPOUT)
        self.hidden = nn.Linear(HEAD_WIDTH, HEAD_WIDTH, bias=False)
        self.norm2 = nn.LayerNorm(HEAD_WIDTH)
        self.output = nn.Linear(HEAD_WIDTH, num_labels)

    def draw_parameters(self, start: StartValues) -> None:
        """Start values of method.md 8."""
        for name in ("hidden", "output"):
            start.linear_of_head(getattr(self, name), name)
        if self.categories is not None:
            start.embedding(self.categories, "categories")

    def bytes_of_cloud(self, num_points: int, value: int) -> int:
        """Returns a lower bound on the bytes that a forward holds for a cloud of N points, and keeps in training.

        Args:
            num_points: N.
            value: bytes of one feature value.
        """
        return _ROWS * num_points * HEAD_WIDTH * value

    def forward(self, clouds: CloudFeatures, category: Tensor | None = None) -> Tensor:
        """Returns logits [B, N, parts] of all points, in the order of the first level's."""
        points = clouds.levels[0].points
        own, *carried = (
            projection(level.features) for projection, level in zip(self.levels, clouds.levels, strict=True)
        )
        hidden = own + self.pooled(clouds.pooled).unsqueeze(1)  # [B, N, width]
        for level, features in zip(clouds.levels[1:], carried, strict=True):
            hidden = hidden + interpolate_to_points(points, level.points, features)
        projected = [projection(tokens) for projection, tokens in zip(self.blocks, clouds.tokens, strict=True)]
        hidden = hidden + interpolate_to_points(points, clouds.centers, torch.stack(projected).sum(dim=0))
        if self.categories is not None and category is not None:
            hidden = hidden + self.categories[category.long()].unsqueeze(1)  # uint8 would be a mask
        hidden = self.dropout(F.relu(self.norm1(hidden)))
        return self.output(F.relu(self.norm2(self.hidden(hidden))))
