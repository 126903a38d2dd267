"""The linear probe before a training: what it is fitted to, and that nothing of it is left."""

import numpy as np
import pytest
import torch

from any2point_hf import make_trainer
from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.linear_probe import probe_accuracy
from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.processing_any2point import Any2PointProcessor
from any2point_hf.training import probe_before_training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def trainer(two_classes, bert, tmp_path):
    """Of 16 training and 8 test clouds, before its first step."""
    torch.manual_seed(0)
    config = Any2PointConfig(backbone=str(bert), num_points=64, num_neighbors=8, num_labels=2)
    model = Any2PointForPointCloudClassification(config)
    dataset = load_point_cloud_dataset(str(two_classes.path))
    return make_trainer(model, Any2PointProcessor(64), dataset, tmp_path / "out", epochs=1, batch_size=8)


def test_the_accuracy_is_that_of_the_sampled_clouds_and_nothing_is_changed(trainer, capfd):
    train, test = trainer.train_dataset.clouds[:], trainer.eval_dataset[:]
    expected = probe_accuracy(
        trainer.model, train["points"][:, :64], train["labels"], test["points"], test["labels"], 8
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    torch.manual_seed(5)
    random_state, numpy_state, was_training = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        trainer.model.training,
    )
    assert probe_before_training.probe_before_training(trainer, 64) == expected
    assert torch.equal(torch.get_rng_state(), random_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert trainer.model.training == was_training
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    err = capfd.readouterr().err
    assert (
        f"linear probe before training: accuracy {expected:.4f} on 8 test clouds, fitted to 16 training clouds" in err
    )


def test_of_many_clouds_some_are_taken_evenly(trainer, monkeypatch, capfd):
    monkeypatch.setattr(probe_before_training, "MOST_CLOUDS", 6)
    rows, labels = probe_before_training._even_choice(trainer.train_dataset.clouds, 64)
    every_third = trainer.train_dataset.clouds[[0, 3, 6, 9, 12, 15]]
    assert torch.equal(rows, every_third["points"][:, :64])
    assert torch.equal(labels, every_third["labels"])
    probe_before_training.probe_before_training(trainer, 64)
    assert "on 6 test clouds, fitted to 6 training clouds" in capfd.readouterr().err


def test_a_model_in_parts_is_not_probed(trainer, monkeypatch, capfd):
    trainer.is_fsdp_enabled = True
    monkeypatch.setattr(probe_before_training, "probe_accuracy", None)  # is not called
    assert probe_before_training.probe_before_training(trainer, 64) is None
    assert "linear probe before training: skipped, as this model's weights are held in parts" in capfd.readouterr().err


def test_only_the_first_process_says_it(trainer, monkeypatch, capfd):
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    assert probe_before_training.probe_before_training(trainer, 64) is not None
    assert "linear probe" not in capfd.readouterr().err
