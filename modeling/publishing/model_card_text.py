"""The sections of a model card, in markdown."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .card_words import ALWAYS, ANSWERS, CLASSES, METRICS, WHAT
from .model_description import ModelDescription

ATTENTION_ACROSS_BATCH = """## Its answer for a cloud depends on the clouds beside it

The released CLIP code, whose arithmetic this model computes, runs attention **across the batch**: token t of a cloud
attends to token t of the other clouds of the batch, never to its own cloud's tokens. Alone, a cloud is outside what
this model was trained for; the published accuracy was taken in batches of 64 unshuffled test clouds. For one answer a
cloud, train the preset anew in the default mode."""

UNKNOWN_TRAINING = """## Results

This card was written apart from the model's training: neither its data nor its accuracy are known here."""

CITATION = """## Citation

```bibtex
@article{tang2024any2point,
  title   = {Any2Point: Empowering Any-modality Large Models for Efficient 3D Understanding},
  author  = {Tang, Yiwen and Zhang, Ray and Liu, Jiaming and Guo, Zoey and Wang, Dong and Wang, Zhigang and
             Zhao, Bin and Zhang, Shanghang and Gao, Peng and Li, Hongsheng and Li, Xuelong},
  journal = {arXiv preprint arXiv:2404.07989},
  year    = {2024}
}
```"""

INSTALL = "pip install any2point-hf"

_WITHOUT_IMPORT = (
    "In a process that does not import `any2point_hf`, transformers asks for `trust_remote_code=True`. It runs "
    "`any2point.py` of this repository, which imports the installed package and nothing else:"
)
_MODALITIES = {
    "1d": "1D, a language model: points take its positions on virtual lines",
    "2d": "2D, a model of images or spectrograms: points take its positions on virtual planes",
}


@dataclass(frozen=True)
class Evaluation:
    """Metrics of an epoch's weights on a split.

    Args:
        weights: which ones, such as "last epoch".
        split: such as "test".
        metrics: some of `METRICS` and their values, the main one first.
        is_of_this_adapter: whether these weights are the ones that were saved.
    """

    weights: str
    split: str
    metrics: Mapping[str, float]
    is_of_this_adapter: bool = True


@dataclass(frozen=True)
class TrainingFacts:
    """The facts of a training that its card states.

    Args:
        dataset: name of the data, without directories.
        fingerprint: of the clouds; the metadata state it as the data's revision.
        splits: number of clouds by name of the split.
        evaluations: rows of the table of results.
        per_class: by class name, the number of clouds in the test split and the accuracy on them (None without clouds);
            for segmentation by category, and their mean IoU.
        recipe: how it was trained, as YAML.
        command: what started it, without directories.
        language: of the command, "bash" or "python".
        remarks: further sentences on the training, such as its seed.
        dataset_id: id of the data on the Hub, if they are there.
        dataset_commit: their commit there.
        backbone_commit: the Hub's commit that the backbone was loaded from, if it is known.
        pictures: paths within the repository, by title.
        per_part: for segmentation by part, the number of points in the test split and the mean IoU of this part.
        per_name: of several classes a cloud or of numbers, by name, some of `METRICS` on the test split.
    """

    dataset: str
    fingerprint: str
    splits: Mapping[str, int]
    evaluations: Sequence[Evaluation]
    per_class: Mapping[str, tuple[int, float | None]]
    recipe: str
    command: str
    language: str = "bash"
    remarks: Sequence[str] = ()
    dataset_id: str | None = None
    dataset_commit: str | None = None
    backbone_commit: str | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
    per_part: Mapping[str, tuple[int, float | None]] = field(default_factory=dict)
    per_name: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


def introduction(description: ModelDescription) -> str:
    """A sentence that says what the model is, and its size."""
    head = f" ({description.trained_without_head:,} without the head)" if description.class_names else ""
    rest = "nothing of the backbone, which stays frozen and is loaded beside it."
    if description.unfrozen:
        blocks = description.settings["unfrozen_blocks"]
        rest = (
            f"of the backbone {description.unfrozen:,} of these parameters: its last {blocks} blocks, fine-tuned. The "
            "other blocks stay frozen and are loaded beside it."
        )
    return (
        f"{WHAT[description.kind]}: an adapter by the method of [Any2Point](https://arxiv.org/abs/2404.07989) for "
        f"{_backbone(description)}. It holds {description.trained:,} trained parameters{head}, "
        f"{description.num_bytes / 1e6:.2f} MB with the batch norms' statistics, and {rest}"
    )


