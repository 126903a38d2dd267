"""Fine-tuning with the stock Trainer."""

import itertools
import json
import math
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from safetensors.torch import load_file
from torch import nn
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments, default_data_collator, set_seed

from any2point_hf import make_trainer
from any2point_hf.data import build_dataset_dict, load_point_cloud_dataset
from any2point_hf.data.augmentation import Augmentation
from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointError,
    Any2PointForPointCloudClassification,
    CheckpointError,
    ConfigurationError,
    DatasetError,
    PointCloudError,
)
from any2point_hf.modeling.adapter.cell_norm import CellNorm
from any2point_hf.modeling.adapter.guided_adapter import LocalAttention
from any2point_hf.modeling.numerics.initialization import named_seed
from any2point_hf.modeling.numerics.named_dropout import NamedDropout
from any2point_hf.processing_any2point import Any2PointProcessor
from any2point_hf.training import run as training_run
from any2point_hf.training import trainer as training
from any2point_hf.training.batches import BatchAugmentation
from any2point_hf.training.recipe import Recipe
from any2point_hf.training.trainer import accuracies, compute_metrics, parameter_groups, process_split

pytestmark = pytest.mark.usefixtures("one_thread")

FIELDS = {"num_points": 64, "num_neighbors": 8}
NO_AUGMENTATION = Augmentation(scale=(1, 1), shift=0.0)


@pytest.fixture(scope="module")
def clouds(two_classes):
    return load_point_cloud_dataset(two_classes.path)


@pytest.fixture
def make_model(bert):
    def make(seed=0, **fields):
        set_seed(seed)
        config = Any2PointConfig(backbone=str(bert), **{"num_labels": 2, **FIELDS, **fields})
        return Any2PointForPointCloudClassification(config)

    return make


@pytest.fixture
def make(make_model, clouds, tmp_path):
    """A trainer of a tiny model, 2 steps an epoch."""

    def make(folder="run", seed=0, dataset=clouds, fields=None, **options):
        options = {"epochs": 1, "batch_size": 8, **options}
        model = make_model(seed, **(fields or {}))
        return make_trainer(model, Any2PointProcessor(64), dataset, tmp_path / folder, seed=seed, **options)

    return make


def some_clouds(num_train, num_test=2):
    """A data set of that many random clouds of 80 points."""
    generator = np.random.default_rng(0)
    splits = {
        split: (generator.normal(size=(count, 80, 3)).astype(np.float32), [index % 2 for index in range(count)])
        for split, count in (("train", num_train), ("test", num_test))
    }
    return build_dataset_dict(splits, ["a", "b"])


def state_of(model):
    """The adapter's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if ".backbone." not in name}


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


class StopAfter(TrainerCallback):
    """Ctrl-C at the start of an epoch, when the checkpoint of the one before is written."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_epoch_begin(self, args, state, control, **kwargs):
        if round(state.epoch) == self.epochs:
            raise KeyboardInterrupt


# Which parameters are trained and decayed


@pytest.mark.parametrize("fields", [{}, {"position_encoding": "learnable", "head_bias": True}, {"ensemble": "mean"}])
def test_every_trained_parameter_is_in_one_group_and_no_frozen_one(make_model, fields):
    model = make_model(**fields)
    decayed, spared = parameter_groups(model)
    listed = [id(parameter) for group in (decayed, spared) for parameter in group["params"]]
    trained = {id(parameter) for name, parameter in model.named_parameters() if "backbone." not in name}
    assert len(listed) == len(set(listed))
    assert set(listed) == trained
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert parameter_groups(model, 0.3)[0]["weight_decay"] == 0.3


def test_norms_biases_and_tokens_are_not_decayed(make_model):
    model = make_model(position_encoding="learnable", head_bias=True)
    expected = [model.any2point.cls_token, model.any2point.cls_position]
    weights = []
    for name, module in model.named_modules():
        if "backbone" in name:
            continue
        if isinstance(module, (nn.BatchNorm1d, nn.LayerNorm, CellNorm)):
            expected += [module.weight, module.bias]
        elif isinstance(module, LocalAttention):
            expected += [module.norm_weight, module.norm_bias, module.qkv_bias, module.out_bias]
            weights += [module.qkv_weight, module.out_weight]
        elif isinstance(module, nn.Linear):
            expected += [] if module.bias is None else [module.bias]
            weights += [module.weight]
    decayed, spared = ([id(p) for p in group["params"]] for group in parameter_groups(model))
    assert set(spared) == {id(parameter) for parameter in expected}
    assert set(decayed) == {id(parameter) for parameter in weights}
    spared_tables = [p for p in expected if p.dim() == 2]  # the norms of all views at once look like matrices
    assert any(p is model.any2point.local_attention.norm_weight for p in spared_tables)
    assert any(p is model.any2point.local_attention.qkv_bias for p in spared_tables)
    assert any(p is model.any2point.aggregations["0"].view_norm.weight for p in spared_tables)


