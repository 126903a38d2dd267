"""Sharing a trained adapter: what `any2point push` does."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from . import modeling
from .modeling.backbones.loading import build_backbone
from .modeling.configuration_any2point import Any2PointConfig
from .modeling.errors import CheckpointError
from .modeling.hub.names import check_adapter_folder
from .modeling.pretrained_model import Any2PointPreTrainedModel
from .modeling.publishing.model_card import model_card
from .modeling.publishing.push import push_files, pushed_files
from .processing_any2point import PROCESSOR_FILE, Any2PointProcessor


def push(
    folder: str | os.PathLike,
    name: str | None = None,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Upload adapter",
) -> dict[str, Any]:
    """Pushes an adapter's folder to the Hub in one commit: config, tensors, processor, card and its pictures.

    The folder is checked before the Hub is called. Its README.md is pushed; if it has none, a generated model card is
    pushed, unless the repository has a card.

    Args:
        folder: what `any2point train`, or `save_pretrained` of the model and of the processor, have written.
        name: `user/name`, or a bare name for the namespace `ANY2POINT_NAMESPACE` or the logged-in user's; by default
            the folder's.
        private: whether a new repository is private; by default what its owner has set.
        token: of the Hub; by default the logged-in user's.
        revision: branch to push to, made if it is not there.
        create_pr: open a pull request instead of committing.
        message: of the commit.

    Returns:
        `repository`, `url` (of the commit or the pull request), `commit` and `files`.

    Raises:
        CheckpointError: the folder is no whole adapter.
        HubError: the Hub does not answer, refuses or breaks off; the repository is as it was.
    """
    folder = Path(folder)
    name = name or folder.resolve().name
    model = checked_adapter(folder)
    files = pushed_files(folder)
    commit = push_files(
        files,
        name,
        card=lambda repository: str(model_card(model, repository)),
        commit_message=message,
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )
    return {
        "repository": commit.repo_url.repo_id,
        "url": commit.pr_url or commit.commit_url,
        "commit": commit.oid,
        "files": sorted(files),
    }


def checked_adapter(folder: Path) -> Any2PointPreTrainedModel:
    """Loads an adapter from a folder that has all it needs, on a backbone without weights.

    Raises:
        CheckpointError: config, tensors or processor are missing, damaged or another model's, or the card is no UTF-8.
    """
    check_adapter_folder(folder)
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if values.get("model_type") != Any2PointConfig.model_type:
            raise ValueError(f"its model_type is {values.get('model_type')!r}")
        config = Any2PointConfig.from_pretrained(folder)
        model_class = getattr(modeling, config.architectures[0])
        Any2PointProcessor.from_pretrained(folder)
    except (OSError, ValueError, TypeError, AttributeError, IndexError, StrictDataclassError) as error:
        raise CheckpointError(
            f"an adapter must hold an Any2Point config.json and {PROCESSOR_FILE}, and {folder} does not. Save both "
            f"there: model.save_pretrained(folder), processor.save_pretrained(folder). The loader said: {error}"
        ) from error
    card = folder / "README.md"
    try:
        if card.is_file():
            card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"a model card must be text in UTF-8, and {card} is not: {error}. Save it anew."
        ) from error
    with torch.device("meta"):
        backbone = build_backbone(config.backbone_config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*to a meta parameter")  # of a LoRA's tensors, already checked
        model = model_class.from_pretrained(folder, backbone=backbone)
    model.config.backbone, model.config.backbone_revision = config.backbone, config.backbone_revision
    return model
