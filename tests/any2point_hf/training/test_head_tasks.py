"""Several classes of a cloud, and numbers, from training to every way to ask the adapter; and weights of classes."""

import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features
from transformers import pipeline

from any2point_hf import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointProcessor,
    load_point_cloud_dataset,
    make_trainer,
)
from any2point_hf.data.augmentation import Augmentation
from any2point_hf.data.targets import target_array
from any2point_hf.modeling.errors import Any2PointError, ConfigurationError, DatasetError
from any2point_hf.trained_adapter import evaluate, open_split, predict, task_of
from any2point_hf.training.head_tasks import balanced_weights, head_config_fields, warn_of_lost_sizes
from any2point_hf.training.recipe import Recipe, read_recipe
from any2point_hf.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(epochs=12, batch_size=8, learning_rate=1e-2, scale_to_unit_sphere=False)
FIELDS = {
    "num_points": 64,
    "num_neighbors": 8,
    "num_views": 2,
    "backbone_blocks": 1,
    "aggregation": "none",
    "adapter_start": "zero",
    "neighborhood_norm": "deviation",
}
KINDS = ("flat", "large")


def boxes(count, seed):
    """Clouds in boxes of random sides, their volume and height, and which of `KINDS` they are."""
    generator = np.random.default_rng(seed)
    sides = generator.uniform(0.3, 1.5, (count, 3))
    points = (generator.random((count, 80, 3)) - 0.5) * sides[:, None]
    return (
        points.astype(np.float32),
        sides.prod(axis=1),
        sides[:, 2],
        np.stack([sides[:, 2] < 0.9, sides[:, 0] > 0.9], 1),
    )


@pytest.fixture(scope="module")
def data():
    """By task, a DatasetDict of 64 and 16 boxes."""
    made = {}
    for split, (count, seed) in {"train": (64, 0), "test": (16, 1)}.items():
        points, volume, height, kinds = boxes(count, seed)
        made[split] = {"points": points.tolist(), "volume": 1000 * volume, "height": height - 50, "kinds": kinds}
    regression = {
        split: Dataset.from_dict({name: rows[name] for name in ("points", "volume", "height")})
        for split, rows in made.items()
    }
    several = {
        split: Dataset.from_dict(
            {
                "points": rows["points"],
                "label": [[KINDS[i] for i in np.flatnonzero(row)] for row in rows["kinds"]],
            }
        )
        for split, rows in made.items()
    }
    return {"regression": DatasetDict(regression), "multi-label": DatasetDict(several)}


@pytest.fixture(scope="module", params=["regression", "multi-label"])
def trained(request, tmp_path_factory, bert, data, one_thread):
    folder = tmp_path_factory.mktemp("heads") / "adapter"
    changes = {"augmentation": {"scale": (1.0, 1.0), "shift": 0.0}}
    metrics = train(data[request.param], str(bert), folder, FIELDS, RECIPE, task=request.param, **changes)
    return request.param, folder, metrics


def cloud_files(data, task, folder, count=3):
    files = [folder / f"{index}.npy" for index in range(count)]
    for file, points in zip(files, data[task]["test"]["points"], strict=False):
        np.save(file, np.array(points, dtype=np.float32))
    return [str(file) for file in files]


def test_training_evaluation_and_the_card_say_the_same(trained, data):
    task, folder, metrics = trained
    result = evaluate(str(folder), data[task], batch_size=5)
    assert result["num_clouds"] == 16
    for name in (
        ("r2", "mae", "rmse") if task == "regression" else ("mean_average_precision", "f1_micro", "exact_match")
    ):
        assert result[name] == pytest.approx(metrics[name], rel=1e-4), name
    assert "linear_probe_accuracy" not in metrics
    card = (folder / "README.md").read_text(encoding="utf-8")
    index = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
    assert index[0]["task"]["type"] == f"point-cloud-{task}"
    (main, *_) = [metric for entry in index for metric in entry["metrics"]]
    assert main["value"] == pytest.approx(next(iter(metrics.values())), rel=1e-3)
    for name in (*data_names(task), "training_curves.png"):
        assert name in card
    assert "confusion" not in card
    assert not (folder / "images" / "confusion_matrix.png").exists()


def data_names(task):
    return ("height", "volume") if task == "regression" else KINDS


def test_the_loss_falls_and_more_is_known_than_a_constant_says(trained, data):
    task, folder, metrics = trained
    assert task_of(str(folder)) == task
    if task == "regression":
        assert metrics["r2"] > 0.3
        config = json.loads((folder / "config.json").read_text())
        targets = np.array([data[task]["train"]["volume"][:], data[task]["train"]["height"][:]], np.float32)
        np.testing.assert_allclose(config["target_mean"], targets.mean(axis=1), rtol=1e-5)
        np.testing.assert_allclose(config["target_std"], targets.std(axis=1), rtol=1e-5)
    else:
        assert metrics["mean_average_precision"] > 0.6


