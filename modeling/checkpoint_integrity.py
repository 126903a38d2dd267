"""Whether an adapter's files are those that were saved together, bit by bit, and its weights are numbers.

A file of tensors carries a checksum of them in its metadata, and `config.json` lists the checksums of the files saved
with it. Adapters of earlier versions have neither, and are taken as they are.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .errors import CheckpointError
from .files import write_whole

CONFIG_FILE = "config.json"
CHECKSUMS = "checksums"  # the entry of config.json
_CHECKSUM = "checksum"  # the entry of a file's metadata

HEADS = {"classifier": "classification", "segmenter": "segmentation"}
"""By the name of its head in a model, what an adapter is for."""


def record_checksums(folder: Path) -> None:
    """Writes the checksums of an adapter's files, just saved: of tensors into their file, and all into `config.json`.

    Args:
        folder: with these files alone.

    Raises:
        CheckpointError: a weight is not finite.
    """
    checksums = {}
    for file in sorted(folder.rglob("*")):
        if file.is_dir() or file.name == CONFIG_FILE:
            continue
        name = file.relative_to(folder).as_posix()
        checksums[name] = _checksum(file)
        if file.suffix == ".safetensors":
            beside = file.with_name(f".{file.name}.tmp")
            metadata = {_CHECKSUM: checksums[name], "format": "pt"}
            save_file(load_file(file), beside, metadata=metadata)
            _order_metadata(beside, metadata)
            os.replace(beside, file)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    write_whole(folder / CONFIG_FILE, json.dumps(config | {CHECKSUMS: checksums}, indent=2, sort_keys=True) + "\n")


def check_checksum(folder: Path, name: str, checksums: Mapping[str, str] | None) -> None:
    """Compares a file with its checksums, and checks that its weights are finite.

    Args:
        folder: of the adapter.
        name: of the file in it.
        checksums: what the adapter's `config.json` lists, if it does.

    Raises:
        CheckpointError: it cannot be read, is not as it was saved, or was not saved together with the config.
    """
    file = folder / name
    try:
        found = _checksum(file)
        own = _metadata(file).get(_CHECKSUM, found)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} could not be read; was it copied whole? The loader said: {error}") from error
    if own != found:
        raise CheckpointError(
            f"{file} must be as it was saved, and its content does not have the checksum that it carries: bits have "
            "changed. Copy or pull it again."
        )
    recorded = checksums.get(name, found) if isinstance(checksums, Mapping) else found
    if recorded != found:
        raise CheckpointError(
            f"the files of an adapter belong together, and {file} is not the one that was saved with {CONFIG_FILE}: "
            "they are of two adapters, or one was changed. Copy or pull the folder whole; if the change was meant, "
            f'delete "{CHECKSUMS}" from {CONFIG_FILE}.'
        )


def heads_of(files: Iterable[Path]) -> set[str]:
    """Which of `HEADS` the tensors in these files belong to; only the names of the tensors are read."""
    names: set[str] = set()
    for file in files:
        with safe_open(file, "pt") as opened:
            names |= {name.partition(".")[0] for name in opened.keys()}  # noqa: SIM118 - the file is no dict
    return names & HEADS.keys()


def check_task(source: str | os.PathLike, files: Iterable[Path], head: str | None) -> None:
    """Checks that an adapter's head is not that of another task.

    Args:
        source: how the adapter is called.
        files: with its tensors, of which only the names are read.
        head: of the model that is to load it, one of `HEADS`; None for a model without one, which takes every adapter.

    Raises:
        CheckpointError: it is.
    """
    if head is None:
        return
    for other in heads_of(files) - {head}:
        raise CheckpointError(
            f"{str(source)!r} is a point cloud {HEADS[other]} adapter, and was to be loaded as a "
            f"{HEADS[head]} model. Load it by Any2PointForPointCloud{HEADS[other].title()}.from_pretrained."
        )


def check_loaded(
    source: str | os.PathLike, info: Mapping[str, Any], strict: bool, other_head: bool, head: str | None
) -> None:
    """Checks that an adapter has the tensors of its model.

    Args:
        source: how the adapter is called.
        info: what transformers says of loading it.
        strict: whether tensors may neither be missing nor have other shapes.
        other_head: whether those of the head may be others all the same.
        head: of the model, one of `HEADS`; None for a model without one.

    Raises:
        CheckpointError: some are missing, unexpected or wrongly shaped.
    """
    shapes = {name: f"{list(found)} instead of {list(built)}" for name, found, built in info["mismatched_keys"]}
    missing = info["missing_keys"] - shapes.keys()
    of_head = {name for name in {*missing, *shapes, *info["unexpected_keys"]} if head and name.startswith(f"{head}.")}
    allowed = of_head if other_head else set()
    problems = {
        "missing": sorted(missing - allowed),
        "unexpected": sorted(info["unexpected_keys"] - allowed),
        "wrongly shaped": [f"{name}: {shapes[name]}" for name in sorted(shapes.keys() - allowed)],
    }
    if not problems["unexpected"] and not (strict and (problems["missing"] or problems["wrongly shaped"])):
        return
    listed = "; ".join(f"{kind} ({len(names)}): {_first(names)}" for kind, names in problems.items() if names)
    advice = "" if problems["unexpected"] else " Pass strict=False to train them anew."
    if of_head >= {*missing, *shapes, *info["unexpected_keys"]}:
        advice = " For a new head, such as one with other classes, pass ignore_mismatched_sizes=True."
    raise CheckpointError(
        f"an adapter must hold exactly the tensors its config describes, and {str(source)!r} does not. {listed}. It "
        f"may be another model's checkpoint or made with other settings.{advice}"
    )


def _order_metadata(file: Path, metadata: Mapping[str, str]) -> None:
    """Puts a file's two entries of metadata in order, which safetensors writes in any, so that files are repeatable."""
    entries = list(metadata.items())
    ordered, reverse = (json.dumps(dict(pairs), separators=(",", ":")).encode() for pairs in (entries, entries[::-1]))
    with file.open("r+b") as opened:
        header = opened.read(int.from_bytes(opened.read(8), "little"))
        opened.seek(8)
        opened.write(header.replace(reverse, ordered, 1))


def _metadata(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


def _checksum(file: Path) -> str:
    """The SHA-256 of a file or, of tensors, of their names, dtypes, shapes and bytes, which must be finite."""
    if file.suffix != ".safetensors":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    with safe_open(file, "pt") as opened:
        for name in sorted(opened.keys()):
            tensor = opened.get_tensor(name)
            if not _is_finite(tensor):
                raise CheckpointError(
                    f"an adapter's weights must be finite, and {name} of {file.name} has NaN or infinite values. Its "
                    "training diverged: train again at a lower learning rate."
                )
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.itemsize == 1 else tensor  # torch has no isfinite of 8-bit floats
    return bool(wide.isfinite().all())


def _first(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f", … and {len(names) - limit} more" if len(names) > limit else "")
