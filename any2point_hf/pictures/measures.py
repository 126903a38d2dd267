"""What the pictures of a model show, as arrays: the paper's figures 5, 6 and 7. Nothing is drawn here.

Unusual here: a measure leaves the model as it found it. Only the eager implementation of attention returns weights, so
it is set for one forward, after which the former one is set again; a lock keeps a web server from doing this twice at
the same time.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..modeling.backbones.positions_in_blocks import BiasOnGrid, BiasOnLine
from ..modeling.errors import Any2PointError, UnsupportedBackboneError
from ..modeling.input_checks import check_inputs
from ..modeling.modeling_any2point import Any2PointModel, Any2PointModelOutput
from ..modeling.tokenizer.point_ops import nearest_neighbors, split_features

_SWITCHING = threading.Lock()


class PositionSimilarity(NamedTuple):
    """How alike the positions of one token and of all tokens are.

    Args:
        centers: [G, 3] float32, of the point tokens.
        averaged: [G] float32 in [−1, 1], of the positions averaged over views, as the model uses them.
        per_view: [M, G] float32, of each view alone; [0, G] where positions don't come from views.
    """

    centers: np.ndarray
    averaged: np.ndarray
    per_view: np.ndarray


class TokenPositions(NamedTuple):
    """Where the virtual projection puts the point tokens.

    Args:
        centers: [G, 3] float32.
        positions: [M, G, 1] float32 on the lines, or [M, G, 2] (row, column) on the planes' grids of positions.
        extent: how many positions of the backbone lie on a line, or along the rows and the columns of a grid.
        cells: [M, G] int64, the segment or patch within which the adapters aggregate.
    """

    centers: np.ndarray
    positions: np.ndarray
    extent: tuple[int, ...]
    cells: np.ndarray


def attention_on_points(model: PreTrainedModel, points: np.ndarray | Tensor) -> np.ndarray:
    """How much the CLS token attends to the place of each point; a point has the value of its nearest token.

    Args:
        model: an Any2Point model, with or without a head.
        points: [N, 3 + F], as the processor returns them, with their features.

    Returns:
        [blocks, N] float32: shares of CLS's attention, the mean over heads.

    Raises:
        PointCloudError: points of another shape, too few or not finite.
        UnsupportedBackboneError: the backbone's attention weights cannot be obtained.
    """
    centers, weights = cls_attention(model, points)
    return on_points(points, centers, weights)


def cls_attention(model: PreTrainedModel, points: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The CLS token's attention to the point tokens, the mean over heads.

    Args:
        model: an Any2Point model, with or without a head.
        points: [N, 3 + F], as the processor returns them, with their features.

    Returns:
        centers [G, 3] and weights [blocks, G], float32; a block's weights and that of CLS to itself sum to 1.

    Raises:
        PointCloudError: points of another shape, too few or not finite.
        UnsupportedBackboneError: the backbone's attention weights cannot be obtained.
    """
    with _eager_attention(_base(model)):
        outputs: Any = _forward(model, points, output_attentions=True)
    num_tokens = outputs.last_hidden_state.shape[1]
    for attention in outputs.attentions:
        if attention is None or attention.dim() != 4 or attention.shape[-2] != num_tokens:
            raise UnsupportedBackboneError(
                f"attention weights must come as [B, heads, {num_tokens}, keys], and {_name(model)}'s blocks gave "
                f"{None if attention is None else list(attention.shape)}. Choose another kind of picture, such as "
                "similarity, or another backbone."
            )
    rows = [attention[0, :, 0, 1:num_tokens].float().mean(dim=0) for attention in outputs.attentions]
    return _array(outputs.point_centers[0]), _array(torch.stack(rows))


