"""Saving and loading adapters without their backbone (the base class of all Any2Point models).

Unusual here: a checkpoint holds only trained tensors and batch-norm statistics. Its files are written beside the old
ones and become current in one step, and carry checksums (`files.py`, `checkpoint_integrity.py`).
"""

import os
import re
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbones.loading import DOWNLOAD_OPTIONS, commit_of, load_backbone
from .backbones.unfrozen import UnfrozenBlocks, check_stored, is_unfrozen, load_unfrozen, stored_tensors
from .checkpoint_integrity import check_checksum, check_loaded, check_task, record_checksums
from .configuration_any2point import Any2PointConfig, recorded_path
from .errors import Any2PointError, CheckpointError, UnsupportedBackboneError
from .files import folder_written_whole
from .hub.names import pull_options, pulled_folder
from .loading_arguments import refuse_arguments, refuse_unknown_argument
from .numerics.initialization import StartValues
from .publishing.pushed_model import PUSH_OPTIONS, PushMethods
from .pulled_config import check_header, weight_files
from .refused_calls import RefusedCalls, check_not_quantized
from .several_adapters.lora import (
    LORA_FILES,
    LORA_FOLDER,
    LORA_TENSORS,
    LoraMethods,
    find_lora_files,
    load_lora_weights,
    lora_layers,
    read_lora_config,
    remove_lora_files,
    save_lora,
)
from .several_adapters.switching import SeveralAdapters, backbone_record

_FILES = ("config.json", "model.safetensors")
_ONE_FILE = "1000GB"  # the largest part that an adapter is split into

Model = TypeVar("Model", bound="Any2PointPreTrainedModel")


