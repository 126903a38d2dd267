"""One training, from the names of data and backbone to a saved adapter: what `any2point train` does."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import DatasetDict
from transformers import set_seed

from ..data import load_point_cloud_dataset
from ..data.fingerprint import data_fingerprint
from ..data.hub_dataset import parse_hub_name, pinned
from ..data.loading import Task, task_of_dataset
from ..data.parts.dataset import is_part_dataset
from ..data.sources import DataSource, name_of
from ..data.splits import check_trains
from ..data.validation import hold_out_validation
from ..modeling.backbones.fingerprint import BACKBONE_FILES, backbone_fingerprint
from ..modeling.batch_memory import batch_too_large, is_out_of_memory
from ..modeling.configuration_any2point import Any2PointConfig
from ..modeling.errors import Any2PointError, CheckpointError, ConfigurationError
from ..modeling.files import check_output_folder, folder_written_whole, read_record, write_whole
from ..modeling.head_fields import SINGLE_LABEL
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from ..modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from ..modeling.publishing.model_description import describe
from ..modeling.several_adapters.lora import remove_lora_files
from ..modeling.tokenizer.fast.freed_memory import keep_freed_memory
from ..point_clouds.features import feature_names
from ..processing_any2point import PROCESSOR_FILE, Any2PointProcessor
from .card import training_facts, write_training_card
from .checkpoints import CheckpointRecords, checkpoint_to_resume, cut_off_checkpoints, holds_checkpoint, remove_damaged
from .head_tasks import head_config_fields, training_weights
from .output_lock import output_lock_of_all
from .parts import part_config_fields
from .probe_before_training import probe_before_training
from .recipe import Recipe, changed, read_recipe
from .recipe_choice import choice_line, choose_recipe, task_line
from .results import answers_for_test, reported
from .trainer import make_trainer

RUN_FILE = "training_run.json"
# What must not change between a run and its resumption, besides what is written to RUN_FILE.
_RESUMED = {*Any2PointConfig.__annotations__, "id2label"} - {"backbone_config"}


def train(
    data: DataSource,
    backbone: str,
    output: str | os.PathLike,
    config_fields: dict[str, Any] | None = None,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    validation_share: float | None = None,
    workers: int = 0,
    loggers: Sequence[str] = (),
    resume: bool = False,
    command: Sequence[str] | None = None,
    drop_invalid: bool = False,
    task: Task | None = None,
    label_column: str | Sequence[str] | None = None,
    **changes: Any,
) -> dict[str, float]:
    """Fine-tunes an adapter and writes it, with its processor and its model card, to a folder.

    Args:
        data: what `load_point_cloud_dataset` takes. Of a data set on the Hub, the card names the commit.
        backbone: Hub id or folder.
        output: folder for the adapter; the checkpoint of the last epoch is kept beside it.
        config_fields: further fields of Any2PointConfig, on top of the recipe's. `point_feature_names` may name groups
            such as "rgb"; the data must have them.
        recipe: how to train; by default the one that `choose_recipe` names for the data's task and size, reported in a
            line on standard error.
        seed: of start values, order, dropout, random points and augmentation.
        validation_share: share of the training split that is held out to choose the best epoch by.
        workers: processes that load batches beside the training.
        loggers: such as "tensorboard".
        resume: go on from the last checkpoint in `output`.
        command: arguments of the running command line, which the model card then shows; by default it shows Python.
        drop_invalid: as in `load_point_cloud_dataset`; the processor that is saved then drops invalid points as well.
        task: "classification", "multi-label", "regression" or "segmentation"; by default what the data have
            (`load_point_cloud_dataset`).
        label_column: the column, or columns, with the labels, as in `load_point_cloud_dataset`.
        changes: fields of the recipe to change, such as `epochs=10`.

    Returns:
        `accuracy` and `mean_class_accuracy` of the last epoch on the test split, for segmentation `instance_miou`,
        `class_miou` and `accuracy`, on the points that the processor keeps of each cloud, for several classes or
        numbers `MULTI_LABEL_METRICS` or `REGRESSION_METRICS`; `linear_probe_accuracy`,
        measured before the training (of classification alone, and missing where `probe_before_training` skips it); and
        `adapter_megabytes` (of several processes, only in the one that writes the adapter). Where there is a validation
        split, the adapter is that of the epoch with the highest accuracy (or `instance_miou`) on it, and there are also
        `best_epoch`, its `validation_accuracy` and its `best_epoch_accuracy` on the test split (or the same of
        `instance_miou`).

    Raises:
        Any2PointError: something in the input does not fit.
    """
    keep_freed_memory()
    output = Path(output)
    check_output_folder(output)
    if not resume:
        _check_unused(output)
    fields = {**(recipe.config if recipe else {}), **(config_fields or {})}
    features = feature_names(fields.get("point_feature_names", ()))
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    with PartialState(cpu=on_cpu).main_process_first():  # the others read what it writes to the cache
        data = pinned(data)
        of_hub = parse_hub_name(data)
        # the same clouds whatever the seed, and the same as evaluate's
        options: Any = {"drop_invalid": drop_invalid, "features": features, "task": task, "label_column": label_column}
        dataset = load_point_cloud_dataset(data, **options)
        check_trains(dataset)
        found = task_of_dataset(dataset)
        are_parts = found == "segmentation"
        chosen = None if recipe else _choice(len(dataset["train"]), found, output, resume)
        if validation_share is not None:
            dataset = hold_out_validation(dataset, validation_share)
    recipe = changed(recipe or read_recipe(chosen or ""), **changes).sized(len(dataset["train"]))
    set_seed(seed)
    fields = {**recipe.config, **(config_fields or {})} | ({"point_feature_names": features} if features else {})
    config = _config(backbone, dataset, fields)
    run = {"data_fingerprint": data_fingerprint(dataset, features), "seed": seed, "validation_share": validation_share}
    run |= recipe.settings() | {BACKBONE_FILES: backbone_fingerprint(backbone)}
    del run["epochs"]  # a run may be made longer
    with output_lock_of_all(output):  # if the folder cannot be made, this fails before the training
        if resume:
            checkpoint, damaged = _last_checkpoint(output, config, run, recipe.epochs, fields)
        else:
            _check_unused(output)  # again: another training may have ended since
            checkpoint, damaged = None, cut_off_checkpoints(output)
        model_class = Any2PointForPointCloudSegmentation if are_parts else Any2PointForPointCloudClassification
        model: Any = model_class(config)
        description = describe(model) if PartialState().is_main_process else None  # before the model is sharded
        settings: Any = (recipe.scale_to_unit_sphere, seed, drop_invalid, features, config.sampling_start)
        processor = Any2PointProcessor(config.num_points, *settings)
        trainer = make_trainer(model, processor, dataset, output, recipe, seed=seed, workers=workers, loggers=loggers)
        trainer.add_callback(CheckpointRecords())
        if trainer.is_world_process_zero():
            remove_damaged(damaged)
            write_whole(output / RUN_FILE, json.dumps({"data": name_of(data), "recipe": chosen} | run, indent=2) + "\n")
            if task is None and (line := task_line(dataset)):
                print(line, file=sys.stderr, flush=True)
            if chosen:
                line = choice_line(chosen, recipe, config, len(dataset["train"]), found)
                print(line, file=sys.stderr, flush=True)
        probe = None if found != "classification" else probe_before_training(trainer, config.num_points)
        is_trained = False
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
            is_trained = True
        except RuntimeError as error:
            if "inline_container" in str(error):  # how torch.save tells of a full disk
                raise OSError(f"a checkpoint could not be written to {output}; is the disk full?") from error
            if "PytorchStreamReader" in str(error):
                raise CheckpointError(f"{checkpoint} is damaged: {error}. Delete it, and train anew.") from error
            if not is_out_of_memory(error):
                raise
        if not is_trained:  # out of memory in the backward pass; the forward raises this itself
            holds_most = model if are_parts else model.any2point  # a classifier's head holds next to nothing
            raise batch_too_large(holds_most.train(), recipe.batch_size, config.num_points, model.device)
        result = answers_for_test(trainer)  # of the weights that are saved
        metrics, evaluations = reported(trainer, result.metrics)
        run |= {"data": name_of(data), "linear_probe_accuracy": probe, "drop_invalid": drop_invalid}
        run |= {"task": task, "label_column": label_column}
        if probe is not None:
            metrics["linear_probe_accuracy"] = probe
        # Under FSDP every process holds a part of the tensors, and all of them have to help to gather them.
        gathered = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
        if trainer.is_world_process_zero():
            with folder_written_whole(output) as beside:  # model and processor in one step
                model.save_pretrained(beside, state_dict=gathered)
                processor.to_json_file(beside / PROCESSOR_FILE)
            if not model.config.lora:
                remove_lora_files(output)
            processor.save_pretrained(output)  # what else belongs to it
            metrics["adapter_megabytes"] = (output / "model.safetensors").stat().st_size / 1e6
            if command and chosen:  # the card names it, because another machine might choose another
                command = [*command, "--recipe", chosen]
            assert description is not None  # made in this process
            facts = training_facts(trainer, dataset, recipe, run, evaluations, result, command, of_hub)
            write_training_card(output, description, facts, trainer.state.log_history, result.confusion)
        trainer.accelerator.wait_for_everyone()
        return metrics


def _choice(num_clouds: int, task: Task, output: Path, resume: bool) -> str:
    """The recipe's name for a task and data of this size; a resumed run keeps the one it had, whatever the machine."""
    if resume and (output / RUN_FILE).is_file():
        recorded = read_record(output / RUN_FILE).get("recipe")
        if isinstance(recorded, str) and recorded:
            return recorded
    return choose_recipe(num_clouds, task)


