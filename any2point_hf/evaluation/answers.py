"""What a model says of clouds, for people and programs: classes with probabilities, or named numbers."""

from typing import Any

from torch import Tensor

from ..modeling.errors import ConfigurationError
from ..modeling.head_fields import MULTI_LABEL, REGRESSION, problem_of
from .head_metrics import THRESHOLD


def check_answer_options(problem: str, top: int | None, min_confidence: float | None) -> None:
    """Checks that options of classes are not given to a model that says something else.

    Args:
        problem: `problem_type` of the model.
        top: how many classes to list, or None.
        min_confidence: the least probability of an answer, or None.

    Raises:
        ConfigurationError: one is.
    """
    if top is not None and problem == REGRESSION:
        raise ConfigurationError(f"top lists classes, and this model is for {problem}. Leave it out.")
    if min_confidence is not None and problem in (REGRESSION, MULTI_LABEL):
        raise ConfigurationError(
            f"min_confidence is for models that choose one class a cloud, and this one is for {problem}. Leave it out."
        )


def answers_of(model: Any, logits: Tensor, top: int = 3, min_confidence: float | None = None) -> list[dict[str, Any]]:
    """For each cloud `classes`, a list of `label` and `probability`, the most probable first.

    With `min_confidence` also `answer`, the most probable class, or None where it is less probable. Of a model with
    several classes a cloud also `labels`, all whose probability is at least 0.5. Of a regression it is `values`
    instead, the number of each target by its name.

    Args:
        model: a classifier or a regression.
        logits: [n, num_labels] of its answers.
        top: how many classes to list.
        min_confidence: the least probability of an answer, 0 to 1.
    """
    names = [model.config.id2label[index] for index in range(logits.shape[-1])]
    problem = problem_of(model.config)
    if problem == REGRESSION:
        return [{"values": dict(zip(names, row, strict=True))} for row in logits.double().tolist()]
    results = []
    for probabilities in model.probabilities(logits):
        best = probabilities.topk(min(top, len(names)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        result: dict[str, Any] = {
            "classes": [{"label": names[index], "probability": round(value, 6)} for value, index in pairs]
        }
        if problem == MULTI_LABEL:
            result["labels"] = [names[index] for index in (probabilities >= THRESHOLD).nonzero().flatten().tolist()]
        if min_confidence is not None:
            is_sure = float(best.values[0]) >= min_confidence
            result["answer"] = result["classes"][0]["label"] if is_sure else None
        results.append(result)
    return results