def test_a_vision_models_final_norm_is_trained_without_decay():
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    backbone = ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8), add_pooling_layer=False)
    model = Any2PointForPointCloudClassification(Any2PointConfig(**FIELDS), backbone=backbone)
    spared = {id(parameter) for parameter in parameter_groups(model)[1]["params"]}
    assert {id(parameter) for parameter in model.any2point.final_norm.parameters()} <= spared


# Metrics


def test_accuracies_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    predictions = np.array([0, 0, 0, 1, 1, 0, 2])
    result = accuracies(predictions, labels, 5)
    assert result["accuracy"] == 4 / 7
    assert result["per_class"] == [3 / 4, 1 / 2, None, 0.0, None]
    assert result["mean_class_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize("wrapped", [False, True])
def test_metrics_for_the_trainer(wrapped):
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [5, 4, 3]])
    predictions = (logits, np.zeros((3, 7))) if wrapped else logits
    metrics = compute_metrics(EvalPrediction(predictions=predictions, label_ids=np.array([0, 1, 1])))
    assert metrics == {"accuracy": 2 / 3, "mean_class_accuracy": 0.75}


# The Trainer and its settings


def test_the_trainer_is_the_stock_one_with_the_published_settings(make, tmp_path):
    trainer = make(epochs=300, learning_rate=5e-4, batch_size=4, seed=7)
    assert type(trainer) is Trainer
    assert type(trainer.args) is TrainingArguments
    arguments = trainer.args
    assert arguments.output_dir == str(tmp_path / "run")
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size) == (300, 4)
    assert (arguments.learning_rate, arguments.max_grad_norm) == (5e-4, 10.0)
    assert arguments.get_warmup_steps(1200) == 40  # 10 epochs of 4 steps
    assert (arguments.eval_strategy, arguments.save_strategy, arguments.save_total_limit) == ("epoch", "epoch", 1)
    assert (arguments.seed, arguments.data_seed) == (7, 7)
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.05, 0.0]


def test_the_defaults_are_the_published_ones(make_model, clouds, tmp_path):
    trainer = make_trainer(make_model(), Any2PointProcessor(64), clouds, tmp_path)
    arguments = trainer.args
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size) == (300, 32)
    assert (arguments.learning_rate, arguments.seed) == (5e-4, 0)
    (drawn,) = [part for part in trainer.callback_handler.callbacks if isinstance(part, BatchAugmentation)]
    assert drawn.augmentation == Augmentation(scale=(2 / 3, 3 / 2), shift=0.2, rotation_axis=None)
    assert (drawn.num_points, drawn.seed) == (64, 0)


def rates_of(trainer, num_steps):
    scheduler = trainer.create_scheduler(num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        scheduler.step()
    return rates


def test_the_learning_rate_rises_for_a_thirtieth_then_falls_as_a_cosine_to_a_millionth(make):
    rates = rates_of(make(epochs=60, learning_rate=5e-4), 120)
    top = rates.index(max(rates))
    assert top in (3, 4)
    assert max(rates) == 5e-4
    assert [later - earlier for earlier, later in itertools.pairwise(rates[: top + 1])] == pytest.approx(
        [1.25e-4] * top
    )
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[4:]))
    quarter = 1e-6 + (5e-4 - 1e-6) * (1 + math.cos(math.pi / 4)) / 2
    assert rates[top + 29] == pytest.approx(quarter, rel=1e-2)
    assert rates[top + 58] == pytest.approx((5e-4 + 1e-6) / 2, rel=2e-2)  # half way
    assert rates[-1] == pytest.approx(1e-6, rel=0.1)


def test_a_rate_below_the_lowest_stays_as_it_is(make):
    rates = rates_of(make(epochs=60, learning_rate=1e-7), 120)
    assert rates[4:] == pytest.approx([1e-7] * 116)


def test_the_schedule_is_as_long_as_the_training(make):
    trainer = make(epochs=3, learning_rate=1e-3)
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == trainer.lr_scheduler.last_epoch == 6
    assert trainer.lr_scheduler.get_last_lr()[0] < 1e-4


def test_a_training_of_a_single_step_trains(make):
    trainer = make(dataset=some_clouds(8))
    before = state_of(trainer.model)["classifier.hidden1.weight"]
    trainer.train()
    assert trainer.state.global_step == 1
    assert not torch.equal(state_of(trainer.model)["classifier.hidden1.weight"], before)


def test_gradients_are_clipped_at_ten(make, monkeypatch):
    norms = []
    clip = torch.nn.utils.clip_grad_norm_

    def record(parameters, max_norm, *arguments, **options):
        norms.append(float(max_norm))
        return clip(parameters, max_norm, *arguments, **options)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", record)
    make().train()
    assert norms == [10.0, 10.0]


@pytest.mark.parametrize(("num_clouds", "batch_size"), [(9, 8), (16, 8), (17, 8), (10, 8), (2, 8), (3, 2)])
def test_no_training_batch_is_of_one_cloud(make, num_clouds, batch_size):
    trainer = make(dataset=some_clouds(num_clouds), batch_size=batch_size)
    sizes = [len(batch["labels"]) for batch in trainer.get_train_dataloader()]
    assert 1 < min(sizes) <= max(sizes) <= batch_size
    assert abs(sum(sizes) - num_clouds) <= (num_clouds % batch_size == 1)


