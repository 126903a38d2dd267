"""What each block of a model does to the tokens, in numbers (`any2point info --diagnose`; docs/training.md).

    numbers = diagnose(model, choose_clouds(load_point_cloud_dataset("shapes")["train"], processor))

Unusual here: hooks measure everything during two forwards, one of the model and one of the same model with bottlenecks
and aggregations that add nothing. The CLS token is left out of every number.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F

from .data.columns import feature_columns
from .modeling.backbones.spec import find
from .modeling.errors import Any2PointError
from .modeling.modeling_any2point import Any2PointModel
from .modeling.pretrained_model import Any2PointPreTrainedModel
from .modeling.released_compatibility import call_block_across_batch
from .modeling.tokenizer.point_ops import split_features
from .processing_any2point import Any2PointProcessor

NUM_CLOUDS = 32
PARTS = ("feed_forward", "bottleneck", "aggregation")  # what is added to the tokens in a block


def choose_clouds(split: Dataset, processor: Any2PointProcessor, seed: int = 0) -> Tensor:
    """Chooses up to `NUM_CLOUDS` clouds of a split, [B, N, 3 + F] float32; the same seed chooses the same clouds.

    Args:
        split: has the column `points`, and those of the features that the processor gives.
        processor: brings the clouds to N points.
        seed: decides which clouds are chosen.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(split))[:NUM_CLOUDS])
    columns = ["points", *feature_columns(split, processor.point_feature_names)]
    return processor.rows(list(split.select(chosen).select_columns(columns).with_format("numpy")))


@torch.no_grad()
def diagnose(model: Any2PointPreTrainedModel, points: Tensor) -> dict[str, Any]:
    """Measures what a model does to the point tokens; nothing of the model is changed.

    A model that was never trained is measured in train mode, which takes the batch norms' statistics from this batch,
    because its running statistics still say nothing. A trained model is measured in eval mode. Dropout is off in both.

    Args:
        model: with or without a head.
        points: [B, N, 3 + F] float, with their features, on the model's device.

    Returns:
        `mode` ("train" or "eval"), `num_clouds`, and `num_tokens`, the tokens of one cloud. `tokens_rms` and
        `tokens_cosine` (the mean between two tokens of a cloud) are of the tokenizer's tokens, after the config's
        `token_scale`. `positions_rms` is of the position encodings that are added to the tokens, None if none are.
        `blocks` has a dict for each block: `block`, its number; `stream_rms` of the tokens after the block and its
        aggregation; `feed_forward_rms`, `bottleneck_rms` and `aggregation_rms` of what each of these adds, and
        `..._share`, the same divided by `stream_rms` (both None where the block has no such part); `effective_rank` of
        the tokens of all clouds together; `clean_cosine`, the mean cosine to the same tokens of the model whose
        bottlenecks and aggregations add nothing.

    Raises:
        PointCloudError: the points are not what the model takes.
        Any2PointError: the model's tokens are not finite.
    """
    base = model.base_model
    with _measuring(base) as mode:
        with ExitStack() as hooks:
            for bottleneck in base.bottlenecks.values():
                hooks.enter_context(bottleneck.register_forward_hook(lambda _, __, output: torch.zeros_like(output)))
            for aggregation in base.aggregations.values():
                hooks.enter_context(aggregation.register_forward_hook(lambda _, inputs, __: inputs[0]))
            clean = base(*split_features(points), output_hidden_states=True, return_dict=True).hidden_states
        tokens, positions, added, states = _run(base, points)
    blocks = []
    for index, (state, clean_state) in enumerate(zip(states[1:], clean[1:], strict=True)):
        if not state.isfinite().all():
            raise Any2PointError(
                f"the model's tokens must be finite, and those of block {index} are not. Its training may have "
                "diverged: train again with a lower learning rate."
            )
        state, stream = _wide(state[:, 1:]), rms(state[:, 1:])
        numbers: dict[str, Any] = {"block": index, "stream_rms": stream}
        for part in PARTS:
            value = added[part].get(index)
            numbers |= {f"{part}_rms": value, f"{part}_share": None if value is None else value / stream}
        numbers["effective_rank"] = effective_rank(state)
        numbers["clean_cosine"] = F.cosine_similarity(state, _wide(clean_state[:, 1:]), dim=-1).mean().item()
        blocks.append(numbers)
    return {
        "mode": mode,
        "num_clouds": len(tokens),
        "num_tokens": tokens.shape[1],
        "tokens_rms": rms(tokens),
        "tokens_cosine": cosine_within_clouds(tokens),
        "positions_rms": None if positions is None else rms(positions),
        "blocks": blocks,
    }


