"""train, evaluate, predict and info as functions."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from any2point_hf import trained_adapter as commands
from any2point_hf.modeling import Any2PointForPointCloudClassification
from any2point_hf.processing_any2point import Any2PointProcessor
from any2point_hf.training import run as training_run

pytestmark = pytest.mark.usefixtures("one_thread")


def test_evaluation_equals_a_direct_computation(adapter, two_classes):
    result = commands.evaluate(str(adapter), str(two_classes.path), batch_size=3)
    arrays = two_classes.arrays()
    test = arrays["split"] == 1
    model = Any2PointForPointCloudClassification.from_pretrained(adapter)
    points = Any2PointProcessor.from_pretrained(adapter)(list(arrays["points"][test]))["points"]
    with torch.no_grad():
        predictions = torch.stack([model(cloud[None]).logits[0].argmax() for cloud in points]).numpy()
    correct = predictions == arrays["labels"][test]
    assert result["num_clouds"] == 8
    assert result["accuracy"] == correct.mean()
    per_class = [correct[arrays["labels"][test] == label].mean() for label in (0, 1)]
    assert result["per_class"] == {"ball": per_class[0], "disc": per_class[1]}
    assert result["mean_class_accuracy"] == np.mean(per_class)
    assert result["accuracy"] == 1.0  # so that a test that mixes up classes cannot pass by chance


def test_a_data_set_with_its_classes_in_another_order_is_mapped_by_name(adapter, two_classes, tmp_path):
    arrays = two_classes.arrays()
    permuted = {**arrays, "labels": 1 - arrays["labels"], "class_names": arrays["class_names"][::-1]}
    np.savez(tmp_path / "permuted.npz", **permuted)
    expected = commands.evaluate(str(adapter), str(two_classes.path))
    assert commands.evaluate(str(adapter), str(tmp_path / "permuted.npz")) == expected
    swapped = {**arrays, "class_names": arrays["class_names"][::-1]}  # the same labels under the other names
    np.savez(tmp_path / "swapped.npz", **swapped)
    result = commands.evaluate(str(adapter), str(tmp_path / "swapped.npz"))
    assert result["accuracy"] == 0.0
    assert result["per_class"] == {"ball": 0.0, "disc": 0.0}
    assert result["confusion"] == [[0, 4], [4, 0]]


def test_a_data_set_in_memory_with_text_for_labels(adapter, two_classes):
    arrays = two_classes.arrays()
    test = arrays["split"] == 1
    labels = [str(arrays["class_names"][label]) for label in arrays["labels"][test]]
    dataset = Dataset.from_dict({"cloud": list(arrays["points"][test]), "category": labels})
    expected = commands.evaluate(str(adapter), str(two_classes.path))
    assert commands.evaluate(str(adapter), {"test": dataset}) == expected


def test_a_data_set_with_only_some_of_the_classes(adapter, two_classes, tmp_path):
    arrays = two_classes.arrays()
    discs = arrays["labels"] == 1
    some = {name: values[discs] for name, values in arrays.items() if name != "class_names"}
    np.savez(tmp_path / "discs.npz", **{**some, "labels": 0 * some["labels"], "class_names": np.array(["disc"])})
    result = commands.evaluate(str(adapter), str(tmp_path / "discs.npz"))
    assert 0 < result.pop("expected_calibration_error") < 0.5
    assert result == {
        "accuracy": 1.0,
        "mean_class_accuracy": 1.0,
        "per_class": {"ball": None, "disc": 1.0},
        "confusion": [[0, 0], [0, 4]],
        "num_clouds": 4,
    }


def test_the_training_split_can_be_evaluated(adapter, two_classes):
    assert commands.evaluate(str(adapter), str(two_classes.path), split="train")["num_clouds"] == 16


def test_files_predicted_together_as_one_by_one(adapter, two_classes, tmp_path):
    generator = np.random.default_rng(1)
    files = []
    for number, num_points in enumerate((80, 200, 64, 80, 90)):
        files.append(tmp_path / f"{number}.npy")
        np.save(files[-1], two_classes.cloud(number % 2, generator, num_points))
    together = commands.predict(str(adapter), list(map(str, files)), batch_size=2)
    assert [result["file"] for result in together] == list(map(str, files))
    assert {result["classes"][0]["label"] for result in together} == {"ball", "disc"}
    for file, result in zip(files, together, strict=True):
        (alone,) = commands.predict(str(adapter), [str(file)])
        assert [entry["label"] for entry in alone["classes"]] == [entry["label"] for entry in result["classes"]]
        for one, other in zip(alone["classes"], result["classes"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=2e-6)


def test_the_order_of_a_files_points_changes_no_answer_but_from_the_first_point(adapter, two_classes, tmp_path):
    """Converted adapters, and those of earlier versions, start at the first point."""
    generator = np.random.default_rng(0)
    copies = {"farthest": adapter, "first": tmp_path / "first"}
    shutil.copytree(adapter, copies["first"])
    for name in ("config.json", "preprocessor_config.json"):
        settings = json.loads((copies["first"] / name).read_text(encoding="utf-8"))
        assert settings.pop("sampling_start") == "farthest"
        (copies["first"] / name).write_text(json.dumps(settings), encoding="utf-8")
    files = []
    for index in range(6):
        cloud = np.round(two_classes.cloud(index % 2, generator), 1)
        for order in ("given", "other"):
            files.append(str(tmp_path / f"{index}_{order}.npy"))
            np.save(files[-1], cloud if order == "given" else generator.permutation(cloud))
    largest = {}
    for start, folder in copies.items():
        model, processor = commands.load(str(folder))
        with torch.no_grad():
            logits = model.cpu()(**processor(files)).logits
        largest[start] = float((logits[::2] - logits[1::2]).abs().max())
    assert largest["farthest"] == 0
    assert largest["first"] > 1e-4


def test_probabilities_are_the_softmax_in_falling_order(adapter, two_classes, tmp_path):
    cloud = two_classes.cloud(1, np.random.default_rng(2))
    np.save(tmp_path / "disc.npy", cloud)
    model, processor = commands.load(str(adapter))
    with torch.no_grad():
        expected = model(processor(cloud)["points"]).logits.softmax(dim=-1)[0]
    (result,) = commands.predict(str(adapter), [str(tmp_path / "disc.npy")], top=9)
    assert [entry["label"] for entry in result["classes"]] == ["disc", "ball"]
    got = [entry["probability"] for entry in result["classes"]]
    assert got == pytest.approx([float(expected[1]), float(expected[0])], abs=1e-6)
    (best,) = commands.predict(str(adapter), [str(tmp_path / "disc.npy")], top=1)
    assert best["classes"] == result["classes"][:1]


def test_another_folder_with_the_same_backbone(adapter, bert, two_classes):
    expected = commands.evaluate(str(adapter), str(two_classes.path))
    assert commands.evaluate(str(adapter), str(two_classes.path), backbone=str(bert)) == expected


def test_a_trained_folder_holds_the_adapter_its_processor_and_a_checkpoint(adapter, bert):
    names = {path.name for path in adapter.iterdir()}
    assert names == {
        ".gitignore",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "training_run.json",
        "checkpoint-60",
        "README.md",
        "images",
    }
    config = json.loads((adapter / "config.json").read_text())
    assert config["id2label"] == {"0": "ball", "1": "disc"}
    assert config["backbone"] == str(bert.absolute())
    assert json.loads((adapter / "preprocessor_config.json").read_text())["num_points"] == 64
    last, final = (load_file(folder / "model.safetensors") for folder in (adapter / "checkpoint-60", adapter))
    assert last.keys() == final.keys()
    assert all(torch.equal(last[name], final[name]) for name in final)


def test_what_training_returns(bert, two_classes, tmp_path):
    fields = {"num_points": 64, "num_neighbors": 8}
    result = training_run.train(str(two_classes.path), str(bert), tmp_path / "out", fields, epochs=1, batch_size=8)
    evaluated = commands.evaluate(str(tmp_path / "out"), str(two_classes.path))
    assert result == {
        "accuracy": evaluated["accuracy"],
        "mean_class_accuracy": evaluated["mean_class_accuracy"],
        "linear_probe_accuracy": result["linear_probe_accuracy"],
        "adapter_megabytes": (tmp_path / "out" / "model.safetensors").stat().st_size / 1e6,
    }
    assert 0 <= result["linear_probe_accuracy"] <= 1


def test_the_counts_of_a_trained_adapter(adapter):
    result = commands.info(str(adapter), None, {})
    model = Any2PointForPointCloudClassification.from_pretrained(adapter)
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    head = sum(count for name, count in counts.items() if name.startswith("classifier."))
    assert result["total"] == sum(counts.values()) == sum(result["parts"].values())
    assert result["trainable"] == sum(counts[name] for name in trained)
    assert result["trainable_without_head"] == result["trainable"] - head
    assert result["parts"]["classifier"] == head == 96 * 256 + 256 * 256 + 4 * 256 + 2 * 256 + 2
    assert result["parts"]["backbone"] == sum(parameter.numel() for parameter in model.backbone.parameters())
    assert result["parts"]["bottlenecks"] == 2 * (48 * 16 + 16 + 16 * 48 + 48)
    assert result["parts"]["cls_token"] == result["parts"]["cls_position"] == 48


def test_the_counts_of_a_new_adapter(bert):
    with_all = commands.info(None, str(bert), {"num_labels": 2})
    without = commands.info(None, str(bert), {"num_labels": 7, "adapter_blocks": 0})
    assert without["parts"]["classifier"] - with_all["parts"]["classifier"] == 5 * (256 + 1)
    assert without["parts"].keys() == with_all["parts"].keys() - {"bottlenecks", "aggregations", "local_attention"}
    assert without["parts"]["backbone"] == with_all["parts"]["backbone"]
    one = commands.info(None, str(bert), {"num_labels": 2, "adapter_blocks": [1]})
    assert 2 * one["parts"]["bottlenecks"] == with_all["parts"]["bottlenecks"]