def test_training_with_a_last_batch_of_one_cloud(make):
    trainer = make(dataset=some_clouds(9), epochs=2)
    trainer.train()
    assert math.isfinite(trainer.state.log_history[-1]["train_loss"])


@pytest.mark.parametrize("num_test", [3, 9])
def test_every_test_cloud_counts_whatever_the_last_training_batch(make, num_test):
    trainer = make(dataset=some_clouds(9, num_test=num_test))
    assert trainer.predict(trainer.eval_dataset).predictions.shape == (num_test, 2)


def test_only_the_logits_are_gathered(make):
    predictions = make().predict(make().eval_dataset).predictions
    assert isinstance(predictions, np.ndarray)
    assert predictions.shape == (8, 2)


def test_a_single_cloud_is_refused(make):
    with pytest.raises(DatasetError, match=r"at least 2 clouds .* got 1"):
        make(dataset=some_clouds(1))


def test_there_must_be_something_to_train_on(make, clouds):
    with pytest.raises(DatasetError, match="training needs a split 'train' with labels, got test"):
        make(dataset=DatasetDict(test=clouds["test"]))


# Data sets as they are found


def plain(split, kind):
    """The split as others have it: nested lists, and classes in another form and column."""
    labels = split["label"][:]
    names = {"text": ["ball", "disc"], "integers": [0, 1], "ClassLabel": [0, 1]}[kind]
    rows = {"xyz": [cloud.tolist() for cloud in split.with_format("numpy")["points"]], "id": labels}
    dataset = Dataset.from_dict(rows | {"labels": [names[label] for label in labels]})
    return dataset.cast_column("labels", ClassLabel(names=["ball", "disc"])) if kind == "ClassLabel" else dataset


@pytest.mark.parametrize("kind", ["text", "integers", "ClassLabel"])
def test_columns_and_labels_of_other_kinds_train_alike(make, clouds, kind):
    dataset = DatasetDict({name: plain(split, kind) for name, split in clouds.items()})
    expected, trained = make("own"), make("other", dataset=dataset)
    assert torch.equal(trained.train_dataset.clouds[:]["points"], expected.train_dataset.clouds[:]["points"])
    assert torch.equal(trained.eval_dataset[:]["labels"], expected.eval_dataset[:]["labels"])
    trained.train()
    expected.train()
    assert_same(state_of(trained.model), state_of(expected.model))


def test_a_dataset_without_splits_holds_out_clouds(make, clouds):
    with pytest.warns(UserWarning, match="a data set in memory has no test split: 4 of its 16 clouds"):
        trainer = make(dataset=clouds["train"])
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (12, 4)


def test_a_data_set_by_its_name(make, two_classes):
    assert len(make(dataset=two_classes.path).train_dataset) == 16


@pytest.mark.parametrize("column", ["points", "label"])
def test_a_missing_column_is_named(make, clouds, column):
    with pytest.raises(DatasetError, match=f"must have a column '{column}'"):
        make(dataset=clouds.remove_columns(column))


def test_classes_in_another_order_than_the_models_are_refused(make_model, clouds, tmp_path):
    model = make_model(id2label={0: "disc", 1: "ball"})
    with pytest.raises(DatasetError, match=r"classes in their order \(ball, disc\), and its config has disc, ball"):
        make_trainer(model, Any2PointProcessor(64), clouds, tmp_path)


def test_a_bad_cloud_is_named_by_its_row(make, clouds):
    rows = {"points": [*clouds["train"]["points"][:3], [[0.0, 0.0, 0.0]] * 9], "label": [0, 1, 0, 1]}
    bad = Dataset.from_dict(rows, features=clouds["train"].features)
    with pytest.raises(PointCloudError, match=r"row 3 of the data set must have at least 8 distinct points"):
        make(dataset=DatasetDict(train=bad, test=clouds["test"]))


# What goes into a step


def points_that_go_in(trainer, monkeypatch):
    """For each training step of the trainer, the points that the model takes and the labels."""
    steps = []
    forward = trainer.model.forward

    def record(points, labels):
        if trainer.model.training:
            steps.append((points.clone(), labels.clone()))
        return forward(points=points, labels=labels)

    monkeypatch.setattr(trainer.model, "forward", record)
    trainer.train()
    return steps


def by_cloud(trainer, steps):
    """Which row of the training split each cloud of the steps was drawn from: a dict from row to its points."""
    rows = [{tuple(point) for point in cloud.tolist()} for cloud in trainer.train_dataset.clouds[:]["points"]]
    found = {}
    for points, _ in steps:
        for cloud in points:
            drawn = {tuple(point) for point in cloud.tolist()}
            found.setdefault(next(row for row, kept in enumerate(rows) if drawn <= kept), []).append(cloud)
    return found