class Any2PointPreTrainedModel(  # type: ignore[misc]
    SeveralAdapters, LoraMethods, UnfrozenBlocks, PushMethods, RefusedCalls, PreTrainedModel
):
    """What `Any2PointModel` and its task models share: start values, freezing, adapter-only checkpoints."""

    config: Any2PointConfig
    config_class = Any2PointConfig
    base_model_prefix = "any2point"
    main_input_name = "points"
    input_modalities: Any = ("points",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Loaded when the backbone is there: LoRA's tensors from PEFT's own file, and those of unfrozen blocks.
    _keys_to_ignore_on_load_unexpected: Any = (re.escape(LORA_TENSORS), r"(^|\.)backbone\.")
    head: ClassVar[str | None] = None  # attribute of a task model's head, one of `HEADS`
    start_seed: int | None = None  # seed of all start values (initialization.py)

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype of the adapters; the backbone may have another."""
        return next(p.dtype for name, p in self.named_parameters() if not _of_backbone(name))

    def train(self: Model, mode: bool = True) -> Model:
        """Switches the mode of the adapters and of a LoRA; the backbone stays in eval mode.

        Args:
            mode: whether to train.
        """
        if mode and not self.training and self.base_model.backbone is not None:
            self.warn_of_unstored()
        super().train(mode)
        if self.base_model.backbone is not None:
            self.base_model.backbone.eval()
            for layer in lora_layers(self.base_model.backbone) if self.base_model.lora is not None else ():
                layer.train(mode)  # its dropout
        return self

    def attach_backbone(self, backbone: PreTrainedModel) -> None:
        """Puts the frozen backbone under the adapters.

        Args:
            backbone: shared, not copied; its weights are frozen.

        Raises:
            CheckpointError: the backbone's family, width or depth is not the recorded one.
            UnsupportedBackboneError: its family is not in the table, and it fails the self-test.
        """
        self.base_model.attach_backbone(backbone)
        self.ignore_backbone_on_save()

    def ignore_backbone_on_save(self) -> None:
        """Tells transformers and its Trainer which keys are absent from a checkpoint on purpose."""
        self._keys_to_ignore_on_save = {name for name in self.state_dict() if not self._is_stored(name)}

    def _is_stored(self, name: str) -> bool:
        """Whether a tensor is part of the checkpoint; LoRA's are, because the Trainer resumes from this file alone."""
        base = self.base_model
        return not _of_backbone(name) or (base.lora is not None and LORA_TENSORS in name) or is_unfrozen(base, name)

    def post_init(self) -> None:
        """As in transformers, which also lets a task model ignore what the base model inside does: all of a head."""
        super().post_init()
        self._keys_to_ignore_on_load_unexpected = {*type(self)._keys_to_ignore_on_load_unexpected}

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # transformers would skip custom modules that hold no tensors themselves; ours start the modules inside them.
        super()._initialize_weights(module, is_custom_code=False)

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        if hasattr(module, "draw_parameters"):
            name = next(name for name, part in self.named_modules() if part is module)
            module.draw_parameters(StartValues(self.config.adapter_start, self.start_seed, name))
        elif isinstance(module, nn.Linear):
            return  # the module that holds it sets its start values
        elif type(module).__module__.startswith(__package__ + ".") and hasattr(module, "reset_parameters"):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Writes `config.json`, and `model.safetensors` with only trained tensors and running statistics.

        Args:
            save_directory: made if it is missing.
            is_main_process: whether this process writes.
            state_dict: the whole model's, if it had to be gathered; the backbone's tensors in it are left out.
            push_to_hub: whether to push the folder as well, to `repo_id` or by default to the folder's name.
            kwargs: of `PreTrainedModel.save_pretrained`, or of `push_to_hub`.

        Raises:
            OSError: the folder cannot be written, or the disk is full; what was there before is whole.
            CheckpointError: a weight is not finite or quantised, or some of the backbone were trained but not by
                `unfreeze_backbone`; what was there before is whole.
            HubError: the model was saved, but could not be pushed.
        """
        self.check_all_is_stored()
        if push_to_hub:
            options = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
            repo_id = kwargs.pop("repo_id", Path(save_directory).name)
        state_dict = self.state_dict() if state_dict is None else state_dict
        of_backbone = {name.partition("backbone.")[2]: part for name, part in state_dict.items() if _of_backbone(name)}
        state_dict = {name: tensor for name, tensor in state_dict.items() if self._is_stored(name)}
        check_not_quantized(state_dict)
        self.config.lora = self.base_model.lora is not None
        directory = Path(save_directory)
        with folder_written_whole(directory) as beside:
            if self.config.lora and is_main_process:
                save_lora(self.base_model.backbone, of_backbone, beside / LORA_FOLDER)
            kwargs |= {"max_shard_size": _ONE_FILE, "save_original_format": False}  # names as in the model
            try:
                super().save_pretrained(beside, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
                if is_main_process:
                    record_checksums(beside)
            except SafetensorError as error:  # how safetensors tells of a full disk
                raise OSError(f"{directory} could not be written; is the disk full?") from error
        if not self.config.lora and is_main_process:  # files of a model saved here before
            remove_lora_files(directory)
        if push_to_hub and is_main_process:
            self._push_folder(directory, repo_id, **options)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Model],
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        backbone: PreTrainedModel | str | os.PathLike | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        strict: bool = True,
        ignore_mismatched_sizes: bool = False,
        use_safetensors: bool | None = None,
        **kwargs: Any,
    ) -> Model:
        """Loads an adapter, then puts it on its backbone.

        Args:
            pretrained_model_name_or_path: folder, Hub id or bare name of the adapter (`hub/names.py`).
            model_args: of `PreTrainedModel.from_pretrained`.
            backbone: a module, Hub id or folder instead of the recorded one. A module is shared, not copied: its
                weights are frozen, its own hooks stay.
            backbone_kwargs: of the backbone's `from_pretrained`, such as `dtype` or `quantization_config`.
            strict: whether a missing or wrongly shaped tensor is an error; if not, it gets a start value, and a warning
                lists all that do.
            ignore_mismatched_sizes: whether the head, and nothing else, may be another: of other classes, such as
                `num_labels=5` or `id2label={0: "chair", …}`. What does not fit gets a start value, with that warning.
            use_safetensors: nothing else is ever loaded; False is refused.
            kwargs: fields of the config to change, or of `PreTrainedModel.from_pretrained`; `device_map`, `dtype`,
                `token`, `cache_dir`, `local_files_only`, `force_download` and `attn_implementation` also apply to the
                backbone, `revision` does not.

        Returns:
            The model in eval mode.

        Raises:
            CheckpointError: no such adapter, truncated, changed, files of two adapters, not an Any2Point adapter,
                tensors missing, unexpected, wrongly shaped or not finite, or made for another backbone.
            BackboneLoadError: the backbone cannot be loaded.
            HubError: the Hub does not answer, refuses or breaks off, and the adapter is not in the cache.
            ConfigurationError: an argument is unknown or refused.
        """
        refuse_arguments(use_safetensors, kwargs)
        want_info = kwargs.pop("output_loading_info", False)
        pulling = pull_options(kwargs)
        folder = pulled_folder(pretrained_model_name_or_path, _FILES, **pulling)
        kwargs.pop("revision", None)  # the adapter's, not its backbone's
        commit = None if os.path.isdir(pretrained_model_name_or_path) else folder.name
        place = folder / pulling.get("subfolder", "")
        try:
            config = kwargs.get("config") or cls.config_class.from_pretrained(place)
            check_header(config, place, kwargs)
            check_task(pretrained_model_name_or_path, weight_files(place), cls.head)
            loaded: Any = super().from_pretrained(
                folder,
                *model_args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                **kwargs,
            )
        except Exception as error:  # of damaged files transformers raises many types
            if isinstance(error, Any2PointError) and not isinstance(error, UnsupportedBackboneError):
                raise
            refuse_unknown_argument(error, cls, kwargs)
            raise CheckpointError(
                "an adapter must be a folder or Hub repository with config.json and a whole model.safetensors, and "
                f"{str(pretrained_model_name_or_path)!r} could not be loaded. Check the spelling, whether the file "
                f"was copied whole, and the network. The loader said: {str(error)[:250]}"
            ) from error
        model, info = loaded
        check_loaded(pretrained_model_name_or_path, info, strict, ignore_mismatched_sizes, cls.head)
        checksums, model.config.checksums = model.config.checksums, None
        files = weight_files(place)
        for file in files:
            check_checksum(file.parent, file.name, checksums)
        unfrozen = stored_tensors(files)
        check_stored(model.config, unfrozen)
        model._checkpoint_record = backbone_record(model.config)
        lora_folder, lora_config = None, None
        if model.config.lora:
            names = [f"{LORA_FOLDER}/{file}" for file in LORA_FILES]
            lora_folder = pulled_folder(pretrained_model_name_or_path, names, **pulling | {"revision": commit})
            lora_folder = find_lora_files(lora_folder, pulling.get("subfolder", ""))
            lora_config = read_lora_config(lora_folder)
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        model.config._commit_hash = commit  # the pipelines pull the processor of the same one
        if isinstance(backbone, nn.Module):
            model.config.record_module(backbone.config)
        else:
            options = {name: kwargs[name] for name in (*DOWNLOAD_OPTIONS, "device_map", "dtype") if name in kwargs}
            backbone = _recorded_backbone(model.config, backbone, options | (backbone_kwargs or {}))
        model.attach_backbone(backbone)
        if unfrozen:
            load_unfrozen(model, unfrozen)
        if lora_folder is not None:
            model.add_lora(lora_config)
            load_lora_weights(model.base_model.backbone, lora_folder)
            for name in names:
                check_checksum(lora_folder.parent, name, checksums)
        attention = kwargs.get("attn_implementation")
        if attention is not None:
            model.base_model.backbone.set_attn_implementation(attention)
        model.eval()
        result: Any = (model, info) if want_info else model
        return result


def _of_backbone(name: str) -> bool:
    return name.startswith("backbone.") or ".backbone." in name


def _recorded_backbone(
    config: Any2PointConfig, override: str | os.PathLike | None, options: dict[str, Any]
) -> PreTrainedModel:
    """Loads the backbone an adapter names, or the one given instead."""
    if override is not None:
        config.backbone, config.backbone_revision = recorded_path(override), None
    name: Any = config.backbone
    if name is None:
        raise CheckpointError(
            "this adapter's backbone had random weights, which a checkpoint does not store. Pass the same backbone as "
            "backbone=<module or folder>."
        )
    if name.startswith("./") and not os.path.isdir(name):
        raise CheckpointError(
            f"this adapter was pushed from a machine where its backbone is a folder, {name[2:]!r}, and "
            "there is none of that name here. Pass the same backbone as backbone=<Hub id or folder>."
        )
    backbone = load_backbone(name, config.backbone_revision, config.modality, **options)
    if override is not None:
        config.backbone_revision = commit_of(backbone.config)
    return backbone