@contextmanager
def _measuring(base: Any2PointModel) -> Iterator[str]:
    """Puts a model in the mode that it is measured in and yields its name; then restores modes and statistics."""
    modes = {module: module.training for module in base.modules()}
    buffers = [(value, value.clone()) for name, value in base.named_buffers() if not name.startswith("backbone.")]
    means = [value for name, value in base.tokenizer.named_buffers() if name.endswith("running_mean")]
    mode = "eval" if any(value.any() for value in means) else "train"  # at their start value, 0: never trained
    base.train(mode == "train")
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    try:
        yield mode
    finally:
        for module, training in modes.items():
            module.training = training
        for buffer, before in buffers:
            buffer.copy_(before)


def _run(
    base: Any2PointModel, points: Tensor
) -> tuple[Tensor, Tensor | None, dict[str, dict[int, float]], tuple[Tensor, ...]]:
    """Runs a model once and measures it.

    Returns:
        The tokens [B, G, D]; the position encodings added to them, [B, G, D] or None; the RMS of what each part adds
        in each block; and the hidden states, as in the model's output.
    """
    made: list[Tensor] = []  # tokens and centres
    added: dict[str, dict[int, float]] = {part: {} for part in PARTS}

    def inside(hidden: Tensor) -> Tensor:
        """The point tokens [B, G, D] of a block's activations, which may come flattened or with the tokens first."""
        tokens, width = made[0], hidden.shape[-1]
        if base.call_block is call_block_across_batch:
            hidden = hidden.reshape(-1, len(tokens), width).transpose(0, 1)
        return hidden.reshape(len(tokens), -1, width)[:, -tokens.shape[1] :]

    def measure(part: str, index: int, change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            added[part][index] = rms(change(inputs[0], output))

        return hook

    with ExitStack() as hooks:
        hooks.enter_context(base.tokenizer.register_forward_hook(lambda _, __, output: made.extend(output)))
        if base.token_scale is not None:
            hooks.enter_context(
                base.token_scale.register_forward_hook(lambda _, __, output: made.__setitem__(0, output))
            )
        for index, block in enumerate(base.blocks()):
            last = find(block, base.spec.feed_forward[1])
            branch = measure("feed_forward", index, lambda _, output: inside(output))
            hooks.enter_context(last.register_forward_hook(branch, prepend=True))  # before a bottleneck is added
        for name, bottleneck in base.bottlenecks.items():
            of_bottleneck = measure("bottleneck", int(name), lambda _, output: inside(output))
            hooks.enter_context(bottleneck.register_forward_hook(of_bottleneck))
        for name, aggregation in base.aggregations.items():
            of_aggregation = measure("aggregation", int(name), lambda before, after: after - before)
            hooks.enter_context(aggregation.register_forward_hook(of_aggregation))
        states = base(*split_features(points), output_hidden_states=True, return_dict=True).hidden_states
        tokens, centers = made
        positions = base.encode_positions(centers, base.projection(centers))
    return tokens, None if positions is None else positions[:, 1:], added, states


def _wide(values: Tensor) -> Tensor:
    """The values in float64 on the CPU, so that equal values give exactly 0 or 1."""
    return values.to("cpu", torch.float64)


def rms(values: Tensor) -> float:
    """The root of the mean square of all values."""
    return _wide(values).square().mean().sqrt().item()


def effective_rank(tokens: Tensor) -> float:
    """How many directions tokens [B, G, D] spread in: exp of the entropy of their normalised singular values.

    As defined by Roy and Vetterli 2007. The tokens of all clouds are taken together and centred on their mean; tokens
    that spread in one direction only give 1.
    """
    rows = _wide(tokens).flatten(0, 1)
    values = torch.linalg.svdvals(rows - rows.mean(dim=0))
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp().item()


def cosine_within_clouds(tokens: Tensor) -> float:
    """The mean cosine between two different tokens of a cloud, over all pairs of tokens [B, G, D]."""
    directions, count = F.normalize(_wide(tokens), dim=-1), tokens.shape[1]
    own = directions.square().sum(dim=(1, 2))
    pairs = directions.sum(dim=1).square().sum(dim=-1) - own
    return (pairs / (count * (count - 1))).mean().item()
