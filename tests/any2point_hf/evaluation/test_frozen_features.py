import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from any2point_hf import load_point_cloud_dataset, trained_adapter
from any2point_hf.evaluation.calibration import expected_calibration_error
from any2point_hf.evaluation.frozen_features import evaluate_probe, evaluate_retrieval, pooled_features
from any2point_hf.evaluation.retrieval import retrieval_scores
from any2point_hf.modeling.errors import DatasetError


@pytest.fixture(scope="module")
def opened(adapter, two_classes):
    return trained_adapter.open_split(str(adapter), str(two_classes.path))


def test_features_are_what_the_head_reads(opened):
    features = torch.from_numpy(pooled_features(opened, batch_size=3))
    rows = torch.cat(list(opened.batches(8)))
    logits = trained_adapter.logits_of(opened.model, rows)
    with torch.no_grad():
        torch.testing.assert_close(opened.model.classifier(features), logits, rtol=1e-4, atol=1e-4)


def test_retrieval_and_probe_of_two_classes_that_are_easily_told(opened):
    result = evaluate_retrieval(opened)
    scores = retrieval_scores(pooled_features(opened), opened.labels, 2)
    assert result["per_class"] == dict(zip(["ball", "disc"], scores["average_precision"], strict=True))
    assert result["recall_at_1"] == scores["recall_at_1"] == 1
    assert evaluate_probe(opened) == {"linear_probe": 1.0, "nearest_neighbors": 1.0}


def test_a_probe_needs_another_split(opened, two_classes, adapter):
    with pytest.raises(DatasetError, match=r"fitted to the split 'train'.*got --split train.*other splits are test"):
        evaluate_probe(replace(opened, split="train"))
    alone = replace(opened, dataset=type(opened.dataset)({"test": opened.clouds}))
    with pytest.raises(DatasetError, match="other splits are none"):
        evaluate_probe(alone)


def test_the_command_line(run_command, adapter, two_classes, opened):
    asked = ("evaluate", "--model", adapter, "--data", two_classes.path)
    assert json.loads(run_command(*asked, "--retrieval", "--json").out) == evaluate_retrieval(opened)
    assert run_command(*asked, "--retrieval").out.splitlines()[-1].startswith("R@1 1.0000, mAP ")
    assert json.loads(run_command(*asked, "--probe", "--json").out) == evaluate_probe(opened)
    assert run_command(*asked, "--probe").out == "linear probe 1.0000, ten nearest neighbours 1.0000\n"
    both = run_command(*asked, "--probe", "--retrieval")
    assert both.code == 2
    assert "not allowed with argument" in both.err


def test_evaluate_tells_the_calibration_error(adapter, two_classes, opened):
    logits = trained_adapter.logits_of(opened.model, torch.cat(list(opened.batches(8))))
    expected = expected_calibration_error(logits.softmax(dim=1).numpy(), opened.labels)
    result = trained_adapter.evaluate(str(adapter), str(two_classes.path))
    assert result["expected_calibration_error"] == pytest.approx(expected, abs=1e-6)
    labels = load_point_cloud_dataset(str(two_classes.path))["test"]["label"]
    np.testing.assert_array_equal(opened.labels, labels)
