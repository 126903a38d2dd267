"""What a training step is fed: rows from the loader, random points and augmentation on the model's device.

Unusual here: the loader hands over whole rows and each row's number; a hook before the model's forward then draws and
augments the points of the whole batch on the model's device. So loader processes have next to nothing to do, and the
Trainer is the stock one.
"""

import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.augmentation import Augmentation, random_subset
from ..data.counter_random import mix
from ..modeling.errors import ConfigurationError
from ..modeling.numerics.named_dropout import clear_dropout_keys, set_dropout_keys
from ..point_clouds.features import NORMALS

CLOUD = "cloud"
"""Name of the column that gives a batch its rows' numbers; the hook takes it out again."""

FEATURES = "point_features"
"""Name of the column of features [S, F]."""

LABELS = "labels"
"""Name of the column of classes [], of several classes or numbers [C] float, or of labels of points [S] int."""

_ATTACHED: weakref.WeakKeyDictionary[nn.Module, RemovableHandle] = weakref.WeakKeyDictionary()


class TrainingClouds(torch.utils.data.Dataset):
    """The training split as rows `points` [S, 3] float32, `labels` [] and `cloud` [], the row's number.

    Where the model takes features, there is also `point_features` [S, F] float32. For segmentation `labels` are [S],
    and there may be `category` [].

    Args:
        clouds: what `process_split` returns, with S points a cloud, from which each step draws its own.
    """

    def __init__(self, clouds: Dataset) -> None:
        self.clouds = clouds

    def __len__(self) -> int:
        return len(self.clouds)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One row."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """A batch at once, as torch's loader asks for it."""
        if len(indices) == 1:  # a lone cloud has no batch statistics, so the next one joins it
            indices = [indices[0], (indices[0] + 1) % len(self)]
        rows = self.clouds[indices]
        columns = {name: rows[name] for name in ("points", FEATURES, LABELS, "category") if name in rows}
        columns[CLOUD] = torch.tensor(indices)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class BatchAugmentation(TrainerCallback):
    """Draws each cloud's points and augments them, anew in every epoch, while a Trainer trains.

    The callback registers itself as a hook before the model's forward, and learns the epoch from the Trainer. It
    changes only batches that have the column `cloud`.

    Args:
        augmentation: applied to the drawn points of a batch.
        num_points: how many points of each cloud go into the model.
        seed: together with epoch and row number it decides every draw, whatever the batch or the number of processes.
        feature_names: of the features of points, in order; normals among them turn with the cloud.

    Raises:
        ConfigurationError: a part of a normal is missing, so that it cannot be turned.
    """

    def __init__(
        self, augmentation: Augmentation, num_points: int, seed: int, feature_names: Sequence[str] = ()
    ) -> None:
        self.augmentation, self.num_points, self.seed = augmentation, num_points, seed
        found = [name for name in NORMALS if name in feature_names]
        if found and len(found) < len(NORMALS):
            raise ConfigurationError(
                f"a normal turns with its cloud, so training needs all of {', '.join(NORMALS)}, got {', '.join(found)}."
            )
        self.normal = [3 + list(feature_names).index(name) for name in found]  # behind the coordinates
        self.epoch, self.step, self.process = 0, 0, 0
        self.forwards = itertools.count()  # counts the forwards of a step: several if gradients are accumulated

    def on_train_begin(self, *_: Any, model: nn.Module, **kwargs: Any) -> None:  # type: ignore[override]
        """Attaches the hook, in place of one that an interrupted training left."""
        detach(model)
        _ATTACHED[model] = model.register_forward_pre_hook(self, with_kwargs=True)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notes the epoch, also where a resumed training starts in the middle of one."""
        self.epoch = int(state.epoch or 0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notes the step and the process, which decide dropout's masks."""
        self.step, self.process, self.forwards = state.global_step, args.process_index, itertools.count()

    def on_train_end(self, *_: Any, model: nn.Module, **kwargs: Any) -> None:  # type: ignore[override]
        """Removes the hook."""
        detach(model)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], batch: dict[str, Any]) -> Any:
        """The forward's arguments with `points` [B, num_points, 3] in place of `points` [B, S, 3] and `cloud` [B].

        Labels of points [B, S] become those of the points that are drawn; a point that augmentation loses, and puts
        onto the cloud's first one, has the first one's label.
        """
        if CLOUD not in batch:
            return None
        set_dropout_keys(module, self.seed, f"{self.step} {next(self.forwards)} {self.process}")
        batch = dict(batch)
        clouds = batch.pop(CLOUD)
        keys = mix(mix(mix(torch.full_like(clouds, self.seed), 0), self.epoch), clouds)
        rows = self.augmentation(random_subset(joined(batch), self.num_points, keys), keys, self.normal)
        if are_labels_of_points(batch):
            rows, batch[LABELS] = rows[..., :-1], rows[..., -1].to(batch[LABELS].dtype)
        batch["points"] = rows[..., :3]
        if FEATURES in batch:
            batch[FEATURES] = rows[..., 3:]
        return inputs, batch


def joined(batch: Mapping[str, Any]) -> Tensor:
    """Points and features of a batch as rows [B, N, 3 + F]; labels of points, if there are any, are the last column.

    As floating-point numbers they are exact up to 16 million in float32, which the points are.
    """
    columns = [batch[name] for name in ("points", FEATURES) if name in batch]
    if are_labels_of_points(batch):
        columns.append(batch[LABELS].unsqueeze(-1).to(batch["points"].dtype))
    return torch.cat(columns, dim=-1)


def are_labels_of_points(batch: Mapping[str, Any]) -> bool:
    """Whether a batch has a label for each point, not a class of a cloud, nor several classes or numbers, as floats."""
    return LABELS in batch and batch[LABELS].dim() == 2 and not batch[LABELS].is_floating_point()


def detach(model: nn.Module) -> None:
    """Removes the hook of a `BatchAugmentation` from a model, if there is one, and the keys of its dropout."""
    handle = _ATTACHED.pop(model, None)
    if handle is not None:
        handle.remove()
    clear_dropout_keys(model)
