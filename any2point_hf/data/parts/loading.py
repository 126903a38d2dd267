"""Loads data sets of parts, whatever they are in; which sources are such by themselves."""

from datasets import DatasetDict

from any2point_hf.data.parts.checks import checked_part_dataset
from any2point_hf.data.parts.folder import read_part_folder
from any2point_hf.data.parts.npz import is_part_npz, read_part_npz
from any2point_hf.data.parts.tables import Tables, has_parts, parts_of_tables
from any2point_hf.data.sources import Place
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
    return is_part_npz(place.path)


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
    elif path.is_dir():
        dataset = read_part_folder(path, reader, label_column)
    elif path.suffix.lower() == ".npz":
        dataset = read_part_npz(path, reader)
    else:
        return None
    return checked_part_dataset(with_test_split(dataset, name, seed=reader.seed), name)