def test_a_random_subset_of_the_surplus_points(make, monkeypatch):
    trainer = make(augmentation=NO_AUGMENTATION, epochs=2)
    assert trainer.train_dataset[0]["points"].shape == (math.ceil(64 * 1200 / 1024), 3) == (75, 3)
    steps = points_that_go_in(trainer, monkeypatch)
    visits = by_cloud(trainer, steps)
    assert sorted(visits) == list(range(16))
    for first, second in visits.values():
        assert first.shape == (64, 3)
        assert first.dtype == torch.float32
        assert len(first.unique(dim=0)) == 64
        assert not torch.equal(first, second)  # anew in every epoch


def test_training_clouds_are_augmented_anew_at_each_visit(make, monkeypatch):
    steps = points_that_go_in(make(augmentation=Augmentation(scale=(1, 1), shift=0.2), epochs=6), monkeypatch)
    means = torch.cat([points.mean(dim=1) for points, _ in steps])
    assert len(means) == 96
    assert means.std(dim=0) == pytest.approx([0.4 / math.sqrt(12)] * 3, abs=0.04)


def test_draws_depend_on_seed_epoch_and_cloud_alone(make, monkeypatch):
    """Not on the batch size, nor on what else was drawn."""
    runs = []
    for batch_size, seed in ((8, 0), (4, 0), (8, 1)):
        trainer = make(augmentation=NO_AUGMENTATION, epochs=2, batch_size=batch_size, seed=seed)
        runs.append(by_cloud(trainer, points_that_go_in(trainer, monkeypatch)))
    for row in range(16):
        for first, other, reseeded in zip(*(run[row] for run in runs), strict=True):
            assert torch.equal(first, other)
            assert not torch.equal(first, reseeded)


def test_labels_stay_with_their_clouds(make, monkeypatch):
    trainer = make(augmentation=NO_AUGMENTATION)
    labels = trainer.train_dataset.clouds[:]["labels"]
    for points, given in points_that_go_in(trainer, monkeypatch):
        rows = [next(iter(by_cloud(trainer, [(cloud[None], None)]))) for cloud in points]
        assert given.tolist() == labels[rows].tolist()


def test_test_clouds_are_neither_augmented_nor_drawn(make, clouds):
    trainer = make(augmentation=Augmentation(shift=5.0, rotation_axis="z"))
    expected = Any2PointProcessor(64)(list(clouds["test"].with_format("numpy")["points"]))["points"]
    assert torch.equal(trainer.eval_dataset[:]["points"], expected)
    first, second = trainer.evaluate(), trainer.evaluate()
    same = ("eval_loss", "eval_accuracy", "eval_mean_class_accuracy")
    assert [first[name] for name in same] == [second[name] for name in same]


def test_processed_splits(clouds):
    processed = process_split(clouds["train"], Any2PointProcessor(64), 70)
    assert processed.column_names == ["points", "labels"]
    assert processed[:]["points"].shape == (16, 70, 3)
    assert processed[:]["points"].mean(dim=1).abs().max() < 0.2
    assert processed[:]["points"].norm(dim=-1).amax(dim=1) == pytest.approx(torch.ones(16), abs=1e-5)
    unscaled = process_split(clouds["train"], Any2PointProcessor(64, scale_to_unit_sphere=False), 70)
    assert unscaled[:]["points"].norm(dim=-1).max() > 1.5


def test_processed_clouds_start_where_the_processor_says(clouds):
    points = list(clouds["train"].with_format("numpy")["points"])
    for start in ("first", "farthest"):
        processed = process_split(clouds["train"], Any2PointProcessor(64, sampling_start=start), 70)
        expected = Any2PointProcessor(70, sampling_start=start)(points)["points"]
        assert torch.equal(processed[:]["points"], expected)


def test_a_processor_that_drops_invalid_points_does_so_before_training(two_classes):
    clouds = [two_classes.cloud(label, np.random.default_rng(label)) for label in (0, 1)]
    spoiled = [clouds[0], np.concatenate([np.zeros((40, 3), np.float32), clouds[1]])]
    splits = build_dataset_dict({"spoiled": (spoiled, [0, 1]), "clean": (clouds, [0, 1])}, ["ball", "disc"])
    with pytest.raises(PointCloudError, match="more than a quarter of its points at one place"):
        process_split(splits["spoiled"], Any2PointProcessor(64), 64)
    with pytest.warns(UserWarning, match="1 of 2 clouds had invalid points: 40 points are dropped"):
        processed = process_split(splits["spoiled"], Any2PointProcessor(64, drop_invalid=True), 64)
    expected = process_split(splits["clean"], Any2PointProcessor(64), 64)
    assert torch.equal(processed["points"][:], expected["points"][:])


