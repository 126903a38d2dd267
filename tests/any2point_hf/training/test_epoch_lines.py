"""The lines of a training: what is in them, and when they are written."""

import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import ProgressCallback
from transformers.utils import logging

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor, make_trainer
from any2point_hf.training import epoch_lines
from any2point_hf.training.epoch_lines import EpochLines, shown_name, shown_time

METRICS = {"eval_loss": 2.0, "eval_accuracy": 0.88125, "eval_mean_class_accuracy": 0.5, "eval_runtime": 1.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(epoch_lines.time, "monotonic", lambda: clock.now)
    return clock


def said_by_a_training(clock, monkeypatch, terminal=False, begin_at=0, metrics=(METRICS,), loss=0.6149, **state):
    """Three epochs of four steps of 2 s each, with 12 s of evaluation after each epoch."""
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    arguments = SimpleNamespace(num_train_epochs=3.0, logging_strategy="epoch", max_steps=state.pop("steps", -1))
    state = SimpleNamespace(**{"is_world_process_zero": True} | state)
    state.max_steps, state.global_step, state.epoch = 12, 4 * begin_at, float(begin_at)
    lines = EpochLines()
    lines.on_train_begin(arguments, state, None)
    for epoch in range(begin_at, 3):
        lines.on_epoch_begin(arguments, state, None)
        for _ in range(4):
            clock.now += 2
            state.global_step += 1
            lines.on_step_end(arguments, state, None)
        state.epoch = epoch + 1.0
        lines.on_epoch_end(arguments, state, None)
        lines.on_log(arguments, state, None, logs={"loss": loss, "grad_norm": 1.0})
        clock.now += 12
        for measured in metrics:
            lines.on_log(arguments, state, None, logs=measured)
            lines.on_evaluate(arguments, state, None, metrics=measured)
    lines.on_train_end(arguments, state, None)
    lines.on_evaluate(arguments, state, None, metrics=METRICS)  # as reproduce asks once more
    return stream.getvalue()


def test_lines_of_a_training(clock, monkeypatch):
    assert said_by_a_training(clock, monkeypatch).splitlines() == [
        "epoch 1/3  loss 0.61  accuracy 0.881  2.0 s/step  40 s left",
        "epoch 2/3  loss 0.61  accuracy 0.881  2.0 s/step  20 s left",
        "epoch 3/3  loss 0.61  accuracy 0.881  2.0 s/step",
    ]


def test_a_resumed_training_counts_from_its_own_start(clock, monkeypatch):
    assert said_by_a_training(clock, monkeypatch, begin_at=1, loss=0.0123).splitlines() == [
        "epoch 2/3  loss 0.012  accuracy 0.881  2.0 s/step  20 s left",
        "epoch 3/3  loss 0.012  accuracy 0.881  2.0 s/step",
    ]


def test_each_split_has_its_first_metric(clock, monkeypatch):
    splits = [{f"eval_{name}_loss": 1.0, f"eval_{name}_instance_miou": 0.7, "epoch": 1.0} for name in ("a", "test")]
    line = said_by_a_training(clock, monkeypatch, metrics=splits).splitlines()[0]
    assert "  a instance mIoU 0.700  test instance mIoU 0.700  2.0 s/step" in line
    without = said_by_a_training(clock, monkeypatch, metrics=()).splitlines()
    assert without[2] == "epoch 3/3  loss 0.61  2.0 s/step"


def test_the_bar_is_for_terminals_and_lines_stand_above_it(clock, monkeypatch):
    said = said_by_a_training(clock, monkeypatch, terminal=True)
    assert "training: " in said
    assert re.findall(r"\repoch (\d)/3 .*\n", said) == ["1", "2", "3"]
    assert said.rpartition("\r")[2] == ""  # the bar is taken away


def test_other_processes_and_trainings_counted_in_steps_write_no_lines(clock, monkeypatch):
    assert said_by_a_training(clock, monkeypatch, terminal=True, is_world_process_zero=False) == ""
    assert said_by_a_training(clock, monkeypatch, steps=12) == ""
    assert "epoch" not in said_by_a_training(clock, monkeypatch, terminal=True, steps=12)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5969, "99 min"), (5970, "1.7 h"), (1e6, "277.8 h")]
)
def test_times(seconds, text):
    assert shown_time(seconds) == text


def test_names():
    assert shown_name("eval_validation_accuracy") == "validation accuracy"
    assert shown_name("eval_instance_miou") == "instance mIoU"


@pytest.mark.parametrize("bars", [True, False])
def test_a_users_own_trainer_reports_as_transformers_is_told_to(bars, bert, two_classes, tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "_tqdm_active", bars)
    config = Any2PointConfig(backbone=str(bert), num_points=64, num_neighbors=8, id2label={0: "ball", 1: "disc"})
    model = Any2PointForPointCloudClassification(config)
    trainer = make_trainer(model, Any2PointProcessor(64), str(two_classes.path), tmp_path, epochs=1, batch_size=8)
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert (ProgressCallback in kinds, EpochLines in kinds) == (bars, not bars)
    monkeypatch.setattr(sys, "stderr", said := io.StringIO())
    trainer.train()
    assert bool(re.search(r"^epoch 1/1  loss ", said.getvalue(), re.MULTILINE)) is not bars
    assert np.isfinite(trainer.state.log_history[0]["loss"])  # kept for loggers and cards
