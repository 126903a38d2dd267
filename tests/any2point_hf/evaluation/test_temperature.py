import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import pipeline

from any2point_hf import Any2PointForPointCloudClassification, trained_adapter
from any2point_hf.evaluation.calibration import fit_temperature


@pytest.fixture
def folder(adapter, tmp_path):
    return shutil.copytree(adapter, tmp_path / "adapter")


@pytest.fixture(scope="module")
def hard(two_classes, tmp_path_factory):
    """Held-out clouds, a quarter of them with the other class's label, so that no answer can be sure."""
    arrays = two_classes.arrays(num_train=8, num_test=40)
    wrong = np.flatnonzero(arrays["split"] == 1)[::4]
    arrays["labels"][wrong] = 1 - arrays["labels"][wrong]
    path = tmp_path_factory.mktemp("data") / "hard.npz"
    np.savez(path, **arrays)
    return path


def test_it_is_fitted_written_and_used_everywhere(run_command, folder, hard, two_classes, tmp_path):
    before = trained_adapter.evaluate(str(folder), str(hard))
    asked = ("calibrate", "--model", folder, "--data", hard, "--split", "test", "--json")
    result = json.loads(run_command(*asked).out)
    opened = trained_adapter.open_split(str(folder), str(hard))
    logits = trained_adapter.logits_of(opened.model, torch.cat(list(opened.batches(8))))
    assert result["temperature"] == pytest.approx(fit_temperature(logits, torch.from_numpy(opened.labels)), rel=1e-6)
    assert result["temperature"] > 1.5  # it was too sure
    assert result["num_clouds"] == 40
    assert result["before"] == pytest.approx(before["expected_calibration_error"])
    after = trained_adapter.evaluate(str(folder), str(hard))
    assert after["expected_calibration_error"] == pytest.approx(result["after"])
    assert result["after"] < result["before"]
    assert after["confusion"] == before["confusion"]

    cloud = tmp_path / "clouds" / "cloud.npy"
    cloud.parent.mkdir()
    np.save(cloud, two_classes.arrays()["points"][0])
    expected = (opened.model(**opened.processor(str(cloud))).logits[0] / result["temperature"]).softmax(dim=-1).max()
    assert opened.model.config.temperature == result["temperature"]
    (answer,) = trained_adapter.predict(str(folder), [str(cloud)])
    classify = pipeline("point-cloud-classification", model=str(folder))
    out = tmp_path / "classes.parquet"
    assert run_command("predict", cloud.parent, "--model", folder, "--out", out).code == 0
    for found in (
        answer["classes"][0]["probability"],
        classify(str(cloud))[0]["score"],
        pq.read_table(out)["probability"][0].as_py(),
    ):
        assert found == pytest.approx(float(expected.detach()), abs=1e-5)


def test_it_is_saved_and_loaded_with_the_adapter(folder, hard, run_command, tmp_path):
    assert run_command("calibrate", "--model", folder, "--data", hard, "--split", "test").code == 0
    model = Any2PointForPointCloudClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    again = Any2PointForPointCloudClassification.from_pretrained(tmp_path / "again")
    assert again.config.temperature == model.config.temperature != 1


def test_unsure_answers(run_command, adapter, two_classes, tmp_path):
    np.save(tmp_path / "cloud.npy", two_classes.arrays()["points"][0])
    (sure,) = trained_adapter.predict(str(adapter), [str(tmp_path / "cloud.npy")], min_confidence=0.0)
    probability = sure["classes"][0]["probability"]
    assert sure["answer"] == sure["classes"][0]["label"]
    asked = ("predict", tmp_path / "cloud.npy", "--model", adapter)
    assert "answer" not in json.loads(run_command(*asked, "--json").out)[0]
    for least, is_sure in ((probability - 1e-3, True), (min(1.0, probability + 1e-3), False)):
        (told,) = json.loads(run_command(*asked, "--min-confidence", f"{least:.6f}", "--json").out)
        assert (told["answer"] is not None) == is_sure
        line = run_command(*asked, "--min-confidence", f"{least:.6f}").out
        assert (": unsure: " in line) != is_sure
    (tmp_path / "clouds").mkdir()
    np.save(tmp_path / "clouds" / "cloud.npy", two_classes.arrays()["points"][0])
    for least, expected in (("0", sure["answer"]), ("1", None)):
        out = tmp_path / f"{least}.parquet"
        options = ("--model", adapter, "--out", out, "--min-confidence", least)
        assert run_command("predict", tmp_path / "clouds", *options).code == 0
        assert pq.read_table(out)["answer"].to_pylist() == [expected]


def test_mistakes(run_command, adapter, folder, two_classes):
    cases = {
        ("calibrate", "--model", folder, "--data", two_classes.path): "--split must be one of train, test",
        ("calibrate", "--model", folder, "--data", two_classes.path, "--split", "train"): "not trained on",
        ("calibrate", "--model", "user/name", "--data", two_classes.path): "is no folder with a config.json",
        ("predict", two_classes.path, "--model", folder, "--min-confidence", "2"): "must lie in 0…1, got 2",
    }
    for asked, message in cases.items():
        result = run_command(*asked)
        assert (result.code, message in result.err) == (2, True), result.err
    before = (adapter / "config.json").read_bytes()
    assert (folder / "config.json").read_bytes() == before
