"""A data set's contents as 16 hexadecimal digits, by which a training's record tells whether they are the same."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import ClassLabel, Dataset, List

from .columns import feature_columns
from .splits import class_column
from .targets import LABEL, target_array, target_task_of

_ROWS = 256  # after the labels of so many rows their clouds are hashed
_CLOUDS = 16  # held at once


def data_fingerprint(dataset: Mapping[str, Dataset], feature_names: Sequence[str] = ()) -> str:
    """A hash of the points, labels and class names of all splits; it does not depend on where they are stored.

    Args:
        dataset: splits with columns `points` and `label`, or with those of a data set of parts.
        feature_names: of the features of points that count too.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, split in sorted(dataset.items()):
        classes = class_column(split)
        digest.update(repr((name, len(split), split.features[classes].names if classes else [])).encode())
        if target_task_of(split.features) is not None:
            digest.update(repr(split.features[LABEL]).encode())
            digest.update(target_array(split).tobytes())
        columns = ["points", *feature_columns(split, feature_names)]
        if isinstance(parts := split.features.get("part"), List) and isinstance(parts.feature, ClassLabel):
            digest.update(repr(parts.feature.names).encode())
            columns.append("part")
        for start in range(0, len(split), _ROWS):
            part = split.select(range(start, min(start + _ROWS, len(split)))).with_format("numpy")
            if classes:
                digest.update(np.asarray(part[classes][:], dtype=np.int64).tobytes())
            for column in columns:
                for rows in part.select_columns(column).iter(_CLOUDS):
                    for array in rows[column]:
                        digest.update(repr(array.shape).encode())
                        digest.update(np.ascontiguousarray(array, dtype=np.float32).data)
    return digest.hexdigest()
