"""Loading, building and sharing a frozen backbone (method.md 3).

Unusual here: a given module's tensors are shared, but not its module objects, so that hooks of one model never reach
another. The Auto classes are imported where they are used, because importing them imports our own models to
register them.
"""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import resolve_revision

from ..errors import BackboneLoadError, CheckpointError, HubError, UnsupportedBackboneError
from ..files import check_plain_files
from ..hub.calls import hub_calls, hub_trouble
from ..pulled_config import IMPLEMENTATIONS, MOST_BLOCKS, OWN_IMPLEMENTATIONS
from .bottleneck_hook import BottleneckHook
from .detector import backbone_spec
from .part_of_model import LOADED_WHOLE, TOWER_CLASSES, is_wrapper, tower_config, tower_module
from .spec import num_blocks

if TYPE_CHECKING:
    from ..configuration_any2point import Any2PointConfig

_NO_CODE = {"trust_remote_code": False}  # unless told so, transformers asks the user whether to run a backbone's code
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")


def load_backbone_config(backbone: str, revision: str | None = None, **kwargs: Any) -> PreTrainedConfig:
    """Loads the config of a backbone on the Hub or in a folder.

    Args:
        backbone: Hub id or folder.
        revision: on the Hub.
        kwargs: options of a `from_pretrained`; only those in `DOWNLOAD_OPTIONS` are used.

    Raises:
        BackboneLoadError: there is no such backbone, or no network to fetch it.
        CheckpointError: its folder holds a pipe.
    """
    if os.path.isdir(backbone):
        check_plain_files(Path(backbone))
    options = {name: kwargs[name] for name in DOWNLOAD_OPTIONS if name in kwargs} | {"revision": revision}
    trouble = hub_trouble(backbone, options)
    options["revision"] = _one_commit(backbone, options | _cache_alone(trouble))
    return _read_config(backbone, options, trouble)


def _read_config(backbone: str, options: dict[str, Any], trouble: HubError | None) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        with hub_calls(f"to load the backbone {backbone!r}"):
            config = AutoConfig.from_pretrained(backbone, **options | _cache_alone(trouble) | _NO_CODE)
    except Exception as error:  # of a damaged or odd file transformers raises many types
        raise _load_error(backbone, trouble or error) from error
    config._commit_hash = getattr(options["revision"], "resolved", None)
    return config


def _one_commit(backbone: str, options: dict[str, Any]) -> str | None:
    """The revision as one commit, so that config and weights are of the same; as it is, if it cannot be resolved."""
    asked = {name: options.get(name) for name in ("revision", "token", "cache_dir")}
    with hub_calls(f"to load the backbone {backbone!r}"):
        return resolve_revision(backbone, **asked, local_files_only=bool(options.get("local_files_only")))


def _cache_alone(trouble: HubError | None) -> dict[str, bool]:
    return {} if trouble is None else {"local_files_only": True}


def load_backbone(
    backbone: str, revision: str | None = None, modality: str | None = None, **kwargs: Any
) -> PreTrainedModel:
    """Loads a backbone by `AutoModel`; of a dual model only the modality's tower, by default that of text.

    Args:
        backbone: Hub id or folder.
        revision: on the Hub.
        modality: `"1d"` or `"2d"`, of a dual model.
        kwargs: of `AutoModel.from_pretrained`, such as `dtype`, `device_map`, `quantization_config`, `token`.

    Raises:
        BackboneLoadError: there are no such files, no network to fetch them, or weights that are not finite.
        CheckpointError: its folder holds a pipe.
        UnsupportedBackboneError: the family is not supported.
    """
    if os.path.isdir(backbone):
        check_plain_files(Path(backbone))
    options = {name: kwargs[name] for name in DOWNLOAD_OPTIONS if name in kwargs} | {"revision": revision}
    trouble = hub_trouble(backbone, options)
    options["revision"] = _one_commit(backbone, options | _cache_alone(trouble))
    whole = _read_config(backbone, options, trouble)
    config = tower_config(whole, modality)
    spec = backbone_spec(config)
    if num_blocks(config) > MOST_BLOCKS:
        raise _load_error(backbone, f"its config claims {num_blocks(config):,} blocks; {MOST_BLOCKS} are the most.")
    _check_attention(backbone, whole, kwargs)
    is_whole = whole.model_type in LOADED_WHOLE or is_wrapper(whole)
    auto_class = _auto_class(whole if is_whole else config)
    try:
        with hub_calls(f"to load the backbone {backbone!r}"):
            module, report = auto_class.from_pretrained(
                backbone,
                revision=options["revision"],
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs | _cache_alone(trouble) | _NO_CODE,
            )
    except UnsupportedBackboneError:
        raise
    except Exception as error:  # of damaged files and odd configs transformers raises many types
        raise _load_error(backbone, trouble or error) from error
    tower = tower_module(module, modality)
    prefix = next((f"{name}." for name, part in module.named_children() if part is tower), "")
    positions = spec.positions if isinstance(spec.positions, str) else None
    parts = (positions, spec.projected_by, spec.input_norm, spec.final_norm, spec.cls_token)
    used = [prefix + part for part in (*(spec.weights or (spec.blocks,)), *parts) if part]
    absent = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    needed = sorted(name for name in absent if name.startswith(tuple(used)))
    if needed:
        raise _load_error(backbone, f"{len(needed)} weights are missing or wrongly shaped, such as {needed[0]}.")
    _check_finite(backbone, module, tuple(used))
    if tower is not module:
        tower.name_or_path = tower.config._name_or_path = str(backbone)  # the name of the whole
    tower.config._commit_hash = commit_of(whole)  # transformers itself does not record it
    return tower


