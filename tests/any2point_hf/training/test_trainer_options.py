"""Options of the stock Trainer that people set by habit, on a model and a processor as they are."""

import pytest
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from any2point_hf import (
    Any2PointForPointCloudClassification,
    Any2PointProcessor,
    BatchTooLargeError,
    ConfigurationError,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def train(tiny_adapter, two_classes, tmp_path):
    """Trains for two steps of eight clouds: the trainer."""
    arrays = two_classes.arrays()
    rows = Dataset.from_dict({"points": arrays["points"].tolist(), "label": arrays["labels"].tolist()})

    def run(**options):
        model = Any2PointForPointCloudClassification.from_pretrained(tiny_adapter.folder)
        settings = {"max_steps": 2, "per_device_train_batch_size": 8, "save_strategy": "no", "logging_steps": 1}
        settings |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "remove_unused_columns": False}
        arguments = TrainingArguments(str(tmp_path / "out"), **settings | options)
        trainer = Trainer(model, arguments, train_dataset=rows, processing_class=Any2PointProcessor(64))
        trainer.train()
        return trainer

    return run


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_neftune_is_refused_before_the_first_step(train):
    with pytest.raises(ConfigurationError, match=r"no input embeddings.*neftune_noise_alpha.*Leave it out"):
        train(neftune_noise_alpha=5)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_gradient_checkpointing(train, reentrant):
    options = {} if reentrant is None else {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    plain, checkpointed = train(), train(gradient_checkpointing=True, **options)
    assert checkpointed.model.any2point.gradient_checkpointing
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-5)


def test_auto_find_batch_size_halves_what_memory_cannot_hold(train, monkeypatch):
    sizes = []

    def check_memory(model, points):
        sizes.append(len(points))
        if len(points) > 2:
            raise BatchTooLargeError(f"{len(points)} clouds run out of memory. 2 fit.")

    monkeypatch.setattr("any2point_hf.modeling.modeling_any2point.check_memory", check_memory)
    with pytest.raises(BatchTooLargeError):
        train()
    sizes.clear()
    trainer = train(auto_find_batch_size=True)
    assert sizes[0] == 8
    assert sizes[-2:] == [2, 2]
    assert sizes == sorted(sizes, reverse=True)
    assert trainer.state.global_step == 2
