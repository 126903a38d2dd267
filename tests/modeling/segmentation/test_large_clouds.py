import pytest
import torch

from any2point_hf.modeling import ConfigurationError, DatasetError, PointCloudError, label_large_cloud
from any2point_hf.modeling.segmentation.large_clouds import answer_large_cloud

PARTS = {"zebra": [0, 1], "ant": [2, 3, 4]}


@pytest.fixture(scope="module")
def model(make):
    torch.manual_seed(0)
    return make.segmenter("vit", num_labels=5)


def watch(model, monkeypatch):
    """The clouds that the model is given."""
    seen, forward = [], type(model).forward

    def record(self, points, *others, **options):
        seen.extend(points)
        return forward(self, points, *others, **options)

    monkeypatch.setattr(type(model), "forward", record)
    return seen


@torch.no_grad()
def test_each_label_is_that_of_one_subset(model, make, monkeypatch):
    points = make.points(1, 300)[0]
    seen = watch(model, monkeypatch)
    parts = label_large_cloud(model, points, batch_size=2)
    monkeypatch.undo()
    assert [cloud.shape for cloud in seen] == [(128, 3)] * 3
    number_of = {tuple(point.tolist()): number for number, point in enumerate(points)}
    rows = torch.tensor([[number_of[tuple(point.tolist())] for point in cloud] for cloud in seen])
    assert sorted(rows.flatten()[:300].tolist()) == list(range(300))  # each once, then the filling
    assert all(len(set(own.tolist())) == 128 for own in rows)
    found = torch.stack([model(cloud.unsqueeze(0)).logits[0].argmax(dim=-1) for cloud in seen])
    assert torch.equal(parts[rows.flatten()[:300]], found.flatten()[:300])
    assert parts.unique().numel() > 1


def test_labels_follow_their_points_and_are_the_same_every_time(model, make):
    points = make.points(1, 300)[0]
    points[200:] = points[:100]  # scans have points twice
    parts, order = label_large_cloud(model, points), torch.randperm(300)
    torch.manual_seed(99)
    assert torch.equal(label_large_cloud(model, points), parts)
    assert torch.equal(label_large_cloud(model, points[order]), parts[order])
    assert torch.equal(label_large_cloud(model, points, batch_size=1), parts)
    assert torch.equal(parts[200:], parts[:100])
    assert not torch.equal(label_large_cloud(model, points, seed=1), parts)


@pytest.mark.parametrize("num_points", [64, 100, 128])
@torch.no_grad()
def test_a_small_cloud_goes_through_as_it_is(model, make, num_points):
    points = make.points(1, num_points)[0]
    expected = model(points.unsqueeze(0)).logits[0].argmax(dim=-1)
    assert torch.equal(label_large_cloud(model, points), expected)


def test_categories_and_features_follow_the_points(make):
    model = make.segmenter("vit", num_labels=5, category_parts=PARTS, num_point_features=2).train()
    points, features = make.points(1, 200)[0], torch.rand(200, 2)
    for category, allowed in enumerate(PARTS.values()):
        parts = label_large_cloud(model, points, features, category=category)
        assert set(parts.tolist()) <= set(allowed)
    order = torch.randperm(200)
    assert torch.equal(label_large_cloud(model, points[order], features[order], category=1), parts[order])
    assert model.training
    with pytest.raises(DatasetError, match=r"needs category .*zebra, ant"):
        label_large_cloud(model, points, features)
    with pytest.raises(DatasetError, match=r"its number among .* got 'zebra'"):
        label_large_cloud(model, points, features, category="zebra")
    with pytest.raises(DatasetError, match=r"must lie in 0…1 .* got 2"):
        label_large_cloud(model, points, features, category=2)
    with pytest.raises(PointCloudError, match=r"\[200, F\].* got \[9, 2\]"):
        label_large_cloud(model, points, features[:9], category=0)
    with pytest.raises(PointCloudError, match=r"\[200, F\].* got ndarray"):
        label_large_cloud(model, points, features.numpy(), category=0)


def test_bad_clouds_are_refused_before_the_model_runs(model, make, monkeypatch):
    seen = watch(model, monkeypatch)
    points = make.points(1, 300)[0]
    broken = points.clone()
    broken[250, 1] = torch.nan
    for bad, rule in (
        (points.unsqueeze(0), r"\[N, 3\], got \[1, 300, 3\]"),
        (points[:20], "at least 64"),
        (points.long(), r"floating point, got torch\.int64"),
        (broken, r"rows \[250\]"),
    ):
        with pytest.raises(PointCloudError, match=rule):
            label_large_cloud(model, bad)
    with pytest.raises(ConfigurationError, match="batch_size"):
        label_large_cloud(model, points, batch_size=0)
    with pytest.raises(ConfigurationError, match="num_points must lie in 64…65536, got 0"):
        label_large_cloud(model, points, num_points=0)
    assert not seen


@torch.no_grad()
def test_probabilities_are_of_the_parts_among_those_of_the_category(make):
    model = make.segmenter("vit", num_labels=5, category_parts=PARTS)
    points = make.points(1, 100)[0]
    for category, allowed in enumerate(PARTS.values()):
        answers = answer_large_cloud(model, points, category=category)
        logits = model(points.unsqueeze(0), category=torch.tensor([category])).logits[0][:, allowed]
        expected = logits.softmax(dim=-1).max(dim=-1)
        torch.testing.assert_close(answers.probabilities, expected.values)
        assert torch.equal(answers.parts, torch.tensor(allowed)[expected.indices])
