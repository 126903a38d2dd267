"""Fine-tuning the last blocks of a backbone: their tensors become the model's own, trained and saved with the adapter.

Unusual here: they are copied first, because other models and adapters share the backbone's tensors, and take the
adapters' dtype. The backbone stays in eval mode, so its blocks train without their dropout.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import logging

from ..errors import Any2PointError, CheckpointError, ConfigurationError, require
from ..numerics.initialization import torch_draws

_LORA = ".lora_"  # as in several_adapters/lora.py
_OWN = "backbone."

logger = logging.get_logger(__name__)


class UnfrozenBlocks:
    """Methods of a model for blocks of its backbone that are trained."""

    # Attributes of the model class that inherits this one.
    base_model: Any
    dtype: torch.dtype
    adapter_names: Any
    add_lora: Any
    ignore_backbone_on_save: Any
    named_parameters: Any
    parameters: Any
    start_seed: Any
    _is_stored: Any

    def unfreeze_backbone(self, last_n: int) -> None:
        """Trains the last blocks of the backbone together with the adapters, and saves them in `model.safetensors`.

        Call it before an optimiser or Trainer is made. `Any2PointConfig(unfrozen_blocks=n)` does the same for a new
        model. A module that was given as backbone keeps its own weights.

        Args:
            last_n: how many of the blocks that tokens pass, counted from the last; at least those unfrozen before.

        Raises:
            ConfigurationError: there are fewer blocks, or their weights are quantised or offloaded.
            Any2PointError: the model has a LoRA or several adapters, which need the backbone as it is.
        """
        base = self.base_model
        blocks = base.blocks()
        before = sum(any(parameter.requires_grad for parameter in block.parameters()) for block in blocks)
        own = max(before, base.config.unfrozen_blocks)  # some may be frozen again
        rule = f"last_n must lie in {max(own, 1)}…{len(blocks)} (blocks that tokens pass; {own} are unfrozen)"
        is_integer = isinstance(last_n, int) and not isinstance(last_n, bool)
        require(is_integer and max(own, 1) <= last_n <= len(blocks), rule, last_n)
        if base.lora is not None or len(self.adapter_names) > 1:
            raise Any2PointError(
                "unfrozen blocks are a model's own, and a LoRA or several adapters need the backbone as it is. "
                "Unfreeze a model with one adapter and without a LoRA."
            )
        for block in blocks[-last_n:]:
            _check_can_train(block)
        for block in blocks[-last_n : len(blocks) - before]:
            _own_tensors(block, self.dtype)
        base.config.unfrozen_blocks = last_n
        self.ignore_backbone_on_save()

    def freeze_backbone(self) -> None:
        """Trains nothing of the backbone but a LoRA: a new model's state, also after `requires_grad_(True)`.

        Blocks that `unfreeze_backbone` has unfrozen stay the model's own, and are still saved.
        """
        for name, parameter in self.base_model.backbone.named_parameters():
            parameter.requires_grad_(_LORA in name and parameter.requires_grad)

    def print_trainable_parameters(self) -> None:
        """Prints how many parameters are trained, of how many with the backbone's, in the words of PEFT."""
        trained = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in self.parameters())
        print(f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}")

    def start_trained_backbone(self) -> None:
        """Gives a new model what its config asks to be trained in the backbone: a LoRA, or the last blocks."""
        config = self.base_model.config
        if config.lora:
            with torch_draws(self.start_seed, "lora"):
                self.add_lora()
        if config.unfrozen_blocks:
            self.unfreeze_backbone(config.unfrozen_blocks)

    def unstored_names(self) -> list[str]:
        """Names of the backbone's parameters that are trained but would not be saved."""
        return [
            name for name, parameter in self.named_parameters() if parameter.requires_grad and not self._is_stored(name)
        ]

    def warn_of_unstored(self) -> None:
        """Warns of parameters that are trained but that `save_pretrained` will refuse to leave out."""
        names = self.unstored_names()
        if names:
            logger.warning(f"{_rule(names)} Until then save_pretrained refuses.")

    def check_all_is_stored(self) -> None:
        """Checks that all that is trained is saved.

        Raises:
            CheckpointError: parameters of the backbone are trained by `requires_grad_` alone.
        """
        names = self.unstored_names()
        if names:
            raise CheckpointError(_rule(names))


