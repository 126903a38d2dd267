"""What the command line does, as plain functions: train, evaluate, predict, info."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from .cpu_memory import keep_freed_memory
from .data import load_point_cloud_dataset
from .data.augmentation import Augmentation
from .modeling.backbone import build_backbone
from .modeling.configuration_any2point import Any2PointConfig
from .modeling.errors import Any2PointError, CheckpointError, DatasetError
from .modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from .processing_any2point import Any2PointProcessor
from .training import accuracies, make_trainer, process_split

SHAPES = "shapes"
RUN_FILE = "training_run.json"


def train(
    data: str,
    backbone: str,
    output: str | os.PathLike,
    config_fields: dict[str, Any],
    *,
    epochs: float,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    scale_to_unit_sphere: bool = True,
    resume: bool = False,
) -> dict[str, float]:
    """Fine-tunes an adapter and writes it, with its processor, to a folder.

    Args:
        data: of `load_point_cloud_dataset`.
        backbone: Hub id or folder.
        output: folder for the adapter; the checkpoint of the last epoch is kept beside it.
        config_fields: further fields of Any2PointConfig.
        epochs: passes over the training split.
        batch_size: clouds a step.
        learning_rate: the highest one.
        seed: of start values, order, dropout and augmentation.
        augmentation: of training batches; by default scale and shift as for ModelNet. The built-in shapes, whose
            heading means nothing, are always turned about z.
        scale_to_unit_sphere: of the processor; False for scans, whose size means something.
        resume: go on from the last checkpoint in `output`.

    Returns:
        `accuracy` and `mean_class_accuracy` of the last epoch on the test split, and `adapter_megabytes`.

    Raises:
        Any2PointError: whatever of the input does not fit.
    """
    keep_freed_memory()
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise Any2PointError(f"--output must be a folder, and {output} is a file.")
    if not resume and any(output.glob("checkpoint-*")):
        raise Any2PointError(
            f"{output} holds the checkpoint of an earlier run, which a new one would replace. Go on with it by "
            "--resume, or choose another folder."
        )
    dataset = load_point_cloud_dataset(data)  # the same clouds whatever the seed, and the same as evaluate's
    class_names = dataset["train"].features["label"].names
    augmentation = augmentation or Augmentation()
    if data == SHAPES:
        augmentation = replace(augmentation, rotation_axis="z")
    set_seed(seed)
    config = Any2PointConfig(
        backbone=backbone,
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
        **config_fields,
    )
    run = {"data": data, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    run |= {"augmentation": json.loads(json.dumps(asdict(augmentation))), "scale_to_unit_sphere": scale_to_unit_sphere}
    checkpoint = _last_checkpoint(output, config, run) if resume else None
    model = Any2PointForPointCloudClassification(config)
    processor = Any2PointProcessor(config.num_points, scale_to_unit_sphere, seed)
    trainer = make_trainer(
        model,
        processor,
        dataset,
        output,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        augmentation=augmentation,
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / RUN_FILE).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except RuntimeError as error:
        if "inline_container" in str(error):  # how torch.save tells of a full disk
            raise OSError(f"a checkpoint could not be written to {output}; is the disk full?") from error
        raise
    metrics = trainer.evaluate()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return {
        "accuracy": metrics["eval_accuracy"],
        "mean_class_accuracy": metrics["eval_mean_class_accuracy"],
        "adapter_megabytes": (output / "model.safetensors").stat().st_size / 1e6,
    }


def _last_checkpoint(output: Path, config: Any2PointConfig, run: dict[str, Any]) -> str:
    """The newest whole checkpoint; one that was being written when the process was killed has no trainer_state.json."""
    checkpoints = [file.parent for file in output.glob("checkpoint-*/trainer_state.json")]
    if not checkpoints:
        raise CheckpointError(f"--resume needs a checkpoint in {output}, and there is none. Train without --resume.")
    newest = max(checkpoints, key=lambda folder: int(folder.name.rpartition("-")[2]))
    recorded = Any2PointConfig.from_pretrained(newest).to_dict() | json.loads((output / RUN_FILE).read_text())
    wanted = {name: value for name, value in config.to_dict().items() if name in _RESUMED} | run
    changed = [name for name, value in wanted.items() if recorded.get(name) != value]
    if changed:
        raise CheckpointError(
            f"--resume goes on with the settings and classes of {newest}, and these differ now: "
            + ", ".join(f"{name} was {recorded.get(name)!r}" for name in changed)
            + ". Give the same ones, or train in another folder."
        )
    return str(newest)


# What must not change between a run and its resumption, besides what is written to RUN_FILE.
_RESUMED = {*Any2PointConfig.__annotations__, "id2label"} - {"backbone_config"}


def load(model: str, backbone: str | None = None) -> tuple[Any2PointForPointCloudClassification, Any2PointProcessor]:
    """An adapter on its backbone, on the GPU if there is one, and its processor."""
    loaded = Any2PointForPointCloudClassification.from_pretrained(model, backbone=backbone)
    try:
        processor = Any2PointProcessor.from_pretrained(model)
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{model!r} must also hold a valid preprocessor_config.json. Save the processor there: "
            f"Any2PointProcessor(num_points=…).save_pretrained(folder). The loader said: {error}"
        ) from error
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu"), processor


def evaluate(
    model: str, data: str, backbone: str | None = None, split: str = "test", batch_size: int = 32
) -> dict[str, Any]:
    """`accuracy`, `mean_class_accuracy`, `per_class` (class name to accuracy) and `num_clouds` of a split.

    Raises:
        Any2PointError: whatever of the input does not fit, such as classes that the model does not know.
    """
    dataset = load_point_cloud_dataset(data)
    if split not in dataset:
        raise DatasetError(f"--split must be one of {', '.join(dataset)}, got {split!r}.")
    loaded, processor = load(model, backbone)
    class_names = dataset[split].features["label"].names
    known = {name: index for index, name in loaded.config.id2label.items()}
    unknown = [name for name in class_names if name not in known]
    if unknown:
        raise DatasetError(
            f"the dataset's classes must be among the model's ({', '.join(known)}), got also {', '.join(unknown)}. "
            "Evaluate on the dataset it was trained for, or train a new adapter."
        )
    clouds = process_split(dataset[split], processor, processor.num_points)
    labels = np.array([known[class_names[int(label)]] for label in clouds["labels"]])
    logits = [_logits(loaded, rows["points"]) for rows in clouds.iter(batch_size)]
    result = accuracies(torch.cat(logits).argmax(dim=-1).numpy(), labels, len(known))
    names = [loaded.config.id2label[index] for index in range(len(known))]
    return result | {"per_class": dict(zip(names, result["per_class"], strict=True)), "num_clouds": len(labels)}


def predict(
    model: str, files: Sequence[str], backbone: str | None = None, top: int = 3, batch_size: int = 32
) -> list[dict[str, Any]]:
    """For each file: `file` and `classes`, a list of `label` and `probability`, the most probable first.

    Raises:
        Any2PointError: whatever of the input does not fit.
    """
    loaded, processor = load(model, backbone)
    points = processor(list(files))["points"]
    results = []
    logits = torch.cat([_logits(loaded, batch) for batch in points.split(batch_size)])
    for file, probabilities in zip(files, logits.softmax(dim=-1), strict=True):
        best = probabilities.topk(min(top, len(probabilities)))
        classes = [
            {"label": loaded.config.id2label[int(index)], "probability": round(float(value), 6)}
            for value, index in zip(best.values, best.indices, strict=True)
        ]
        results.append({"file": str(file), "classes": classes})
    return results


@torch.no_grad()
def _logits(model: Any2PointForPointCloudClassification, points: torch.Tensor) -> torch.Tensor:
    return model(points.to(model.device)).logits.float().cpu()


def info(model: str | None, backbone: str | None, config_fields: dict[str, Any]) -> dict[str, Any]:
    """`trainable`, `trainable_without_head`, `total`, and `parts` (name to trained parameters; the backbone's total).

    Args:
        model: an adapter, or None for a new one.
        backbone: the backbone of a new one, or instead of the recorded one.
        config_fields: of a new one, which is counted without its weights: only the backbone's config is loaded, or
            nothing where `backbone_config` is among the fields.

    Raises:
        Any2PointError: whatever of the input does not fit.
    """
    if model is not None:
        loaded = Any2PointForPointCloudClassification.from_pretrained(model, backbone=backbone)
    elif backbone is None and config_fields.get("backbone_config") is None:
        raise Any2PointError("info needs --model, --preset or --backbone, got none.")
    else:
        config = Any2PointConfig(backbone=backbone, **config_fields)
        with torch.device("meta"):
            loaded = Any2PointForPointCloudClassification(config)
            loaded.attach_backbone(build_backbone(loaded.config.backbone_config))
    parts: dict[str, int] = {}
    for name, parameter in loaded.named_parameters():
        part = name.removeprefix("any2point.").split(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    trainable = sum(count for part, count in parts.items() if part != "backbone")
    return {
        "parts": parts,
        "trainable": trainable,
        "trainable_without_head": trainable - parts["classifier"],
        "total": trainable + parts["backbone"],
    }
