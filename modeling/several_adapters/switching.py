"""Several adapters over one frozen backbone: loading, switching and deleting them by name.

Unusual here: each adapter is a whole model over the same backbone tensors, with module objects of its own, so that
hooks, eps and LoRA of one never reach another. Switching exchanges the attributes of the model and a waiting one, and
moves no tensor. Waiting models stand in a plain dict, out of the sight of `parameters()`, `state_dict()` and `to()`;
they are brought to the model's device, dtype and mode when they are used.
"""

import os
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from ..backbones.loading import commit_of, share_backbone
from ..configuration_any2point import Any2PointConfig, recorded_path
from ..errors import Any2PointError, CheckpointError
from .averaging import average_adapters
from .lora import remove_lora

DEFAULT_ADAPTER = "default"  # the one that the model was made or loaded with
_ABSENT = object()


class SeveralAdapters:
    """Adapters by name, of which one is active; the methods hide those of transformers for PEFT's adapters."""

    # Attributes of the model class that inherits this one.
    base_model: Any
    config: Any2PointConfig
    training: bool
    from_pretrained: Any

    _adapters_by_name: dict[str, Any] | None = None  # made when first asked for
    _known_backbones: set[tuple[str | None, str]] | None = None  # likewise
    _checkpoint_record: tuple[str | None, str] | None = None  # `backbone_record` of the files it was loaded from

    # The attributes that make up an adapter, which switching exchanges. All others stay with the model: hooks, what
    # accelerate has wrapped, gradient checkpointing.
    adapter_attributes: ClassVar[tuple[str, ...]] = (
        *("_parameters", "_buffers", "_modules", "training"),
        *("config", "name_or_path", "_keys_to_ignore_on_save", "start_seed"),
    )

    @property
    def _adapters(self) -> dict[str, Any]:
        """By name, the waiting model of each adapter, and None for the active one, which is this model itself."""
        if self._adapters_by_name is None:
            self._adapters_by_name = {DEFAULT_ADAPTER: None}
        return self._adapters_by_name

    @property
    def _backbone_records(self) -> set[tuple[str | None, str]]:
        """Pairs (id or folder, revision) that name the backbone in use: the model's record, and those of adapters."""
        if self._known_backbones is None:
            own = backbone_record(self.config)
            loaded = (own[0], commit_of(self.base_model.backbone.config) or own[1])
            self._known_backbones = {own, loaded, self._checkpoint_record or own}
        return self._known_backbones

    @property
    def adapter_names(self) -> list[str]:
        """Names of all adapters, in the order in which they were loaded."""
        return list(self._adapters)

    @property
    def active_adapter(self) -> str:
        """Name of the adapter that computes, trains and is saved."""
        return next(name for name, waiting in self._adapters.items() if waiting is None)

    def adapter_config(self, adapter_name: str) -> Any2PointConfig:
        """The config of an adapter, with the names of its classes.

        Args:
            adapter_name: the active one's or another's.

        Raises:
            Any2PointError: there is no such adapter.
        """
        return (self._find_adapter(adapter_name) or self).config

    def load_adapter(
        self,
        name_or_path: str | os.PathLike,
        adapter_name: str,
        backbone: PreTrainedModel | str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> None:
        """Loads another adapter for the model's backbone, which stays as it is; `set_adapter` makes it the active one.

        Args:
            name_or_path: folder or Hub id of the adapter.
            adapter_name: what it is called from now on.
            backbone: the model's own (`model.backbone`, or its id or folder), to say that the backbone which the
                adapter records is a copy of it. Needed if it records a folder of another machine, or none.
            kwargs: of `from_pretrained`, such as `revision`, `token` or `strict`.

        Raises:
            Any2PointError: the name is taken, or blocks of the backbone are an adapter's own (`unfreeze_backbone`).
            CheckpointError: the adapter cannot be loaded, or was made for another backbone.
        """
        if self.base_model.backbone is None:  # transformers calls this where a folder holds PEFT's adapter_config.json
            raise CheckpointError(
                f"an adapter's LoRA lies in its subfolder lora, and {str(name_or_path)!r} holds an adapter_config.json "
                "itself. Move it with its adapter_model.safetensors into the subfolder, or remove it."
            )
        self._check_name_is_free(adapter_name)
        _check_frozen(self.config)
        adapter = type(self).from_pretrained(name_or_path, backbone=self._backbone_without_adapters(), **kwargs)
        self._check_same_backbone(name_or_path, adapter, backbone)
        config = adapter.config
        _check_frozen(config)
        config.backbone, config.backbone_revision = self.config.backbone, self.config.backbone_revision
        self._adapters[adapter_name] = adapter

    def set_adapter(self, adapter_name: str) -> None:
        """Makes an adapter the active one: its tensors are `parameters()` and `state_dict()` from now on.

        An optimiser knows the parameters it was made with: switch before a `Trainer` is made.

        Args:
            adapter_name: one of `adapter_names`.

        Raises:
            Any2PointError: there is no such adapter.
        """
        adapter = self._find_adapter(adapter_name)
        if adapter is None:
            return
        active = self.active_adapter
        self._bring_along(adapter)
        for name in self.adapter_attributes:
            mine, theirs = vars(self).pop(name, _ABSENT), vars(adapter).pop(name, _ABSENT)
            vars(self).update({} if theirs is _ABSENT else {name: theirs})
            vars(adapter).update({} if mine is _ABSENT else {name: mine})
        self._adapters[active], self._adapters[adapter_name] = adapter, None

    def delete_adapter(self, adapter_name: str) -> None:
        """Forgets an adapter and frees its memory.

        Args:
            adapter_name: one of `adapter_names`, but not the active one.

        Raises:
            Any2PointError: there is no such adapter, or it is the active one.
        """
        if self._find_adapter(adapter_name) is None:
            raise Any2PointError(
                f"the active adapter cannot be deleted, got {adapter_name!r}. Make another one active first by "
                f"set_adapter; there are: {', '.join(self.adapter_names)}."
            )
        del self._adapters[adapter_name]

    def add_weighted_adapter(self, adapter_names: list[str], weights: list[float], adapter_name: str) -> None:
        """Adds the weighted mean of adapters: of their trained tensors and running statistics.

        Args:
            adapter_names: of adapters with the same settings and classes.
            weights: one each, not negative; they are divided by their sum.
            adapter_name: of the mean.

        Raises:
            Any2PointError: a name is unknown or taken, weights cannot be used, or the adapters differ in more than
                their weights.
        """
        self._check_name_is_free(adapter_name)
        adapters = {name: self._find_adapter(name) or self for name in adapter_names}
        backbone = self._backbone_without_adapters()
        self._adapters[adapter_name] = average_adapters(adapters, adapter_names, weights, backbone)

    def _find_adapter(self, adapter_name: str) -> Any:
        """The waiting model of this name, or None where it is the active one."""
        if adapter_name not in self.adapter_names:
            raise Any2PointError(
                f"there is no adapter {adapter_name!r}; there are: {', '.join(self.adapter_names)}. Load it first by "
                "model.load_adapter(folder or Hub id, name)."
            )
        return self._adapters[adapter_name]

    def _check_name_is_free(self, adapter_name: str) -> None:
        if not isinstance(adapter_name, str) or not adapter_name:
            raise Any2PointError(f"an adapter's name must be a string that is not empty, got {adapter_name!r}.")
        if adapter_name in self.adapter_names:
            raise Any2PointError(
                f"an adapter's name must be new, got {adapter_name!r}; there are: {', '.join(self.adapter_names)}. "
                "Choose another name, or delete that adapter first."
            )

    def _backbone_without_adapters(self) -> PreTrainedModel:
        """Returns a module tree over the backbone's tensors without the active adapter's changes, such as its LoRA."""
        backbone = share_backbone(self.base_model.backbone)
        if self.base_model.lora is not None:
            remove_lora(backbone)
        module: Any
        for module in backbone.modules():
            if hasattr(module, "own_eps"):
                module.eps = module.own_eps
            if self.config.released_compatibility and hasattr(module, "append_key_value_rows"):
                module.append_key_value_rows = True
        return backbone

    def _check_same_backbone(self, source: str | os.PathLike, adapter: Any, declared: Any) -> None:
        """Checks that the backbone which an adapter records, or one declared to be its copy, is the one in use.

        Raises:
            CheckpointError: it is not.
        """
        record, known = adapter._checkpoint_record, self._backbone_records
        if isinstance(declared, nn.Module):
            own = {id(parameter) for parameter in self.base_model.backbone.parameters()}
            is_same = any(id(parameter) in own for parameter in declared.parameters())
        elif declared is not None:
            is_same = recorded_path(declared) in {name for name, _ in known}
        else:  # without a revision, an adapter claims none: those of earlier versions
            names = {name for name, _ in known} if record[1] == "main" else set()
            is_same = record[0] is not None and (record in known or record[0] in names)
        if not is_same:
            in_use = " or ".join(sorted(_describe(known_record) for known_record in known))
            raise CheckpointError(
                f"all adapters of a model must be of its backbone: {str(source)!r} was made for {_describe(record)}, "
                f"the model's backbone is {in_use}. If they are copies of the same weights, say so by "
                "backbone=model.backbone; if not, load it as a model of its own."
            )
        known.add(record)

    def _bring_along(self, adapter: Any) -> Any:
        """Gives a waiting model the backbone's tensors as they are now, and the model's device, dtype and modes."""
        base, waiting = self.base_model, adapter.base_model
        _share_tensors(base.backbone, waiting.backbone)
        attention = base.backbone.config._attn_implementation
        if waiting.backbone.config._attn_implementation != attention:
            waiting.backbone.set_attn_implementation(attention)
        if (waiting.cls_token.device, waiting.cls_token.dtype) != (base.cls_token.device, base.cls_token.dtype):
            backbone, waiting.backbone = waiting.backbone, None  # it keeps its own dtype
            adapter.to(base.cls_token.device, base.cls_token.dtype)
            waiting.backbone = backbone
        if adapter.training != self.training:
            adapter.train(self.training)
        waiting.gradient_checkpointing = base.gradient_checkpointing
        if base.gradient_checkpointing:
            waiting._gradient_checkpointing_func = base._gradient_checkpointing_func
        return adapter


def backbone_record(config: Any2PointConfig) -> tuple[str | None, str]:
    """Returns id (or folder) and revision of the backbone that a config names."""
    backbone: Any = config.backbone
    return backbone, config.backbone_revision or "main"


def _check_frozen(config: Any2PointConfig) -> None:
    """Raises an `Any2PointError` where blocks of the backbone are an adapter's own."""
    if config.unfrozen_blocks:
        raise Any2PointError(
            f"several adapters share one frozen backbone, and one has unfrozen_blocks={config.unfrozen_blocks} of its "
            "own. Load each as a model of its own by from_pretrained."
        )


def _describe(record: tuple[str | None, str]) -> str:
    name, revision = record
    if name is None:
        return "a backbone without a name"
    return repr(name) if revision == "main" else f"{name!r} (revision {revision})"


def _share_tensors(source: nn.Module, target: nn.Module) -> None:
    """Points one backbone's module tree at the tensors of another, whichever of them has LoRA's layers in it."""
    modules = {_own_name(name): module for name, module in source.named_modules()}
    for name, module in target.named_modules():
        origin = modules.get(_own_name(name))
        for kind in ("_parameters", "_buffers") if origin is not None else ():
            theirs, mine = getattr(origin, kind), getattr(module, kind)
            mine.update({key: theirs[key] for key in mine if key in theirs})


def _own_name(name: str) -> str:
    return name.replace(".base_layer", "")  # LoRA's layer stands where the backbone's own was, which it holds
