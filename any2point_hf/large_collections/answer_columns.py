"""The columns of a shard of `predict`: each cloud's classes, or its numbers."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from ..evaluation.head_metrics import THRESHOLD
from ..modeling.head_fields import MULTI_LABEL, REGRESSION, problem_of


def answer_columns(
    model: Any, results: Sequence[Tensor], top: int, min_confidence: float | None
) -> dict[str, pa.Array]:
    """The most probable class of each cloud, and the `top` most probable ones in falling order; maybe `answer` too.

    Of several classes a cloud there is also `labels`, all from a probability of 0.5 on. A regression has a column for
    each target instead, by its name.

    Args:
        model: of the job.
        results: logits [B, num_labels] of batches.
        top: how many classes to list.
        min_confidence: the least probability of an answer, or None.
    """
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    logits = torch.cat([torch.empty(0, len(names)), *results])
    problem = problem_of(model.config)
    if problem == REGRESSION:
        return {name: pa.array(logits[:, index].numpy(), pa.float32()) for index, name in enumerate(names)}
    probabilities = model.probabilities(logits)
    best = probabilities.topk(min(top, len(names)))
    listed = [
        [{"label": names[index], "probability": value} for value, index in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    entry = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    columns = {
        "label": pa.array([row[0]["label"] for row in listed], pa.string()),
        "probability": pa.array([row[0]["probability"] for row in listed], pa.float32()),
        "top": pa.array(listed, pa.list_(entry)),
    }
    if problem == MULTI_LABEL:
        fitting = (probabilities >= THRESHOLD).tolist()
        chosen = [[name for name, fits in zip(names, row, strict=True) if fits] for row in fitting]
        columns["labels"] = pa.array(chosen, pa.list_(pa.string()))
    if min_confidence is not None:
        sure = [row[0]["label"] if row[0]["probability"] >= min_confidence else None for row in listed]
        columns["answer"] = pa.array(sure, pa.string())
    return columns
