"""Clouds of any size in batches: the collator, and the stock Trainer that finds it by itself."""

import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, Features
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments, set_seed

from any2point_hf import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointProcessor,
    DataCollatorForPointClouds,
    compute_metrics,
)
from any2point_hf.modeling.errors import DatasetError, PointCloudError

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*fewer than num_points")]

PROCESSOR = Any2PointProcessor(64)


def cloud(size, seed=0):
    return np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)


@given(st.lists(st.integers(8, 200), min_size=1, max_size=5))
def test_clouds_of_different_sizes(sizes):
    rows = [{"points": cloud(size, number), "label": number} for number, size in enumerate(sizes)]
    batch = DataCollatorForPointClouds(PROCESSOR)(rows)
    assert {*batch} == {"points", "labels"}
    assert torch.equal(batch["points"], PROCESSOR([row["points"] for row in rows])["points"])
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == list(range(len(sizes)))


def test_every_kind_of_cloud_and_label(tmp_path):
    points = cloud(70)
    np.save(tmp_path / "a.npy", points)
    kinds = [points, points.tolist(), torch.from_numpy(points), str(tmp_path / "a.npy"), tmp_path / "a.npy"]
    labels = [{"label": 1}, {"labels": np.int64(1)}, {"label_ids": torch.tensor([1])}, {"label": True}, {"labels": 1}]
    rows = [{"points": kind, "name": "x", **label} for kind, label in zip(kinds, labels, strict=True)]
    batch = DataCollatorForPointClouds(PROCESSOR)(rows)
    assert (batch["points"] == batch["points"][:1]).all()
    assert batch["labels"].tolist() == [1] * 5
    assert {*DataCollatorForPointClouds(PROCESSOR)([{"points": points}])} == {"points"}


@pytest.mark.parametrize(
    ("rows", "error", "reason"),
    [
        ([{"xyz": cloud(9), "label": 1}], PointCloudError, "under the name 'points', got the names xyz, label"),
        ([{"points": cloud(9)}, {"points": cloud(9)[:, :2]}], PointCloudError, r"row 1 must have the shape \[N, 3\]"),
        ([{"points": cloud(9), "label": "bed"}], DatasetError, "got 'bed'. Classes by name: dataset.class_encode"),
        ([{"points": cloud(9), "label": 0.5}, {"points": cloud(9)}], DatasetError, "as many classes or numbers"),
        ([{"points": cloud(9), "label": [0.5, 1.0]}, {"points": cloud(9), "label": [0.5]}], DatasetError, "as many"),
        ([{"points": cloud(9), "label": 1}, {"points": cloud(9)}], DatasetError, "an integer as its label, got None"),
    ],
)
def test_rows_that_make_no_batch(rows, error, reason):
    with pytest.raises(error, match=reason):
        DataCollatorForPointClouds(PROCESSOR)(rows)


def make_dataset(two_classes, count, label="label"):
    generator = np.random.default_rng(0)
    rows = {"points": [], label: [number % 2 for number in range(count)], "id": list(range(count))}
    for number in range(count):
        rows["points"].append(two_classes.cloud(number % 2, generator, 65 + 7 * (number % 5)))
    types = {"points": Array2D((None, 3), "float32"), label: ClassLabel(names=["ball", "disc"])}
    return Dataset.from_dict(rows, features=Features(types | {"id": Dataset.from_dict(rows).features["id"]}))


@pytest.fixture
def make_trainer(bert, tmp_path):
    def make(train, **arguments):
        set_seed(0)
        config = Any2PointConfig(backbone=str(bert), num_labels=2, num_points=64, num_neighbors=8)
        options = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "report_to": "none", "save_strategy": "no"}
        return Trainer(
            Any2PointForPointCloudClassification(config),
            TrainingArguments(str(tmp_path), use_cpu=True, **options | arguments),
            train_dataset=train,
            eval_dataset=train,
            processing_class=PROCESSOR,
            compute_metrics=compute_metrics,
        )

    return make


@pytest.mark.parametrize("label", ["label", "labels"])
def test_the_stock_trainer_trains_on_clouds_of_different_sizes(make_trainer, two_classes, label):
    options = {"num_train_epochs": 12, "learning_rate": 3e-3, "logging_strategy": "epoch"}
    trainer = make_trainer(make_dataset(two_classes, 12, label), **options)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] > 0.4
    assert losses[-1] < 0.05
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    batch = next(iter(trainer.get_eval_dataloader()))
    assert batch["points"].shape == (8, 64, 3)
    assert batch["labels"].tolist() == [0, 1] * 4


def test_a_last_batch_of_one_cloud_names_the_option(make_trainer, two_classes):
    dataset = make_dataset(two_classes, 5)
    with pytest.raises(DatasetError, match=r"at least 2 clouds in a batch.*got 1\..*dataloader_drop_last=True"):
        make_trainer(dataset).train()
    assert make_trainer(dataset, dataloader_drop_last=True).train().global_step == 1
    assert make_trainer(dataset).predict(dataset.select([0])).predictions.shape == (1, 2)


def test_the_processor_is_saved_and_loaded_as_before(tmp_path):
    names = {"num_points", "sampling_start", "scale_to_unit_sphere", "seed", "drop_invalid", "point_feature_names"}
    assert {*PROCESSOR.to_dict()} == names | {"feature_extractor_type"}
    PROCESSOR.save_pretrained(tmp_path)
    assert Any2PointProcessor.from_pretrained(tmp_path).to_dict() == PROCESSOR.to_dict()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.5, 2.0], [0.5, 2.0]),
        ([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], [[0, 1, 1], [1, 0, 0]]),
        ([np.float64([3, 4]), torch.tensor([5.0, 6.0])], [[3, 4], [5, 6]]),
        ([{"volume": 0.5, "area": 2}, {"volume": 1.5, "area": 3}], [[0.5, 2], [1.5, 3]]),
        ([{"red": True, "round": False}, {"red": False, "round": False}], [[1, 0], [0, 0]]),
    ],
)
def test_several_classes_and_numbers_stay_numbers_of_the_cloud(labels, expected):
    rows = [{"points": cloud(9), "label": label} for label in labels]
    batch = DataCollatorForPointClouds(Any2PointProcessor(64))(rows)
    assert batch["labels"].dtype == torch.float32
    assert torch.equal(batch["labels"], torch.tensor(expected, dtype=torch.float32))


def test_whole_numbers_as_many_as_points_are_labels_of_points():
    rows = [{"points": cloud(70), "label": np.arange(70.0) % 3}]
    assert DataCollatorForPointClouds(Any2PointProcessor(64))(rows)["labels"].dtype == torch.int64
