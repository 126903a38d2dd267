"""What a backbone's weights are, as a short text: results of two backbones are never mixed."""

import hashlib
import os
from pathlib import Path

from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from ..files import check_plain_files
from .loading import load_backbone_config

BACKBONE_FILES = "backbone_files"
"""The name of this fingerprint in records; those of earlier versions do not have it."""

_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
_ENDS = 1 << 20  # bytes that are read of each end of a file


def backbone_fingerprint(name: str, revision: str | None = None, *, with_times: bool = False) -> str:
    """The commit of a backbone on the Hub; of a folder a hash of the size and both ends of its config and weights.

    Args:
        name: Hub id or folder.
        revision: on the Hub.
        with_times: whether the times of a folder's files count too, which a copy may not keep.

    Raises:
        BackboneLoadError: there is no such backbone.
        CheckpointError: its folder holds a pipe.
    """
    if not os.path.isdir(name):
        load_backbone_config(name, revision)  # pulls it, or says what is wrong
        config = cached_file(name, "config.json", revision=revision, local_files_only=True)
        return str(extract_commit_hash(config, None))
    check_plain_files(Path(name))
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in Path(name).glob(pattern)}):
        state = file.stat()
        digest.update(f"{file.name} {state.st_size} {f'{state.st_mtime_ns} ' if with_times else ''}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_ENDS))
            opened.seek(max(_ENDS, state.st_size - _ENDS))
            digest.update(opened.read())
    return digest.hexdigest()[:16]
