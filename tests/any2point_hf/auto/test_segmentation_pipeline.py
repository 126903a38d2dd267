"""`pipeline("point-cloud-segmentation")`, and features of points."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import pipeline

from any2point_hf import PointCloudSegmentationPipeline, label_points
from any2point_hf.modeling.errors import ConfigurationError, DatasetError, PointCloudError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def segment(tiny_segmenter):
    return pipeline("point-cloud-segmentation", model=str(tiny_segmenter.folder), device="cpu")


@pytest.fixture(scope="module")
def clouds():
    return [np.random.default_rng(size).normal(size=(size, 3)).astype(np.float32) for size in (64, 20, 200)]


@pytest.fixture(scope="module")
def expected(tiny_segmenter, clouds):
    return [label_points(tiny_segmenter.model, tiny_segmenter.processor, cloud) for cloud in clouds]


def assert_same(result, labelled):
    assert result["parts"] == labelled.parts.tolist()
    np.testing.assert_allclose(result["scores"], labelled.probabilities, atol=1e-5)
    for row, part in zip(result["labels"], labelled.summary()["parts"], strict=True):
        assert (row["id"], row["label"], row["share"]) == (part["id"], part["name"], part["share"])
        assert row["score"] == pytest.approx(part["confidence"], abs=1e-5)
    assert result["category"] == labelled.category


def test_one_cloud_and_several(segment, clouds, expected, tmp_path):
    assert type(segment) is PointCloudSegmentationPipeline
    np.save(tmp_path / "a.npy", clouds[2])
    for form in (
        clouds[2],
        torch.tensor(clouds[2]),
        clouds[2].tolist(),
        str(tmp_path / "a.npy"),
        {"points": clouds[2]},
    ):
        assert_same(segment(form), expected[2])
    for options in ({}, {"batch_size": 1}, {"batch_size": 3}, {"num_workers": 1}):
        for result, labelled in zip(segment(clouds, **options), expected, strict=True):
            assert_same(result, labelled)


def test_streams(segment, clouds, expected):
    for stream in (iter(clouds), Dataset.from_dict({"points": [cloud.tolist() for cloud in clouds]})):
        results = list(segment(stream))
        for result, labelled in zip(results, expected, strict=True):
            assert_same(result, labelled)


def test_tensors(segment, clouds, expected):
    result = segment(clouds[0], return_tensors=True)
    assert torch.equal(result["parts"], torch.from_numpy(expected[0].parts))
    assert result["scores"].dtype == torch.float32


def test_a_category_in_a_call_or_for_all_calls(segmenter_with_categories, clouds):
    arguments = {"model": segmenter_with_categories.model, "processor": segmenter_with_categories.processor}
    told = pipeline("point-cloud-segmentation", **arguments, category="zebra")
    labelled = label_points(
        segmenter_with_categories.model, segmenter_with_categories.processor, clouds[2], category="zebra"
    )
    assert_same(told(clouds[2]), labelled)
    assert set(told(clouds[2], category="ant")["parts"]) <= {0, 1}
    untold = pipeline("point-cloud-segmentation", **arguments)
    for category, said in ((None, "one of zebra, ant, got none"), ("horse", 'got "horse"')):
        with pytest.raises(DatasetError, match=said):
            untold(iter(clouds), category=category)


def test_a_bad_cloud_is_refused_before_the_model_runs(segment, clouds, monkeypatch):
    monkeypatch.setattr(segment, "_forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(PointCloudError, match=r"inputs\[1\] must have at least 8 distinct points"):
        segment([clouds[0], clouds[1][:5]])


def test_an_adapter_of_the_other_task_is_one_clear_line(tiny_adapter, tiny_segmenter):
    for task, adapter, other in (
        ("point-cloud-classification", tiny_segmenter, "point-cloud-segmentation"),
        ("point-cloud-segmentation", tiny_adapter, "point-cloud-classification"),
    ):
        with pytest.raises(ConfigurationError) as refused:
            pipeline(task, model=str(adapter.folder))
        assert "this pipeline needs a model of the class" in str(refused.value)
        assert f'Use pipeline("{other}", model=…)' in str(refused.value)
        assert "\n" not in str(refused.value)


@torch.no_grad()
def test_features_of_points_are_those_of_the_nearest_tokens(segmenter_with_categories, clouds):
    arguments = {"model": segmenter_with_categories.model, "processor": segmenter_with_categories.processor}
    extract = pipeline("point-cloud-feature-extraction", **arguments)
    result = extract(clouds[2], return_points=True, return_tokens=True, return_tensors=True)
    assert (result["points"].shape, result["point_features"].shape) == ((64, 3), (64, 48))
    assert torch.equal(result["points"], segmenter_with_categories.processor(clouds[2])["points"][0])
    squared = torch.cdist(result["points"].double(), result["centers"].double()).square()
    nearest = squared.topk(3, largest=False)
    for point in range(64):
        weights = 1 / nearest.values[point].clamp(min=1e-30)
        mixed = (weights / weights.sum()) @ result["tokens"].double()[nearest.indices[point]]
        torch.testing.assert_close(result["point_features"][point].double(), mixed, atol=1e-4, rtol=0)
    assert torch.equal(extract(clouds[2], return_tensors=True), result["features"])