def facts(description: ModelDescription, revision: str | None) -> str:
    """A table of the model's backbone, points, classes and licence, and its settings that differ from the defaults."""
    rows = {
        "Backbone": f"{_backbone(description)}, {_revision(description, revision)}",
        "Family": f"`{description.family}`: {description.depth} blocks, width {description.width}",
        "Modality": _MODALITIES[description.modality],
        "Points a cloud": f"{description.num_points:,}",
        "Features of a point": ", ".join(f"`{name}`" for name in description.point_feature_names),
        CLASSES[description.kind]: f"{len(description.class_names)}: {', '.join(description.class_names)}",
        "Categories": f"{len(description.categories)}: {', '.join(description.categories)}",
        "Licence": _licence(description),
    }
    rows.pop("", None)  # of a model without a head
    if not description.categories:
        del rows["Categories"]
    if not description.point_feature_names:
        del rows["Features of a point"]
    settings = ", ".join(f"`{name}={value!r}`" for name, value in description.settings.items())
    return (
        table(("", ""), rows.items())
        + "\n\nSettings that differ from the defaults of `Any2PointConfig`: "
        + (f"{settings}." if settings else "none.")
    )


def usage(description: ModelDescription, name: str) -> str:
    """How to load and run it, in Python and, if it classifies, on the command line."""
    backbone = json.dumps(description.backbone or "BACKBONE", ensure_ascii=False)
    argument = "" if description.is_found else f", backbone={backbone}"
    lines = [
        f"from any2point_hf import {description.class_name}, Any2PointProcessor",
        "",
        f"model = {description.class_name}.{loading(name)}{argument})",
        f"processor = Any2PointProcessor.{loading(name)})",
    ]
    outputs = 'outputs = model(**processor(["chair.ply"]))'
    command, answer = f"any2point predict chair.ply {option(name)}", [outputs]
    if not description.is_found:
        command += f" --backbone {shlex.quote(description.backbone or 'BACKBONE')}"
    if description.task == "segmentation":
        answer = []
        lines = _lines_of_segmentation(description, lines)
        command += "".join(f" --category {shlex.quote(category)}" for category in description.categories[:1])
        command += " --out chair-parts.ply"
    elif description.task == "classification":
        answer.append(ANSWERS[str(description.kind)])
    else:
        answer.append("print(outputs.pooler_output.shape)")
    blocks = [_code("python", *lines, *answer), *([_code("bash", command)] if description.task else [])]
    if description.is_found and description.task:
        blocks += [
            _WITHOUT_IMPORT,
            _code("python", *_lines_of_pipeline(name, description.task, description.categories)),
        ]
    if (head := description.settings.get("classifier")) is not None:
        blocks.append(
            f"Its head is of the class `{head}`, which is no part of any2point_hf: before it is loaded, call "
            f"`register_classifier({head!r}, …)` with this class, or pass a module of it as `classifier=`."
        )
    if description.backbone is None:
        blocks.append("`BACKBONE` is the backbone that it was trained on; no name was recorded for it.")
    elif description.base_model is None:
        blocks.append(f"`{description.backbone}` is a folder with the backbone that it was trained on.")
    return "\n\n".join(["## How to use it", _code("bash", INSTALL), *blocks])


def _lines_of_segmentation(description: ModelDescription, lines: Sequence[str]) -> list[str]:
    """The Python code that labels a file's points; `lines` load the model and its processor."""
    first = json.dumps(description.categories[0], ensure_ascii=False) if description.categories else None
    category = f", category={first}" if first else ""
    labelling = f'labelled = label_points(model, processor, "chair.ply"{category})'
    return [f"{lines[0]}, label_points", *lines[1:], labelling, "print(labelled.parts, labelled.summary())"]


def _lines_of_pipeline(name: str, task: str, categories: Sequence[str]) -> list[str]:
    answer = {"classification": "classify", "segmentation": "label_points"}[task]
    call = f'{answer} = pipeline("point-cloud-{task}", {piped(name)}, trust_remote_code=True)'
    category = f", category={json.dumps(categories[0], ensure_ascii=False)}" if categories else ""
    return ["from transformers import pipeline", "", call, f'print({answer}("chair.ply"{category}))']


def piped(name: str) -> str:
    """The part of a pipeline's arguments that names the model."""
    return f"model={json.dumps(name, ensure_ascii=False)}"


