"""Opens whatever names a collection of clouds: a folder of files, a data set on the disk or one of the Hub."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, IterableDataset

from ..data import load_point_cloud_dataset
from ..data.columns import with_own_names
from ..data.hub_dataset import TABLE_EXTENSIONS
from ..data.modelnet import is_modelnet
from ..data.names import BUILT_IN
from ..data.scanobjectnn import is_scanobjectnn
from ..data.shapenetpart import is_shapenetpart
from ..data.sources import IN_MEMORY, DataSource, find_place, open_tables, walk
from ..modeling.errors import DatasetError, listed
from ..point_clouds.files import POINT_CLOUD_EXTENSIONS
from ..point_clouds.folders import is_cloud_file, warn_of_left_out
from .clouds import CloudCollection, DatasetOfClouds, FolderOfClouds


def open_collection(
    source: DataSource, split: str | None = None, *, drop_invalid: bool = False, features: Sequence[str] = ()
) -> CloudCollection:
    """Opens a collection of clouds; only lists, columns and names are read.

    Args:
        source: a folder of point-cloud files in any nesting; or whatever else `load_point_cloud_dataset` takes, with
            labels or without (built-in shapes and .npz files are held in memory).
        split: of a data set; None for "test", or for the only split of a data set that has no "test".
        drop_invalid: whether reading a cloud drops its invalid points, with a warning that counts them; else such a
            cloud is an error. Those of a .npz are dropped as it is opened, with one warning.
        features: those of points that will be read, which must be loaded with a .npz.

    Raises:
        DatasetError: no such source or split, no clouds in it, or no column with them.
        HubError: the Hub fails, and the cache does not help.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _open_dataset(source, IN_MEMORY, split, _fingerprint_in_memory(source), drop_invalid)
    if isinstance(source, str) and source in BUILT_IN:
        return _open_dataset(load_point_cloud_dataset(source), source, split, "built in")
    place = find_place(source)
    path = Path(os.path.abspath(place.path))
    fingerprint = hashlib.sha256(place.name.encode()).hexdigest()[:16] if place.is_on_hub else None
    is_official = path.is_dir() and (is_scanobjectnn(path) or is_modelnet(path) or is_shapenetpart(path))
    if not is_official:
        tables = open_tables(place)
        if tables is not None:
            name = place.name if place.is_on_hub else str(path)
            fingerprint = fingerprint or _fingerprint(path.parent, _files(path))
            return _open_dataset(tables, name, split, fingerprint, drop_invalid)
        if path.is_dir():
            return _open_folder(path, split, drop_invalid)
    loaded = load_point_cloud_dataset(source, drop_invalid=drop_invalid, features=features)
    is_clean = path.suffix.lower() == ".npz"  # dropped already
    fingerprint = fingerprint or _fingerprint(path.parent, _files(path))
    return _open_dataset(loaded, place.name, split, fingerprint, drop_invalid and not is_clean)


def _open_folder(folder: Path, split: str | None, drop_invalid: bool) -> FolderOfClouds:
    left_out: Counter[str] = Counter()
    names = list(_find_clouds(folder, left_out))
    if not names:
        endings = " ".join((*POINT_CLOUD_EXTENSIONS, *TABLE_EXTENSIONS))
        raise DatasetError(f"{folder} holds no clouds: no file in it ends in one of {endings}. Check the path.")
    warn_of_left_out(folder, left_out)
    if split is not None:
        raise DatasetError(f"{folder} is a folder of files, which has no splits, got {split!r}. Give {folder / split}.")
    column = pa.chunked_array(names, pa.string())
    files = (folder / name.as_py() for name in column)
    return FolderOfClouds(folder, column, _fingerprint(folder, files), drop_invalid)


def _open_dataset(
    loaded: Dataset | Mapping[str, Dataset],
    source: str,
    split: str | None,
    fingerprint: str,
    drop_invalid: bool = False,
) -> DatasetOfClouds:
    splits = {str(loaded.split or split or "train"): loaded} if isinstance(loaded, Dataset) else loaded
    choices = listed(splits)
    if split is None and len(splits) > 1 and "test" not in splits:
        raise DatasetError(f"{source} has the splits {choices}, got none of them. Choose one with --split.")
    chosen = split or ("test" if "test" in splits else next(iter(splits)))
    if chosen not in splits:
        raise DatasetError(f"--split must be one of {choices}, got {split!r}.")
    if isinstance(splits[chosen], IterableDataset):
        raise DatasetError(f"{source} must not be streamed, because a job goes on where it stopped. Load it whole.")
    if not len(splits[chosen]):
        raise DatasetError(f"{source} has no clouds in its split {chosen!r}. Check the path, or choose another split.")
    named = with_own_names(splits[chosen], source)
    return DatasetOfClouds(named, source, chosen, fingerprint, drop_invalid=drop_invalid)


def _find_clouds(root: Path, left_out: Counter[str]) -> Iterator[pa.Array]:
    """Yields the point-cloud files of one folder after another, by name, as paths in the root with forward slashes.

    Other files are counted in `left_out`.
    """
    for folder, names in walk(root):
        inside = "" if folder == root else folder.relative_to(root).as_posix() + "/"
        clouds = [inside + name for name in names if is_cloud_file(folder / name, left_out)]
        if clouds:
            try:
                yield pa.array(clouds, pa.string())
            except UnicodeEncodeError as error:
                raise DatasetError(
                    f"{folder} must have file names in UTF-8, got {error.object!r}. Rename it."
                ) from error


def _files(path: Path) -> Iterator[Path]:
    """A file, or those of a folder without what `datasets` caches in a saved data set."""
    if path.is_file():
        yield path
    for folder, names in walk(path) if path.is_dir() else ():
        yield from (folder / name for name in names if not fnmatch(name, "cache-*.arrow"))


def _fingerprint(root: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        state = file.stat() if file.exists() else file.lstat()  # a link to nowhere is reported later, as a bad cloud
        digest.update(f"{os.path.relpath(file, root)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()[:16]


def _fingerprint_in_memory(dataset: Dataset | Mapping[str, Dataset]) -> str:
    """A hash of what `datasets` knows each split by: it follows the contents and what was done to them."""
    parts = {"": dataset} if isinstance(dataset, Dataset) else dataset
    known = "\n".join(f"{name} {getattr(part, '_fingerprint', '')}" for name, part in parts.items())
    return hashlib.sha256(known.encode()).hexdigest()[:16]
