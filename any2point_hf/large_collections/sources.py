"""Opens whatever names a collection of clouds: a folder of files, a data set on the disk or one of the Hub."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from ..data import load_point_cloud_dataset
from ..data.modelnet import is_modelnet
from ..data.scanobjectnn import is_scanobjectnn
from ..data.shapenetpart import is_shapenetpart
from ..modeling.errors import DatasetError
from ..point_clouds.files import POINT_CLOUD_EXTENSIONS
from ..point_clouds.folders import is_cloud_file, warn_of_left_out
from .clouds import CloudCollection, DatasetOfClouds, FolderOfClouds

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def open_collection(
    source: str | os.PathLike[str], split: str | None = None, *, drop_invalid: bool = False
) -> CloudCollection:
    """Opens a collection of clouds; only lists, columns and names are read.

    Args:
        source: a folder of point-cloud files in any nesting; whatever else `load_point_cloud_dataset` takes
            ("shapes" and .npz files are held in memory); a folder that `save_to_disk` of `datasets` wrote; a
            .parquet file or a folder of them with a column `points`; or a data set's id on the Hub.
        split: of a data set; None for "test", or for the only split of a data set that has no "test".
        drop_invalid: whether reading a cloud drops its invalid points, with a warning that counts them; else such a
            cloud is an error. Those of a .npz are dropped as it is opened, with one warning.

    Raises:
        DatasetError: no such source or split, no clouds in it, or no column `points`.
    """
    source = os.fspath(source)
    path = Path(os.path.abspath(source))
    if source == "shapes":
        return _open_dataset(load_point_cloud_dataset(source), source, split, "built in")
    if not path.exists() and _HUB_ID.fullmatch(source):
        loaded = _ask_datasets(source, load_dataset, source, split=split)
        splits = {split: loaded} if split else loaded
        return _open_dataset(splits, source, split, _revision(loaded), drop_invalid)
    if path.is_dir() and not _is_official(path) and not _is_saved(path):
        left_out: Counter[str] = Counter()
        names = list(_find_clouds(path, left_out))
        if names and not (left_out[".parquet"] and all(map(_is_table, names))):
            warn_of_left_out(path, left_out)
            return _open_folder(path, names, split, drop_invalid)
    loaded = _load(source, path, drop_invalid)
    folder = path if path.exists() else Path(str(path).rpartition("#")[0])
    is_clean = path.suffix.lower() == ".npz"  # dropped already
    fingerprint = _fingerprint(folder.parent, _files(folder))
    return _open_dataset(loaded, str(path), split, fingerprint, drop_invalid and not is_clean)


def _open_folder(folder: Path, names: list[pa.Array], split: str | None, drop_invalid: bool) -> FolderOfClouds:
    if split is not None:
        raise DatasetError(f"{folder} is a folder of files, which has no splits, got {split!r}. Give {folder / split}.")
    column = pa.chunked_array(names, pa.string())
    files = (folder / name.as_py() for name in column)
    return FolderOfClouds(folder, column, _fingerprint(folder, files), drop_invalid)


def _open_dataset(
    loaded: Dataset | dict[str, Dataset], source: str, split: str | None, fingerprint: str, drop_invalid: bool = False
) -> DatasetOfClouds:
    splits = {str(loaded.split or split or "train"): loaded} if isinstance(loaded, Dataset) else loaded
    choices = ", ".join(splits)
    if split is None and len(splits) > 1 and "test" not in splits:
        raise DatasetError(f"{source} has the splits {choices}, got none of them. Choose one with --split.")
    chosen = split or ("test" if "test" in splits else next(iter(splits)))
    if chosen not in splits:
        raise DatasetError(f"--split must be one of {choices}, got {split!r}.")
    if not len(splits[chosen]):
        raise DatasetError(f"{source} has no clouds in its split {chosen!r}. Check the path, or choose another split.")
    return DatasetOfClouds(splits[chosen], source, chosen, fingerprint, drop_invalid=drop_invalid)


def _is_official(folder: Path) -> bool:
    return is_scanobjectnn(folder) or is_modelnet(folder) or is_shapenetpart(folder)


def _find_clouds(root: Path, left_out: Counter[str]) -> Iterator[pa.Array]:
    """Yields the point-cloud files of one folder after another, by name, as paths in the root with forward slashes.

    Other files are counted in `left_out`.
    """
    for folder, names in _walk(root):
        inside = "" if folder == root else folder.relative_to(root).as_posix() + "/"
        clouds = [inside + name for name in names if is_cloud_file(folder / name, left_out)]
        if clouds:
            try:
                yield pa.array(clouds, pa.string())
            except UnicodeEncodeError as error:
                raise DatasetError(
                    f"{folder} must have file names in UTF-8, got {error.object!r}. Rename it."
                ) from error


def _is_table(names: pa.Array) -> bool:
    """Whether all files are such as data sets have beside their .parquet files."""
    return all(name.lower().endswith((".csv", ".txt")) for name in names.to_pylist())


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and its files, sorted by name whatever the system's order; hidden ones are passed over."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, names in _walk(path) if path.is_dir() else ():
        yield from (folder / name for name in names)


def _fingerprint(root: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        state = file.stat() if file.exists() else file.lstat()  # a link to nowhere is reported later, as a bad cloud
        digest.update(f"{os.path.relpath(file, root)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()[:16]


def _revision(loaded: Dataset | DatasetDict) -> str:
    """A hash of the names of a Hub data set's Arrow files and of their folder, which is named by the commit."""
    parts = loaded.values() if isinstance(loaded, DatasetDict) else [loaded]
    names = sorted(Path(*Path(entry["filename"]).parts[-2:]).as_posix() for part in parts for entry in part.cache_files)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` of a Dataset or a DatasetDict wrote the folder."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _load(source: str, path: Path, drop_invalid: bool) -> Dataset | DatasetDict:
    """Loads a data set from the disk by the layout that its files show."""
    if _is_saved(path):
        return _ask_datasets(source, load_from_disk, str(path))
    if path.is_file() and path.suffix.lower() == ".parquet":
        return _ask_datasets(source, load_dataset, "parquet", data_files=str(path))
    if path.is_dir() and not _is_official(path):
        if not any(file.suffix.lower() == ".parquet" for file in _files(path)):
            endings = " ".join(POINT_CLOUD_EXTENSIONS)
            raise DatasetError(f"{path} holds no clouds: no file in it ends in {endings} or .parquet. Check the path.")
        return _ask_datasets(source, load_dataset, "parquet", data_dir=str(path))
    return load_point_cloud_dataset(source, drop_invalid=drop_invalid)


def _ask_datasets(
    source: str, load: Callable[..., Dataset | DatasetDict], *arguments: Any, **options: Any
) -> Dataset | DatasetDict:
    """Calls a loader of `datasets` and turns its errors into a DatasetError."""
    try:
        return load(*arguments, **options)
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"{source} cannot be loaded by `datasets`: {reason}. Check the spelling of the path or Hub id, the split, "
            "and whether the files were copied whole."
        ) from error