def loading(name: str) -> str:
    """The part of the Python code that names the model."""
    return f"from_pretrained({json.dumps(name, ensure_ascii=False)}"


def option(name: str) -> str:
    """The part of the command line that names the model."""
    return f"--model {shlex.quote(name)}"


def results(training: TrainingFacts) -> str:
    """The section of results: accuracies, accuracies of each class, and pictures."""
    rows = [
        (
            evaluation.weights + (" (**this adapter**)" if evaluation.is_of_this_adapter else ""),
            evaluation.split,
            *(f"{value:.4f}" for value in evaluation.metrics.values()),
        )
        for evaluation in training.evaluations
    ]
    titles = [METRICS[name] for name in training.evaluations[0].metrics]
    of_classes = _shares("class", "clouds", "accuracy", training.per_class)
    of_each = ["This adapter on each class of the test split:", of_classes]
    if training.per_name:
        of_each = ["This adapter on each of them, on the test split:", _metrics_by_name(training.per_name)]
    if training.per_part:
        of_categories = _shares("category", "clouds", "mean IoU", training.per_class)
        of_each = ["This adapter on each part of the test split:", _shares("part", "points", "IoU", training.per_part)]
        of_each = [*(["On each category:", of_categories] if training.per_class else []), *of_each]
    parts = [
        "## Results",
        f"On `{training.dataset}`, without voting:",
        table(("weights", "split", *titles), rows),
        *of_each,
        *(f"![{title}]({path})" for title, path in training.pictures.items()),
    ]
    return "\n\n".join(parts)


def _shares(name: str, unit: str, measure: str, shares: Mapping[str, tuple[int, float | None]]) -> str:
    rows = [(key, f"{count:,}", "none" if share is None else f"{share:.4f}") for key, (count, share) in shares.items()]
    return table((name, unit, measure), rows)


def _metrics_by_name(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    titles = [METRICS[name] for name in next(iter(metrics.values()))]
    rows = [(name, *(_shown(value) for value in values.values())) for name, values in metrics.items()]
    return table(("", *titles), rows)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def training_section(training: TrainingFacts) -> str:
    """The section of the training: data, command and recipe."""
    splits = ", ".join(f"{name} {count:,}" for name, count in training.splits.items())
    data = f"`{training.dataset}`"
    if training.dataset_id is not None:
        data = f"[{data}](https://huggingface.co/datasets/{training.dataset_id})"
    if training.dataset_commit is not None:
        data += f" at its commit `{training.dataset_commit}`"
    parts = [
        "## Training",
        f"Data: {data}, clouds in the splits: {splits} (fingerprint `{training.fingerprint}`).",
        _code(training.language, training.command),
        " ".join([*training.remarks, "The recipe, as a file for `--recipe`:"]),
        _code("yaml", training.recipe.strip()),
    ]
    return "\n\n".join(parts)


def limitations(description: ModelDescription, training: TrainingFacts | None) -> str:
    """The section of limitations: what the model cannot do."""
    points = [
        "It does nothing without its frozen backbone, and fits this one alone: with another revision, or another model "
        "of the same shape, its answers are others.",
        "Clouds must be prepared as in its training: use the processor of this repository.",
    ]
    if description.point_feature_names:
        points.append(
            f"Every cloud must have {', '.join(description.point_feature_names)} for each point; one without them is "
            "refused. Colours are 0…1 (or integers of 8 or 16 bits), normals have length 1."
        )
    if description.task is not None:
        points.append(ALWAYS[str(description.kind)])
    if training is not None:
        points.append("Its accuracy was measured on the data above; on clouds of another sensor expect less.")
    return "## Limitations\n\n" + "\n".join(f"- {point}" for point in points)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _backbone(description: ModelDescription) -> str:
    if description.base_model is not None:
        return f"[`{description.base_model}`](https://huggingface.co/{description.base_model})"
    return f"`{description.backbone}`" if description.backbone else "a backbone without a name"


def _revision(description: ModelDescription, revision: str | None) -> str:
    if description.base_model is None:
        return "which is not known to be on the Hub"
    return f"revision `{revision}`" if revision else "no revision was recorded"


def _licence(description: ModelDescription) -> str:
    if not description.licence:
        return "not known, so none is stated"
    stated = description.licence.get("license_name", description.licence["license"])
    stated = ", ".join(stated) if isinstance(stated, list) else stated
    link = description.licence.get("license_link")
    return (f"[{stated}]({link})" if link else f"`{stated}`") + ", inherited from the backbone"