def test_every_way_to_ask_gives_the_same_answers(trained, data, tmp_path, run_command):
    task, folder, _ = trained
    files = cloud_files(data, task, tmp_path)
    model = Any2PointForPointCloudClassification.from_pretrained(folder)
    processor = Any2PointProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**processor(files)).logits
    answers, ask = predict(str(folder), files), pipeline("point-cloud-classification", model=str(folder))
    piped = ask(files)
    result = run_command("predict", *files, "--model", folder, "--json")
    assert json.loads(result.out) == answers
    (tmp_path / "clouds").mkdir()
    for file in files:
        (tmp_path / "clouds" / file.rpartition("/")[2]).write_bytes(Path(file).read_bytes())
    assert run_command("predict", tmp_path / "clouds", "--model", folder, "--out", tmp_path / "all.parquet").code == 0
    table = pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pylist()
    for row, (answer, given) in enumerate(zip(answers, piped, strict=True)):
        if task == "regression":
            expected = dict(zip(("volume", "height"), logits[row].tolist(), strict=True))
            assert answer["values"] == pytest.approx(expected, rel=1e-5)
            assert {entry["label"]: entry["value"] for entry in given} == pytest.approx(expected, rel=1e-5)
            assert {name: table[row][name] for name in expected} == pytest.approx(expected, rel=1e-5)
            assert abs(answer["values"]["height"] + 49) < 3  # in its own unit
        else:
            expected = dict(zip(KINDS, logits[row].sigmoid().tolist(), strict=True))
            assert {entry["label"]: entry["probability"] for entry in answer["classes"]} == pytest.approx(
                expected, abs=1e-5
            )
            assert {entry["label"]: entry["score"] for entry in given} == pytest.approx(expected, abs=1e-5)
            chosen = [name for name, value in expected.items() if value >= 0.5]
            assert (answer["labels"], table[row]["labels"]) == (chosen, chosen)
            assert sorted(entry["label"] for entry in ask(files[row], threshold=0.5)) == sorted(chosen)


def test_the_command_line_prints_them(trained, data, tmp_path, run_command):
    task, folder, _ = trained
    files = cloud_files(data, task, tmp_path, 1)
    printed = run_command("predict", *files, "--model", folder).out
    data[task].save_to_disk(tmp_path / "data")
    result = run_command("evaluate", "--model", folder, "--data", tmp_path / "data")
    assert result.code == 0, result.err
    for name in data_names(task):
        assert name in printed
        assert name in result.out
    assert ("R² " if task == "regression" else "exact match ") in result.out.splitlines()[-1]
    assert json.loads(run_command("evaluate", "--model", folder, "--data", tmp_path / "data", "--json").out)


def test_what_makes_no_sense_is_one_clear_error(trained, data, tmp_path, run_command, two_classes):
    task, folder, _ = trained
    data[task].save_to_disk(tmp_path / "data")
    where = ("--model", folder, "--data", tmp_path / "data")
    for arguments in (
        *[("evaluate", *where, option) for option in ("--corruptions", "--retrieval", "--probe")],
        ("calibrate", *where, "--split", "test"),
        ("predict", *cloud_files(data, task, tmp_path, 1), "--model", folder, "--min-confidence", "0.5"),
        ("evaluate", "--model", folder, "--data", two_classes.path),
    ):
        result = run_command(*arguments)
        assert result.code == 2, arguments
        assert "Traceback" not in result.err
        assert "class" in result.err
    if task == "regression":
        ask = pipeline("point-cloud-classification", model=str(folder))
        with pytest.raises(ConfigurationError, match="top_k is for classes"):
            ask(cloud_files(data, task, tmp_path, 1), top_k=2)
        from any2point_hf.web_demo.inference import load_adapters

        with pytest.raises(Any2PointError, match="the demo shows classes"):
            load_adapters([str(folder)])


def test_answers_are_compared_by_name_and_not_by_order(trained, data):
    task, folder, _ = trained
    if task == "regression":
        turned = {name: split.select_columns(["height", "points", "volume"]) for name, split in data[task].items()}
    else:
        turned = {
            name: split.map(lambda row: {"label": {kind: kind in row["label"] for kind in KINDS[::-1]}})
            for name, split in data[task].items()
        }
    assert evaluate(str(folder), turned) == evaluate(str(folder), data[task])
    if task == "regression":
        unfit, options, message = data[task], {"label_column": "volume"}, "must have the model's targets"
    else:
        unfit = data[task].map(lambda row: {"label": [*row["label"], "green"]})
        options, message = {}, "must be among the model's"
    with pytest.raises(DatasetError, match=message):
        evaluate(str(folder), unfit, **options)


# Config and checks