def _rule(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"what is trained must be saved, and the backbone's {', '.join(names[:3])}{more} would be lost: they were "
        "unfrozen by requires_grad_. Call model.unfreeze_backbone(last_n) before training, or freeze them by "
        "model.freeze_backbone()."
    )


def is_unfrozen(base: Any, name: str) -> bool:
    """Whether a name of the state dict is that of a tensor in an unfrozen block of a base model."""
    last_n = base.config.unfrozen_blocks
    if not last_n or base.backbone is None:
        return False
    prefixes = [f"{base.spec.blocks}.{index}." for index in range(base.used_blocks - last_n, base.used_blocks)]
    return name.partition(_OWN)[2].startswith(tuple(prefixes))


def stored_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """Reads the tensors of the backbone, without LoRA's, out of an adapter's files: by their names in the backbone."""
    found = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - the file is no dict
                if (name.startswith(_OWN) or f".{_OWN}" in name) and _LORA not in name:
                    found[name.partition(_OWN)[2]] = opened.get_tensor(name)
    return found


def check_stored(config: Any, tensors: dict[str, Tensor]) -> None:
    """Checks, before a backbone is loaded, that an adapter has tensors of it if and only if its config says so.

    Raises:
        CheckpointError: it does not.
    """
    if bool(tensors) != bool(config.unfrozen_blocks):
        names = ", ".join(sorted(tensors)[:3]) or "none"
        raise CheckpointError(
            "an adapter must hold exactly the tensors its config describes: of the backbone those of its last "
            f"unfrozen_blocks={config.unfrozen_blocks} blocks, and it has unexpected ({len(tensors)}): {names}. "
            "It may be another model's checkpoint, or not be whole."
        )


def load_unfrozen(model: Any, tensors: dict[str, Tensor]) -> None:
    """Unfreezes the blocks that the config names, and fills them.

    Raises:
        CheckpointError: tensors are missing, unexpected or wrongly shaped.
        ConfigurationError: the backbone has fewer blocks.
    """
    base = model.base_model
    model.unfreeze_backbone(base.config.unfrozen_blocks)
    state = {name: tensor for name, tensor in base.state_dict(keep_vars=True).items() if is_unfrozen(base, name)}
    own = {name.partition(_OWN)[2]: tensor for name, tensor in state.items()}
    wrong = sorted(
        name
        for name in {*own, *tensors}
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"an adapter must hold the tensors of its backbone's last {base.config.unfrozen_blocks} blocks, and "
            f"{len(wrong)} are missing, unexpected or wrongly shaped, such as {wrong[0]}."
        )
    for name, tensor in own.items():
        device = "cpu" if tensor.is_meta else tensor.device
        tensor.data = tensors[name].to(device, tensor.dtype)


def _check_can_train(block: nn.Module) -> None:
    for module in block.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_plain = (
                type(parameter) is nn.Parameter and parameter.is_floating_point()
            )  # torchao has classes of its own
            if not is_plain or (parameter.is_meta and hasattr(module, "_hf_hook")):
                raise ConfigurationError(
                    "blocks can be unfrozen where their weights are plain numbers in memory, and those of this "
                    f"backbone are quantised or offloaded ({name} is {parameter.dtype} on {parameter.device}). Load "
                    "the backbone without quantization_config and device_map."
                )


def _own_tensors(block: nn.Module, dtype: torch.dtype) -> None:
    """Replaces a block's tensors by trainable copies of them."""
    for module in block.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(parameter.detach().to(dtype, copy=True)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = buffer.to(dtype if buffer.is_floating_point() else buffer.dtype, copy=True)
