"""What a training reached: its metrics, those of each class, category and part, and the rows of its card."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import Trainer

from ..evaluation.head_metrics import head_metrics
from ..modeling.publishing.model_card_text import Evaluation
from ..segmentation.labelling import part_names_of
from .head_tasks import TASK_METRICS, task_of_config
from .parts import PART_METRICS, confusion_of_parts, measured_parts
from .trainer import accuracies, confusion_matrix

CLASS_METRICS = ("accuracy", "mean_class_accuracy")
"""What a training for classification reports; the first one chooses the best epoch."""

Shares = Mapping[str, tuple[int, float | None]]
"""By name, how many there are in the test split, and the measure of them (None where there are none)."""


@dataclass(frozen=True)
class ResultOnTest:
    """How well weights answer for the test split.

    Args:
        metrics: by the names of `CLASS_METRICS`, `PART_METRICS` or `TASK_METRICS`.
        confusion: which class, or part, was taken for which, [classes, classes]; None for several classes or numbers.
        per_class: number of clouds and accuracy of each class or, of parts, number of clouds and mean IoU of each
            category.
        per_part: number of points and IoU of each part; empty for classification.
        per_name: of several classes or numbers, the metrics of each.
    """

    metrics: Mapping[str, float]
    confusion: np.ndarray | None
    per_class: Shares
    per_part: Shares = field(default_factory=dict)
    per_name: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


def answers_for_test(trainer: Trainer) -> ResultOnTest:
    """Asks a trained model for the test split; every process has to call this.

    Args:
        trainer: of `make_trainer`, whose model has the weights that are to be measured.
    """
    model: Any = trainer.model
    tested: Any = trainer.predict(_test_clouds(trainer))
    if hasattr(model, "predict_parts"):
        return _result_of_parts(tested.predictions, tested.label_ids, model)
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    task = task_of_config(model.config)
    if task in TASK_METRICS:
        measured = dict(head_metrics(tested.predictions, tested.label_ids, names, task))
        metrics = {name: measured[name] for name in TASK_METRICS[task] if measured[name] is not None}
        return ResultOnTest(
            metrics, None, {}, per_name=measured["per_class" if task == "multi-label" else "per_target"]
        )
    predictions = tested.predictions.argmax(axis=-1)
    measured = accuracies(predictions, tested.label_ids, len(names))
    confusion = confusion_matrix(predictions, tested.label_ids, len(names))
    per_class = _shares(names, confusion.sum(axis=1), measured["per_class"])
    return ResultOnTest({name: measured[name] for name in CLASS_METRICS}, confusion, per_class)


def _result_of_parts(predicted: np.ndarray, label_ids: Any, model: Any) -> ResultOnTest:
    categories, names = model.config.category_parts, part_names_of(model)
    measured, confusion = (
        measured_parts(predicted, label_ids, model),
        confusion_of_parts(predicted, label_ids, len(names)),
    )
    metrics = {name: measured[name] for name in PART_METRICS}
    per_part = _shares(names, confusion.sum(axis=1), measured["per_part"].values())
    if categories is None:
        return ResultOnTest(metrics, confusion, {}, per_part)
    counts = np.bincount(label_ids[1], minlength=len(categories))
    return ResultOnTest(metrics, confusion, _shares(categories, counts, measured["per_category"].values()), per_part)


def _shares(names: Iterable[str], counts: np.ndarray, values: Iterable[float | None]) -> Shares:
    return dict(zip(names, zip(counts.tolist(), values, strict=True), strict=True))


def _test_clouds(trainer: Trainer) -> Dataset:
    return trainer.eval_dataset["test"] if isinstance(trainer.eval_dataset, dict) else trainer.eval_dataset


def reported(trainer: Trainer, of_saved: Mapping[str, float]) -> tuple[dict[str, Any], Sequence[Evaluation]]:
    """The metrics of the last epoch, and of the best one where there is a validation split to choose it by.

    Args:
        trainer: after it has trained.
        of_saved: metrics of the saved weights on the test split; the first one chooses the best epoch.

    Returns:
        The metrics (and the best epoch) that `train` returns, and the same as rows for the model card.
    """
    saved: dict[str, Any] = dict(of_saved)
    chooses = next(iter(saved))
    last = f"epoch {trainer.state.epoch:g}, the last"
    if not isinstance(trainer.eval_dataset, dict):
        return saved, [Evaluation(last, "test", of_saved)]
    history = trainer.state.log_history
    validations = [entry for entry in history if f"eval_validation_{chooses}" in entry]
    tests = [entry for entry in history if f"eval_test_{chooses}" in entry]
    scores = [entry[f"eval_validation_{chooses}"] for entry in validations]
    best = scores.index(max(scores))  # the first of equals, as the Trainer takes it
    of_last = {name: tests[-1][f"eval_test_{name}"] for name in saved}
    on_validation = {name: validations[best][f"eval_validation_{name}"] for name in saved}
    metrics = of_last | {
        "best_epoch": validations[best]["epoch"],
        f"validation_{chooses}": scores[best],
        f"best_epoch_{chooses}": tests[best][f"eval_test_{chooses}"],
    }
    kept = f"epoch {validations[best]['epoch']:g}, the best on the validation split"
    rows = [Evaluation(kept, "test", of_saved), Evaluation(kept, "validation", on_validation)]
    if tests[best] is not tests[-1]:
        rows.append(Evaluation(last, "test", of_last, is_of_this_adapter=False))
    return metrics, rows