def test_the_config_says_what_the_data_have(data):
    dataset = load_point_cloud_dataset(data["regression"], task="regression")
    fields = head_config_fields(dataset)
    assert fields["id2label"] == {0: "volume", 1: "height"}
    assert fields["problem_type"] == "regression"
    assert fields["target_mean"] == pytest.approx(target_array(dataset["train"]).mean(axis=0), rel=1e-6)
    several = head_config_fields(load_point_cloud_dataset(data["multi-label"], task="multi-label"))
    assert several == {
        "id2label": {0: "flat", 1: "large"},
        "label2id": {"flat": 0, "large": 1},
        "problem_type": "multi_label_classification",
    }


def test_a_constant_target_is_refused(data):
    splits = data["regression"].map(lambda row: {"height": 1.0})
    with pytest.raises(DatasetError, match="height is the same for all"):
        head_config_fields(load_point_cloud_dataset(splits, task="regression"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 2}, "task='regression' for numbers"),
        ({"problem_type": "regression", "id2label": {0: "height", 1: "volume"}}, "in their order"),
        ({"problem_type": "regression", "id2label": {0: "volume", 1: "height"}}, "no target_mean"),
    ],
)
def test_a_model_of_another_kind_is_refused(bert, data, tmp_path, fields, message):
    config = Any2PointConfig(backbone=bert, **FIELDS, **fields)
    model, processor = Any2PointForPointCloudClassification(config), Any2PointProcessor(64)
    dataset = load_point_cloud_dataset(data["regression"], task="regression")
    with pytest.raises(DatasetError, match=message):
        make_trainer(model, processor, dataset, tmp_path)


@pytest.mark.parametrize("task", ["regression", "multi-label"])
def test_a_split_on_which_nothing_can_be_measured_is_refused_before_the_training(bert, data, tmp_path, task):
    splits = load_point_cloud_dataset(data[task], task=task)
    alike = splits["test"].map(lambda row: {"label": dict.fromkeys(row["label"], 0.0)})
    splits["test"] = alike.cast(splits["train"].features)
    with pytest.raises(DatasetError, match="of the split 'test', on which"):
        train(splits, str(bert), tmp_path / "out", FIELDS, RECIPE, task=task)
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_what_is_computed_from_the_data_is_not_set(bert, data, tmp_path):
    fields = FIELDS | {"target_mean": [5.0, 5.0], "target_std": [7.0, 7.0]}
    with pytest.raises(ConfigurationError, match="target_mean is computed from the training clouds"):
        train(data["regression"], str(bert), tmp_path / "out", fields, RECIPE, task="regression")


def test_the_python_of_a_regression_s_card_names_its_whole_recipe(bert, data):
    """make_trainer's own recipe for numbers is not the default one, from which the code would else differ."""
    from any2point_hf.training.repeating import training_code

    fields = head_config_fields(load_point_cloud_dataset(data["regression"], task="regression"))
    config = Any2PointConfig(backbone=bert, **FIELDS, **fields)
    recipe = Recipe(epochs=2, augmentation=Augmentation((0.9, 1.1)))
    code = training_code("shapes-measures", config, "out", recipe, 0, None)
    line = next(line for line in code.splitlines() if line.startswith("recipe = "))
    found: dict = {}
    exec(f"from any2point_hf.data.augmentation import Augmentation\n{line}", {"Recipe": Recipe}, found)
    assert found["recipe"] == recipe
    assert "make_trainer(model, processor, dataset, output, recipe, seed=0)" in code


def test_weights_of_three_classes_are_trained_by_several_seeds(run_command, bert, tmp_path):
    command = ["train", "--data", "shapes", "--backbone", bert, "--output", tmp_path / "out", "--seeds", "0,1"]
    weights = json.dumps([1.0] * 11)
    result = run_command(*command, "--num-points", "64", "--epochs", "1", "--set", f"class_weight={weights}")
    assert result.code == 2  # shapes has ten classes, a config without data two
    assert 'must be "balanced" or 10 numbers' in result.err


def test_a_problem_type_against_the_data_is_refused(bert, two_classes, tmp_path):
    with pytest.raises(ConfigurationError, match="problem_type follows from the data"):
        train(two_classes.path, str(bert), tmp_path / "out", {"problem_type": "regression"}, RECIPE)


def test_lost_sizes_are_told():
    kept = read_recipe("regression")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_lost_sizes(kept.scale_to_unit_sphere, kept.augmentation)
    with pytest.warns(UserWarning, match="unit sphere .* and the augmentation scales them by 0.666667 to 1.5"):
        warn_of_lost_sizes(True, Recipe().augmentation)


# Weights of classes


