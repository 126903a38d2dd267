"""Training for segmentation, from the command line and in Python: a tiny BERT tells the parts of balls and discs."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import EvalPrediction

from any2point_hf import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointForPointCloudSegmentation,
    Any2PointProcessor,
    label_points,
    load_point_cloud_dataset,
    make_trainer,
)
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.segmentation.part_metrics import part_metrics
from any2point_hf.trained_adapter import load_segmenter
from any2point_hf.training import run as training_run
from any2point_hf.training.parts import label_columns, part_config_fields, part_trainer_options
from any2point_hf.training.recipe import read_recipe

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*fewer than")]

SMALL = {"num_points": 64, "num_neighbors": 8, "backbone_blocks": 2}


@pytest.fixture(scope="module")
def dataset(two_categories):
    return load_point_cloud_dataset(two_categories.path)


def make_model(bert, dataset, **fields):
    torch.manual_seed(0)
    config = Any2PointConfig(backbone=bert, **SMALL, **{**part_config_fields(dataset), **fields})
    return Any2PointForPointCloudSegmentation(config)


def test_the_config_has_the_parts_and_those_of_each_category(dataset):
    fields = part_config_fields(dataset)
    assert fields["id2label"] == {0: "ball/low", 1: "ball/high", 2: "disc/rim", 3: "disc/middle"}
    assert fields["category_parts"] == {"ball": [0, 1], "disc": [2, 3]}
    without = DatasetDict({name: split.remove_columns("category") for name, split in dataset.items()})
    assert part_config_fields(without)["category_parts"] is None


def test_balanced_parts_weigh_the_same(bert, dataset, tmp_path):
    """All points / (parts × points of the part), counted one by one; points without a label count for nothing."""
    rows = [row | {"part": [-100, *row["part"][1:]]} for row in dataset["train"].with_format(None)]
    train = Dataset.from_list(rows, features=dataset["train"].features)
    labels = [label for row in rows for label in row["part"] if label != -100]
    expected = [len(labels) / (4 * labels.count(part)) for part in range(4)]
    assert len(set(expected)) > 1
    model = make_model(bert, dataset, class_weight="balanced")
    make_trainer(model, Any2PointProcessor(64), DatasetDict(dataset | {"train": train}), tmp_path, epochs=1)
    assert model.config.class_weight == pytest.approx(expected)


def test_metrics_are_those_of_the_best_parts_of_each_category(bert, dataset):
    """The Trainer's metrics, against the naive way: mask, argmax and count one cloud at a time."""
    model = make_model(bert, dataset)
    options = part_trainer_options(model)
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(size=(6, 20, 4)).astype(np.float32))
    labels, category = generator.integers(0, 2, (6, 20)), np.array([0, 1, 0, 1, 1, 0])
    labels += 2 * category[:, None]
    labels[0, :5] = -100
    parts = options["preprocess_logits_for_metrics"](logits, (torch.from_numpy(labels), torch.from_numpy(category)))
    expected = [
        [max([0, 1] if number == 0 else [2, 3], key=lambda part: point[part]) for point in cloud.tolist()]
        for cloud, number in zip(logits, category, strict=True)
    ]
    assert parts.tolist() == expected
    measured = options["compute_metrics"](EvalPrediction(parts.numpy(), (labels, category)))
    names, of_category = ["a", "b", "c", "d"], {"ball": [0, 1], "disc": [2, 3]}
    whole = part_metrics([np.array(cloud) for cloud in expected], list(labels), names, category.tolist(), of_category)
    assert measured == {name: whole[name] for name in ("instance_miou", "class_miou", "accuracy")}
    assert label_columns(model.config) == ["labels", "category"]


def test_without_categories_all_parts_are_of_one(bert, dataset):
    model = make_model(bert, dataset, category_parts=None)
    logits = torch.tensor([[[1.0, 0, 0, 2], [3.0, 0, 0, 2]]])
    options = part_trainer_options(model)
    parts = options["preprocess_logits_for_metrics"](logits, torch.tensor([[3, 3]]))
    assert parts.tolist() == [[3, 0]]
    assert options["compute_metrics"](EvalPrediction(parts.numpy(), np.array([[3, 3]])))["instance_miou"] == 0.625
    assert label_columns(model.config) == ["labels"]