def _config(backbone: str, dataset: DatasetDict, fields: dict[str, Any]) -> Any2PointConfig:
    if is_part_dataset(dataset):
        if "category_parts" in fields:
            raise ConfigurationError(
                f"category_parts follow from the data, from the parts that each category's clouds have, got "
                f"{fields['category_parts']!r}. Leave them out."
            )
        weight = {"class_weight": training_weights(dataset["train"], fields.get("class_weight"))}
        return Any2PointConfig(backbone=backbone, **part_config_fields(dataset), **(fields | weight))
    of_head = head_config_fields(dataset, fields.get("class_weight"))
    asked = fields.get("problem_type") or of_head.get("problem_type")
    if (asked or SINGLE_LABEL) != of_head.get("problem_type", SINGLE_LABEL):
        raise ConfigurationError(
            f"problem_type follows from the data, which are for {task_of_dataset(dataset)}, got {asked!r}. Choose what "
            "the data are for by --task (in Python task=…)."
        )
    if computed := {"target_mean", "target_std"} & fields.keys():
        raise ConfigurationError(f"{min(computed)} is computed from the training clouds, got one. Leave it out.")
    return Any2PointConfig(backbone=backbone, **(fields | of_head))


def _check_unused(output: Path) -> None:
    if holds_checkpoint(output):
        raise Any2PointError(
            f"{output} holds the checkpoint of an earlier run, which a new one would replace. Go on with it by "
            "--resume, or choose another folder."
        )