def uneven(two_classes):
    """Twelve balls and four discs to train on."""
    arrays = two_classes.arrays(32, 8)
    labels = arrays["labels"]
    chosen = np.r_[np.flatnonzero(labels[:32] == 0)[:12], np.flatnonzero(labels[:32] == 1)[:4]]
    types = Features(points=load_point_cloud_dataset(two_classes.path)["train"].features["points"])
    types["label"] = ClassLabel(names=["ball", "disc"])
    rows = [{"points": arrays["points"][rows], "label": labels[rows]} for rows in (chosen, np.arange(32, 40))]
    return DatasetDict(zip(("train", "test"), (Dataset.from_dict(part, features=types) for part in rows), strict=True))


def test_balanced_weights_are_those_of_scikit_learn(two_classes):
    from sklearn.utils.class_weight import compute_class_weight

    train_split = uneven(two_classes)["train"]
    expected = compute_class_weight("balanced", classes=np.arange(2), y=np.array(train_split["label"][:]))
    assert balanced_weights(train_split) == pytest.approx(expected) == [16 / 24, 16 / 8]
    assert {type(weight) for weight in balanced_weights(train_split)} == {float}  # as a card's Python writes them
    absent = train_split.cast_column("label", ClassLabel(names=["ball", "disc", "cube"]))
    assert balanced_weights(absent) == pytest.approx([16 / 24, 16 / 8, 1.0])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("balanced", [16 / 24, 2.0]),
        ([0.5, 3.0], [0.5, 3.0]),
        ((0.5, 3), [0.5, 3.0]),
        (np.array([0.5, 3.0], dtype=np.float32), [0.5, 3.0]),
        (torch.tensor([0.5, 3.0]), [0.5, 3.0]),
    ],
)
def test_weights_go_into_the_config_and_the_loss(bert, two_classes, tmp_path, given, kept):
    dataset = uneven(two_classes)
    config = Any2PointConfig(backbone=bert, **FIELDS, id2label={0: "ball", 1: "disc"})
    model = Any2PointForPointCloudClassification(config)
    trainer = make_trainer(model, Any2PointProcessor(64), dataset, tmp_path, Recipe(batch_size=8), class_weight=given)
    assert model.config.class_weight == pytest.approx(kept)
    loss = trainer.evaluate()["eval_loss"]
    output = trainer.predict(trainer.eval_dataset)
    logits, labels = torch.from_numpy(output.predictions), torch.from_numpy(output.label_ids)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none") * torch.tensor(kept)[labels]
    assert loss == pytest.approx(each.mean().item(), rel=1e-5)


def test_the_command_line_sets_them_and_goes_on_with_them(run_train, two_classes, tmp_path):
    output = tmp_path / "trained"
    assert run_train("--set", "class_weight=balanced", "--set", "aggregation=none").code == 0
    assert json.loads((output / "config.json").read_text())["class_weight"] == [1.0, 1.0]
    again = run_train("--set", "class_weight=balanced", "--set", "aggregation=none", "--resume", "--epochs", "2")
    assert again.code == 0, again.err
    wrong = run_train("--set", "class_weight=[1,2,3]", output=tmp_path / "other")
    assert wrong.code == 2
    assert "2 numbers (num_labels)" in wrong.err


def test_gradients_do_not_depend_on_how_a_step_is_divided(bert, two_classes):
    """As with several processes or accumulated gradients: the mean of halves is the whole's."""
    config = Any2PointConfig(backbone=bert, **FIELDS, num_labels=2, class_weight=[0.3, 4.0], head_bias=True)
    model = Any2PointForPointCloudClassification(config).eval()  # whose norms look at no batch
    points = torch.from_numpy(two_classes.arrays()["points"][:8])
    points, labels = points[:, :64], torch.tensor([0, 0, 0, 1, 0, 1, 1, 1])
    gradients = []
    for size in (8, 4, 2):
        model.zero_grad()
        for rows in torch.arange(8).split(size):
            (model(points[rows], labels=labels[rows]).loss * size / 8).backward()
        gradients.append(model.classifier.output.weight.grad.clone())
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-7)


def test_only_data_of_classes_are_split_by_class(data, tmp_path, bert):
    from any2point_hf.data.validation import hold_out_validation

    dataset = load_point_cloud_dataset(data["regression"], task="regression")
    parts = hold_out_validation(dataset, 0.25)
    assert {name: len(part) for name, part in parts.items()} == {"train": 48, "validation": 16, "test": 16}
    metrics = train(
        data["regression"], str(bert), tmp_path / "out", FIELDS, RECIPE, task="regression", validation_share=0.25,
        epochs=2, augmentation={"scale": (1.0, 1.0)},
    )  # fmt: skip
    assert {"best_epoch", "validation_r2", "best_epoch_r2"} <= metrics.keys()
    opened = open_split(str(tmp_path / "out"), data["regression"])
    assert opened.targets.shape == (16, 2)
    with pytest.raises(DatasetError, match="needs a class for each cloud, got numbers"):
        _ = opened.labels
