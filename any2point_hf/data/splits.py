"""The splits of a data set by the names `train`, `test` and `validation`; a test split is made where there is none."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset

from ..modeling.errors import DatasetError, listed
from ..point_clouds.reading import PLAIN_READER, CloudReader
from .columns import with_own_names
from .own_types import with_own_points, with_own_types
from .targets import TargetTask, with_targets

TEST_SHARE = 0.2

_USUAL_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
}


def usual_split(name: str) -> str | None:
    """The split `train`, `test` or `validation` that a usual name means, whatever its case; None for other names."""
    return _USUAL_NAMES.get(name.lower())


def with_own_splits(
    dataset: Dataset | Mapping[str, Dataset],
    source: str,
    reader: CloudReader = PLAIN_READER,
    task: TargetTask | None = None,
    label_column: str | Sequence[str] | None = None,
) -> DatasetDict:
    """Brings any labelled data set to the form of this package's own: splits, column names and types.

    Splits are told by their usual names, and an only split of another name trains; others are kept. Where no test split
    has labels, the validation split is the test split; without one, 20 % of each class are held out, the same
    ones for the same seed. A warning says so.

    Args:
        dataset: a data set of `datasets`, or several by the names of splits.
        source: its name, for warnings and errors.
        reader: of the clouds; its seed is also that of the held-out clouds.
        task: what the labels are, where they are not one class.
        label_column: the column, or the columns, of such labels.

    Returns:
        Splits `train` and `test` (of a source with nothing to train on, `test` alone), maybe `validation` and others,
        with the columns `points` and `label` and the source's further ones.

    Raises:
        DatasetError: no training split, no clouds, or no column of points or of classes.
        PointCloudError: a cloud cannot be used; the message names its row.
    """
    splits = named_splits(dataset, source)
    if task is not None:
        splits = with_targets(splits, source, task, label_column)
        splits = {name: with_own_points(part, source, name, reader) for name, part in splits.items()}
    else:
        splits = {name: with_own_names(part, source) for name, part in splits.items()}
        splits = with_own_types(splits, source, reader)
    return with_test_split(DatasetDict(splits), source, seed=reader.seed)


def named_splits(dataset: Dataset | Mapping[str, Dataset], source: str) -> dict[str, Dataset]:
    """The splits by this package's names, without empty ones.

    Raises:
        DatasetError: it is no data set in memory or on the disk, or has no clouds to train or to test on.
    """
    if not isinstance(dataset, Mapping):
        dataset = {str(getattr(dataset, "split", None) or "train"): dataset}
    splits = dict(dataset)
    for part in splits.values():
        if isinstance(part, IterableDataset) or not isinstance(part, Dataset):
            raise DatasetError(
                f"{source} must be a Dataset of `datasets`, or a DatasetDict, got {type(part).__name__}. Load it "
                "without streaming=True; lists of arrays go into Dataset.from_dict."
            )
    named: dict[str, Dataset] = {}
    for name, part in splits.items():
        usual = usual_split(str(name)) or ("train" if len(splits) == 1 else str(name))
        if usual in named:
            raise DatasetError(f"{source} has two splits for {usual!r}: {listed(splits)}. Leave one out.")
        named[usual] = part
    if not {"train", "test", "validation"} & {*named}:
        names = listed(splits)
        raise DatasetError(f"{source} must have a split 'train', or 'test' alone, got {names}. Rename the one it is.")
    if not len(named.get("train", "absent")):
        raise DatasetError(f"{source} has no clouds in its split 'train'. Check the path.")
    return {name: part for name, part in named.items() if len(part)}


def check_trains(dataset: Mapping[str, Dataset]) -> None:
    """Checks that there is a split to train on.

    Raises:
        DatasetError: there is none, or its clouds had no labels.
    """
    if "train" not in dataset:
        raise DatasetError(
            f"training needs a split 'train' with labels, got {listed(dataset)}. Rename the one it is, by "
            "DatasetDict(train=…, test=…)."
        )


def with_test_split(dataset: DatasetDict, source: str, *, seed: int = 0) -> DatasetDict:
    """Makes a test split where there is none, as `with_own_splits` says.

    Args:
        dataset: with a split `train` whose `label` or `category`, of which clouds are held out alike, is a ClassLabel.
        source: its name, for warnings and errors.
        seed: of the clouds that are held out.

    Raises:
        DatasetError: a class has too few clouds for both.
    """
    if "test" in dataset:
        return dataset
    if "validation" in dataset:
        warnings.warn(f"{source} has no test split with labels: its validation split is the test split.", stacklevel=2)
        names = {name: "test" if name == "validation" else name for name in dataset}
        return DatasetDict({new: dataset[old] for old, new in names.items()})
    train = dataset["train"]
    held_out = _held_out(train, source, seed)
    warnings.warn(
        f"{source} has no test split: {len(held_out)} of its {len(train)} clouds, {TEST_SHARE:.0%} of each class, are "
        f"held out for it (seed {seed}).",
        stacklevel=2,
    )
    kept = np.setdiff1d(np.arange(len(train)), held_out)
    return DatasetDict({**dataset, "train": train.select(kept), "test": train.select(held_out)})


def class_column(dataset: Dataset) -> str | None:
    """The column with the class of each cloud: `label` or, in a data set of parts, `category`; None without classes."""
    return next((name for name in ("label", "category") if isinstance(dataset.features.get(name), ClassLabel)), None)


def _held_out(train: Dataset, source: str, seed: int) -> np.ndarray:
    """Sorted numbers of the rows that are held out: a share of every class, and at least one."""
    column, generator = class_column(train), np.random.default_rng(seed)
    labels = np.asarray(train.with_format(None)[column][:]) if column else np.zeros(len(train), dtype=int)
    chosen = []
    for label, name in enumerate(train.features[column].names if column else ["all"]):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) == 1:
            raise DatasetError(
                f"{source} has no test split, and none can be made: its class {name!r} has a single cloud. Add clouds, "
                "or a test split."
            )
        chosen.append(members[: max(1, round(TEST_SHARE * len(members)))] if len(members) else members)
    return np.sort(np.concatenate(chosen))