def test_make_trainer_trains_and_measures(bert, dataset, tmp_path):
    model = make_model(bert, dataset)
    trainer = make_trainer(
        model, Any2PointProcessor(64), dataset, tmp_path, epochs=25, batch_size=8, learning_rate=1e-2, seed=1
    )
    before = trainer.evaluate()["eval_instance_miou"]
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_instance_miou"] > max(before, 0.6)
    assert {"eval_class_miou", "eval_accuracy"} <= metrics.keys()
    parts = trainer.predict(trainer.eval_dataset)
    assert parts.predictions.shape == (8, 64)  # answers, not logits
    for cloud, category in zip(parts.predictions, dataset["test"]["category"], strict=True):
        assert set(cloud) <= ({0, 1} if category == 0 else {2, 3})


def test_what_a_model_must_have_of_the_data(bert, dataset, tmp_path):
    def refused(model, message, data=dataset):
        with pytest.raises(DatasetError, match=message):
            make_trainer(model, Any2PointProcessor(64), data, tmp_path)

    names = ["ball/low", "ball/high", "disc/rim", "disc/middle"]
    other_order = dict(enumerate(reversed(names)))
    refused(make_model(bert, dataset, id2label=other_order, label2id=None), "parts in their order")
    refused(make_model(bert, dataset, category_parts=None), "categories must be the dataset's.* got none")
    refused(make_model(bert, dataset, category_parts={"disc": [2, 3], "ball": [0, 1]}), "in their order")
    refused(make_model(bert, dataset, category_parts={"ball": [0], "disc": [2, 3]}), "with their parts")
    make_trainer(
        make_model(bert, dataset, category_parts={"ball": [0, 1, 2], "disc": [2, 3]}),
        Any2PointProcessor(64),
        dataset,
        tmp_path,
    )  # parts that no training cloud has are no fault
    classifier = Any2PointForPointCloudClassification(Any2PointConfig(backbone=bert, num_labels=4, **SMALL))
    refused(classifier, "must have the dataset's 2 classes")  # it is asked for the categories
    refused(make_model(bert, dataset), "'shapes' is for classification, got task='segmentation'", data="shapes")


@pytest.mark.filterwarnings("ignore:.*of one part")
def test_a_split_without_labels_is_refused_before_the_training(bert, dataset, tmp_path):
    """The metrics could not be told, which would be found only after the first epoch."""
    model = make_model(bert, dataset)
    for split in ("train", "test"):
        part = [[-100] * len(part) for part in dataset[split]["part"]]
        bare = dataset[split].remove_columns("part").add_column("part", part, feature=dataset[split].features["part"])
        data = DatasetDict(dataset | {split: bare})
        if split == "train":  # where a category must have parts
            data = DatasetDict({name: rows.remove_columns("category") for name, rows in data.items()})
        with pytest.raises(DatasetError, match=f"some points of the split '{split}' must have a label"):
            make_trainer(model, Any2PointProcessor(64), data, tmp_path)


# The command line


def train(run_command, two_categories, bert, output, *arguments, data=None):
    folders = ("--data", data or two_categories.path, "--backbone", bert, "--output", output)
    small = ("--num-points", "64", "--num-neighbors", "8", "--batch-size", "8", "--epochs", "1")
    return run_command("train", *folders, *small, *arguments)


