"""What the pipelines of point clouds share: which inputs they take, and how those are prepared.

Unusual here: a list is prepared as a whole before the model runs, so that a bad cloud is refused before any work is
done; generators and data sets are streamed, as everywhere in transformers.
"""

import os
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel
from transformers.feature_extraction_utils import BatchFeature
from transformers.pipelines.base import Pipeline

from ..modeling.errors import CheckpointError, ConfigurationError, PointCloudError, listed
from ..modeling.tokenizer.point_ops import split_features
from ..point_clouds.files import PointCloud
from ..point_clouds.forms import depth
from ..point_clouds.reading import CloudReader
from ..processing_any2point import Any2PointProcessor

_CHUNK = 64  # clouds that the processor gets at once: those of one size are sampled together
_FITTING_TASK = {
    "Any2PointForPointCloudClassification": "point-cloud-classification",
    "Any2PointForPointCloudSegmentation": "point-cloud-segmentation",
}

Prepare = Callable[[Any2PointProcessor, list[Any], list[str]], list[Any]]
"""Makes of clouds and their names what a pipeline's model is given, one for each cloud."""


class PointCloudPipeline(Pipeline, ABC):
    """Points in, results out; `pipeline(task, model=…)` makes one of its subclasses.

    Args:
        model: an Any2Point model. It runs in eval mode, and is left in the mode it was in.
        feature_extractor: the model's `Any2PointProcessor`.
        processor: the same under its other name, or its folder or Hub id. With neither, the one saved with the model.
        kwargs: of transformers' `Pipeline`, such as `device` and `batch_size`, and the options of a call.

    Raises:
        ConfigurationError: the model is of another kind.
        CheckpointError: no processor is given, and there is none with the model.
    """

    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_tokenizer: Any = False
    _load_feature_extractor = None  # loaded if there is one; else `__init__` says how to make it

    model_classes: tuple[type[PreTrainedModel], ...] = ()
    default_batch_size = 1
    feature_extractor: Any  # an Any2PointProcessor

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        feature_extractor: Any2PointProcessor | None = None,
        processor: Any2PointProcessor | str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, self.model_classes):
            names = " or ".join(kind.__name__ for kind in self.model_classes)
            fix = _FITTING_TASK.get(type(model).__name__)
            hint = f' Use pipeline("{fix}", model=…).' if fix else ""
            raise ConfigurationError(
                f"this pipeline needs a model of the class {names}, got {type(model).__name__}.{hint}"
            )
        # `pipeline()` loads the feature extractor of the model, also where a processor is given
        chosen: Any = processor or feature_extractor
        if not isinstance(chosen, Any2PointProcessor):
            commit = None if chosen else getattr(model.config, "_commit_hash", None)
            named: Any = chosen or model.config.name_or_path
            chosen = _load_processor(named, commit)
        super().__init__(model, feature_extractor=chosen, **kwargs)
        model.processor = chosen  # pushed beside it

    def __call__(  # type: ignore[override]
        self, inputs: Any, *, num_workers: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Any:
        """Runs the model on one cloud or several.

        Args:
            inputs: a cloud: an array, tensor or nested list [N, 3], the path of a file, or a row with `points` and the
                features that the model takes. Or several: an array or tensor [B, N, 3], a list of clouds, or a list of
                such lists. Or a stream: a generator, a data set of torch, or one of `datasets`, streamed or not, whose
                column of points is found.
            num_workers: processes that read files and prepare clouds; 0 for none.
            batch_size: clouds that go through the model at once; it does not change the results.
            options: of the pipeline.

        Returns:
            The result of a cloud; a list of them, nested as the lists of clouds are; or an iterator for a stream.

        Raises:
            PointCloudError: a cloud cannot be used; for a list it is raised before the model runs.
            ConfigurationError: an option is out of range.
        """
        num_workers = self._num_workers or 0 if num_workers is None else num_workers
        if batch_size is None:
            batch_size = self.default_batch_size if self._batch_size is None else self._batch_size
        _check_at_least(0, "num_workers", num_workers)
        _check_at_least(1, "batch_size", batch_size)
        options |= self.batch_options(batch_size)
        if isinstance(inputs, Mapping) and not self.feature_extractor.point_feature_names:
            inputs = cloud_of_row(inputs, "inputs", ())
        if _is_stream(inputs):
            stream = _named(inputs, self.feature_extractor.point_feature_names)
            return super().__call__(stream, num_workers=num_workers, **options)
        prepared = self.prepare(list(_leaves(inputs, "inputs")), num_workers)
        results = iter(super().__call__(prepared, num_workers=0, **options) if prepared else [])
        return _nested_as(inputs, results)

    def batch_options(self, batch_size: int) -> dict[str, Any]:
        """The options by which transformers makes batches."""
        return {"batch_size": batch_size}

    def prepare(self, clouds: "Sequence[NamedCloud]", num_workers: int) -> list[Any]:
        """Makes of each cloud what `preprocess` makes of one; raises PointCloudError."""
        return prepared_by(_as_batches, clouds, self.feature_extractor, num_workers)

    def preprocess(self, input_: Any) -> BatchFeature:  # type: ignore[override]
        """Runs the processor on one cloud of a stream; what has already been processed stays as it is."""
        if isinstance(input_, BatchFeature):
            return input_
        cloud = cloud_of_row(input_.cloud, input_.name, self.feature_extractor.point_feature_names)
        return self.feature_extractor([cloud], names=[input_.name])

    def run_model(self, inputs: Mapping[str, Tensor], model: Any = None) -> Mapping[str, Tensor]:
        """The model's outputs of `points` [B, N, 3] and, where there are any, `point_features`, in eval mode.

        Args:
            inputs: of the model.
            model: the part of the pipeline's to be run; by default the whole.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            return (model or self.model)(inputs["points"], inputs.get("point_features"))
        finally:
            self.model.train(was_training)


class NamedCloud(NamedTuple):
    """A cloud, and the name that errors call it by."""

    name: str
    cloud: Any


class _NamedRows(Dataset):
    """A data set's rows with their names."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> NamedCloud:
        return NamedCloud(f"inputs[{index}]", self.rows[index])


class _Chunks(Dataset):
    """Number of a chunk -> its clouds, prepared, or what is wrong with one of them."""

    def __init__(self, prepare: Prepare, clouds: Sequence[NamedCloud], processor: Any2PointProcessor) -> None:
        self.prepare, self.clouds, self.processor = prepare, clouds, processor

    def __len__(self) -> int:
        return -(-len(self.clouds) // _CHUNK)

    def __getitem__(self, chunk: int) -> list[Any] | str:
        clouds = self.clouds[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        try:
            named = [cloud_of_row(cloud, name, self.processor.point_feature_names) for name, cloud in clouds]
            return self.prepare(self.processor, named, [name for name, _ in clouds])
        except PointCloudError as error:  # returned, not raised: a reading process would add its traceback
            return str(error)


def prepared_by(
    prepare: Prepare, clouds: Sequence[NamedCloud], processor: Any2PointProcessor, num_workers: int
) -> list[Any]:
    """What `prepare` makes of all clouds, in their order; it is given many at a time, in other processes if asked."""
    prepared: list[Any] = []
    for chunk in DataLoader(_Chunks(prepare, clouds, processor), batch_size=None, num_workers=num_workers):
        if isinstance(chunk, str):
            raise PointCloudError(chunk)
        prepared += chunk
    return prepared


def _as_batches(processor: Any2PointProcessor, clouds: list[Any], names: list[str]) -> list[BatchFeature]:
    """Each cloud as a batch of one."""
    batches = []
    for row in processor.rows(clouds, names=names).split(1):
        points, features = split_features(row)
        batches.append(BatchFeature({"points": points} | ({} if features is None else {"point_features": features})))
    return batches


def _is_stream(inputs: Any) -> bool:
    """Whether inputs are read one after the other: generators and data sets, but not arrays, paths and lists."""
    is_in_memory = isinstance(inputs, (np.ndarray, Tensor, str, bytes, os.PathLike, Sequence, Mapping))
    return not is_in_memory and (isinstance(inputs, (Iterable, Dataset)))


def _named(stream: Any, feature_names: Sequence[str]) -> _NamedRows | Iterator[NamedCloud]:
    if hasattr(stream, "column_names"):  # of `datasets`, which takes long to import
        from ..data.columns import columns_of_clouds

        stream = columns_of_clouds(stream, "inputs", feature_names)
    if hasattr(stream, "__len__") and hasattr(stream, "__getitem__"):
        return _NamedRows(stream)
    return (NamedCloud(f"inputs[{index}]", cloud) for index, cloud in enumerate(stream))


def cloud_of_row(row: Any, name: str, feature_names: Sequence[str]) -> Any:
    """The cloud of a data set's row, as the processor takes it; anything else is a cloud itself."""
    if hasattr(row, "schema"):  # of an Arrow table, as `columns_of_clouds` gives them
        from ..data.rows import rows_of

        row = next(rows_of(row))
    if not isinstance(row, Mapping):
        return row
    if "points" not in row:
        raise PointCloudError(
            f"{name} must have the points [N, 3] under the name 'points', got the names {listed(row)}. "
            "Choose a split, or another column by transformers.pipelines.pt_utils.KeyDataset(dataset, column)."
        )
    if isinstance(row["points"], Mapping):  # a mesh
        from ..data.rows import read_row

        return read_row(row, name, CloudReader(feature_names=feature_names))
    return row if feature_names else row["points"]


def _holds_clouds(inputs: Any) -> bool:
    """Whether inputs are several clouds (or several such lists) rather than one."""
    if isinstance(inputs, (np.ndarray, Tensor)):
        return inputs.ndim >= 3 or inputs.dtype == object
    if isinstance(inputs, (str, bytes, PointCloud)) or not isinstance(inputs, Sequence):
        return False
    return not len(inputs) or any(isinstance(item, Mapping) or depth(item) >= 2 for item in inputs)


def _leaves(inputs: Any, name: str) -> Iterator[NamedCloud]:
    if not _holds_clouds(inputs):
        yield NamedCloud(name, inputs)
        return
    for index, item in enumerate(inputs):
        yield from _leaves(item, f"{name}[{index}]")


def _nested_as(inputs: Any, results: Iterator[Any]) -> Any:
    return [_nested_as(item, results) for item in inputs] if _holds_clouds(inputs) else next(results)


def _load_processor(named: str | os.PathLike, commit: str | None) -> Any2PointProcessor:
    """The processor in a folder or Hub repository; its settings cannot be guessed from the model's."""
    rule = (
        "a pipeline needs the model's processor. Pass processor=Any2PointProcessor(num_points=…, "
        "scale_to_unit_sphere=…) with the settings of the training, or save it into the model's folder."
    )
    if not named:
        raise CheckpointError(f"{rule} None was given, and the model was not loaded from anywhere.")
    try:
        return Any2PointProcessor.from_pretrained(named, revision=commit)
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{rule} {str(named)!r} was tried, and the loader said: {error}") from error


def _check_at_least(minimum: int, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigurationError(f"{name} must be an integer of at least {minimum}, got {value!r}.")
