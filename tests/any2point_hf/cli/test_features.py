"""`--features`: an adapter that tells balls by their colour alone, from the training to every command that uses it."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from any2point_hf import Any2PointConfig, Any2PointProcessor, load_point_cloud_dataset, make_trainer
from any2point_hf.modeling import Any2PointForPointCloudClassification, ConfigurationError
from any2point_hf.training.batches import FEATURES

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ("green", "red")


def write_ball(path, color, seed):
    """A ball in a hue; brightness tells nothing."""
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(80, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rgb = np.zeros((80, 3))
    rgb[:, ("red", "green").index(color)] = generator.uniform(0.4, 1.0) * generator.uniform(0.8, 1.0, size=80)
    table = np.column_stack([points, (255 * rgb).astype(int)])
    np.savetxt(path, table, "%.6g", ",", header="x,y,z,red,green,blue", comments="")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("balls")
    for number, color in enumerate(CLASSES):
        for split, count in (("train", 12), ("test", 4)):
            (root / split / color).mkdir(parents=True)
            for index in range(count):
                seed = 1000 * number + 100 * (split == "test") + index
                write_ball(root / split / color / f"{index}.csv", color, seed)
    return root


@pytest.fixture(scope="module")
def colored(tmp_path_factory, folder, bert):
    from any2point_hf.cli import main

    output = tmp_path_factory.mktemp("adapters") / "colored"
    arguments = ["train", "--data", folder, "--backbone", bert, "--output", output, "--features", "rgb"]
    options = ["--num-points", 64, "--num-neighbors", 8, "--epochs", 20, "--batch-size", 8, "--learning-rate", 1e-2]
    settings = ["--set", "num_views=2", "--recipe", "small-data"]
    assert main([str(argument) for argument in (*arguments, *options, *settings)]) == 0
    return output


def test_what_is_saved(colored):
    config = Any2PointConfig.from_pretrained(colored)
    assert config.point_feature_names == Any2PointProcessor.from_pretrained(colored).point_feature_names
    assert config.point_feature_names == ["red", "green", "blue"]
    card = (colored / "README.md").read_text(encoding="utf-8")
    assert "| Features of a point | `red`, `green`, `blue` |" in card
    assert "--features rgb" in card


def test_evaluate_predict_and_embed(run_command, colored, folder, tmp_path):
    result = json.loads(run_command("evaluate", "--model", colored, "--data", folder, "--json").out)
    assert (result["accuracy"], result["num_clouds"]) == (1.0, 8)
    refused = run_command("evaluate", "--model", colored, "--data", folder, "--corruptions")
    assert refused.code == 2
    assert "must not take features, got red, green, blue" in refused.err
    files = [write_ball(tmp_path / f"{color}.csv", color, 77) for color in CLASSES]
    predicted = json.loads(run_command("predict", *files, "--model", colored, "--json").out)
    assert [entry["classes"][0]["label"] for entry in predicted] == list(CLASSES)
    out = tmp_path / "classes.parquet"
    assert run_command("predict", folder / "test", "--model", colored, "--out", out).code == 0
    table = pq.read_table(out).to_pylist()
    assert [row["label"] for row in table] == [row["id"].split("/")[0] for row in table]
    assert run_command("embed", folder / "test", "--model", colored, "--out", tmp_path / "a.parquet").code == 0
    assert len(pq.read_table(tmp_path / "a.parquet")) == 8


def test_clouds_without_colours_are_refused(run_command, colored, tmp_path):
    np.savetxt(tmp_path / "plain.xyz", np.random.default_rng(0).normal(size=(80, 3)))
    refused = run_command("predict", tmp_path / "plain.xyz", "--model", colored)
    assert refused.code == 2
    assert "plain.xyz must have red, green, blue for every point" in refused.err.splitlines()[-1]
    refused = run_command("evaluate", "--model", colored, "--data", "shapes")
    assert refused.code == 2
    assert "must have columns for the features red, green, blue" in refused.err


def test_a_misspelt_feature_is_refused_before_any_work(run_command, folder, bert, tmp_path):
    options = ("--data", folder, "--backbone", bert, "--output", tmp_path / "x", "--features", "rbg")
    refused = run_command("train", *options)
    assert refused.code == 2
    assert "must have rbg for every point; the features found there are: blue, green, red" in refused.err
    assert not (tmp_path / "x").exists()


def test_training_turns_normals_and_keeps_colours_with_their_points(bert, tmp_path):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(8, 100, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    names = np.array(["a", "b"])
    arrays = {"points": points, "normal": points, "rgb": (points + 1) / 2, "class_names": names}
    np.savez(tmp_path / "a.npz", **arrays, labels=[0, 1] * 4, split=[0] * 6 + [1] * 2)
    features = ["rgb", "normal"]
    dataset = load_point_cloud_dataset(tmp_path / "a.npz", features=features)
    processor = Any2PointProcessor(64, point_feature_names=features)
    fields = {"num_points": 64, "num_neighbors": 8, "num_views": 2, "num_labels": 2}
    config = Any2PointConfig(backbone=str(bert), **fields, point_feature_names=processor.point_feature_names)
    model = Any2PointForPointCloudClassification(config)
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", epochs=1, batch_size=3)
    seen = []
    model.any2point.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    trainer.train()
    training = [inputs for inputs in seen if len(inputs[0]) == 3]
    assert training
    for batch_points, batch_features in (inputs[:2] for inputs in training):
        assert batch_features.shape == (3, 64, 6)
        normals = batch_features[..., 3:]
        assert (normals.norm(dim=-1) - 1).abs().max() < 1e-5
        centred = batch_points - batch_points.mean(dim=1, keepdim=True)
        assert (centred * normals).sum(dim=-1).median() > 0.5  # still outward, on a stretched and moved ball
        assert 0 <= batch_features[..., :3].min() <= batch_features[..., :3].max() <= 1
    assert FEATURES in trainer.eval_dataset.column_names


def test_a_processor_of_other_features_is_refused(bert, two_classes, tmp_path):
    fields = {"num_points": 64, "num_neighbors": 8, "num_views": 2, "num_labels": 2}
    model = Any2PointForPointCloudClassification(
        Any2PointConfig(backbone=str(bert), **fields, point_feature_names=["red"])
    )
    with pytest.raises(ConfigurationError, match=r"features that the model takes \(red\), got none"):
        make_trainer(model, Any2PointProcessor(64), str(two_classes.path), tmp_path)
