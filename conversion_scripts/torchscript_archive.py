"""Reading the tensors of a TorchScript archive (`torch.jit.save`), of which nothing is ever run.

`torch.jit.load` compiles the archive's code, and a plain unpickler calls whatever a file names. Here the code is never
read, one inert class stands for all of the archive's classes, and methods below stand for the few other names that such
files need. Sizes and offsets are checked against the bytes that are there.
"""

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from any2point_hf.conversion_scripts.original_checkpoint import OriginalCheckpoint
from any2point_hf.modeling.errors import CheckpointError

STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}


def is_torchscript_archive(path: Path) -> bool:
    """Whether a file is a zip with the record that only `torch.jit.save` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.fullmatch(r"[^/]+/constants\.pkl", name) for name in archive.namelist())
    except Exception:  # zipfile raises half a dozen types on what is no zip
        return False


def read_torchscript_archive(path: Path) -> OriginalCheckpoint:
    """The parameters, buffers and other tensors of the archived module by their dotted names.

    Returns:
        The tensors, and the dotted names of the attributes that are no tensors.

    Raises:
        CheckpointError: damaged, of another format, or with anything in its pickle that modules do not need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _dotted_attributes(_Unpickler(archive).load())
    except CheckpointError:
        raise
    except Exception as error:  # zipfile, pickle and torch raise a dozen types here, all meaning the same to the user
        raise CheckpointError(f"{path} must be a whole TorchScript archive, and it is damaged: {error!r}.") from error


class _Module:
    """Stands for every class of an archive: attributes without behaviour."""

    attributes: Mapping[str, object] = MappingProxyType({})

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise CheckpointError(f"the archive's modules must be dictionaries of attributes, got {type(state)}.")
        self.attributes = state


class _Unpickler(pickle.Unpickler):
    """Unpickles an archive's `data.pkl` to modules, tensors and plain values."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        pickles = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise CheckpointError(f"a TorchScript archive must have one data.pkl, found {pickles[:4]}.")
        self._archive = archive
        self._folder = pickles[0].removesuffix("data.pkl")
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}
        content = self._record("data.pkl")
        for opcode, argument, _ in pickletools.genops(content):  # refuses lengths that are not there
            if "PUT" in opcode.name and int(argument or 0) > len(content):  # memory is taken up to this index
                raise CheckpointError(
                    f"the archive's pickle counts to {argument} in {len(content)} bytes: it is damaged."
                )
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for here; nothing is imported."""
        if module.partition(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch.jit._pickle":
            return self._value
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return self._no_hooks
        raise CheckpointError(
            f"the archive's pickle must name only modules and tensors, and it names {f'{module}.{name}'!r}, which was "
            "not run. Do not trust this file."
        )

    def persistent_load(self, identifier: Any) -> Tensor:
        """A storage as a flat tensor; the identifier tells its type, its record and its length."""
        types = [type(part) for part in identifier]
        kind, dtype, name, _device, length = identifier
        if types != [str, torch.dtype, str, str, int] or kind != "storage":
            raise CheckpointError(f"the archive's tensors must be in storages, got {types}. The file is damaged.")
        if (name, dtype) not in self._storages:
            record = self._record(f"data/{name}")
            if len(record) != length * dtype.itemsize:
                raise CheckpointError(
                    f"storage {name!r} of the archive must be {length} numbers of {dtype}, and its record has "
                    f"{len(record)} bytes. The file is damaged."
                )
            flat = torch.frombuffer(bytearray(record), dtype=dtype) if record else torch.empty(0, dtype=dtype)
            self._storages[name, dtype] = flat
        return self._storages[name, dtype]

    def _record(self, name: str) -> bytes:
        information = self._archive.getinfo(self._folder + name)
        if information.compress_type != zipfile.ZIP_STORED:  # a small file could unpack to any size
            raise CheckpointError(f"{name} of a TorchScript archive must be stored uncompressed, and it is compressed.")
        return self._archive.read(information)

    def _tensor(
        self,
        storage: Tensor,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        _requires_grad: bool,
        _hooks: None,
    ) -> Tensor:
        """A tensor in a flat storage, of no more elements: repeated ones could be many more than the file has bytes."""
        if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
            raise CheckpointError("tensors of the archive must be described by whole numbers. The file is damaged.")
        if len(size) != len(stride) or math.prod(size) > len(storage):
            raise CheckpointError(
                f"a tensor of the archive has shape {size} and strides {stride} in a storage of {len(storage)}, which "
                "cannot be. The file is damaged."
            )
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if math.prod(size) > 0 and last >= len(storage):
            raise CheckpointError(
                f"a tensor of the archive reaches to {last} in a storage of {len(storage)}: it is damaged."
            )
        return storage.as_strided(size, stride, offset)

    def _value(self, value: object, *_type: object) -> object:
        """Returns a list or dictionary as it is; the type that is named beside it is not needed."""
        return value

    def _no_hooks(self) -> None:
        """Stands for the empty dictionary of hooks that follows every tensor."""


def _dotted_attributes(root: object) -> OriginalCheckpoint:
    if not isinstance(root, _Module):
        raise CheckpointError(f"a TorchScript archive must hold a module, got {type(root)}.")
    tensors: dict[str, Tensor] = {}
    other: list[str] = []
    seen = {id(root)}
    waiting = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            elif not isinstance(value, _Module):
                other.append(f"{prefix}{name}")
            elif id(value) not in seen:  # a module inside itself would have no end
                seen.add(id(value))
                waiting.append((f"{prefix}{name}.", value))
    return OriginalCheckpoint(tensors, other)