def test_the_data_choose_the_task_and_the_recipe(run_command, two_categories, bert, tmp_path):
    result = train(run_command, two_categories, bert, tmp_path / "a", "--json")
    assert result.code == 0, result.err
    metrics = json.loads(result.out)
    assert {"instance_miou", "class_miou", "accuracy", "adapter_megabytes"} <= metrics.keys()
    assert "linear_probe_accuracy" not in metrics
    assert "task segmentation: a part for each point" in result.err
    assert "--task classification" in result.err
    assert "recipe segmentation (16 clouds, 4 parts): 1 epochs of 2 steps" in result.err
    config = Any2PointConfig.from_pretrained(tmp_path / "a")
    recipe = read_recipe("segmentation")
    assert config.category_parts == {"ball": [0, 1], "disc": [2, 3]}
    assert config.neighborhood_norm == recipe.config["neighborhood_norm"]
    assert json.loads((tmp_path / "a" / training_run.RUN_FILE).read_text())["recipe"] == "segmentation"
    asked = train(run_command, two_categories, bert, tmp_path / "b", "--task", "segmentation")
    assert asked.code == 0, asked.err
    assert "task segmentation" not in asked.err
    assert re.fullmatch(
        r"instance mIoU 0\.\d{4} \(last epoch, test split\), adapter \d\.\d\d MB written to .*b",
        asked.out.splitlines()[-1],
    )
    weights = [load_file(tmp_path / folder / "model.safetensors") for folder in ("a", "b")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_categories_are_those_of_the_data(run_command, two_categories, bert, tmp_path):
    result = train(run_command, two_categories, bert, tmp_path / "a", "--set", "category_parts=null")
    assert result.code == 2
    assert "error: category_parts follow from the data" in result.err


def test_data_with_labels_of_both_kinds_say_which_were_taken(run_command, two_categories, bert, tmp_path):
    parts = load_point_cloud_dataset(two_categories.path)
    both = DatasetDict({name: split.rename_column("category", "label") for name, split in parts.items()})
    both = DatasetDict(
        {name: split.map(lambda row: {"seg": row["part"]}, remove_columns="part") for name, split in both.items()}
    )
    both.save_to_disk(tmp_path / "both")
    result = train(run_command, two_categories, bert, tmp_path / "a", data=tmp_path / "both")
    assert result.code == 0, result.err
    assert "task classification: a class for each cloud (column 'label'). --task segmentation" in result.err
    assert "'seg'" in result.err
    assert result.out.splitlines()[-1].startswith("accuracy ")
    result = train(run_command, two_categories, bert, tmp_path / "b", "--task", "segmentation", data=tmp_path / "both")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1].startswith("instance mIoU ")


def test_a_folder_with_a_named_label_column(run_command, two_categories, bert, tmp_path):
    arrays = two_categories.arrays()
    for split, name in enumerate(("train", "test")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in np.flatnonzero(arrays["split"] == split):
            rows = np.column_stack([arrays["points"][index], arrays["part"][index] % 2])
            np.savetxt(tmp_path / "data" / name / f"{index}.txt", rows, fmt="%.5f")
    output = tmp_path / "out"
    result = train(run_command, two_categories, bert, output, "--label-column", "3", data=tmp_path / "data")
    assert result.code == 0, result.err
    config = Any2PointConfig.from_pretrained(output)
    assert (config.num_labels, config.category_parts) == (2, None)
    shown = (output / "README.md").read_text()
    assert "--label-column 3" in shown
    evaluated = run_command("evaluate", "--model", output, "--data", tmp_path / "data", "--label-column", "3", "--json")
    assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["num_points"] == 8 * 80


def test_several_seeds(run_command, two_categories, bert, tmp_path):
    result = train(run_command, two_categories, bert, tmp_path / "runs", "--seeds", "0,1")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1].startswith("seeds 0, 1: instance mIoU on the test split 0.")
    summary = json.loads((tmp_path / "runs" / "seeds.json").read_text())["summary"]
    assert {"instance_miou", "class_miou", "accuracy"} <= summary.keys()


def test_the_epoch_that_is_best_by_instance_miou_is_kept(two_categories, bert, tmp_path):
    metrics = training_run.train(
        two_categories.path, str(bert), tmp_path / "a", SMALL, read_recipe("segmentation"), epochs=4, batch_size=6,
        validation_share=0.25, learning_rate=1e-2,
    )  # fmt: skip
    state = json.loads(next((tmp_path / "a").glob("checkpoint-*/trainer_state.json")).read_text())
    scores = [entry[key] for entry in state["log_history"] if (key := "eval_validation_instance_miou") in entry]
    assert metrics["validation_instance_miou"] == max(scores)
    assert metrics["best_epoch"] == 1 + scores.index(max(scores))
    assert "best_epoch_instance_miou" in metrics
    assert "| instance mIoU | class mIoU | accuracy |" in (tmp_path / "a" / "README.md").read_text()


