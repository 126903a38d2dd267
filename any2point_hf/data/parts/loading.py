"""Loads data sets of parts, whatever they are in; which sources are such by themselves."""

from datasets import DatasetDict

from any2point_hf.data.parts.checks import checked_part_dataset
from any2point_hf.data.parts.folder import read_part_folder
from any2point_hf.data.parts.npz import is_part_npz, read_part_npz
from any2point_hf.data.parts.s3dis import is_s3dis, load_s3dis
from any2point_hf.data.parts.semantic_kitti import is_semantic_kitti, load_semantic_kitti
from any2point_hf.data.parts.shapenetpart import is_shapenetpart_hdf5, load_shapenetpart_parts
from any2point_hf.data.parts.tables import Tables, has_parts, parts_of_tables
from any2point_hf.data.shapenetpart import is_shapenetpart
from any2point_hf.data.sources import Place, check_no_variant
from any2point_hf.data.splits import with_test_split
from any2point_hf.point_clouds.reading import CloudReader


def is_part_source(place: Place, tables: Tables | None) -> bool:
    """Whether a source is for segmentation if nobody says what it is for.

    Args:
        place: of its files.
        tables: what `open_tables` gives for it, or a data set in memory.
    """
    if tables is not None:
        return has_parts(tables)
    path = place.path
    return is_s3dis(path) or is_semantic_kitti(path) or is_shapenetpart_hdf5(path) or is_part_npz(path)


def load_part_dataset(
    place: Place, tables: Tables | None, reader: CloudReader, label_column: str | None
) -> DatasetDict | None:
    """The data set of parts in a source, with splits `train` and `test`, checked.

    Args:
        place: of its files.
        tables: what `open_tables` gives for it, or a data set in memory.
        reader: of the clouds.
        label_column: the column with the labels; None for one of a usual name.

    Returns:
        None for a path with nothing that is read.
    """
    path, name = place.path, place.name
    if tables is not None:
        dataset = parts_of_tables(tables, name, reader, label_column)
    elif label_column is None and (official := _load_official(place)) is not None:
        dataset = official
    elif path.is_dir():
        check_no_variant(place)
        dataset = read_part_folder(path, reader, label_column)
    elif path.suffix.lower() == ".npz":
        dataset = read_part_npz(path, reader)
    else:
        return None
    return checked_part_dataset(with_test_split(dataset, name, seed=reader.seed), name)


def _load_official(place: Place) -> DatasetDict | None:
    """Loads the source if it has an official layout with parts."""
    path = place.path
    if is_s3dis(path):
        return load_s3dis(path) if place.variant is None else load_s3dis(path, place.variant)
    if is_semantic_kitti(path):
        check_no_variant(place)
        return load_semantic_kitti(path)
    if is_shapenetpart(path) or is_shapenetpart_hdf5(path):
        check_no_variant(place)
        return load_shapenetpart_parts(path)
    return None
