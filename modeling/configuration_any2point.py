"""`Any2PointConfig`: every choice of the method is one field; the backbone's own config is recorded inside."""

import math
import os
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .block_choice import BlockChoice
from .errors import ConfigurationError, UnsupportedBackboneError, require
from .field_names import OF_BACKBONE
from .head_fields import check_head_fields, for_new_labels
from .hub.names import pull_options, pulled_folder
from .presets import find_preset
from .publishing.remote_code import NotCopied
from .pulled_config import check_fields, check_num_labels, checked_values, refuse_unknown
from .segmentation.categories import as_category_parts, check_category_parts

SMALLEST_CLOUD = 64  # points; the tokenizer halves them three times
LARGEST_CLOUD = 65536  # points, which give 8192 tokens; attention and cells compare every pair of tokens


@strict
class Any2PointConfig(NotCopied, BlockChoice, PreTrainedConfig):
    r"""Settings of an Any2Point model (arXiv 2404.07989).

    Args:
        backbone: Hub id or folder of the frozen transformer; a folder is recorded as an absolute path.
        backbone_revision: branch, tag or commit of the backbone on the Hub; when the backbone is loaded for a new
            model, its commit is recorded here.
        backbone_config: the backbone's own config (or its dict). Given without `backbone`, the backbone is built
            with random weights; otherwise it is filled in when the backbone is loaded.
        backbone_blocks: how many of its blocks the tokens pass, counted from the first; `None` for all. 0 leaves
            tokenizer and head alone, the control that shows what the backbone contributes.
        modality: `"1d"` (language: positions on lines) or `"2d"` (vision, audio: positions on planes); by default the
            backbone's own.
        num_points: number of points to which the processor brings each cloud. Any N from 64 to 65536 works.
        num_point_features: F, what each point has besides its coordinates, such as 3 for a colour; 0 is the paper's
            model. By default as many as there are names.
        point_feature_names: what they are, in order, such as `["red", "green", "blue"]`; by default `feature_0` and so
            on. Names of `point_clouds/features.py` are read from files.
        sampling_start: where the tokenizer's farthest point sampling starts: at the `"first"` point, as released, or at
            the one `"farthest"` from the centroid (ties by coordinates), so that no answer depends on the order of the
            points. `None` is `"farthest"`, and `"first"` with `released_compatibility`; a `config.json` without this
            field, of an earlier version, is `"first"`.
        num_views: number of lines or planes that the cloud is projected on, at most 10. Six is the paper's choice.
        num_neighbors: K, points in each of the tokenizer's neighbourhoods. More is slower and smoother; 64 or 81 are
            published.
        neighborhood_norm: `"extent"` for scans (each neighbourhood by its own size), `"deviation"` for clean CAD
            models (by the cloud's spread).
        adapter_dim: width of the bottlenecks; 8 to 16 are published.
        adapter_scale: s, weight of the bottleneck's output.
        adapter_dropout: dropout inside the bottleneck.
        adapter_placement: the bottleneck reads the feed-forward output (`"after"`), its input (`"before"`), or runs
            beside it (`"parallel"`). `"after"` is the paper's best (Table 7).
        adapter_blocks: `None` for all blocks, n for the first n, or a list of block indices.
        aggregation: cells of the guided aggregation: the views' own (`"source"`) or voxels (`"3d"`); `"none"` for no
            aggregation.
        aggregation_scale: c, weight of the aggregated features.
        ensemble: views weighed by similarity to the 3D branch (`"adaptive"`, eq. 3) or equally (`"mean"`).
        cell_size: side of a cell, in line units or pixels; by default 2 on a line, ⌈longer side / 20⌉ on a plane.
        cell_pooling: `"mean"` or `"mean+max"` of a view's cell.
        voxel_size: side of a voxel of the 3D branch, in the units of the points.
        local_attention_dim: width of the attention inside cells.
        local_attention_heads: heads of that attention; must divide its width.
        position_encoding: `"virtual"` (the backbone's own positions, eq. 2), `"sinusoidal"`, `"learnable"` (both of
            the 3D coordinates) or `"none"` (Table 4).
        position_injection: encodings are added at the `"input"`, before all `"blocks"`, or `"input+blocks"`.
        projection: of a 2D backbone: `"perspective"` (PointCLIP) or `"orthographic"` (PointCLIP v2).
        camera_distance: d of the perspective projection; 1.4 to 1.8 for clouds in the unit sphere.
        line_direction: direction of the virtual line before its rotations; normalised by the model.
        line_length: n, length of the virtual line; by default the rows of the table, at most 77.
        plane: [width, height] of the virtual plane in pixels; by default the backbone's image or spectrogram.
        pooling: order of the two pooled features, `"max"` and `"cls"`.
        head_bias: whether the head's two hidden linear layers have a bias.
        label_smoothing: of the cross-entropy.
        temperature: by which a classifier's logits are divided where probabilities are wanted; `any2point calibrate`
            fits it. Logits and losses are not changed by it.
        layer_norm_eps: overrides the eps of the layer norms in the backbone's blocks.
        final_norm_eps: overrides the eps of the final norm.
        adapter_start: start values of a new model (method.md 5): `"scan"` and `"modelnet"` as released
            for the two kinds of data; `"zero"`, as `"modelnet"` but adapters start by adding nothing; `"scaled"`, as
            `"modelnet"` but the aggregation starts at a twentieth of the tokens' size and c is in units of that size.
        token_scale: `"embedding"` scales the tokenizer's output to the size of the backbone's own embeddings, and
            centres it where the tokenizer's last projection leaves a constant; where the backbone has neither word
            embeddings nor a table of positions, it warns and does nothing. `"none"` leaves the output, as published.
        released_compatibility: compute what the authors' released code computes (method.md 6), for their checkpoints.
        problem_type: what the head says of a cloud, by the names of transformers (`head_tasks.py`): one class, several
            (`"multi_label_classification"`) or numbers (`"regression"`). `None` is one class; it is never guessed.
        target_mean: of a regression, the mean of each target over the training clouds; its logits are in these units.
        target_std: the deviation of each.
        class_weight: the weight of each class or part in the cross-entropy; `"balanced"` lets the training compute
            clouds / (classes × clouds of the class), or the same of points.
        classifier: name of the class of a head of one's own (`custom_heads.py`); `None` is the paper's.
        lora: whether a LoRA in the backbone (of the `peft` library) is trained too: a new model gets the default one,
            and `add_lora` gives another. Of a checkpoint, whether there is one in its subfolder `lora`.
        unfrozen_blocks: how many of the last blocks are trained and saved too (`unfreeze_backbone`).
        category_parts: of a segmentation model whose clouds have known categories: by each category's name, in the
            order of their ids, the numbers of its parts, such as `{"chair": [0, 1, 2], "lamp": [3, 4]}`.
        segmentation_blocks: indices of the blocks whose outputs the segmentation head reads; by default the last of
            each third.

    Raises:
        StrictDataclassError: a value of the wrong type or out of range (its rule is in the message).
        UnsupportedBackboneError: `backbone_config` names no known `model_type`.
    """

    model_type = "any2point"
    # What the Trainer need not gather during evaluation.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "last_hidden_state",
        "pooler_output",
        "point_centers",
        "hidden_states",
        "attentions",
    ]

    backbone: str | os.PathLike | None = None
    backbone_revision: str | None = None
    backbone_config: PreTrainedConfig | dict | None = None
    backbone_blocks: int | None = None
    modality: Literal["1d", "2d"] | None = None
    num_points: int = 1024
    num_point_features: int = 0
    point_feature_names: list[str] | tuple[str, ...] = ()
    sampling_start: Literal["first", "farthest"] | None = None
    num_views: int = 6
    num_neighbors: int = 64
    neighborhood_norm: Literal["extent", "deviation"] = "extent"
    adapter_dim: int = 16
    adapter_scale: float | int = 0.3
    adapter_dropout: float | int = 0.1
    adapter_placement: Literal["after", "before", "parallel"] = "after"
    adapter_blocks: int | list[int] | None = None
    aggregation: Literal["source", "3d", "none"] = "source"
    aggregation_scale: float | int = 0.3
    ensemble: Literal["adaptive", "mean"] = "adaptive"
    cell_size: int | float | None = None
    cell_pooling: Literal["mean", "mean+max"] = "mean"
    voxel_size: float | int = 0.16
    local_attention_dim: int = 12
    local_attention_heads: int = 6
    position_encoding: Literal["virtual", "sinusoidal", "learnable", "none"] = "virtual"
    position_injection: Literal["input", "blocks", "input+blocks"] = "input"
    projection: Literal["perspective", "orthographic"] = "perspective"
    camera_distance: float | int = 1.4
    line_direction: list[float | int] | tuple[float | int, ...] = (1.0, -1.0, 0.0)
    line_length: int | None = None
    plane: list[int] | tuple[int, ...] | None = None
    pooling: list[str] | tuple[str, ...] = ("max", "cls")
    head_bias: bool = False
    label_smoothing: float | int = 0.0
    temperature: float | int = 1.0
    layer_norm_eps: float | None = None
    final_norm_eps: float | None = None
    adapter_start: Literal["scan", "modelnet", "zero", "scaled"] = "modelnet"
    token_scale: Literal["none", "embedding"] = "none"
    released_compatibility: bool = False
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    target_mean: list[float | int] | None = None
    target_std: list[float | int] | None = None
    class_weight: list[float | int] | Literal["balanced"] | None = None
    classifier: str | None = None
    lora: bool = False
    unfrozen_blocks: int = 0
    category_parts: dict[str, list[int]] | list | None = None
    segmentation_blocks: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.checksums: Any = kwargs.pop("checksums", None)  # of a config.json; the model's loading compares them
        if kwargs.get("model_type") in (None, self.model_type):  # else it is another model's, which loading refuses
            refuse_unknown(kwargs, self.__dataclass_fields__, METHOD_FIELDS)
        check_num_labels(kwargs.get("num_labels"), self.problem_type, self.id2label)
        if self.backbone is not None:
            self.backbone = recorded_path(self.backbone)
        if isinstance(self.backbone_config, dict):
            self.backbone_config = _config_from_dict(self.backbone_config)
        self.category_parts = as_category_parts(self.category_parts)
        self.line_direction, self.pooling = list(self.line_direction), list(self.pooling)
        self.plane = None if self.plane is None else list(self.plane)
        if self.sampling_start is None:
            self.sampling_start = "first" if self.released_compatibility else "farthest"
        self.point_feature_names = list(self.point_feature_names)
        self.num_point_features = self.num_point_features or len(self.point_feature_names)
        if not self.point_feature_names:
            self.point_feature_names = [f"feature_{index}" for index in range(self.num_point_features)]
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "Any2PointConfig":
        """The config of a published setting (`modeling/presets.py`), in the default mode.

        Args:
            name: such as `"clip-text-scan"`; see `any2point train --help` for all.
            overrides: any fields instead of the setting's own. A setting whose backbone is on no Hub needs `backbone`
                (the folder that its conversion script wrote) or `backbone_config`.

        Raises:
            ConfigurationError: there is no such preset, or it needs a backbone.
        """
        preset = find_preset(name)
        fields = {**preset.config, "backbone": preset.backbone} | overrides
        if overrides.get("backbone_config") is not None and "backbone" not in overrides:
            fields["backbone"] = None  # a config alone means a backbone of random weights
        elif fields["backbone"] is None:
            script = preset.backbone_script
            made_by = (
                f" Its backbone is on no Hub: make the folder by conversion_scripts/{script}.py." if script else ""
            )
            raise ConfigurationError(f"the preset {name} needs backbone=<folder or Hub id>, got none.{made_by}")
        if "id2label" not in fields:
            fields.setdefault("num_labels", len(preset.dataset.class_names))
        return cls(**fields)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> Any:
        """Loads a config as in transformers, from a folder, Hub id or bare name.

        Args:
            pretrained_model_name_or_path: see `pulled_folder` in `hub/names.py`.
            kwargs: of `PreTrainedConfig.from_pretrained`.

        Raises:
            CheckpointError: the name exists nowhere.
            HubError: the Hub does not answer, refuses or breaks off, and the config is not in the cache.
        """
        if not os.path.isfile(pretrained_model_name_or_path):
            options = pull_options(kwargs)
            pretrained_model_name_or_path = pulled_folder(pretrained_model_name_or_path, ("config.json",), **options)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but the argument `backbone`, as an Auto class or a pipeline passes it, may be a module.

        With `return_unused_kwargs` it is returned as unused, for the model; otherwise the config records its name. A
        dict without `sampling_start` is of a version that knew the first point alone.

        Raises:
            Any2PointError: a field is unknown, or a value out of range (`pulled_config.py`).
        """
        config_dict = for_new_labels(checked_values({"sampling_start": "first", **config_dict}), kwargs)
        if not kwargs.get("return_unused_kwargs"):
            refuse_unknown(kwargs.keys() - vars(cls()).keys(), cls.__dataclass_fields__, METHOD_FIELDS)
        passed_on = {"backbone", *(("classifier",) if not isinstance(kwargs.get("classifier", ""), str) else ())}
        if not kwargs.get("return_unused_kwargs") or not passed_on & kwargs.keys():
            module_config = getattr(kwargs.get("backbone"), "config", None)
            if module_config is not None:
                kwargs["backbone"] = recorded_path(module_config.name_or_path) or None
            return super().from_dict(config_dict, **kwargs)
        of_model = {name: kwargs.pop(name) for name in passed_on & kwargs.keys()}
        config, unused = super().from_dict(config_dict, **kwargs)
        return config, unused | of_model

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, without the checksums of loaded files; categories as pairs, which keep their order."""
        values = {name: value for name, value in super().to_dict().items() if name != "checksums"}
        pairs = values.get("category_parts")
        return values if pairs is None else values | {"category_parts": [list(pair) for pair in pairs.items()]}

    def validate_architecture(self) -> None:
        """Checks the ranges that types do not express; transformers runs it whenever a config is made."""
        for name, value in vars(self).items():
            if isinstance(value, float):
                require(math.isfinite(value), f"{name} must be finite", value)
        check_fields(self, METHOD_FIELDS)
        positive = ("num_points", "num_neighbors", "adapter_dim", "voxel_size", "local_attention_dim", "temperature")
        for name in (*positive, "cell_size", "line_length", "layer_norm_eps", "final_norm_eps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be positive", value)
        require(self.num_points >= SMALLEST_CLOUD, f"num_points must be at least {SMALLEST_CLOUD}", self.num_points)
        require(self.num_points <= LARGEST_CLOUD, f"num_points must be at most {LARGEST_CLOUD}", self.num_points)
        names = self.point_feature_names
        require(self.num_point_features >= 0, "num_point_features must not be negative", self.num_point_features)
        require(
            len(set(names)) == len(names) == self.num_point_features and "" not in names,
            f"point_feature_names must be {self.num_point_features} different names (num_point_features)",
            names,
        )
        require(self.unfrozen_blocks >= 0, "unfrozen_blocks must not be negative", self.unfrozen_blocks)
        require(1 <= self.num_views <= 10, "num_views must lie in 1…10 (the views there are)", self.num_views)
        require(
            self.local_attention_heads > 0 and self.local_attention_dim % self.local_attention_heads == 0,
            f"local_attention_heads must divide local_attention_dim ({self.local_attention_dim})",
            self.local_attention_heads,
        )
        require(0 <= self.adapter_dropout < 1, "adapter_dropout must lie in [0, 1)", self.adapter_dropout)
        require(0 <= self.label_smoothing < 1, "label_smoothing must lie in [0, 1)", self.label_smoothing)
        require(
            len(self.line_direction) == 3 and any(self.line_direction),
            "line_direction must be three numbers, not all zero",
            self.line_direction,
        )
        require(
            self.plane is None or (len(self.plane) == 2 and min(self.plane) > 1),
            "plane must be [width, height] in pixels, each above 1",
            self.plane,
        )
        require(
            sorted(self.pooling) == ["cls", "max"],
            'pooling must be "max" and "cls" in some order',
            self.pooling,
        )
        categories: Any = self.category_parts
        check_category_parts(categories, self.num_labels or 0)
        check_head_fields(self)
        super().validate_architecture()

    def record_module(self, backbone_config: PreTrainedConfig) -> None:
        """Records where a backbone module was loaded from, with its commit on the Hub; None if it was not loaded."""
        name = backbone_config.name_or_path
        self.backbone = recorded_path(name) if name else None
        is_on_hub = name and not os.path.isdir(name)
        self.backbone_revision = getattr(backbone_config, "_commit_hash", None) if is_on_hub else None

    def unlike_defaults(self) -> dict[str, Any]:
        """Returns the fields that differ from their defaults, except those that name the backbone."""
        plain = type(self)()
        return {name: getattr(self, name) for name in METHOD_FIELDS if getattr(self, name) != getattr(plain, name)}


def recorded_path(backbone: str | os.PathLike) -> str:
    """A folder as an absolute path, so that it is found from anywhere; a Hub id as it is."""
    return os.path.abspath(backbone) if os.path.isdir(backbone) else str(backbone)


def _config_from_dict(values: dict[str, Any]) -> PreTrainedConfig:
    values = dict(values)
    model_type = values.pop("model_type", None)
    try:
        return AutoConfig.for_model(model_type, **values)
    except ValueError as error:
        raise UnsupportedBackboneError(
            f"backbone_config must name a model_type that transformers knows, got {model_type!r}. Pass the config "
            "object itself, or the dict of its to_dict()."
        ) from error


METHOD_FIELDS = tuple(name for name in Any2PointConfig.__annotations__ if name not in OF_BACKBONE)

AutoConfig.register(Any2PointConfig.model_type, Any2PointConfig, exist_ok=True)