def test_clouds_without_surplus_points_keep_all_their_points(make, monkeypatch):
    """Data sets of exactly num_points points a cloud, such as the built-in shapes, lose none of them to repeats."""
    generator = np.random.default_rng(0)
    split = (generator.normal(size=(4, 64, 3)).astype(np.float32), [0, 1, 0, 1])
    dataset = build_dataset_dict({"train": split, "test": split}, ["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is wrong with such clouds
        trainer = make(dataset=dataset, augmentation=NO_AUGMENTATION)
    for points, _ in points_that_go_in(trainer, monkeypatch):
        for cloud in points:
            assert len(cloud.unique(dim=0)) == 64


# What training does


def test_the_backbone_stays_bit_for_bit(make, bert):
    trainer = make(epochs=2, learning_rate=1e-2)
    before = state_of(trainer.model)
    trainer.train()
    saved = load_file(bert / "model.safetensors")
    own = trainer.model.backbone.state_dict()
    compared = [name for name in own if name in saved]
    assert len(compared) > 35
    assert all(torch.equal(own[name], saved[name]) for name in compared)
    assert all(parameter.grad is None for parameter in trainer.model.backbone.parameters())
    after = state_of(trainer.model)
    trained = [name for name, parameter in trainer.model.named_parameters() if ".backbone." not in name]
    still = [name for name in trained if torch.equal(before[name], after[name])]
    # A bias right before a batch norm changes nothing, so nothing changes it.
    assert all(".tokenizer.stages." in name and name.endswith(("down.bias", "up.bias")) for name in still), still
    assert len(still) == 8


def test_the_loss_falls_and_two_easy_classes_are_told_apart(make):
    trainer = make(epochs=30, learning_rate=1e-2)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.25 < 0.5 < losses[0]
    assert trainer.evaluate()["eval_accuracy"] == 1.0


def test_one_seed_gives_one_adapter(make):
    states = {}
    for run, seed in {"first": 1, "again": 1, "other": 2}.items():
        trainer = make(folder=run, seed=seed, epochs=2)
        trainer.train()
        states[run] = state_of(trainer.model)
    assert_same(states["first"], states["again"])
    assert not torch.equal(states["first"]["classifier.hidden1.weight"], states["other"]["classifier.hidden1.weight"])


def test_one_seed_gives_one_adapter_from_the_command(two_classes, bert, tmp_path):
    states = []
    for run, seed in enumerate((4, 4, 5)):
        torch.manual_seed(run)  # whatever ran before must not matter
        training_run.train(
            str(two_classes.path), str(bert), tmp_path / str(run), FIELDS, epochs=1, batch_size=8, seed=seed
        )
        states.append(load_file(tmp_path / str(run) / "model.safetensors"))
    assert_same(states[0], states[1])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


# Checkpoints


def test_resuming_gives_the_adapter_of_an_uninterrupted_training(make, tmp_path):
    whole = make(folder="whole", epochs=3)
    whole.train()
    stopped = make(folder="stopped", epochs=3)
    stopped.add_callback(StopAfter(2))
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert stopped.state.global_step == 4
    resumed = make(folder="stopped", epochs=3)
    set_seed(99)  # nothing may depend on the state of a new process
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert_same(state_of(whole.model), state_of(resumed.model))
    moments = [trainer.optimizer.state_dict()["state"] for trainer in (whole, resumed)]
    assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])


def test_resuming_by_the_command_gives_the_same_adapter(two_classes, bert, tmp_path, monkeypatch):
    def run(name, **options):
        arguments = (str(two_classes.path), str(bert), tmp_path / name, FIELDS)
        return training_run.train(*arguments, epochs=2, batch_size=8, seed=6, **options)

    result = run("whole")
    original = training_run.make_trainer

    def make_stopping(*arguments, **options):
        trainer = original(*arguments, **options)
        trainer.add_callback(StopAfter(1))
        return trainer

    monkeypatch.setattr(training_run, "make_trainer", make_stopping)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    monkeypatch.setattr(training_run, "make_trainer", original)
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    assert run("stopped", resume=True) == result
    adapters = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")]
    assert_same(*adapters)


def test_the_trainers_checkpoint_is_an_adapter(make, tmp_path):
    trainer = make(epochs=2)
    trainer.train()
    (folder,) = (tmp_path / "run").glob("checkpoint-*")
    assert folder.name == "checkpoint-4"
    tensors = load_file(folder / "model.safetensors")
    assert not [name for name in tensors if "backbone." in name]
    assert_same(tensors, state_of(trainer.model))
    loaded = Any2PointForPointCloudClassification.from_pretrained(folder)
    assert_same(state_of(loaded), state_of(trainer.model))
    assert Any2PointProcessor.from_pretrained(folder).num_points == 64
    with torch.no_grad():
        points = trainer.eval_dataset[:]["points"]
        assert torch.equal(loaded(points).logits, trainer.model.eval()(points).logits)


def retrain(trainer, model, **arguments):
    """A second stock Trainer on the same data whose arguments the user wrote."""
    defaults = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "report_to": "none", "data_seed": 0}
    defaults |= {"output_dir": trainer.args.output_dir, "remove_unused_columns": False, "seed": 0, "max_grad_norm": 10}
    data = SimpleNamespace(train=trainer.train_dataset, test=trainer.eval_dataset)
    second = Trainer(
        model=model,
        args=TrainingArguments(**{**defaults, "learning_rate": 1e-3, "dataloader_pin_memory": False, **arguments}),
        data_collator=default_data_collator,
        train_dataset=data.train,
        eval_dataset=data.test,
        compute_metrics=compute_metrics,
        callbacks=[BatchAugmentation(NO_AUGMENTATION, 64, seed=0)],
    )
    second.train()
    return second


