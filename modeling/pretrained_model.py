"""Saving and loading adapters without their backbone (the base class of all Any2Point models).

Unusual here: a checkpoint holds trained tensors and batch-norm statistics only, and each of its files is written beside
the old one and then put in its place, so that a kill while saving never leaves half a checkpoint.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbone import DOWNLOAD_OPTIONS, load_backbone
from .configuration_any2point import Any2PointConfig, recorded_path
from .errors import CheckpointError, UnsupportedBackboneError
from .initialization import reset_linear


class Any2PointPreTrainedModel(PreTrainedModel):
    """What `Any2PointModel` and its task models share: start values, freezing, adapter-only checkpoints."""

    config_class = Any2PointConfig
    base_model_prefix = "any2point"
    main_input_name = "points"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @property
    def dtype(self) -> torch.dtype:
        """Of the adapters; the backbone may have another."""
        return next(p.dtype for name, p in self.named_parameters() if not _of_backbone(name))

    def train(self, mode: bool = True) -> "Any2PointPreTrainedModel":
        """Switches the adapters' mode; the backbone stays in eval mode."""
        super().train(mode)
        if self.base_model.backbone is not None:
            self.base_model.backbone.eval()
        return self

    def get_input_embeddings(self) -> None:
        """None: points are embedded by the tokenizer. accelerate's FSDP asks for it."""

    def attach_backbone(self, backbone: nn.Module) -> None:
        """Puts the frozen backbone under the adapters."""
        self.base_model.attach_backbone(backbone)
        self.ignore_backbone_on_save()

    def ignore_backbone_on_save(self) -> None:
        """Tells transformers and its Trainer which keys are absent from a checkpoint on purpose."""
        self._keys_to_ignore_on_save = {name for name in self.state_dict() if _of_backbone(name)}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            reset_linear(module)
        elif type(module).__module__.startswith(__package__) and hasattr(module, "reset_parameters"):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes `config.json` and `model.safetensors` with trained tensors and running statistics only.

        Args:
            save_directory: made if it is missing.
            is_main_process: whether this process writes.
            state_dict: of the whole model, if it had to be gathered; the backbone's tensors in it are left out.
            kwargs: of `PreTrainedModel.save_pretrained`.

        Raises:
            OSError: the folder cannot be written, or the disk is full; what was there before is whole.
        """
        state_dict = self.state_dict() if state_dict is None else state_dict
        state_dict = {name: tensor for name, tensor in state_dict.items() if not _of_backbone(name)}
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        kwargs.setdefault("repo_id", directory.name)
        if not kwargs.get("push_to_hub"):
            del kwargs["repo_id"]
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as beside:
            try:
                super().save_pretrained(beside, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
            except SafetensorError as error:  # how safetensors tells of a full disk
                raise OSError(f"{directory} could not be written; is the disk full?") from error
            for file in Path(beside).iterdir():
                os.replace(file, directory / file.name)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        backbone: nn.Module | str | os.PathLike | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        strict: bool = True,
        **kwargs: Any,
    ) -> "Any2PointPreTrainedModel":
        """Loads an adapter, then puts it on its backbone.

        Args:
            pretrained_model_name_or_path: folder or Hub id of the adapter.
            model_args: of `PreTrainedModel.from_pretrained`.
            backbone: a module, Hub id or folder instead of the recorded one. A module is shared, not copied: its
                weights are frozen, its own hooks stay.
            backbone_kwargs: of the backbone's `from_pretrained`, such as `dtype` or `quantization_config`.
            strict: whether a missing or wrongly shaped tensor is an error; if not, it gets a start value (for a new
                head on another set of classes).
            kwargs: of `PreTrainedModel.from_pretrained`; `device_map`, `dtype`, `token`, `cache_dir`,
                `local_files_only`, `force_download` and `attn_implementation` also apply to the backbone.

        Returns:
            The model in eval mode.

        Raises:
            CheckpointError: no such adapter, truncated, not an Any2Point adapter, tensors missing, unexpected or
                wrongly shaped, or made for another backbone.
            BackboneLoadError: the backbone cannot be loaded.
        """
        want_info = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
        except (OSError, TypeError, SafetensorError, StrictDataclassError, UnsupportedBackboneError) as error:
            raise CheckpointError(
                "an adapter must be a folder or Hub repository with config.json and a whole model.safetensors, and "
                f"{str(pretrained_model_name_or_path)!r} could not be loaded. Check the spelling, whether the file "
                f"was copied whole, and the network. The loader said: {error}"
            ) from error
        _check_loaded(pretrained_model_name_or_path, info, strict)
        if isinstance(backbone, nn.Module):
            model.config.record_module(backbone.config)
        else:
            options = {name: kwargs[name] for name in (*DOWNLOAD_OPTIONS, "device_map", "dtype") if name in kwargs}
            backbone = _recorded_backbone(model.config, backbone, options | (backbone_kwargs or {}))
        model.attach_backbone(backbone)
        attention = kwargs.get("attn_implementation")
        if attention is not None:
            model.base_model.backbone.set_attn_implementation(attention)
        model.eval()
        return (model, info) if want_info else model


def _of_backbone(name: str) -> bool:
    return name.startswith("backbone.") or ".backbone." in name


def _recorded_backbone(
    config: Any2PointConfig, override: str | os.PathLike | None, options: dict[str, Any]
) -> PreTrainedModel:
    """Loads the backbone an adapter names, or the one given instead."""
    if override is not None:
        config.backbone, config.backbone_revision = recorded_path(override), None
    if config.backbone is None:
        raise CheckpointError(
            "this adapter's backbone had random weights, which a checkpoint does not store. Pass the same backbone as "
            "backbone=<module or folder>."
        )
    return load_backbone(config.backbone, config.backbone_revision, config.modality, **options)


def _check_loaded(source: str | os.PathLike, info: dict[str, Any], strict: bool) -> None:
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = [f"{name}: {list(found)} instead of {list(built)}" for name, found, built in info["mismatched_keys"]]
    missing = [name for name in missing if name not in {entry.split(":")[0] for entry in mismatched}]
    if not unexpected and not (strict and (missing or mismatched)):
        return
    problems = {"missing": missing, "unexpected": unexpected, "wrongly shaped": sorted(mismatched)}
    listed = "; ".join(f"{kind} ({len(names)}): {_first(names)}" for kind, names in problems.items() if names)
    advice = "" if unexpected else " Pass strict=False to train them anew."
    raise CheckpointError(
        f"an adapter must hold exactly the tensors its config describes, and {str(source)!r} does not. {listed}. It "
        f"may be another model's checkpoint or made with other settings.{advice}"
    )


def _first(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f", … and {len(names) - limit} more" if len(names) > limit else "")
