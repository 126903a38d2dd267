"""The model card: a README.md with the Hub's metadata, written from a model's facts and its training's.

Unusual here: nothing in a card depends on the machine or the time, so the same run gives the same card.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from . import model_card_text as text
from .model_card_text import TrainingFacts
from .model_description import ModelDescription, describe

GENERATED = "<!-- Written by any2point_hf. A training into this folder writes it anew, unless this line is removed. -->"
_METRICS = {  # as the Hub calls them
    "classification": ["accuracy"],
    "multi-label": ["f1"],
    "regression": ["r_squared", "mae"],
    "segmentation": ["mean_iou", "accuracy"],
}


def model_card(
    model: PreTrainedModel | ModelDescription, name: str, training: TrainingFacts | None = None, remarks: str = ""
) -> ModelCard:
    """Makes the card of a model.

    Args:
        model: an Any2Point model, or its description.
        name: the Hub id or folder's name that it will be loaded by.
        training: facts of its training, if they are known.
        remarks: sections on its origin, in markdown, such as on a conversion.
    """
    description = describe(model) if isinstance(model, PreTrainedModel) else model
    revision = description.revision or (None if training is None else training.backbone_commit)
    sections = [
        GENERATED,
        f"# {_title(name)}",
        text.introduction(description),
        text.facts(description, revision),
        text.usage(description, name),
        *([] if training is None else [text.results(training), text.training_section(training)]),
        remarks or ("" if training else text.UNKNOWN_TRAINING),
        text.limitations(description, training),
        text.ATTENTION_ACROSS_BATCH if description.attends_across_batch else "",
        text.CITATION,
    ]
    metadata = _metadata(description, name, training).to_yaml()
    return ModelCard(f"---\n{metadata}\n---\n\n" + "\n\n".join(part for part in sections if part) + "\n")


def renamed(card: str, name: str) -> str:
    """Puts the name of the repository into a generated card; returns any other card as it is.

    Args:
        card: the text of a README.md.
        name: the Hub id that the model will be loaded by.
    """
    loaded = re.search(re.escape(text.loading("…")).replace("…", r'(?:[^"\\\n]|\\.)*'), card)
    if GENERATED not in card or loaded is None:
        return card
    old = json.loads(loaded[0].partition("(")[2])
    for phrase in (text.loading, text.option, text.piped, lambda named: f"\n# {_title(named)}\n"):
        card = card.replace(phrase(old), phrase(name))
    result = ModelCard(card)
    data: Any = result.data
    if data.eval_results:
        data.model_name = _title(name)
    return str(result)


def tagged(card: str, tags: Sequence[str]) -> str:
    """Adds tags to a card's metadata, after those that it has.

    Args:
        card: the text of a README.md.
        tags: to be added.
    """
    result = ModelCard(card)
    data: Any = result.data
    data.tags = list(dict.fromkeys([*(data.tags or ()), *tags]))
    return str(result)


def _title(name: str) -> str:
    return name.rpartition("/")[2]


def _metadata(description: ModelDescription, name: str, training: TrainingFacts | None) -> ModelCardData:
    results = [] if training is None else _eval_results(training, str(description.kind))
    dataset = None if training is None else training.dataset_id
    tasks = dict.fromkeys(name for name in (description.task, description.kind) if name)
    return ModelCardData(
        library_name="any2point_hf",
        base_model=description.base_model,
        base_model_relation="adapter" if description.base_model else None,
        **description.licence,
        tags=["any2point", "point-cloud", *(f"point-cloud-{name}" for name in tasks)],
        datasets=[dataset] if dataset else None,
        metrics=_METRICS[str(description.kind)] if results else None,
        model_name=_title(name) if results else None,
        eval_results=results or None,
    )


def _eval_results(training: TrainingFacts, task: str) -> list[EvalResult]:
    """Results of the saved weights, for the card's model-index."""
    return [
        EvalResult(
            task_type=f"point-cloud-{task}",  # the Hub has no pipeline_tag for clouds
            task_name=f"Point cloud {task}",
            dataset_type=training.dataset_id or training.dataset,
            dataset_name=training.dataset,
            dataset_split=evaluation.split,
            dataset_revision=training.dataset_commit or training.fingerprint,
            metric_type=metric,
            metric_name=text.METRICS[metric][0].upper() + text.METRICS[metric][1:],
            metric_value=round(value, 4) if abs(value) >= 0.1 else float(f"{value:.4g}"),
        )
        for evaluation in training.evaluations
        if evaluation.is_of_this_adapter
        for metric, value in evaluation.metrics.items()
    ]
