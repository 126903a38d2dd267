"""Start values that fit the backbone: the size of tokens, and how much the aggregation adds to them.

Unusual here: they are measured once, on a few made-up clouds, when a new model gets its backbone. A checkpoint holds
the measured values, so loading measures nothing.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ..backbones.spec import BackboneSpec
from .named_dropout import clear_dropout_keys, set_dropout_keys

AGGREGATION_SHARE = 0.05  # RMS of what the aggregation adds at the start, as a share of the tokens' RMS
_TRIAL_WEIGHT = 0.1  # the view norm's first weight; here the aggregation is nearly linear in it
_ROUNDS = 4  # of correction, because the GELU is not linear where c is small and the weight large
_NUM_CLOUDS = 4
_MOST_POINTS = 512  # of a made-up cloud
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class TokenScale(nn.Module):
    """(tokens − center) · scale, fixed. Shapes: [..., D] -> [..., D]."""

    center: Tensor
    scale: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(hidden_size))
        self.register_buffer("scale", torch.ones(()))

    def reset_parameters(self) -> None:
        """Sets center 0 and scale 1, which change nothing; `start_scales` sets the measured values."""
        init.zeros_(self.center)
        init.ones_(self.scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Brings tokens to the size of the backbone's embeddings."""
        return (tokens - self.center.to(tokens.dtype)) * self.scale.to(tokens.dtype)


@torch.no_grad()
def start_scales(model: Any) -> None:
    """Measures and sets what `token_scale="embedding"` and `adapter_start="scaled"` ask for.

    Args:
        model: a new `Any2PointModel` that has its backbone.
    """
    scales_adapters = model.config.adapter_start == "scaled" and len(model.aggregations) > 0
    if model.token_scale is None and not scales_adapters:
        return
    home, device = model.cls_token.device, next(model.backbone.parameters()).device
    _move_adapters(model, device)  # a backbone that was given may be elsewhere than the new adapters
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith(_STATISTICS)}
    was_training = model.training
    clouds = made_up_clouds(min(model.config.num_points, _MOST_POINTS)).to(device)
    model.train()  # norms take the statistics of the clouds
    hooks = [part.register_forward_hook(_scale_aggregation) for part in model.aggregations.values() if scales_adapters]
    set_dropout_keys(model, seed=0, step="start scales")  # nothing is drawn from torch's generator
    try:
        if model.token_scale is not None:
            _scale_tokens(model, clouds)
        if scales_adapters:
            model(clouds, made_up_features(clouds, model.config.num_point_features))
    finally:
        for hook in hooks:
            hook.remove()
        clear_dropout_keys(model)
    model.train(was_training)
    for name, buffer in model.named_buffers():
        if name in statistics:
            buffer.copy_(statistics[name])
    _move_adapters(model, home)


def _move_adapters(model: Any, device: torch.device) -> None:
    """Moves everything but the backbone."""
    for name, part in model.named_children():
        if name != "backbone":
            part.to(device)
    for token in (model.cls_token, model.cls_position):
        if token is not None:
            token.data = token.data.to(device)


def made_up_clouds(num_points: int) -> Tensor:
    """Surfaces of ellipsoids and boxes of random proportions, always the same: [4, N, 3] float32 in the unit sphere."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(_NUM_CLOUDS, num_points, 3, generator=generator)
    boxes = points[_NUM_CLOUDS // 2 :]
    points[: _NUM_CLOUDS // 2] /= points[: _NUM_CLOUDS // 2].norm(dim=-1, keepdim=True)
    boxes /= boxes.abs().amax(dim=-1, keepdim=True)
    points *= 0.3 + 0.7 * torch.rand(_NUM_CLOUDS, 1, 3, generator=generator)
    return points / points.norm(dim=-1).amax(dim=1).view(-1, 1, 1)


def made_up_features(clouds: Tensor, num_point_features: int) -> Tensor | None:
    """Features [B, N, F] of clouds [B, N, 3]: between 0 and 1, and smooth, as colours are; None for F = 0."""
    if not num_point_features:
        return None
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(3, num_point_features, generator=generator).to(clouds)
    return torch.sigmoid(clouds @ directions)


def rms(values: Tensor) -> Tensor:
    """Root mean square of all values, [] float32."""
    return values.float().square().mean().sqrt()


def embedding_rms(backbone: PreTrainedModel, spec: BackboneSpec) -> float | None:
    """RMS of the backbone's word embeddings, or where it has none, of its table of positions; None without either."""
    try:
        embeddings = backbone.get_input_embeddings()
    except NotImplementedError:
        embeddings = None
    sizes = []
    if isinstance(embeddings, nn.Embedding):
        sizes.append(rms(embeddings.weight) * _word_factor(backbone, embeddings))
    sizes += [rms(spec.table(backbone))] if spec.positions is not None else []
    return next((float(size) for size in sizes if size > 0), None)


def _word_factor(backbone: PreTrainedModel, embeddings: nn.Embedding) -> float:
    """The factor by which a family multiplies word embeddings: Gemma and BART inside the module, Granite after it."""
    return float(getattr(embeddings, "embed_scale", 1.0)) * getattr(backbone.config, "embedding_multiplier", 1.0)


def _scale_tokens(model: Any, clouds: Tensor) -> None:
    """Sets the token scale from the tokenizer's output for the clouds, if the backbone has an `embedding_rms`."""
    size = embedding_rms(model.backbone, model.spec)
    if size is None:
        warnings.warn(
            f"{model.backbone.config.model_type} has neither word embeddings nor a table of positions to take a size "
            'from: tokens stay as the tokenizer leaves them, as with token_scale="none".',
            stacklevel=5,
        )
        return
    clouds = clouds.to(model.cls_token.dtype)
    features = made_up_features(clouds, model.config.num_point_features)
    tokens = model.tokenizer(clouds, features)[0].flatten(0, 1)
    scale = model.token_scale
    assert scale is not None
    if isinstance(model.tokenizer.projection, nn.Linear):  # its inputs are never negative, so outputs have a mean
        scale.center.copy_(tokens.mean(dim=0))
        tokens = tokens - scale.center
    scale.scale.copy_(size / rms(tokens).clamp(min=1e-12))


def _scale_aggregation(aggregation: Any, inputs: tuple[Any, ...], _: Tensor) -> Tensor:
    """Hook of a `GuidedAggregation`: sets its scales for the input tokens, and returns its output with them."""
    tokens = inputs[0]
    aggregation.stream_rms.copy_(rms(tokens))
    weight = aggregation.view_norm.weight.fill_(_TRIAL_WEIGHT)
    for _round in range(_ROUNDS):
        share = rms(aggregation.forward(*inputs) - tokens) / rms(tokens)
        weight.mul_((AGGREGATION_SHARE / share).where(share > 0, 1.0))  # c may be 0
    return aggregation.forward(*inputs)
