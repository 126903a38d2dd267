"""The card that a training leaves: its figures are the model's, and what it shows repeats the training."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from any2point_hf import trained_adapter as commands
from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.data.augmentation import Augmentation
from any2point_hf.training import run as training_run
from any2point_hf.training.card import CARD, CONFUSION, CURVES
from any2point_hf.training.recipe import read_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

FIELDS = {"num_points": 64, "num_neighbors": 8}


def code_blocks(card, language):
    return re.findall(rf"```{language}\n(.*?)\n```", card.text, flags=re.DOTALL)


@pytest.fixture
def work(tmp_path, monkeypatch, bert, two_classes):
    """A working directory in which backbone and data have the names that cards show."""
    shutil.copytree(bert, tmp_path / "bert")
    shutil.copy(two_classes.path, tmp_path / "two_classes.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(work, output, **options):
    options = {"epochs": 3, "batch_size": 6, "seed": 3, **options}
    return training_run.train(str(work / "two_classes.npz"), str(work / "bert"), work / output, FIELDS, **options)


def test_the_figures_are_those_of_the_saved_weights(work):
    metrics = train(work, "trained", validation_share=0.25)
    card = ModelCard.load(work / "trained" / CARD)
    evaluated = commands.evaluate("trained", "two_classes.npz")
    of_test = {result.metric_type: result for result in card.data.eval_results if result.dataset_split == "test"}
    assert of_test["accuracy"].metric_value == round(evaluated["accuracy"], 4) == metrics["best_epoch_accuracy"]
    assert of_test["mean_class_accuracy"].metric_value == round(evaluated["mean_class_accuracy"], 4)
    (on_validation,) = (
        result.metric_value
        for result in card.data.eval_results
        if (result.dataset_split, result.metric_type) == ("validation", "accuracy")
    )
    assert on_validation == round(metrics["validation_accuracy"], 4)
    assert (
        f"| epoch {metrics['best_epoch']:g}, the best on the validation split (**this adapter**) | test |" in card.text
    )
    for name, accuracy in evaluated["per_class"].items():
        assert f"| {name} | 4 | {accuracy:.4f} |" in card.text
    fingerprint = json.loads((work / "trained" / training_run.RUN_FILE).read_text())["data_fingerprint"]
    assert of_test["accuracy"].dataset_revision == fingerprint
    assert "train 12, validation 4, test 8" in card.text
    assert "25% of the training clouds were held out" in card.text
    for picture in (CURVES, CONFUSION):
        assert f"]({picture})" in card.text
        assert (work / "trained" / picture).read_bytes().startswith(b"\x89PNG")
    assert str(work) not in str(card)


def test_the_same_training_writes_the_same_card(work):
    files = {}
    for place in ("one", "two"):
        train(work, f"{place}/trained", epochs=1)
        files[place] = [(work / place / "trained" / file).read_bytes() for file in (CARD, CURVES, CONFUSION)]
    assert files["one"] == files["two"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"validation_share": 0.25, "augmentation": Augmentation((0.9, 1.1), rotation_axis="z"), "learning_rate": 1e-2},
    ],
)
def test_the_python_of_a_card_repeats_the_training(work, options):
    train(work, "trained", epochs=2, **options)
    card = ModelCard.load(work / "trained" / CARD)
    weights = load_file("trained/model.safetensors")
    shutil.rmtree("trained")
    *_, training = code_blocks(card, "python")
    exec(training, {})
    again = load_file("trained/model.safetensors")
    assert weights.keys() == again.keys()
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's upload
def test_a_card_names_the_commit_of_a_data_set_on_the_hub(work, hub, run_command, monkeypatch):
    load_point_cloud_dataset(work / "two_classes.npz").push_to_hub("me/clouds")
    commit = hub.repositories["datasets/me/clouds"].branches["main"][-1]
    arguments = ["train", "--data", "me/clouds", "--backbone", "bert", "--num-points", "64", "--num-neighbors", "8"]
    arguments += ["--epochs", "1", "--batch-size", "8", "--output"]
    assert run_command(*arguments, "trained").code == 0
    card = ModelCard.load(work / "trained" / CARD)
    assert card.data.datasets == ["me/clouds"]
    assert {(result.dataset_type, result.dataset_revision) for result in card.data.eval_results} == {
        ("me/clouds", commit)
    }
    assert f"[`me/clouds`](https://huggingface.co/datasets/me/clouds) at its commit `{commit}`" in card.text
    *_, training = code_blocks(card, "bash")
    assert shlex.split(training)[2:4] == ["--data", f"me/clouds@{commit}"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    shutil.move("trained", "first")
    assert run_command(*shlex.split(training)[1:]).code == 0
    weights, again = (load_file(f"{folder}/model.safetensors") for folder in ("first", "trained"))
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_a_card_of_a_data_set_in_memory(work):
    dataset = load_point_cloud_dataset(work / "two_classes.npz")
    training_run.train(dataset, str(work / "bert"), work / "trained", FIELDS, epochs=1, batch_size=8)
    card = ModelCard.load(work / "trained" / CARD)
    assert card.data.datasets is None
    assert "On `a data set in memory`, without voting" in card.text
    weights = load_file("trained/model.safetensors")
    exec(code_blocks(card, "python")[-1], {"dataset": dataset})
    again = load_file("trained/model.safetensors")
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_the_commands_of_a_card_run(work, run_command, two_classes):
    arguments = ["train", "--data", work / "two_classes.npz", "--backbone", work / "bert", "--output", work / "trained"]
    sizes = ["--num-points", "64", "--num-neighbors", "8", "--epochs", "2", "--batch-size", "8", "--rotate", "z"]
    assert run_command(*arguments, *sizes).code == 0
    card = ModelCard.load(work / "trained" / CARD)
    weights = load_file("trained/model.safetensors")
    _install, predicting, training = (shlex.split(block) for block in code_blocks(card, "bash"))
    np.savetxt("chair.xyz", two_classes.cloud(0, np.random.default_rng(5)))
    done = run_command(*predicting[1:2], "chair.xyz", *predicting[3:])
    assert (predicting[0], predicting[2]) == ("any2point", "chair.ply")
    assert done.code == 0, done.err
    assert "ball" in done.out
    shutil.rmtree("trained")
    assert training == [
        "any2point",
        "train",
        "--data",
        "two_classes.npz",
        "--backbone",
        "bert",
        "--output",
        "trained",
        *sizes,
        "--recipe",  # which the data's size chose
        "small-data",
    ]
    assert run_command(*training[1:]).code == 0
    again = load_file("trained/model.safetensors")
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_the_recipe_of_a_card_is_one(work, tmp_path):
    train(work, "trained", epochs=1, augmentation=Augmentation((0.9, 1.1), rotation_axis="z"), weight_decay=0.01)
    (text,) = code_blocks(ModelCard.load(work / "trained" / CARD), "yaml")
    (tmp_path / "own.yaml").write_text(text)
    recipe = read_recipe(tmp_path / "own.yaml")
    assert recipe.augmentation == Augmentation((0.9, 1.1), rotation_axis="z")
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay) == (1, 6, 0.01)
    assert yaml.safe_load(text) == recipe.settings()


def test_a_resumed_training_writes_its_card_anew_but_not_over_one_by_hand(work):
    train(work, "trained", epochs=1)
    train(work, "trained", epochs=2, resume=True)
    assert "| epoch 2, the last (**this adapter**) | test |" in (work / "trained" / CARD).read_text()
    (work / "trained" / CARD).write_text("# My own words\n")
    with pytest.warns(UserWarning, match=r"README.md was not written by a training and stays as it is"):
        train(work, "trained", epochs=3, resume=True)
    assert (work / "trained" / CARD).read_text() == "# My own words\n"


def test_each_seed_has_its_card(work, run_command):
    arguments = ["train", "--data", "two_classes.npz", "--backbone", "bert", "--output", "runs", "--seeds", "0,1"]
    sizes = ["--num-points", "64", "--num-neighbors", "8", "--epochs", "1", "--batch-size", "8"]
    assert run_command(*arguments, *sizes).code == 0
    for seed in (0, 1):
        assert f"Seed {seed}." in (work / "runs" / f"seed-{seed}" / CARD).read_text()
