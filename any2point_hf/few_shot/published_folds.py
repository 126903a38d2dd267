"""The field's published ModelNet40 folds: `ModelNetFewshot/5way_10shot/0.pkl` and so on, as Point-BERT hands them out.

A file is a pickle of {"train": [(points [n, 3 or 6], label in the fold, ModelNet40 class), ...], "test": [...]}.

Unusual here: a pickle can run code when it is opened, so nothing that it names is imported. Its arrays, data types and
scalars are stand-ins of ours, which take the shape and the bytes that the file has and nothing else.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import DatasetDict

from ..data import build_dataset_dict
from ..modeling.errors import DatasetError
from ..modeling.presets import MODELNET
from ..point_clouds.checks import MINIMUM_DISTINCT_POINTS, check_points

_FOLDER = re.compile(r"\d+way_\d+shot")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since numpy 2
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


def is_published_folds(folder: Path) -> bool:
    """Whether a folder has subfolders such as `5way_10shot` with pickles."""
    return folder.is_dir() and any(_FOLDER.fullmatch(path.parent.name) for path in folder.glob("*/*.pkl"))


def read_published_fold(folder: Path, ways: int, shots: int, fold: int) -> DatasetDict:
    """One published fold.

    Args:
        folder: with subfolders such as `5way_10shot`.
        ways: how many classes.
        shots: how many support clouds of each class.
        fold: number of the file, from 0.

    Returns:
        Splits `train` (the support) and `test` (the queries), columns `points` (float32 [n, 3]; normals are left out)
        and `label`, named by ModelNet40's classes.

    Raises:
        DatasetError: the file is missing, damaged, of another layout, or names anything but arrays of numbers.
        PointCloudError: a cloud is not finite or has too few distinct points.
    """
    path = folder / f"{ways}way_{shots}shot" / f"{fold}.pkl"
    if not path.is_file():
        raise DatasetError(
            f"a published fold must be a file {path}, and there is none. Ask for the ways, shots and folds that "
            f"{folder} has: {', '.join(sorted(p.name for p in folder.glob('*way_*shot')))}."
        )
    content = read_plain_pickle(path)
    if not isinstance(content, dict) or not {"train", "test"} <= set(content):
        raise DatasetError(f"{path} must be a dictionary with train and test, got {_shortly(content)}.")
    names: dict[int, str] = {}
    splits = {name: _read_split(path, name, content[name], ways, names) for name in ("train", "test")}
    counts = np.bincount(splits["train"][1], minlength=ways)
    if set(names) != set(range(ways)) or (counts != shots).any():
        raise DatasetError(
            f"{path} must have {shots} training clouds of each of {ways} classes, got {counts.tolist()} of them. "
            "Check that the file is in the right folder."
        )
    return build_dataset_dict(splits, [names[label] for label in range(ways)])


def _read_split(
    path: Path, split: str, rows: Any, ways: int, names: dict[int, str]
) -> tuple[list[np.ndarray], list[int]]:
    """Clouds and labels of a split; puts the names of their classes into `names`."""
    if not isinstance(rows, list) or not rows:
        raise DatasetError(f"{path}: {split} must be a list of (points, label, class), got {_shortly(rows)}.")
    clouds, labels, num_bytes = [], [], 0
    for index, row in enumerate(rows):
        what = f"{path}: {split}[{index}]"
        if not isinstance(row, (tuple, list)) or len(row) != 3:
            raise DatasetError(f"{what} must be (points, label, class), got {_shortly(row)}.")
        points, label, number = (part.array() if isinstance(part, _Array) else part for part in row)
        if not isinstance(points, np.ndarray) or points.ndim != 2 or points.shape[1] not in (3, 6):
            raise DatasetError(f"{what} must begin with points [n, 3] or [n, 6], got {_shortly(points)}.")
        label, number = (_whole(value, what) for value in (label, number))
        if label not in range(ways) or number not in range(len(MODELNET.class_names)):
            raise DatasetError(
                f"{what} must have a label in 0…{ways - 1} and a class in 0…{len(MODELNET.class_names) - 1}, got "
                f"{label} and {number}."
            )
        if names.setdefault(label, MODELNET.class_names[number]) != MODELNET.class_names[number]:
            raise DatasetError(f"{what}: label {label} must be one class, got {names[label]} and class {number}.")
        num_bytes += points.nbytes
        if num_bytes > path.stat().st_size:  # a pickle may name one array any number of times
            raise DatasetError(f"{path}: {split} repeats clouds. Do not trust this file.")
        fix = "Get the file again."
        clouds.append(check_points(points[:, :3], what, minimum_distinct=MINIMUM_DISTINCT_POINTS, fix=fix))
        labels.append(label)
    return clouds, labels


def _whole(value: Any, what: str) -> int:
    """The value as an integer; it may come as a numpy scalar or an array of one element."""
    is_plain = isinstance(value, (int, np.generic, np.ndarray))  # numpy would expand a list that holds itself often
    array = np.asarray(value) if is_plain else None
    if array is None or array.dtype.kind not in "iu" or array.size != 1:
        raise DatasetError(f"{what} must have integers as label and class, got {_shortly(value)}.")
    return int(array.reshape(-1)[0])


def _shortly(value: Any) -> str:
    shape = f" {list(value.shape)}" if isinstance(value, np.ndarray) else ""
    return f"{type(value).__name__}{shape}"


def read_plain_pickle(path: Path) -> Any:
    """Reads a pickle of containers, numbers, strings and arrays of numbers; arrays come as stand-ins with `array()`.

    Memory is bounded by the size of the file.

    Args:
        path: of the pickle.

    Raises:
        DatasetError: the pickle is damaged, or names anything else; the message tells this name, which was not run.
    """
    content = path.read_bytes()
    try:
        for opcode, argument, _ in pickletools.genops(content):  # refuses lengths that are not there
            if "PUT" in opcode.name and int(argument or 0) > len(content):  # memory is taken up to this index
                raise ValueError(f"it counts to {argument} in {len(content)} bytes")
        return _PlainUnpickler(content).load()
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    except Exception as error:  # pickle raises a dozen types, all meaning the same to the user
        raise DatasetError(f"{path} is damaged or no pickle of arrays: {error}. Download it again.") from error


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.num_left = len(content)  # characters that may yet become bytes; a pickle may repeat a text at no cost

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for here; nothing is imported."""
        if (module, name) == ("numpy", "ndarray"):
            return _Array
        if (module, name) == ("numpy", "dtype"):
            return _Type
        if module in _MULTIARRAY and name in ("_reconstruct", "scalar"):
            return _Named(_reconstruct if name == "_reconstruct" else _scalar)
        if module in _NUMERIC and name == "_frombuffer":
            return _Named(_from_buffer)
        if (module, name) == ("_codecs", "encode"):  # how old protocols write bytes
            return _Named(self._encode)
        if name == "bytes" and module in ("builtins", "__builtin__"):  # and how they write b""
            return _Named(_no_bytes)
        raise DatasetError(
            f"a pickle of folds must name only arrays of numbers, and it names {f'{module}.{name}'!r}, which was not "
            "run. Do not trust this file."
        )

    def persistent_load(self, identifier: object) -> Any:
        """Refuses objects that are kept outside the pickle."""
        raise DatasetError("a pickle of folds must hold its arrays itself, and it points to others.")

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise DatasetError("a pickle of folds must write bytes as latin1, and it names another encoding.")
        self.num_left -= len(text)
        if self.num_left < 0:
            raise DatasetError("a pickle of folds must write bytes once, and it repeats them. Do not trust this file.")
        return text.encode("latin1")


