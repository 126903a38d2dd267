"""Evaluation of a segmenter: all points of every cloud, against clouds labelled one at a time."""

import json

import numpy as np
import pytest

from any2point_hf import label_points, load_point_cloud_dataset, trained_adapter
from any2point_hf.data.parts.dataset import LabelledCloud, build_part_dataset_dict
from any2point_hf.evaluation.segmentation import evaluate_parts
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.segmentation.part_metrics import part_metrics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded(part_adapter):
    return trained_adapter.load_segmenter(str(part_adapter))


def test_all_points_count(part_adapter, loaded, two_categories):
    """Clouds have 80 points, and the model takes 64 at once."""
    result = trained_adapter.evaluate(str(part_adapter), two_categories.path)
    arrays = two_categories.arrays()
    test = arrays["split"] == 1
    clouds = zip(arrays["points"][test], arrays["category"][test].tolist(), strict=True)
    predicted = [label_points(*loaded, cloud, category=category).parts for cloud, category in clouds]
    truth, categories = list(arrays["part"][test]), arrays["category"][test].tolist()
    names = arrays["part_names"].tolist()
    expected = part_metrics(predicted, truth, names, categories, {"ball": [0, 1], "disc": [2, 3]})
    assert {name: result[name] for name in expected} == expected
    assert (result["num_clouds"], result["num_points"]) == (8, 640)
    assert np.sum(result["confusion"]) == 640
    assert np.trace(result["confusion"]) / 640 == result["accuracy"]
    assert 0.6 < result["instance_miou"] <= 1
    assert "scene" not in result


def test_the_batch_size_changes_nothing(part_adapter, two_categories):
    results = [trained_adapter.evaluate(str(part_adapter), two_categories.path, batch_size=size) for size in (1, 32)]
    assert results[0] == results[1]


def test_parts_and_categories_are_told_by_their_names(loaded, two_categories):
    dataset = load_point_cloud_dataset(two_categories.path)["test"]
    rows = dataset.with_format("numpy")
    turned = [LabelledCloud(row["points"], 3 - row["part"]) for row in rows]
    names, categories = (
        ["disc/middle", "disc/rim", "ball/high", "ball/low"],
        [1 - value for value in dataset["category"]],
    )
    other = build_part_dataset_dict({"test": (turned, categories)}, names, ["disc", "ball"])["test"]
    assert evaluate_parts(*loaded, other) == evaluate_parts(*loaded, dataset)


def test_without_categories_it_is_also_measured_as_a_scene(tiny_segmenter):
    generator = np.random.default_rng(0)
    clouds = [
        LabelledCloud(points, np.where(points[:, 0] > 0.5, -100, points[:, 1] > 0))
        for points in generator.normal(size=(3, 90, 3)).astype(np.float32)
    ]
    names = list(tiny_segmenter.part_names)
    split = build_part_dataset_dict({"test": (clouds, None)}, names)["test"]
    result = evaluate_parts(tiny_segmenter.model, tiny_segmenter.processor, split)
    predicted = [label_points(tiny_segmenter.model, tiny_segmenter.processor, cloud.points).parts for cloud in clouds]
    right, either = np.zeros(5), np.zeros(5)
    for cloud, parts in zip(clouds, predicted, strict=True):
        for part in range(5):
            kept = np.asarray(cloud.part) != -100
            found, true = (parts == part)[kept], (np.asarray(cloud.part) == part)[kept]
            right[part] += (found & true).sum()
            either[part] += (found | true).sum()
    ious = [a / b for a, b in zip(right, either, strict=True) if b]
    assert result["scene"]["scene_miou"] == pytest.approx(np.mean(ious))
    assert result["num_points"] == sum((np.asarray(cloud.part) != -100).sum() for cloud in clouds)


def test_what_the_model_does_not_know(loaded, two_categories):
    split = load_point_cloud_dataset(two_categories.path)["test"]
    with pytest.raises(DatasetError, match=r"must be told each cloud's category.*no column 'category'"):
        evaluate_parts(*loaded, split.remove_columns("category"))
    clouds = [LabelledCloud(row["points"], row["part"]) for row in split.with_format("numpy")]
    other = build_part_dataset_dict({"test": (clouds, None)}, ["ball/low", "ball/high", "disc/rim", "disc/hole"])[
        "test"
    ]
    with pytest.raises(DatasetError, match=r"parts must be among the model's .*got also disc/hole"):
        evaluate_parts(*loaded, other)


def test_on_the_command_line(run_command, part_adapter, two_categories):
    arguments = ("evaluate", "--model", part_adapter, "--data", two_categories.path)
    result = run_command(*arguments, "--json")
    assert result.code == 0, result.err
    values = json.loads(result.out)
    shown = run_command(*arguments)
    assert shown.out.splitlines()[-1] == (
        f"instance mIoU {values['instance_miou']:.4f}, class mIoU {values['class_miou']:.4f}, accuracy "
        f"{values['accuracy']:.4f} of 640 points in 8 clouds"
    )
    for name, iou in {**values["per_part"], **values["per_category"]}.items():
        assert f"{name:>16}  {iou:.4f}" in shown.out.splitlines()


@pytest.mark.parametrize("option", ["--corruptions", "--retrieval", "--probe"])
def test_measures_of_classes_are_refused(run_command, part_adapter, two_categories, option):
    result = run_command("evaluate", "--model", part_adapter, "--data", two_categories.path, option)
    assert result.code == 2
    assert "are about one class a cloud" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_data_of_the_other_task(run_command, part_adapter, adapter, two_classes, two_categories, tmp_path):
    result = run_command("evaluate", "--model", part_adapter, "--data", two_classes.path)
    assert result.code == 2
    assert "is an adapter for segmentation, which needs a part for each point" in result.err.splitlines()[-1]
    result = run_command("evaluate", "--model", adapter, "--data", two_categories.path)
    assert result.code == 2
    assert "is an adapter for classification, which needs a class for each cloud" in result.err.splitlines()[-1]
    (tmp_path / "training_run.json").write_text("{}")  # what a stopped training leaves
    result = run_command("evaluate", "--model", tmp_path, "--data", two_categories.path)
    assert result.code == 2
    assert "with config.json and a whole model.safetensors" in result.err.splitlines()[-1]
    result = run_command("evaluate", "--model", part_adapter, "--data", "nowhere.npz")
    assert "nowhere.npz" in result.err
    assert "segmentation, which needs" not in result.err


def test_info_and_its_diagnosis(run_command, part_adapter, two_categories):
    result = run_command("info", "--model", part_adapter, "--json")
    assert result.code == 0, result.err
    counted = json.loads(result.out)
    assert counted["trainable"] - counted["trainable_without_head"] == counted["parts"]["segmenter"]
    result = run_command("info", "--model", part_adapter, "--diagnose", two_categories.path, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["num_clouds"] == 16
