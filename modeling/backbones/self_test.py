"""Trying out a detected backbone on its own weights, before anything is trained on it."""

import warnings

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .blocks import block_dtype, call_block, make_final_norm, start_final_norm
from .bottleneck_hook import insert_bottleneck
from .detector import unsupported
from .spec import BackboneSpec, find, norm_eps
from .table import BACKBONES, WRITTEN_DOWN

NUM_TOKENS = 9
ORDERS = [
    [0, 3, 1, 7, 2, 8, 5, 4, 6],
    [4, 0, 6, 8, 3, 1, 7, 5, 2],
]  # no reflection or rotation, which a Fourier mixer keeps
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1  # relative to the largest output; the second for weights in half precision


def is_tried_out(config: PreTrainedConfig, spec: BackboneSpec) -> bool:
    """Whether a family's description was detected or written by a user, and so is not this package's own."""
    return spec.detected or BACKBONES[config.model_type] is not WRITTEN_DOWN.get(config.model_type)


def self_test(backbone: PreTrainedModel, spec: BackboneSpec) -> None:
    """Runs the blocks on a few random tokens, and warns of a detected family that passes.

    Raises:
        UnsupportedBackboneError: the blocks cannot be called, give outputs that are not finite, are not bidirectional
            or depend on the order of tokens, the final norm is of another kind, or gradients do not reach all tokens
            and bottlenecks, or do reach the weights; the message says which.
    """
    config = backbone.config
    found = f"blocks {spec.blocks}, feed-forward {spec.feed_forward}, final norm {spec.final_norm}"
    try:
        problem = _first_problem(backbone, spec)
    except Exception as error:  # whatever a foreign block raises means the same here
        problem = f"its blocks could not be run on tokens alone ({type(error).__name__}: {error})."
    if problem:
        raise unsupported(config, problem, found)
    if spec.detected:
        warnings.warn(
            f"{config.model_type} is in no table of families: its parts were found by their names and passed a "
            f"self-test. Compare with its source before you trust it: {spec}.",
            stacklevel=3,
        )


def check_parts(backbone: PreTrainedModel, spec: BackboneSpec) -> None:
    """Checks that the backbone has every part that a description names.

    Raises:
        UnsupportedBackboneError: one is not there, or the table of positions is too short or of another width.
    """
    paths = (spec.blocks, spec.input_norm, spec.final_norm, spec.cls_token, spec.projected_by)
    try:
        for path in filter(None, paths):
            find(backbone, path)
        for path in filter(None, (*spec.feed_forward, spec.attention)):
            find(find(backbone, spec.blocks)[0], path)
        table = None if spec.positions is None else spec.table(backbone)
    except (AttributeError, IndexError, TypeError) as error:
        raise unsupported(
            backbone.config, f"its description names a part that is not there ({error}).", f"{spec}"
        ) from error
    expected = [spec.num_rows(backbone.config), backbone.config.hidden_size]
    if table is not None and list(table.shape) != expected:
        raise unsupported(
            backbone.config, f"its table of positions must be {expected}, got {list(table.shape)}.", f"{spec}"
        )


def _first_problem(backbone: PreTrainedModel, spec: BackboneSpec) -> str | None:
    width = backbone.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    device = next(backbone.parameters()).device
    tokens = torch.randn(2, NUM_TOKENS, width, generator=generator).to(device)
    with torch.no_grad():
        outputs = _run(backbone, spec, tokens)
        if outputs.shape != tokens.shape or not outputs.isfinite().all():
            return "its outputs are not finite tokens."
        tolerance = _tolerance(backbone, spec) * outputs.abs().max()
        changed = tokens.clone()
        changed[:, -1] = torch.randn(width, generator=generator).to(device)
        moved = (_run(backbone, spec, changed) - outputs).abs().amax(dim=-1)
        if not (moved > 0).all():
            return "it is not bidirectional: a change of the last token does not reach the first."
        for order in torch.tensor(ORDERS, device=device):
            if ((_run(backbone, spec, tokens[:, order]) - outputs[:, order]).abs() > tolerance).any():
                return "its blocks know an order of their own: permuting the tokens does not permute the outputs."
        if spec.final_norm is not None and not _norms_agree(backbone, spec, outputs):
            return "its final norm is neither a layer norm nor an RMS norm."
    return _gradient_problem(backbone, spec, tokens)


def _run(backbone: PreTrainedModel, spec: BackboneSpec, tokens: Tensor) -> Tensor:
    blocks = find(backbone, spec.blocks)
    neutral = spec.neutral_arguments(backbone, tokens.shape[1], block_dtype(blocks[0]), tokens.device)
    for index, block in enumerate(blocks):
        tokens = call_block(block, tokens, {**spec.arguments, **neutral(index)})
    return tokens


def _tolerance(backbone: PreTrainedModel, spec: BackboneSpec) -> float:
    return TOLERANCE if block_dtype(find(backbone, spec.blocks)[0]).itemsize >= 4 else HALF_TOLERANCE


def _norms_agree(backbone: PreTrainedModel, spec: BackboneSpec, outputs: Tensor) -> bool:
    assert spec.final_norm is not None
    own = find(backbone, spec.final_norm)
    final_norm = make_final_norm(spec, outputs.shape[-1], norm_eps(backbone.config))
    assert final_norm is not None
    final_norm = final_norm.to(outputs.device)
    start_final_norm(final_norm, backbone, spec)
    expected = own(outputs.to(own.weight.dtype)).float()
    return bool((final_norm(outputs) - expected).abs().max() <= _tolerance(backbone, spec) * expected.abs().max())


@torch.enable_grad()  # also where a model is made under no_grad
def _gradient_problem(backbone: PreTrainedModel, spec: BackboneSpec, tokens: Tensor) -> str | None:
    tokens = tokens.clone().requires_grad_()
    bottlenecks, handles = [], []
    for block in find(backbone, spec.blocks):
        bottlenecks.append(_Bottleneck(tokens.shape[-1]).to(tokens.device))
        handles += insert_bottleneck(block, spec, bottlenecks[-1], "after")
    try:
        _run(backbone, spec, tokens).square().sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    if tokens.grad is None or not (tokens.grad.abs().amax(dim=-1) > 0).all():
        return "gradients do not reach all tokens."
    gradients = [bottleneck.up.weight.grad for bottleneck in bottlenecks]
    if not all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients):
        return "gradients do not reach a bottleneck on its feed-forward branch."
    if any(parameter.grad is not None for parameter in backbone.parameters()):
        return "gradients reach its own weights."
    return None


class _Bottleneck(nn.Module):
    """Stands for the adapter's: answers in the dtype of its input, which need not be that of other parts of a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.up(self.down(hidden.float())).to(hidden.dtype)
