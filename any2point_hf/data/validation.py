"""A validation split out of the training split, so that no choice is ever made on the test split."""

from datasets import DatasetDict

from any2point_hf.data.splits import class_column
from any2point_hf.modeling.errors import DatasetError


def hold_out_validation(dataset: DatasetDict, share: float) -> DatasetDict:
    """Holds out a share of every class; always the same clouds.

    Args:
        dataset: splits `train` and `test`, and no `validation`.
        share: of the training clouds, between 0 and 1.

    Raises:
        DatasetError: there is a validation split already, or a class would have no cloud in one of the two.
    """
    if "validation" in dataset:
        raise DatasetError(
            "the dataset has a validation split of its own, which is used; leave the held-out share out."
        )
    if not 0 < share < 1:
        raise DatasetError(f"the held-out share must lie between 0 and 1, got {share}.")
    try:
        parts = dataset["train"].train_test_split(share, stratify_by_column=class_column(dataset["train"]), seed=0)
    except ValueError as error:  # of a class with too few clouds
        raise DatasetError(f"{share} of the training split cannot be held out from every class: {error}") from error
    return DatasetDict(train=parts["train"], validation=parts["test"], test=dataset["test"])
