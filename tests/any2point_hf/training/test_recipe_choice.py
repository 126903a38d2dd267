"""Which recipe is taken when none is named, and what is said of it, from the rule to a whole training."""

import json
from types import SimpleNamespace

import pytest

from any2point_hf.data.augmentation import Augmentation
from any2point_hf.modeling import Any2PointConfig
from any2point_hf.training import card as training_card
from any2point_hf.training import probe_before_training, recipe_choice
from any2point_hf.training import run as training_run
from any2point_hf.training.recipe import Recipe, read_recipe
from any2point_hf.training.recipe_choice import choice_line, choose_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("num_clouds", "has_gpu", "name"),
    [
        (2, False, "small-data"),
        (5000, False, "small-data"),
        (5000, True, "small-data"),
        (5001, False, "modelnet-cpu"),
        (5001, True, "modelnet"),
    ],
)
def test_the_choice_by_size(monkeypatch, num_clouds, has_gpu, name):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    assert choose_recipe(num_clouds) == name
    assert choose_recipe(num_clouds, "segmentation") == "segmentation"
    read_recipe(name)


def test_the_line():
    config = Any2PointConfig(num_points=256, num_neighbors=16, num_labels=9, adapter_start="zero")
    recipe = Recipe(
        epochs=64, learning_rate=1e-3, warm_up_share=0.1, augmentation=Augmentation(scale=(0.9, 1.1), shift=0.1)
    )
    assert choice_line("small-data", recipe, config, 480) == (
        "recipe small-data (480 clouds, 9 classes): 64 epochs of 15 steps, rate 0.001 after 10 % warm-up, 256 points, "
        "K 16, scale 0.9 to 1.1, shift 0.1, start zero"
    )
    fewer = Any2PointConfig(num_labels=9, backbone_blocks=2, aggregation="none")
    line = choice_line("small-data", recipe, fewer, 480)
    assert line.endswith(
        "K 64, scale 0.9 to 1.1, shift 0.1, start modelnet, 2 of the backbone's blocks, no aggregation"
    )
    turned = Augmentation(rotation_axis="z", jitter=0.01, drop=0.5)
    line = choice_line("modelnet", Recipe(augmentation=turned), Any2PointConfig(num_labels=2), 33)
    assert line == (
        "recipe modelnet (33 clouds, 2 classes): 300 epochs of 2 steps, rate 0.0005 after 3.33 % warm-up, 1024 points, "
        "K 64, scale 0.667 to 1.5, shift 0.2, rotation about z, jitter 0.01, up to 50% of the points lost, "
        "start modelnet"
    )


@pytest.fixture
def used(monkeypatch):
    """Recipe and config of the training that the command line began."""
    used = []

    def stop(model, processor, dataset, output, recipe, **options):
        used.append(SimpleNamespace(recipe=recipe, config=model.config))
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "make_trainer", stop)
    return used


def begin(run_command, data, bert, output, *arguments):
    return run_command("train", "--data", data, "--backbone", bert, "--output", output, *arguments)


def test_small_data_is_what_is_taken_without_options(run_command, used, two_classes, bert, tmp_path):
    begin(run_command, two_classes.path, bert, tmp_path / "out")
    small, run = read_recipe("small-data"), used.pop()
    assert run.recipe == small.sized(16)  # two_classes has 16 training clouds
    assert run.recipe.epochs == 200
    assert {name: getattr(run.config, name) for name in small.config} == small.config


def test_options_stand_above_the_chosen_recipe(run_command, used, two_classes, bert, tmp_path):
    options = ("--epochs", "3", "--learning-rate", "0.5", "--shift", "0.3", "--num-points", "64", "--batch-size", "4")
    begin(run_command, two_classes.path, bert, tmp_path / "out", *options, "--set", "adapter_start=scaled")
    small, run = read_recipe("small-data"), used.pop()
    assert (run.recipe.epochs, run.recipe.steps, run.recipe.learning_rate, run.recipe.batch_size) == (3, None, 0.5, 4)
    assert run.recipe.augmentation == Augmentation(scale=small.augmentation.scale, shift=0.3)
    assert run.recipe.warm_up_share == small.warm_up_share
    assert (run.config.num_points, run.config.adapter_start) == (64, "scaled")
    assert run.config.num_neighbors == small.config["num_neighbors"]