def _last_checkpoint(
    output: Path, config: Any2PointConfig, run: dict[str, Any], epochs: float, fields: dict[str, Any]
) -> tuple[str, dict[Path, str]]:
    """The newest whole checkpoint, after a check that these settings may go on from it; and the damaged ones.

    Where `fields` do not say `sampling_start`, the config gets that of the checkpoint, since earlier versions had
    another default.
    """
    newest, state, damaged = checkpoint_to_resume(output)
    if state["epoch"] > epochs:
        raise CheckpointError(
            f"--epochs must be at least the {state['epoch']:g} that {newest} has trained, got {epochs:g}."
        )
    began_with: Any = Any2PointConfig.from_pretrained(newest)
    if fields.get("sampling_start") is None:
        config.sampling_start = began_with.sampling_start
    recorded = began_with.to_dict() | {BACKBONE_FILES: run[BACKBONE_FILES]} | read_record(output / RUN_FILE)
    wanted = {name: value for name, value in config.to_dict().items() if name in _RESUMED} | run
    different = [name for name, value in wanted.items() if recorded.get(name) != value]
    if different:
        raise CheckpointError(
            f"--resume goes on with the settings and classes of {newest}, and these differ now: "
            + ", ".join(f"{name} was {recorded.get(name)!r}" for name in different)
            + ". Give the same ones, or train in another folder."
        )
    return str(newest), damaged
