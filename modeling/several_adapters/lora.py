"""LoRA (Hu et al. 2021) of the `peft` library in the frozen backbone, trained and saved beside the adapters.

Unusual here: nothing becomes a PeftModel, because the backbone's forward is never run; LoRA's layers stand in its
blocks. They are saved as PEFT's own two files in the subfolder `lora`, because transformers takes a folder with these
files at its top for a PEFT adapter. Only models with a LoRA need `peft`.
"""

import copy
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..backbones.bottleneck_hook import BottleneckHook
from ..backbones.spec import BackboneSpec, find
from ..errors import Any2PointError, CheckpointError, ConfigurationError, UnsupportedBackboneError
from ..pulled_config import LARGEST_NUMBER

if TYPE_CHECKING:
    from peft import LoraConfig

LORA_FOLDER = "lora"
LORA_FILES = ("adapter_config.json", "adapter_model.safetensors")
LORA_TENSORS = ".lora_"  # occurs in the names of all LoRA tensors, and in no others
_PREFIX = "base_model.model."  # begins the names in PEFT's files
_KEEPS_WEIGHTS = (True, False, "gaussian", "orthogonal")  # init_lora_weights that leave the backbone's unchanged


def require_peft(what: str = "LoRA needs") -> None:
    """Checks that peft is installed.

    Raises:
        Any2PointError: it is not.
    """
    if importlib.util.find_spec("peft") is None:
        raise Any2PointError(f"{what} the peft library, which is not installed: pip install 'peft>=0.17'")


def attention_projections(backbone: Any, spec: BackboneSpec) -> list[str]:
    """Paths, from the backbone, of the linear layers of every block outside its feed-forward branch.

    Raises:
        UnsupportedBackboneError: there are none.
    """
    names = []
    for index, block in enumerate(find(backbone, spec.blocks)):
        for name, module in block.named_modules():
            is_feed_forward = any(f"{name}.".startswith(f"{part}.") for part in spec.feed_forward)
            if isinstance(module, (nn.Linear, Conv1D)) and not is_feed_forward:
                names.append(f"{spec.blocks}.{index}.{name}")
    if not names:
        raise UnsupportedBackboneError(
            f"LoRA needs linear layers in the backbone's attention, and the blocks of {backbone.config.model_type!r} "
            "have none outside their feed-forward branch."
        )
    return names


def insert_lora(backbone: Any, spec: BackboneSpec, config: "LoraConfig | None", dtype: torch.dtype) -> Any:
    """Puts LoRA's layers into the backbone's blocks; until they are trained they change nothing.

    Args:
        backbone: frozen, with the bottlenecks hooked in.
        spec: where its parts are.
        config: LoRA's, by default peft's; where it has no `target_modules`, they are those of `attention_projections`.
        dtype: of LoRA's tensors.

    Returns:
        The config as used.

    Raises:
        Any2PointError: peft is missing.
        ConfigurationError: the config fits no layer, or would change the backbone's own tensors.
        UnsupportedBackboneError: the backbone has no linear layers in its attention.
    """
    require_peft()
    from peft import LoraConfig

    config = LoraConfig() if config is None else copy.deepcopy(config)
    _check_config(config, LoraConfig)
    if config.target_modules is None:
        config.target_modules = attention_projections(backbone, spec)
        config.fan_in_fan_out = isinstance(find(backbone, config.target_modules[0]), Conv1D)  # as GPT-2 keeps weights
    config.inference_mode = False
    try:
        backbone.add_adapter(config)
    except ValueError as error:
        remove_lora(backbone)
        raise ConfigurationError(
            f"target_modules must name layers of the backbone ({type(backbone).__name__}); leave them out for those of "
            f"its attention. peft said: {error}"
        ) from error
    for layer in lora_layers(backbone):
        _move_bottlenecks(layer.base_layer, layer)
    for name, parameter in backbone.named_parameters():
        if LORA_TENSORS in name:
            parameter.data = parameter.data.to(dtype)  # peft follows the backbone, which may be bfloat16
    return backbone.peft_config["default"]


