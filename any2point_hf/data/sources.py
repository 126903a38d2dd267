"""Finds the files of a data set, here or on the Hub, and opens those that hold tables, such as .parquet."""

import glob
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from pyarrow.dataset import ParquetFragmentScanOptions

from ..modeling.errors import Any2PointError, DatasetError
from ..point_clouds.files import POINT_CLOUD_EXTENSIONS
from ..point_clouds.folders import LISTS_OF_FILES
from .hub_dataset import config_arguments, pull_dataset
from .names import TABLE_EXTENSIONS, check_source, parse_hub_name, split_variant

DataSource: TypeAlias = str | os.PathLike[str] | Dataset | Mapping[str, Dataset]
"""What `load_point_cloud_dataset` takes: a name, a path, or a data set in memory."""

IN_MEMORY = "a data set in memory"

_MAYBE_TABLES = (".csv", ".txt")  # beside data files they are no clouds
_IN_PARTS: dict[str, Any] = {"writer_batch_size": 16}  # rows; else a thousand large clouds are held at once
_PARQUET_IN_PARTS = _IN_PARTS | {"fragment_scan_options": ParquetFragmentScanOptions(pre_buffer=False)}
_LONGEST_REASON = 250  # of another library, in characters


def name_of(source: DataSource) -> str:
    """What reports call a source: its name or path, or that it was in memory."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else IN_MEMORY


class Place(NamedTuple):
    """Where the files of a source are.

    Args:
        path: a file or folder, which may not exist.
        variant: what follows `#`: a variant of an official data set, or a config of the card.
        name: for messages and cards; of a data set on the Hub, with its commit.
        is_on_hub: whether the folder is that of a commit in the Hub's cache.
    """

    path: Path
    variant: str | None
    name: str
    is_on_hub: bool = False


def find_place(source: str | os.PathLike[str]) -> Place:
    """Finds a source's files, and pulls them if they are on the Hub. A path on this machine goes first.

    Raises:
        DatasetError: there is no such path, or the source looks like a data set's name on the Hub, and there is none.
        HubError: the Hub does not answer, refuses or breaks off, and its cache does not help.
    """
    name = parse_hub_name(source)
    if name is not None:
        folder, name = pull_dataset(name)
        return Place(folder, name.config, str(name), is_on_hub=True)
    check_source(source)
    return Place(*split_variant(source), os.fspath(source))


def check_no_variant(place: Place) -> None:
    """Refuses a variant of a source that has none.

    Raises:
        DatasetError: there is one.
    """
    if place.variant is not None:
        raise DatasetError(
            f"Only ScanObjectNN, ModelNet, S3DIS and data sets with configs have variants, got {place.variant!r} for "
            f"{place.path}. Leave it out."
        )


def open_tables(place: Place) -> Dataset | DatasetDict | None:
    """Opens the data set of a place, memory-mapped; None if its files are no tables.

    A folder that has point clouds too is one of tables only if its card has configs, which name the files.

    Raises:
        DatasetError: `datasets` cannot load it, or there is no such config.
    """
    path = Path(os.path.abspath(place.path))
    if path.is_file() and path.suffix.lower() in TABLE_EXTENSIONS:
        # the folder's name and the file's: the name of a format would be reported to a server
        options = _PARQUET_IN_PARTS if path.suffix == ".parquet" else _IN_PARTS
        files = [glob.escape(str(path))]
        return _ask_datasets(place.name, load_dataset, str(path.parent), data_files=files, **options)
    if not path.is_dir():
        return None
    if is_saved(path):
        return _ask_datasets(place.name, load_from_disk, str(path))
    kinds = _kinds_of_files(path)
    tables = {*TABLE_EXTENSIONS} & kinds.keys()
    if not tables:
        return None
    chosen = config_arguments(path, place.variant)
    if chosen is None and ({*POINT_CLOUD_EXTENSIONS} - {*_MAYBE_TABLES}) & kinds.keys():
        return None
    if place.variant and chosen is None:
        raise DatasetError(f"{place.name} has no configs, got {place.variant!r} after #. Leave it out.")
    others = tables | ({*_MAYBE_TABLES} & kinds.keys())
    if chosen is None and len(others) > 1:
        shown = ", ".join(f"{kinds[ending]} {ending}" for ending in sorted(others))
        warnings.warn(
            f"{place.name} has data files of several kinds ({shown}); `datasets` reads those of one kind alone.",
            stacklevel=3,
        )
    folder, options = chosen or (path, {})
    options |= _PARQUET_IN_PARTS if {*kinds} <= {".parquet", ".md"} else _IN_PARTS
    return _ask_datasets(place.name, load_dataset, str(folder), **options)


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` of a Dataset or a DatasetDict wrote the folder."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _kinds_of_files(folder: Path) -> Counter[str]:
    """How many files of a folder have each ending; lists of clouds do not count."""
    names = (name for _, names in walk(folder) for name in names)
    return Counter(Path(name).suffix.lower() for name in names if name not in LISTS_OF_FILES)


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and its files, sorted by name whatever the system's order; hidden ones are passed over."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _ask_datasets(
    source: str, load: Callable[..., Dataset | DatasetDict], *arguments: Any, **options: Any
) -> Dataset | DatasetDict:
    """Calls a loader of `datasets` and turns its errors into a DatasetError."""
    try:
        return load(*arguments, **options)
    except Any2PointError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, StopIteration, DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:_LONGEST_REASON].rstrip(".") or "it holds no rows"
        raise DatasetError(
            f"{source} cannot be loaded by `datasets`: {reason}. Check the spelling of the path or Hub id, the split, "
            "and whether the files were copied whole."
        ) from error