@pytest.mark.parametrize("named", [("--recipe", "modelnet"), ("--preset", "clip-text-modelnet")])
def test_what_is_named_is_not_chosen(run_train, used, named):
    run_train(*named)
    run = used.pop()
    assert (run.recipe.learning_rate, run.config.adapter_start) == (5e-4, "modelnet")


def test_the_built_in_shapes_are_turned(run_command, used, bert, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_choice, "MOST_SMALL_CLOUDS", 1999)  # shapes has 2000
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    begin(run_command, "shapes", bert, tmp_path / "out", "--num-points", "64", "--epochs", "1")
    run = used.pop()
    assert (run.recipe.augmentation.rotation_axis, run.config.num_neighbors) == ("z", 24)  # modelnet-cpu's


SMALL = ("--num-points", "64", "--num-neighbors", "8", "--batch-size", "8")


def test_a_training_says_its_recipe_and_its_probe(run_command, two_classes, bert, tmp_path):
    out = tmp_path / "out"
    result = begin(run_command, two_classes.path, bert, out, *SMALL, "--epochs", "2", "--json")
    assert result.code == 0, result.err
    values = json.loads(result.out)
    lines = result.err.splitlines()
    (choice,) = [line for line in lines if line.startswith("recipe small-data (16 clouds, 2 classes): 2 epochs of 2 ")]
    (probe,) = [line for line in lines if line.startswith("linear probe before training: accuracy ")]
    assert lines.index(choice) < lines.index(probe)
    assert "64 points, K 8, " in choice
    accuracy = values["linear_probe_accuracy"]
    assert f"accuracy {accuracy:.4f} on 8 test clouds, fitted to 16 training clouds" in probe
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"a linear probe on the model's features had an accuracy of {accuracy:.4f} on the test split" in card
    assert "any2point train --data" in card
    assert json.loads((out / training_run.RUN_FILE).read_text())["recipe"] == "small-data"


def test_the_card_names_the_chosen_recipe_and_how_many_clouds_were_probed(
    run_command, two_classes, bert, tmp_path, monkeypatch
):
    for module in (probe_before_training, training_card):
        monkeypatch.setattr(module, "MOST_CLOUDS", 6)
    for name, options in (("chosen", ()), ("named", ("--recipe", "modelnet"))):
        begin(run_command, two_classes.path, bert, tmp_path / name, *SMALL, "--epochs", "1", *options)
    chosen, named = ((tmp_path / name / "README.md").read_text(encoding="utf-8") for name in ("chosen", "named"))
    assert "--epochs 1 --recipe small-data\n" in chosen  # another machine might choose another one
    assert "--epochs 1 --recipe modelnet\n" in named
    assert "on 6 clouds of the test split" in chosen


def test_a_resumed_run_has_the_recipe_it_had(run_command, two_classes, bert, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert begin(run_command, two_classes.path, bert, out, *SMALL, "--epochs", "1").code == 0
    monkeypatch.setattr(training_run, "choose_recipe", lambda _: "modelnet")  # another machine's
    result = begin(run_command, two_classes.path, bert, out, *SMALL, "--epochs", "2", "--resume")
    assert result.code == 0, result.err
    assert "recipe small-data (16 clouds, 2 classes): 2 epochs" in result.err
    result = begin(
        run_command, two_classes.path, bert, out, *SMALL, "--epochs", "3", "--resume", "--recipe", "modelnet"
    )
    assert result.code == 2
    assert f"learning_rate was {read_recipe('small-data').learning_rate}" in result.err


def test_seeds_share_the_chosen_recipe(run_command, two_classes, bert, tmp_path):
    out = tmp_path / "out"
    first = begin(run_command, two_classes.path, bert, out, *SMALL, "--epochs", "1", "--seeds", "0,1", "--json")
    assert first.code == 0, first.err
    assert first.err.count("recipe small-data (16 clouds") == 2
    runs = json.loads((out / "seeds.json").read_text())
    assert runs["settings"]["config"]["adapter_start"] == read_recipe("small-data").config["adapter_start"]
    assert runs["settings"]["warm_up_share"] == read_recipe("small-data").warm_up_share
    assert set(json.loads(first.out)["linear_probe_accuracy"]) == {"mean", "deviation"}
    other = begin(
        run_command, two_classes.path, bert, out, *SMALL, "--epochs", "1", "--seeds", "0,1", "--recipe", "modelnet"
    )
    assert other.code == 2
    assert "these differ: config was" in other.err