def cls_similarity(model: PreTrainedModel, points: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarity of the CLS token with the point tokens, after every block.

    Each block's output goes through the final norm, if there is one, as the last block's does before it is pooled.

    Args:
        model: an Any2Point model, with or without a head.
        points: [N, 3 + F], as the processor returns them, with their features.

    Returns:
        centers [G, 3] and similarities [blocks, G] in [−1, 1], float32.

    Raises:
        PointCloudError: points of another shape, too few or not finite.
    """
    outputs: Any = _forward(model, points, output_hidden_states=True)
    states = torch.cat(outputs.hidden_states[1:])  # [blocks, 1 + G, D]
    final_norm = _base(model).final_norm
    if final_norm is not None:
        with torch.no_grad():
            states = final_norm(states)
    similarities = F.cosine_similarity(states[:, :1].float(), states[:, 1:].float(), dim=-1)
    return _array(outputs.point_centers[0]), _array(similarities)


def position_similarity(model: PreTrainedModel, points: np.ndarray | Tensor, token: int) -> PositionSimilarity:
    """Cosine similarity of one token's positional encoding with that of every token.

    Rotary positions turn pairs of channels, so their similarity is the mean cosine of the angles between two tokens.
    For a single view, that view's position turns every channel; for the average, each channel is turned by the position
    in one of the views, as in the model.

    Args:
        model: an Any2Point model, with or without a head.
        points: [N, 3 + F], as the processor returns them, with their features.
        token: number of the one token, 0…G − 1.

    Returns:
        The similarities of the encodings averaged over views, and those of each view alone.

    Raises:
        PointCloudError: points of another shape, too few or not finite.
        UnsupportedBackboneError: the model has no position encodings, or they are biases between tokens.
        Any2PointError: there is no such token.
    """
    base = _base(model)
    centers = _centers(base, points)
    num_tokens = centers.shape[1]
    if not 0 <= token < num_tokens:
        raise Any2PointError(f"token must lie in 0…{num_tokens - 1} (the tokens there are), got {token}.")
    with torch.no_grad():
        coordinates = base.projection(centers)
        if base.position_encoding == "virtual":
            averaged = _virtual_encodings(base, coordinates)
            per_view = _virtual_encodings(base, coordinates[0].unsqueeze(1))  # each view as a cloud of one view
        elif base.adds_positions:
            encodings: Any = base.encode_positions(centers, coordinates)
            averaged = encodings[:, 1:]
            per_view = averaged[:0]
        else:
            raise UnsupportedBackboneError(
                f'{_name(model)} runs with position_encoding="none", so there are no positions to compare. Choose '
                "another kind of picture, such as attention."
            )
    similarity = [
        _array(F.cosine_similarity(e[:, token, None].float(), e.float(), dim=-1)) for e in (averaged, per_view)
    ]
    return PositionSimilarity(_array(centers[0]), similarity[0][0], similarity[1])


def token_positions(model: PreTrainedModel, points: np.ndarray | Tensor) -> TokenPositions:
    """Where the virtual projection puts the point tokens in each view.

    Args:
        model: an Any2Point model, with or without a head.
        points: [N, 3 + F], as the processor returns them, with their features.

    Returns:
        Their centres, positions and cells.

    Raises:
        PointCloudError: points of another shape, too few or not finite.
    """
    base = _base(model)
    centers = _centers(base, points)
    projection = base.projection
    coordinates = projection(centers)
    positions, cells = projection.positions(coordinates)[0], projection.cells(coordinates)[0]
    return TokenPositions(_array(centers[0]), _array(positions), tuple(projection.extent), cells.cpu().numpy())


def on_points(points: np.ndarray | Tensor, centers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Gives each point the value of the token whose centre is nearest to it: values [..., G] -> [..., N].

    Args:
        points: [N, 3 or more], in the frame of the centres.
        centers: [G, 3] float32.
        values: [..., G] of any dtype.
    """
    points = torch.as_tensor(points).detach().float().cpu()[:, :3]
    nearest = nearest_neighbors(torch.from_numpy(centers)[None], points[None], 1)[0, :, 0]
    return values[..., nearest.numpy()]


def _base(model: Any) -> Any2PointModel:
    return model.base_model


def _name(model: PreTrainedModel) -> str:
    return model.config.backbone_config.model_type


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _batch(base: Any2PointModel, rows: np.ndarray | Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows [N, 3 + F] -> points [1, N, 3] and features [1, N, F], or None, where the model is."""
    points, features = split_features(torch.as_tensor(rows).unsqueeze(0).to(base.device))
    check_inputs(points, features, base.config.point_feature_names)
    return points, features


@torch.no_grad()
def _forward(model: PreTrainedModel, points: np.ndarray | Tensor, **wanted: bool) -> Any2PointModelOutput:
    base = _base(model)
    with _evaluating(base):
        return base(*_batch(base, points), return_dict=True, **wanted)


@torch.no_grad()
def _centers(base: Any2PointModel, points: np.ndarray | Tensor) -> Tensor:
    """The centres of the point tokens, [1, G, 3]."""
    with _evaluating(base):
        dtype = torch.promote_types(base.cls_token.dtype, torch.float32)
        batch = [None if part is None else part.to(dtype) for part in _batch(base, points)]
        return base.tokenizer(*batch)[1]


def _virtual_encodings(base: Any2PointModel, coordinates: Tensor) -> Tensor:
    """The position encodings at coordinates [B, M, G, A], averaged over the views: [B, G, C].

    They are rows of the backbone's table, or the cosines and sines of rotary positions.
    """
    in_blocks = base.spec.in_blocks
    if in_blocks is None:
        return base.projection.encode(coordinates, base.spec.table(base.backbone))
    if isinstance(in_blocks, (BiasOnLine, BiasOnGrid)):
        raise UnsupportedBackboneError(
            f"{_name(base)} tells positions by biases between two tokens, which no token has alone: there are no "
            "encodings to compare. Choose another kind of picture, such as attention."
        )
    positions = base.projection.positions(coordinates)
    arguments = in_blocks.arguments(base.backbone, positions, base.projection.extent, torch.float32)(0)
    turns = torch.cat(arguments["position_embeddings"], dim=-1)  # cosines and sines
    return turns.flatten(1, -2)[:, -coordinates.shape[2] :]  # leaves CLS out, where it is turned too


@contextmanager
def _evaluating(base: Any2PointModel) -> Iterator[None]:
    """Runs the block in eval mode, without dropout and updates of running statistics; then restores the modes."""
    modes = {module: module.training for module in base.modules()}
    base.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _eager_attention(base: Any2PointModel) -> Iterator[None]:
    """Runs the block with the one implementation that returns attention weights; then sets the former one again."""
    backbone = base.backbone
    before = backbone.config._attn_implementation
    with _SWITCHING:
        if before != "eager":
            backbone.set_attn_implementation("eager")
        try:
            if backbone.config._attn_implementation != "eager":
                raise UnsupportedBackboneError(
                    f"{_name(base)} returns its attention weights only if it is loaded for that: pass "
                    'backbone_kwargs={"attn_implementation": "eager"} to from_pretrained, or choose another kind of '
                    "picture."
                )
            yield
        finally:
            if backbone.config._attn_implementation != before:
                backbone.set_attn_implementation(before)