def _check_config(config: Any, lora_config_class: type[Any]) -> None:
    if not isinstance(config, lora_config_class):
        raise ConfigurationError(f"a LoRA needs a peft.LoraConfig, got {type(config).__name__}.")
    changing = {
        "bias": config.bias != "none",
        "modules_to_save": bool(config.modules_to_save),
        "trainable_token_indices": config.trainable_token_indices is not None,
        "layer_replication": config.layer_replication is not None,
        "init_lora_weights": config.init_lora_weights not in _KEEPS_WEIGHTS,
    }
    found = [f"{name}={getattr(config, name)!r}" for name, is_changing in changing.items() if is_changing]
    if found:
        raise ConfigurationError(
            "a LoRA must leave the backbone's own tensors as they are, because other models and adapters share them, "
            f"got {', '.join(found)}. Leave that out."
        )


def lora_layers(backbone: Any) -> list[Any]:
    """LoRA's layers in the backbone, each of which holds the backbone's own as `base_layer`."""
    return [module for module in backbone.modules() if hasattr(module, "lora_dropout")]


def _move_bottlenecks(source: nn.Module, target: nn.Module) -> None:
    """Moves bottleneck hooks to the LoRA layer: they belong after (or before) the whole layer, LoRA included."""
    for hooks, new_hooks in (
        (source._forward_hooks, target._forward_hooks),
        (source._forward_pre_hooks, target._forward_pre_hooks),
    ):
        for key in [key for key, hook in hooks.items() if isinstance(hook, BottleneckHook)]:
            new_hooks[key] = hooks.pop(key)


def remove_lora(backbone: Any) -> None:
    """Puts the backbone's own layers back in the place of LoRA's."""
    for name, module in list(backbone.named_modules()):
        if hasattr(module, "lora_dropout"):
            parent, _, child = name.rpartition(".")
            backbone.get_submodule(parent)._modules[child] = module.base_layer
    vars(backbone).pop("peft_config", None)
    backbone._hf_peft_config_loaded = False


