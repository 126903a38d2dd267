"""What a job's model is made of, as short hashes: shards of two models are never joined."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..modeling.backbones.fingerprint import BACKBONE_FILES, backbone_fingerprint
from ..modeling.errors import BackboneLoadError, CheckpointError
from ..modeling.hub.names import pulled_folder
from ..modeling.several_adapters.lora import LORA_FILES, LORA_FOLDER

LORA = "lora_files"
"""A setting that jobs of earlier versions do not have, as `BACKBONE_FILES`."""

_ADAPTER_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


def model_fingerprint(model: str, backbone: str | None, must_load: bool = True) -> dict[str, str]:
    """Settings of a job that tell whether its model is the same.

    Args:
        model: folder or Hub id of the adapter.
        backbone: Hub id or folder instead of the recorded one.
        must_load: whether a backbone that is not here is an error; if not, its setting is left out.

    Returns:
        `adapter`, a hash of its config, processor and tensors; `lora_files`, of a LoRA's files if it has one;
        `backbone_files`, the commit of a backbone on the Hub, of a folder a hash of the size, time and both ends of its
        config and each file of weights. It is left out if the config names no backbone, as loading the model will tell.

    Raises:
        CheckpointError: there is no such adapter.
        BackboneLoadError: there is no such backbone.
    """
    fingerprint = {"adapter": _hash_of(_files(model, _ADAPTER_FILES))}
    try:
        config = json.loads(_files(model, ["config.json"])[0].read_bytes())
        lora, name, revision = (config.get(key) for key in ("lora", "backbone", "backbone_revision"))
    except (ValueError, AttributeError):  # as loading the model will tell
        return fingerprint
    if lora:
        fingerprint[LORA] = _hash_of(_files(model, [f"{LORA_FOLDER}/{file}" for file in LORA_FILES]))
    if backbone:
        name, revision = backbone, None
    if not name or (name.startswith("./") and not os.path.isdir(name)):
        return fingerprint
    try:
        return fingerprint | {BACKBONE_FILES: backbone_fingerprint(name, revision, with_times=True)}
    except BackboneLoadError:
        if must_load:
            raise
        return fingerprint


def _files(model: str, names: Sequence[str]) -> list[Path]:
    """An adapter's files on this machine, pulled if they are on the Hub."""
    folder = pulled_folder(model, names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"an adapter must be a folder or Hub repository with {', '.join(_ADAPTER_FILES)}, and {model!r} has no "
            f"{', '.join(missing)}."
        )
    return [folder / name for name in names]


def _hash_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
