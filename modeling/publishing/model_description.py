"""The facts of a model that its card states and that do not depend on how it was trained."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import model_info, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

from ..backbones.spec import num_blocks
from ..backbones.unfrozen import is_unfrozen
from ..checkpoint_integrity import HEADS
from ..head_fields import MULTI_LABEL, REGRESSION, problem_of

_CACHED_SNAPSHOT = re.compile(r"models--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})$")  # a Hub repository in its cache
_SECONDS_FOR_THE_HUB = 5
_KINDS = {MULTI_LABEL: "multi-label", REGRESSION: "regression"}
_LICENCE_FIELDS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class ModelDescription:
    """A model in figures and names.

    Args:
        class_name: name of the model's class.
        backbone: its Hub id or, for a folder, the folder's name; None where its weights were never saved.
        base_model: the backbone's Hub id, if it is known.
        revision: the backbone's revision on the Hub, if it is known.
        is_found: whether the model finds its backbone by itself, on any machine.
        family: the backbone's `model_type`.
        depth: number of the backbone's blocks.
        width: the backbone's hidden size.
        modality: "1d" or "2d".
        task: "classification" or "segmentation"; None for a model without a head.
        problem: what a head says, by the names of transformers.
        num_points: points a cloud.
        point_feature_names: what it takes of each point besides the coordinates.
        class_names: of classes, targets or parts, in the order of the logits; empty without a head.
        categories: of a segmentation model whose clouds have any, in the order of their numbers.
        settings: fields of the config that differ from their defaults.
        trained: number of trained parameters.
        trained_without_head: number of those outside the head.
        unfrozen: number of those in the backbone's last blocks.
        num_bytes: size of the tensors that are saved.
        attends_across_batch: whether a cloud's answer depends on the clouds beside it.
        licence: `license` and, of a licence that the Hub does not list, `license_name` and `license_link`; empty where
            it is not known.
    """

    class_name: str
    backbone: str | None
    base_model: str | None
    revision: str | None
    is_found: bool
    family: str
    depth: int
    width: int
    modality: str
    task: str | None
    problem: str
    num_points: int
    point_feature_names: tuple[str, ...]
    class_names: tuple[str, ...]
    categories: tuple[str, ...]
    settings: Mapping[str, Any]
    trained: int
    trained_without_head: int
    unfrozen: int
    num_bytes: int
    attends_across_batch: bool
    licence: Mapping[str, Any]

    @property
    def kind(self) -> str | None:
        """What a card calls the task: "classification", "multi-label", "regression" or "segmentation"; or None."""
        return _KINDS.get(self.problem, self.task) if self.task == "classification" else self.task


def describe(model: PreTrainedModel, token: str | bool | None = None) -> ModelDescription:
    """Describes a model that has its backbone. It must be called before a Trainer shards the model.

    Args:
        model: an Any2Point model.
        token: for the Hub, where the backbone's card is read for its licence.
    """
    config: Any = model.config
    base: Any = model.base_model
    head: str | None = getattr(model, "head", None)
    base_model, revision = hub_repository(config.backbone)
    revision = config.backbone_revision or revision
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    not_saved: Any = model._keys_to_ignore_on_save
    saved = [tensor for name, tensor in model.state_dict().items() if name not in not_saved]
    return ModelDescription(
        class_name=type(model).__name__,
        backbone=base_model or (config.backbone and last_name(config.backbone)),
        base_model=base_model,
        revision=revision,
        is_found=base_model is not None and base_model == config.backbone,
        family=config.backbone_config.model_type,
        depth=num_blocks(config.backbone_config),
        width=config.backbone_config.hidden_size,
        modality=base.modality,
        task=HEADS[head] if head else None,
        problem=problem_of(config),
        num_points=config.num_points,
        point_feature_names=tuple(config.point_feature_names),
        class_names=tuple(config.id2label[index] for index in range(config.num_labels)) if head else (),
        categories=tuple(config.category_parts or ()) if head == "segmenter" else (),
        settings=config.unlike_defaults(),
        trained=sum(trained.values()),
        trained_without_head=sum(count for name, count in trained.items() if name.partition(".")[0] != head),
        unfrozen=sum(count for name, count in trained.items() if is_unfrozen(base, name)),
        num_bytes=sum(tensor.numel() * tensor.element_size() for tensor in saved),
        attends_across_batch=config.released_compatibility and base.modality == "1d",
        licence=inherited_licence(config.backbone, revision, token),
    )


def hub_repository(backbone: str | None) -> tuple[str | None, str | None]:
    """Returns Hub id and commit of a recorded backbone, as far as its name tells: `(None, None)` for a folder.

    A folder of the Hub's cache (what `hf download` prints) has both in its path.
    """
    if backbone is None:
        return None, None
    cached = _CACHED_SNAPSHOT.search(backbone)
    if cached:
        return cached[1].replace("--", "/"), cached[2]
    if os.path.isdir(backbone):
        return None, None
    try:
        validate_repo_id(backbone)
    except HFValidationError:  # a folder of another machine
        return None, None
    return backbone, None


def last_name(path: str) -> str:
    """The last part of a path, whether the path is of this system or of another."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def inherited_licence(
    backbone: str | None, revision: str | None = None, token: str | bool | None = None
) -> dict[str, Any]:
    """Reads the licence that a backbone's card states: the README.md of its folder, or that of its Hub repository.

    Args:
        backbone: Hub id or folder.
        revision: on the Hub.
        token: for the Hub.

    Returns:
        `license` and, if they are there, `license_name` and `license_link`; empty where no licence is stated or no card
        can be read. It is never guessed.
    """
    if backbone is None:
        return {}
    repository, commit = hub_repository(backbone)
    file = os.path.join(backbone, "README.md")
    try:
        if os.path.isfile(file):
            stated = metadata_load(file) or {}
        else:
            stated = {} if repository is None else _hub_metadata(repository, revision or commit, token)
    except Exception:  # of the network, or a card that is not YAML: rather no licence than no card
        return {}
    licence = {name: stated[name] for name in _LICENCE_FIELDS if stated.get(name)}
    if "license" not in licence:
        return {}
    link = licence.get("license_link")
    if link and "://" not in link:  # a file beside the backbone's card, not beside ours
        del licence["license_link"]
        if repository is not None:
            licence["license_link"] = f"https://huggingface.co/{repository}/blob/{revision or commit or 'main'}/{link}"
    return licence


def _hub_metadata(repository: str, revision: str | None, token: str | bool | None) -> dict[str, Any]:
    """Metadata of a repository's card: from the cache if it is there, else by one call that is not repeated."""
    cached = try_to_load_from_cache(repository, "README.md", revision=revision)
    if isinstance(cached, str):
        return metadata_load(cached) or {}
    found = model_info(repository, revision=revision, token=token, timeout=_SECONDS_FOR_THE_HUB)
    return {} if found.card_data is None else found.card_data.to_dict()