def _check_finite(backbone: str, module: PreTrainedModel, used: tuple[str, ...]) -> None:
    """Refuses weights that are no numbers, which attention on a CPU can turn into finite outputs.

    Args:
        backbone: as it was named.
        module: its weights. Quantised and offloaded ones are not looked at.
        used: how the names begin of those that tokens meet. Others, such as tables of words, stay unread on the disk.

    Raises:
        BackboneLoadError: one is NaN or infinite.
    """
    for name, weight in module.named_parameters():
        is_plain = type(weight) is nn.Parameter and weight.is_floating_point() and weight.itemsize > 1
        if not (name.startswith(used) and is_plain and not weight.is_meta):
            continue
        with torch.no_grad():  # the sum is quick to make, and tells of a NaN; of finite weights it may be infinite
            if not weight.sum(dtype=torch.float32).isfinite() and not weight.isfinite().all():
                raise _load_error(
                    backbone,
                    f"its weights must be finite, and {name} has NaN or infinite values; its files are damaged, or its "
                    "training diverged.",
                )


def _check_attention(backbone: str, config: PreTrainedConfig, chosen: dict[str, Any]) -> None:
    """Refuses a config that has attention loaded as a kernel from the Hub, which is code; the caller may choose one.

    Raises:
        BackboneLoadError: it does.
    """
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    for name in IMPLEMENTATIONS:
        named = [value for part in parts if (value := getattr(part, f"_{name}_internal", None)) is not None]
        wrong = [value for value in named if value not in OWN_IMPLEMENTATIONS]
        if wrong and name not in chosen:
            raise _load_error(backbone, f"its config would fetch code: {name} is {wrong[0]!r}.")


def _auto_class(config: PreTrainedConfig) -> Any:
    """`AutoModel`, or the class of a tower that it does not know."""
    import transformers

    return getattr(transformers, TOWER_CLASSES.get(config.model_type, "AutoModel"))


def _load_error(backbone: str, error: Exception | str) -> BackboneLoadError:
    return BackboneLoadError(
        f"the backbone must be a Hub id or a folder with config.json and weights, and {backbone!r} could not be "
        f"loaded. Check the spelling, the folder's files and the network. The loader said: {error}"
    )


def record_backbone(config: "Any2PointConfig", backbone: PreTrainedModel | None) -> "Any2PointConfig":
    """Fills in the config's record of the backbone, and returns the config.

    Where a module is given, it is a copy of the config, because the record is true only with that module.

    Raises:
        UnsupportedBackboneError: no backbone is named, or its family is not supported.
    """
    if backbone is not None:
        config = copy.deepcopy(config)
        config.backbone_config = copy.deepcopy(backbone.config)
        config.record_module(backbone.config)
    elif config.backbone_config is None and config.backbone is not None:
        config.backbone_config = load_backbone_config(str(config.backbone), config.backbone_revision)
        config.backbone_revision = commit_of(config.backbone_config) or config.backbone_revision
    if config.backbone_config is None:
        raise UnsupportedBackboneError(
            "a backbone must be named: Any2PointConfig(backbone=<Hub id or folder>), "
            "Any2PointConfig(backbone_config=<config>) or the argument backbone=<module>; got none."
        )
    backbone_config: Any = config.backbone_config
    config.backbone_config = tower_config(backbone_config, config.modality)
    backbone_spec(config.backbone_config)
    return config


def commit_of(config: PreTrainedConfig) -> str | None:
    """The commit on the Hub that a backbone's config was loaded from; None for that of a folder."""
    return getattr(config, "_commit_hash", None)


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone with random weights.

    Args:
        config: the backbone's own; it is copied, because transformers writes into it.
    """
    config, auto_class = copy.deepcopy(config), _auto_class(config)
    return auto_class.from_config(config) if hasattr(auto_class, "from_config") else auto_class(config)


def share_backbone(backbone: PreTrainedModel, modality: str | None = None) -> PreTrainedModel:
    """Copies the module tree (of a dual model, that of one tower) over the same tensors; no weight is copied.

    The caller's module keeps its own settings. Bottleneck hooks of another Any2Point model on it are not copied.
    """
    backbone = tower_module(backbone, modality)
    kept = [*backbone.parameters(), *backbone.buffers(), *_offloaded_weights(backbone)]
    shared = copy.deepcopy(backbone, {id(part): part for part in kept})
    for module in shared.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, BottleneckHook)]:
                del hooks[key]
    return shared


def _offloaded_weights(backbone: PreTrainedModel) -> Iterator[Any]:
    """Yields the maps in which accelerate's hooks keep offloaded weights, which are loaded when a module is called."""
    for module in backbone.modules():
        hook = getattr(module, "_hf_hook", None)
        for part in (hook, *getattr(hook, "hooks", ())):
            for name in ("weights_map", "tied_params_map"):
                if getattr(part, name, None) is not None:
                    yield getattr(part, name)


def check_same_family(recorded: PreTrainedConfig, given: PreTrainedConfig) -> None:
    """Compares the backbone an adapter was made for with the one it is put on.

    Raises:
        CheckpointError: family, width, depth or the layout of positions differ.
    """
    made_for, received = _shape(recorded), _shape(tower_config(given, backbone_spec(recorded).modality))
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
        "num_hidden_layers": num_blocks(config),
        "positions": spec.num_rows(config) if spec.grid is None else spec.grid(config),
    }
