"""A batch job: what to compute, of which clouds, into which file; and the check whether an earlier one may go on."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..data.hub_dataset import pinned
from ..data.sources import DataSource
from ..evaluation.answers import check_answer_options
from ..modeling.configuration_any2point import recorded_path
from ..modeling.errors import Any2PointError, PointCloudError
from ..modeling.head_fields import REGRESSION, problem_of
from ..processing_any2point import Any2PointProcessor
from ..trained_adapter import load, load_either, load_segmenter, processor_of
from .clouds import CloudCollection
from .model_fingerprint import model_fingerprint
from .output_file import check_output_file
from .shard_files import ShardFiles
from .sources import open_collection

TASKS = ("embed", "predict", "segment")


@dataclass(frozen=True)
class BatchJob:
    """What to compute, of which clouds, into which file.

    Args:
        task: "embed" (`pooler_output`), "predict" (classes and their probabilities) or "segment" (the part of every
            point).
        model: folder or Hub id of the adapter.
        source: what `open_collection` takes; of a data set on the Hub, the commit that it has now is read to the end.
        out: the .parquet file to make; the same of embeddings may be called .index.
        backbone: Hub id or folder instead of the recorded one.
        split: as in `open_collection`.
        top: classes to list with each prediction.
        min_confidence: for "predict", the least probability of an answer; None for no column `answer`.
        category: of all clouds, for "segment" with a model that has categories; by default each cloud's label in the
            source, by its name.
        shard_size: clouds in a shard; a kill costs each process one unfinished shard at most.
        batch_size: clouds at once; the results do not depend on it.
        workers: further processes that read and sample clouds, for each process that computes.
        skip_bad: whether a cloud that cannot be used is listed and skipped; else it ends the run.
        drop_invalid: as in `open_collection`; so also if the adapter's processor says so.

    Raises:
        Any2PointError: a setting is out of range, or a data set is not on the Hub, which is asked for its commit.
    """

    task: str
    model: str
    source: DataSource
    out: Path
    backbone: str | None = None
    split: str | None = None
    top: int = 3
    min_confidence: float | None = None
    category: str | None = None
    shard_size: int = 1024
    batch_size: int = 32
    workers: int = 0
    skip_bad: bool = False
    drop_invalid: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise Any2PointError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.category is not None and self.task != "segment":
            raise Any2PointError(f"category belongs to the task segment, got {self.task}. Leave it out.")
        if self.min_confidence is not None and self.task != "predict":
            raise Any2PointError(f"min_confidence belongs to the task predict, got {self.task}. Leave it out.")
        for name, minimum in (("top", 1), ("shard_size", 1), ("batch_size", 1), ("workers", 0)):
            if getattr(self, name) < minimum:
                raise Any2PointError(f"{name} must be at least {minimum}, got {getattr(self, name)}.")
        check_output_file(self.out, self.task)
        # processes of other machines may start in other folders
        object.__setattr__(self, "out", Path(os.path.abspath(self.out)))
        object.__setattr__(self, "model", recorded_path(self.model))
        object.__setattr__(self, "source", pinned(self.source))  # for all processes, and until the job is done
        if self.backbone is not None:
            object.__setattr__(self, "backbone", recorded_path(self.backbone))


def open_job(job: BatchJob) -> tuple[CloudCollection, ShardFiles]:
    """Opens the clouds of a job and what is already finished of it.

    Raises:
        Any2PointError: there is no such adapter or source, or the output lies in the source's folder; or the finished
            shards were made with other settings, or skipped bad clouds, which this job must not skip.
    """
    processor = processor_of(job.model) or Any2PointProcessor()
    drop_invalid = job.drop_invalid or processor.drop_invalid
    features = processor.point_feature_names
    collection = open_collection(job.source, job.split, drop_invalid=drop_invalid, features=features)
    if job.out.is_relative_to(collection.source):
        raise Any2PointError(f"--out must lie outside of the folder that is read, got {job.out}. Choose another place.")
    settings: dict[str, Any] = {
        "task": job.task,
        **model_fingerprint(job.model, job.backbone, must_load=not job.out.exists()),
        "backbone": job.backbone,
        "source": collection.source,
        "split": collection.split,
        "clouds": len(collection),
        "source_fingerprint": collection.fingerprint,
        "shard_size": job.shard_size,
    }
    if job.task == "predict":
        settings["top"] = job.top
    if job.min_confidence is not None:
        settings["min_confidence"] = job.min_confidence
    if job.category is not None:
        settings["category"] = job.category
    if drop_invalid:  # left out otherwise, so that records of before there was the option still fit
        settings["drop_invalid"] = True
    shards = ShardFiles(job.out, settings, math.ceil(len(collection) / job.shard_size))
    if not job.skip_bad and (bad := shards.first_bad()):
        raise PointCloudError(f"finished shards skipped bad clouds: {bad['reason']} Go on with --skip-bad.")
    return collection, shards


def load_model(job: BatchJob) -> tuple[PreTrainedModel, Any2PointProcessor]:
    """The model that a job runs, on the GPU if there is one, and its processor.

    Raises:
        Any2PointError: there is no such adapter, it is of another task, or its backbone cannot be loaded.
    """
    if job.task == "predict":
        classifier, processor = load(job.model, job.backbone)
        check_answer_options(problem_of(classifier.config), None, job.min_confidence)
        _check_column_names(classifier)
        return classifier, processor
    if job.task == "segment":
        return load_segmenter(job.model, job.backbone)
    model, processor = load_either(job.model, job.backbone)
    return model.base_model, processor


def _check_column_names(model: Any) -> None:
    """Refuses a regression whose targets are called like the job's own columns."""
    taken = {"id", "true_label", "dropped_points"} & {*model.config.id2label.values()}
    if taken and problem_of(model.config) == REGRESSION:
        raise Any2PointError(f"a target cannot be called {taken.pop()!r} here, as the results have such a column.")


def check_model(job: BatchJob, shards: ShardFiles) -> None:
    """Called when the model is loaded: its files must still be those that the job's settings were taken of.

    Raises:
        Any2PointError: adapter or backbone have changed since the job was opened.
    """
    now = model_fingerprint(job.model, job.backbone)
    changed = [name for name in now if shards.settings.get(name) != now[name]]
    if changed:
        raise Any2PointError(
            f"a job's model must stay as it is, and these have changed while it was loaded: {', '.join(changed)}. Give "
            "the same command again."
        )