def test_a_resumed_training_ends_as_one_that_was_never_stopped(two_categories, bert, tmp_path):
    def run(output, **options):
        recipe = read_recipe("segmentation")
        training_run.train(
            two_categories.path,
            str(bert),
            tmp_path / output,
            SMALL,
            recipe,
            batch_size=8,
            learning_rate=5e-3,
            **options,
        )

    run("whole", epochs=2)
    original = training_run.CheckpointRecords.on_save

    def stop_after_the_first(self, args, state, control, **kwargs):
        original(self, args, state, control, **kwargs)
        raise KeyboardInterrupt

    training_run.CheckpointRecords.on_save = stop_after_the_first
    try:
        with pytest.raises(KeyboardInterrupt):
            run("stopped", epochs=2)
    finally:
        training_run.CheckpointRecords.on_save = original
    run("stopped", epochs=2, resume=True)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]


def test_the_python_of_a_card_repeats_the_training(two_categories, bert, tmp_path, monkeypatch):
    shutil.copytree(bert, tmp_path / "bert")
    shutil.copy(two_categories.path, tmp_path / "parts.npz")
    monkeypatch.chdir(tmp_path)
    training_run.train(
        "parts.npz", "bert", tmp_path / "trained", SMALL, read_recipe("segmentation"), epochs=1, task="segmentation"
    )
    weights = load_file("trained/model.safetensors")
    training = re.findall(r"```python\n(.*?)\n```", ModelCard.load("trained/README.md").text, re.DOTALL)[1]
    assert "load_point_cloud_dataset('parts.npz', task='segmentation')" in training
    shutil.rmtree("trained")
    exec(training, {})
    again = load_file("trained/model.safetensors")
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_the_card_tells_each_category_and_part(part_adapter, run_command, two_categories):
    card = ModelCard.load(part_adapter / "README.md")
    assert card.data.tags[-1] == "point-cloud-segmentation"
    assert {result.metric_type for result in card.data.eval_results} == {"instance_miou", "class_miou", "accuracy"}
    assert re.search(r"\| ball \| 4 \| 0\.\d{4} \|", card.text)
    assert re.search(r"\| disc/rim \| \d+ \| 0\.\d{4} \|", card.text)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's upload
def test_pushed_and_pulled_it_labels_equally_in_a_fresh_process(
    hub, part_adapter, bert, two_categories, subprocess_environment, tmp_path
):
    model, processor = load_segmenter(str(part_adapter))
    model.push_to_hub("me/parts")
    processor.push_to_hub("me/parts")
    cloud = two_categories.arrays()["points"][-1]
    np.save(tmp_path / "cloud.npy", cloud)
    code = (
        "import sys, numpy as np\n"
        "from any2point_hf import label_points\n"
        "from any2point_hf.trained_adapter import load_segmenter\n"
        "model, processor = load_segmenter('me/parts', sys.argv[1])\n"
        "labelled = label_points(model, processor, sys.argv[2], category='disc')\n"
        "np.savez(sys.argv[3], parts=labelled.parts, probabilities=labelled.probabilities)\n"
    )
    environment = subprocess_environment | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    arguments = [sys.executable, "-c", code, str(bert), str(tmp_path / "cloud.npy"), str(tmp_path / "parts.npz")]
    subprocess.run(arguments, check=True, env=environment)
    here, there = label_points(model, processor, cloud, category="disc"), np.load(tmp_path / "parts.npz")
    assert set(here.parts) == {2, 3}
    np.testing.assert_array_equal(there["parts"], here.parts)
    np.testing.assert_array_equal(there["probabilities"], here.probabilities)