def save_lora(backbone: Any, state_dict: Mapping[str, Tensor], folder: Path) -> None:
    """Writes PEFT's two files.

    Args:
        backbone: with the LoRA.
        state_dict: of the backbone.
        folder: made if it is missing.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(exist_ok=True)
    tensors = get_peft_model_state_dict(backbone, state_dict=dict(state_dict), save_embedding_layers=False)
    tensors = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / LORA_FILES[1], metadata={"format": "pt"})
    config = copy.copy(backbone.peft_config["default"])
    if os.path.isdir(
        config.base_model_name_or_path or ""
    ):  # means nothing elsewhere, and LoRA's files are pushed as is
        config.base_model_name_or_path = None
    config.save_pretrained(folder)


def remove_lora_files(folder: Path) -> None:
    """Removes the LoRA of a model that was saved in this folder before."""
    for name in LORA_FILES:
        (folder / LORA_FOLDER / name).unlink(missing_ok=True)


def find_lora_files(folder: str | os.PathLike, subfolder: str = "") -> Path:
    """Returns the folder inside an adapter's folder that holds PEFT's two files.

    Args:
        folder: the folder, or snapshot of a repository, that holds the adapter.
        subfolder: where in it the adapter is.

    Raises:
        CheckpointError: they are not there.
    """
    place = Path(folder) / subfolder / LORA_FOLDER
    absent = [name for name in LORA_FILES if not (place / name).is_file()]
    if absent:
        raise CheckpointError(
            f"the adapter in {str(folder)!r} has a LoRA, which must lie in {place}, and {' and '.join(absent)} is not "
            "there. Copy the folder whole."
        )
    return place


def read_lora_config(folder: Path) -> Any:
    """Reads LoRA's config from a folder.

    Raises:
        Any2PointError: peft is missing.
        CheckpointError: it cannot be read.
    """
    require_peft("this adapter has a LoRA, which needs")
    from peft import LoraConfig

    try:
        config = LoraConfig.from_pretrained(str(folder))
        _check_config(config, LoraConfig)
        _check_claims(config, folder / LORA_FILES[1])
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder / LORA_FILES[0]} must be PEFT's config of a LoRA. peft said: {error}"
        ) from error
    return config


def _check_claims(config: Any, file: Path) -> None:
    """Compares what LoRA's config claims with the tensors beside it, before layers are made of it.

    Layers are those that the tensors name: patterns of names, which could take forever to match, are not used.

    Raises:
        CheckpointError: ranks are not the tensors', a factor is no finite number, a pattern is complicated, or the
            config would import a module by name.
    """
    try:
        with safe_open(file, "pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} could not be read; was it copied whole? The loader said: {error}") from error
    stored = {min(shape, default=0) for shape in shapes.values()}
    claimed, patterns = {config.r, *config.rank_pattern.values()}, {*config.rank_pattern, *config.alpha_pattern}
    factors = [config.lora_alpha, *config.alpha_pattern.values()]
    wrong = []
    if not claimed & stored or max(claimed) > max(stored) or config.megatron_config is not None:
        wrong.append(f"claims the ranks {sorted(claimed)} where they have {sorted(stored)}")
    if not all(abs(factor) <= LARGEST_NUMBER for factor in factors):
        wrong.append(f"has the factor {max(factors, key=abs)}")
    if len(patterns) > len(shapes) or not all(map(_is_simple, patterns)):
        wrong.append(f"has patterns that take long to match ({str(max(patterns, key=len))[:80]})")
    if wrong:
        raise CheckpointError(
            f"{file.with_name(LORA_FILES[0])} must describe the tensors beside it, and {', and '.join(wrong)}. It is "
            "damaged or of another adapter: pull it again."
        )
    config.target_modules = {name.removeprefix(_PREFIX).split(LORA_TENSORS)[0] for name in shapes}
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None


def _is_simple(pattern: str) -> bool:
    """Whether a pattern is matched in a short time: it has no groups, and repeats something twice at most."""
    return "(" not in pattern and len(re.findall(r"[*+?{]", pattern)) <= 2


def load_lora_weights(backbone: Any, folder: Path) -> None:
    """Fills LoRA's layers from PEFT's file.

    Raises:
        CheckpointError: it is truncated, or holds other tensors than the layers have.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    file = folder / LORA_FILES[1]
    try:
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} could not be read; was it copied whole? The loader said: {error}") from error
    wanted = get_peft_model_state_dict(backbone, save_embedding_layers=False)
    found, needed = ({name: list(t.shape) for name, t in state.items()} for state in (tensors, wanted))
    wrong = sorted(name for name in {*found, *needed} if found.get(name) != needed.get(name))
    if wrong:
        raise CheckpointError(
            f"{file} must hold the tensors that its config describes, and {len(wrong)} are missing, unexpected or "
            f"wrongly shaped, such as {wrong[0]}: found {found.get(wrong[0])}, needed {needed.get(wrong[0])}."
        )
    set_peft_model_state_dict(backbone, tensors)


class LoraMethods:
    """Methods of a model for a LoRA in its backbone."""

    # Attributes of the model class that inherits this one.
    base_model: Any
    dtype: torch.dtype
    training: bool
    train: Any
    ignore_backbone_on_save: Any

    def add_lora(self, lora_config: "LoraConfig | None" = None) -> None:
        """Puts a LoRA into the frozen backbone, trained together with the adapters and saved beside them.

        Args:
            lora_config: of `peft`. Without it, and where it names no `target_modules`, all linear layers of the blocks
                outside the feed-forward branches get one.

        Raises:
            Any2PointError: peft is missing, or the backbone has a LoRA already.
            ConfigurationError: the config fits no layer, or would change the backbone's own tensors.
            UnsupportedBackboneError: the backbone has no linear layers in its attention.
        """
        base = self.base_model
        if lora_layers(base.backbone):
            raise Any2PointError(
                "a backbone can have one LoRA, and this one has it already. If it was given with one, merge it first "
                "by peft's merge_and_unload."
            )
        base.lora = insert_lora(base.backbone, base.spec, lora_config, self.dtype)
        base.config.lora = True
        self.ignore_backbone_on_save()
        self.train(self.training)  # LoRA's layers too

    def add_adapter(self, *_: Any, **__: Any) -> None:
        """Refuses transformers' method for PEFT, which would change the adapters too and freeze them.

        Raises:
            Any2PointError: always.
        """
        raise Any2PointError("PEFT's add_adapter would freeze the adapters. Use add_lora(LoraConfig(...)).")