def test_gradient_checkpointing_through_the_arguments_changes_nothing(make, make_model):
    trainer = make()
    states = []
    known = TrainingArguments.__dataclass_fields__
    name = (
        "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    )  # before 5.23
    for checkpointing in (False, True):
        model = make_model(adapter_dropout=0.1)
        second = retrain(trainer, model, save_strategy="no", **{name: checkpointing})
        assert model.any2point.gradient_checkpointing is checkpointing
        states.append((state_of(model), second.state.log_history[-1]["train_loss"]))
    (plain, loss), (checkpointed, other_loss) = states
    assert other_loss == pytest.approx(loss, rel=1e-5)
    for tensor in plain:
        torch.testing.assert_close(checkpointed[tensor], plain[tensor], rtol=1e-4, atol=1e-5)


def test_load_best_model_at_end(make, make_model, caplog):
    trainer = make()
    model = make_model()
    second = retrain(
        trainer,
        model,
        num_train_epochs=3,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        learning_rate=0.5,  # so high that the first epoch is not the last word
    )
    losses = {e["step"]: e["eval_loss"] for e in second.state.log_history if "eval_loss" in e}
    best = min(losses, key=losses.get)
    assert second.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert_same(state_of(model), load_file(f"{second.state.best_model_checkpoint}/model.safetensors"))
    assert second.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-5)
    assert "missing keys" not in caplog.text


def test_a_trainer_without_a_processor_or_metrics(make, make_model):
    trainer = make()
    second = retrain(trainer, make_model(), num_train_epochs=1, save_strategy="steps", save_steps=1)
    assert second.state.global_step == 2
    assert set(second.evaluate()) >= {"eval_loss", "eval_accuracy"}


# What a recipe and the other options bring


def test_the_recipe_reaches_the_trainer(make):
    recipe = Recipe(
        epochs=3,
        batch_size=4,
        gradient_accumulation=2,
        learning_rate=1e-3,
        lowest_learning_rate=1e-5,
        warm_up_share=0.25,
        weight_decay=0.1,
        largest_gradient_norm=1.0,
        precision="bfloat16",
        surplus_points=1.1,
    )
    trainer = make(recipe=recipe, epochs=2, batch_size=None)
    arguments = trainer.args
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size) == (2, 4)
    assert (arguments.gradient_accumulation_steps, arguments.bf16, arguments.fp16) == (2, True, False)
    assert (arguments.learning_rate, arguments.max_grad_norm) == (1e-3, 1.0)
    assert arguments.lr_scheduler_kwargs == {"min_lr": 1e-5}
    assert arguments.get_warmup_steps(40) == 10
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert trainer.train_dataset[0]["points"].shape == (71, 3)


class RecordGradients(TrainerCallback):
    """The gradients of the first update."""

    gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.gradients is None:
            named = model.named_parameters()
            self.gradients = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def test_accumulated_gradients_are_those_of_one_larger_batch(make):
    """In eval mode of norms and dropout, as these look at a batch at a time."""
    recorded = []
    for options in ({"batch_size": 8}, {"batch_size": 4, "gradient_accumulation": 2}):
        trainer = make(augmentation=NO_AUGMENTATION, largest_gradient_norm=1e9, **options)
        trainer.model.eval().train = lambda mode=True, model=trainer.model: model
        gradients = RecordGradients()
        trainer.add_callback(gradients)
        trainer.train()
        assert trainer.state.global_step == 2
        recorded.append(gradients.gradients)
    assert len(recorded[0]) > 40
    for name, gradient in recorded[0].items():
        torch.testing.assert_close(recorded[1][name], gradient, rtol=1e-4, atol=1e-6)


class RecordDropout(TrainerCallback):
    """Keys of a dropout layer in every forward of a training, and the entries that it dropped."""

    def __init__(self, layer):
        self.keys, self.dropped = [], []
        layer.register_forward_hook(self.look)

    def look(self, layer, inputs, output):
        if layer.training:
            self.keys.append(layer.key)
            self.dropped.append((output == 0) & (inputs[0] != 0))


def test_every_accumulated_pass_drops_other_entries(make):
    trainer = make(epochs=2, batch_size=4, gradient_accumulation=2, seed=3)
    record = RecordDropout(trainer.model.classifier.dropout1)
    trainer.add_callback(record)
    trainer.train()
    passes = [(step, number) for step in range(4) for number in range(2)]
    assert record.keys == [named_seed(3, f"classifier.dropout1 {step} {number} 0") for step, number in passes]
    assert len(set(record.keys)) == 8
    assert not torch.equal(*record.dropped[:2])


def test_after_a_training_torchs_generator_draws_again(make):
    trainer = make()
    trainer.train()
    layers = [module for module in trainer.model.modules() if isinstance(module, NamedDropout)]
    assert {layer.key for layer in layers} == {None}
    state = torch.get_rng_state()
    layers[-1].train()(torch.ones(2, 256))
    assert not torch.equal(torch.get_rng_state(), state)


