"""Frozen backbones: loading, building, sharing and freezing one, and calling its blocks (method.md 3).

Unusual here: the backbone's forward is never run. Its blocks are called one by one, without a mask, which makes every
family bidirectional; a given module is shared tensor by tensor, so that hooks of one model never reach another. The
Auto classes are imported where they are used, because importing them imports our own models to register them.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .backbone_specs import BackboneSpec, backbone_spec, find, single_tower
from .bottleneck_hook import BottleneckHook
from .errors import BackboneLoadError, CheckpointError

DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")


def load_backbone_config(backbone: str, revision: str | None = None, **kwargs: Any) -> PreTrainedConfig:
    """The config of a backbone on the Hub or in a folder.

    Args:
        backbone: Hub id or folder.
        revision: on the Hub.
        kwargs: any, of which `DOWNLOAD_OPTIONS` are used.

    Raises:
        BackboneLoadError: there is no such backbone, or no network to fetch it.
    """
    from transformers import AutoConfig

    options = {name: kwargs[name] for name in DOWNLOAD_OPTIONS if name in kwargs}
    try:
        return AutoConfig.from_pretrained(backbone, revision=revision, **options)
    except (OSError, ValueError) as error:
        raise _load_error(backbone, error) from error


def load_backbone(backbone: str, revision: str | None = None, **kwargs: Any) -> PreTrainedModel:
    """Loads a backbone by `AutoModel` (out of a dual CLIP, only the text tower).

    Args:
        backbone: Hub id or folder.
        revision: on the Hub.
        kwargs: of `AutoModel.from_pretrained`, such as `dtype`, `device_map`, `quantization_config`, `token`.

    Raises:
        BackboneLoadError: there are no such files, or no network to fetch them.
        UnsupportedBackboneError: the family is not in the table.
    """
    from transformers import AutoModel, CLIPTextModel

    config = load_backbone_config(backbone, revision, **kwargs)
    spec = backbone_spec(single_tower(config))
    auto_class = CLIPTextModel if config.model_type == "clip" else AutoModel
    try:
        module, report = auto_class.from_pretrained(
            backbone, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _load_error(backbone, error) from error
    used = (spec.blocks, spec.positions, spec.input_norm, spec.final_norm, spec.cls_token)
    absent = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    needed = sorted(name for name in absent if name.startswith(tuple(filter(None, used))))
    if needed:
        raise _load_error(backbone, f"{len(needed)} weights are missing or wrongly shaped, such as {needed[0]}.")
    return module


def _load_error(backbone: str, error: Exception | str) -> BackboneLoadError:
    return BackboneLoadError(
        f"the backbone must be a Hub id or a folder with config.json and weights, and {backbone!r} could not be "
        f"loaded. Check the spelling, the folder's files and the network. The loader said: {error}"
    )


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone with random weights (its config copied, because transformers writes into it)."""
    from transformers import AutoModel

    return AutoModel.from_config(copy.deepcopy(config))


def share_backbone(backbone: nn.Module) -> nn.Module:
    """A copy of the module tree (of a dual CLIP, its text tower) over the same tensors.

    The caller's module keeps its own settings, and the hooks of another Any2Point model on it are left behind; no
    weight is copied.
    """
    backbone = backbone.text_model if backbone.config.model_type == "clip" else backbone
    tensors = [*backbone.parameters(), *backbone.buffers()]
    shared = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
    for module in shared.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, BottleneckHook)]:
                del hooks[key]
    return shared


def freeze_backbone(backbone: nn.Module, spec: BackboneSpec, layer_norm_eps: float | None) -> None:
    """Freezes the weights, switches training behaviour and causality off, and sets the blocks' norm eps if asked."""
    backbone.requires_grad_(False).eval()
    for module in find(backbone, spec.blocks).modules():
        if getattr(module, "is_causal", False):
            module.is_causal = False
        if layer_norm_eps is not None and isinstance(module, nn.LayerNorm):
            module.eps = layer_norm_eps


def call_block(block: nn.Module, hidden: Tensor) -> Tensor:
    """One frozen block on [B, L, D], with full attention over the L tokens of each cloud."""
    dtype = next(p.dtype for p in block.parameters() if p.is_floating_point())
    output = block(hidden.to(dtype), attention_mask=None)
    output = output[0] if isinstance(output, tuple) else output
    return output.to(hidden.dtype)


@contextmanager
def record_attention(backbone: nn.Module, spec: BackboneSpec, wanted: bool | None) -> Iterator[list[Tensor]]:
    """Collects each block's attention weights [B, heads, L, L] of the calls inside, if they are wanted.

    Raises:
        ValueError: the backbone's attention implementation does not return them.
    """
    weights: list[Tensor] = []
    implementation = backbone.config._attn_implementation
    if wanted and implementation != "eager":
        raise ValueError(
            f'attentions are returned by attn_implementation="eager" alone, got {implementation!r}. Call '
            'model.set_attn_implementation("eager") first.'
        )
    blocks = find(backbone, spec.blocks) if wanted else ()
    handles = [
        find(block, spec.attention).register_forward_hook(lambda _m, _i, output: weights.append(output[1]))
        for block in blocks
    ]
    try:
        yield weights
    finally:
        for handle in handles:
            handle.remove()


def check_same_family(recorded: PreTrainedConfig, given: PreTrainedConfig) -> None:
    """Compares the backbone an adapter was made for with the one it is put on.

    Raises:
        CheckpointError: family, width, depth or the layout of positions differ.
    """
    made_for, received = _shape(recorded), _shape(single_tower(given))
    differing = [name for name in made_for if made_for[name] != received[name]]
    if differing:
        raise CheckpointError(
            "an adapter only fits the backbone it was made for; it was made for "
            + ", ".join(f"{name}={made_for[name]}" for name in differing)
            + ", the given backbone has "
            + ", ".join(f"{name}={received[name]}" for name in differing)
            + ". Pass the recorded backbone, or train a new adapter for this one."
        )


def _shape(config: PreTrainedConfig) -> dict[str, object]:
    spec = backbone_spec(config)
    return {
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "positions": spec.num_rows(config) if spec.grid is None else spec.grid(config),
    }