class _Named:
    """Stands for a function: a pickle may call it, but may not set any of its state."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise DatasetError("a pickle of folds must only call what it names, and it changes it. Do not trust this file.")


class _Type:
    """Stands for numpy's data type: kind, width and byte order of numbers."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[fiub][1248]", code):
            kind = code if isinstance(code, str) else type(code).__name__
            raise DatasetError(f"a pickle of folds must hold arrays of numbers, got the type {kind!r}.")
        self.code, self.order = code.lstrip("<>|="), code[0] if code[0] in "<>" else "<"

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"

    def read(self, data: Any, shape: Sequence[int], order: Literal["C", "F"]) -> np.ndarray:
        """An array of this shape over exactly these bytes, which are not copied."""
        dtype = np.dtype(self.order + self.code)
        if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(data):
            raise DatasetError(f"an array of {dtype} {list(shape)} must have as many bytes, got {len(data)}.")
        return np.frombuffer(data, dtype).reshape(shape, order=order)


class _Array:
    """Stands for numpy's array, which a pickle makes empty and fills later."""

    value: np.ndarray | None = None

    def __init__(self, value: np.ndarray | None = None) -> None:  # which a pickle may leave out
        self.value = value

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Type, bool, bytes]) -> None:
        _, shape, kind, is_fortran, data = state
        self.value = kind.read(data, shape, "F" if is_fortran else "C")

    def array(self) -> np.ndarray:
        """The array."""
        if self.value is None:
            raise DatasetError("an array of the pickle was never filled: the file is damaged.")
        return self.value


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: _Type, data: bytes) -> np.generic:
    return kind.read(data, (1,), "C")[0]


def _from_buffer(data: Any, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    return _Array(kind.read(data, shape, "F" if order == "F" else "C"))


def _no_bytes() -> bytes:
    return b""