def test_trainings_that_differ_by_their_adapters_drop_alike_in_the_head(make):
    keys = []
    for number, fields in enumerate(({}, {"aggregation": "none"}, {"adapter_blocks": 0})):
        trainer = make(fields=fields, folder=str(number))
        record = RecordDropout(trainer.model.classifier.dropout2)
        trainer.add_callback(record)
        trainer.train()
        keys.append(record.keys)
    assert len(keys[0]) == 2
    assert keys[0] == keys[1] == keys[2]


class StopAtStep(TrainerCallback):
    """Ctrl-C before a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_resuming_in_the_middle_of_an_epoch_gives_the_same_adapter(make):
    def make_one(folder):
        trainer = make(folder=folder, epochs=2, batch_size=4)  # 4 steps an epoch
        trainer.args.save_strategy, trainer.args.save_steps = "steps", 2
        record = RecordDropout(trainer.model.classifier.dropout1)
        trainer.add_callback(record)
        return trainer, record

    whole, expected = make_one("whole")
    whole.train()
    stopped, before = make_one("stopped")
    stopped.add_callback(StopAtStep(6))
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed, after = make_one("stopped")
    set_seed(99)
    resumed.train(resume_from_checkpoint=True)
    assert (before.keys, after.keys) == (expected.keys[:6], expected.keys[6:])
    found = before.dropped + after.dropped
    assert all(torch.equal(one, other) for one, other in zip(found, expected.dropped, strict=True))
    assert_same(state_of(whole.model), state_of(resumed.model))


def test_bfloat16_trains_with_float32_weights_near_the_float32_loss(make):
    losses = {}
    for precision in ("float32", "bfloat16"):
        trainer = make(epochs=3, learning_rate=1e-3, precision=precision)
        trainer.train()
        assert {tensor.dtype for tensor in state_of(trainer.model).values()} <= {torch.float32, torch.int64}
        losses[precision] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_float16_needs_a_gpu(make):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigurationError, match="float16 needs a GPU"):
        make(precision="float16")


def test_loading_processes_change_nothing(make):
    states = []
    for workers in (0, 2):
        trainer = make(epochs=2, workers=workers)
        assert trainer.args.dataloader_num_workers == workers
        trainer.train()
        states.append(state_of(trainer.model))
    assert_same(*states)


def test_a_hook_left_by_an_interrupted_training_is_replaced(make, make_model, clouds, tmp_path, monkeypatch):
    stopped = make(augmentation=Augmentation(shift=50.0))
    stopped.add_callback(StopAfter(0))
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    options = {"epochs": 1, "batch_size": 8, "augmentation": NO_AUGMENTATION}
    again = make_trainer(stopped.model, Any2PointProcessor(64), clouds, tmp_path / "again", **options)
    steps = points_that_go_in(again, monkeypatch)
    assert max(points.abs().max() for points, _ in steps) <= 1
    assert not again.model._forward_pre_hooks


def test_loggers_of_the_trainer(make, tmp_path, monkeypatch):
    with pytest.raises(Any2PointError, match=r"logging to nologger needs .*pip install nologger"):
        make(loggers=["nologger"])
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer = make(loggers=["tensorboard"], epochs=2)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    recorded = [event.value for event in events.Scalars("train/loss")]
    assert recorded == pytest.approx([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


# The best epoch, on clouds held out from training alone


def test_without_a_validation_split_no_epoch_is_chosen(make):
    arguments = make().args
    assert (arguments.load_best_model_at_end, arguments.metric_for_best_model) == (False, None)


@pytest.mark.parametrize("validation", [[0.5, 0.75, 0.75, 0.25], [0.75, 0.5, 0.5, 0.5]])
def test_the_best_epoch_is_chosen_on_the_validation_split(two_classes, bert, tmp_path, monkeypatch, validation):
    """The test split's accuracies, which go the other way, choose nothing."""
    tests = [0.1, 0.2, 0.3, 0.9]
    validated, tested = iter(validation), iter(tests)
    scores = {4: validated, 8: tested}  # by the number of clouds of the split
    monkeypatch.setattr(
        training,
        "compute_metrics",
        lambda evaluation: dict.fromkeys(
            ("accuracy", "mean_class_accuracy"), next(scores[len(evaluation.label_ids)], None)
        ),
    )
    saved = []
    save = Any2PointForPointCloudClassification.save_pretrained

    def record(model, folder, **options):
        saved.append(state_of(model))
        return save(model, folder, **options)

    monkeypatch.setattr(Any2PointForPointCloudClassification, "save_pretrained", record)
    result = training_run.train(
        str(two_classes.path), str(bert), tmp_path / "out", FIELDS, epochs=4, batch_size=6, validation_share=0.25
    )
    best = validation.index(0.75)
    assert result["accuracy"] == 0.9
    assert (result["best_epoch"], result["validation_accuracy"]) == (best + 1, 0.75)
    assert result["best_epoch_accuracy"] == tests[best]
    assert len(saved) == 5  # of four epochs, and the end
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), saved[best])


