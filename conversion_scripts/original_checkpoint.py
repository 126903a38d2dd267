"""Reading original `.pth` files as plain tensors; no code in them is ever run."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from any2point_hf.conversion_scripts.checkpoint_file import check_checkpoint_file
from any2point_hf.modeling.errors import CheckpointError
from any2point_hf.modeling.zip_damage import zip_damage

WRAPPERS = ("base_model", "model", "state_dict")

# Accuracies and epochs that training scripts leave beside the weights are often numpy numbers.
_REDUCED: Any = np.float64(0).__reduce__()
_NUMPY_SCALAR, (_NUMPY_DTYPE, _) = _REDUCED
_NUMPY_ARRAY = np.empty(0).__reduce__()[0]
_SAFE: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    *((_NUMPY_SCALAR, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    *((_NUMPY_ARRAY, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")),
]


class OriginalCheckpoint(NamedTuple):
    """What a file holds.

    Args:
        tensors: the state dict by its original names, without wrappers and `module.` prefixes.
        other: names of whatever else is in the file, such as the optimiser's state and the epoch.
    """

    tensors: dict[str, Tensor]
    other: list[str]


def read_original_checkpoint(path: Path) -> OriginalCheckpoint:
    """Reads a file that `torch.save` wrote, with `weights_only=True`.

    Raises:
        CheckpointError: the file is missing, damaged or not a checkpoint, holds pickled objects other than tensors
            and numbers, names a tensor twice, or has no tensors.
    """
    check_checkpoint_file(path)
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # files in torch's format of before 1.6 have no checksums
    damage = zip_damage(path) if is_zip else None
    if damage:
        raise CheckpointError(
            f"{path} must be a whole PyTorch checkpoint, and it is truncated or damaged: {damage}. Copy or download it "
            "again."
        )
    try:
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types here, all meaning the same to the user
        refused = re.search(r"Unsupported \w+: GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path} must be a whole PyTorch checkpoint of plain tensors. It is truncated, of another format, or holds "
            f"pickled code, which is never run{f' (here {refused[1]})' if refused else ''}."
        ) from error
    other: list[str] = []
    while isinstance(content, dict):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if wrapper is None:
            break
        other += [str(name) for name in content if name != wrapper]
        content = content[wrapper]
    content = content if isinstance(content, dict) else {}
    tensors = {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    other += [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    repeated = [name for name in tensors if f"module.{name}" in content and name in content]
    if repeated:
        raise CheckpointError(f"{path} must name each tensor once, and has {repeated[0]} with and without 'module.'.")
    if not tensors:
        raise CheckpointError(f"{path} must hold a state dict of tensors, found none.")
    return OriginalCheckpoint(tensors, other)


def check_numbers(path: Path, tensors: dict[str, Tensor]) -> None:
    """Checks the weights that a script uses.

    Raises:
        CheckpointError: some are not finite, in half precision, sparse or no real numbers.
    """
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    strange = [n for n, t in tensors.items() if t.layout != torch.strided or t.is_complex() or t.is_quantized]
    strange += [name for name in tensors if name not in floats and not name.endswith("num_batches_tracked")]
    if strange:
        name = strange[0]
        raise CheckpointError(
            f"{path} must hold dense floating-point weights, and {name} is {tensors[name].dtype}, "
            f"{tensors[name].layout}. Use the file as it was released."
        )
    halved = [name for name, tensor in floats.items() if tensor.dtype.itemsize < 4]
    if halved:
        name = halved[0]
        raise CheckpointError(
            f"{path} must hold weights in full precision, and {len(halved)} tensors are not, such as {name} "
            f"({floats[name].dtype}). Their digits are lost: use the file as it was released."
        )
    broken = [name for name, tensor in floats.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path} must hold finite weights, and {len(broken)} tensors have NaN or infinity: {broken[:4]}."
        )