def test_a_finished_training_with_a_validation_split_is_made_longer(two_classes, bert, tmp_path, monkeypatch):
    """The last checkpoint is kept beside the best one, so no epoch is trained twice."""

    def run(epochs, **options):
        arguments = (str(two_classes.path), str(bert), tmp_path / "out", FIELDS)
        return training_run.train(*arguments, epochs=epochs, batch_size=6, validation_share=0.25, **options)

    run(3)
    kept = sorted(int(folder.name.rpartition("-")[2]) for folder in (tmp_path / "out").glob("checkpoint-*"))
    assert kept[-1] == 6
    assert len(kept) <= 2
    steps = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    make = training_run.make_trainer

    def watched(*arguments, **options):
        trainer = make(*arguments, **options)
        trainer.add_callback(Watch())
        return trainer

    monkeypatch.setattr(training_run, "make_trainer", watched)
    result = run(4, resume=True)
    assert steps == [6, 7]
    assert 1 <= result["best_epoch"] <= 4


def test_resuming_notices_other_data_under_the_same_name(two_classes, bert, tmp_path):
    path = tmp_path / "data.npz"
    arrays = two_classes.arrays()
    np.savez(path, **arrays)
    training_run.train(str(path), str(bert), tmp_path / "out", FIELDS, epochs=1, batch_size=8)
    arrays["points"][3, 5] += 0.25
    np.savez(path, **arrays)
    with pytest.raises(CheckpointError, match="data_fingerprint was"):
        training_run.train(str(path), str(bert), tmp_path / "out", FIELDS, epochs=2, batch_size=8, resume=True)


def test_resuming_from_another_name_of_the_data(two_classes, bert, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    training_run.train(str(two_classes.path), str(bert), folder, FIELDS, epochs=1, batch_size=8)
    monkeypatch.chdir(two_classes.path.parent)
    training_run.train(two_classes.path.name, str(bert), folder, FIELDS, epochs=2, batch_size=8, resume=True)
    assert [checkpoint.name for checkpoint in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    assert json.loads((folder / training_run.RUN_FILE).read_text())["data"] == two_classes.path.name


def test_resuming_with_fewer_epochs_is_refused(two_classes, bert, tmp_path):
    arguments = (str(two_classes.path), str(bert), tmp_path / "out", FIELDS)
    training_run.train(*arguments, epochs=2, batch_size=8)
    with pytest.raises(
        CheckpointError, match=r"--epochs must be at least the 2 that .*checkpoint-4 has trained, got 1"
    ):
        training_run.train(*arguments, epochs=1, batch_size=8, resume=True)


@pytest.mark.parametrize(("file", "content"), [("trainer_state.json", ""), ("optimizer.pt", None)])
def test_torn_checkpoints(two_classes, bert, tmp_path, file, content):
    arguments = (str(two_classes.path), str(bert), tmp_path / "out", FIELDS)
    training_run.train(*arguments, epochs=1, batch_size=8)
    torn = tmp_path / "out" / "checkpoint-2" / file
    torn.write_bytes(torn.read_bytes()[:100] if content is None else content.encode())
    with pytest.raises(CheckpointError, match=r"there is none|checkpoint-2 is damaged"):
        training_run.train(*arguments, epochs=2, batch_size=8, resume=True)


def test_of_large_clouds_fewer_are_read_at_once_with_the_same_result(two_classes, monkeypatch):
    split = load_point_cloud_dataset(two_classes.path)["train"]  # 16 clouds of 80 points
    processor = Any2PointProcessor(64)
    expected = training.process_split(split, processor, 64)["points"][:]
    monkeypatch.setattr(training, "_POINTS_AT_ONCE", 250)
    sizes = []
    sample = Any2PointProcessor.__call__
    monkeypatch.setattr(
        Any2PointProcessor, "__call__", lambda self, clouds, **k: sizes.append(len(clouds)) or sample(self, clouds, **k)
    )
    torch.testing.assert_close(training.process_split(split, processor, 64)["points"][:], expected, atol=0, rtol=0)
    assert (max(sizes), sum(sizes)) == (3, 16)


def test_a_batch_that_memory_cannot_hold_is_one_line_that_names_a_smaller_one(run_train, monkeypatch):
    from any2point_hf.modeling import batch_memory

    monkeypatch.setattr(batch_memory, "SMALL", 0)
    monkeypatch.setattr(batch_memory, "available_memory", lambda device: 300_000)
    run = run_train()
    assert run.code == 2
    (said,) = [line for line in run.err.splitlines() if line.startswith("error:")]  # a line of its own
    assert said.startswith("error: cpu out of memory. 8 clouds of 64 points need at least ")
    assert re.search(r"A batch of [1-4] fits: give the clouds in batches of that size \(batch_size\)\.$", said)


@pytest.mark.parametrize("data", ["two_classes", "two_categories"])
def test_a_lack_of_memory_in_the_backward_pass_names_a_smaller_batch(run_train, monkeypatch, request, data):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.Tensor, "backward", fail)
    run = run_train(data=request.getfixturevalue(data).path)
    assert run.code == 2
    assert "error: cpu out of memory. 8 clouds of 64 points" in run.err
    assert "A batch of 4 fits" in run.err
