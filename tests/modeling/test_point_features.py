"""Features of points (colours, normals): a wider stem, and nothing else of the model changes."""

import copy

import pytest
import torch

from any2point_hf.modeling import Any2PointForPointCloudClassification, Any2PointModel, PointCloudError

NAMES = ["red", "green", "blue", "intensity"]


@pytest.fixture(params=["bert", "vit"])
def model(make, request):
    return make.model(request.param, head=True, num_labels=3, point_feature_names=NAMES)


@pytest.fixture
def points(make):
    return make.points(3)


@pytest.fixture
def features():
    return torch.rand(3, 128, 4)


def without_features(make, model):
    """The same weights in a model of coordinates alone."""
    config = copy.deepcopy(model.config)
    config.num_point_features, config.point_feature_names = 0, []
    plain = Any2PointForPointCloudClassification(config, backbone=model.backbone).eval()
    state = model.state_dict()
    stem = "any2point.tokenizer.stem.weight"
    plain.load_state_dict(state | {stem: state[stem][:, :3]})
    return plain


def test_features_of_zero_are_no_features(make, model, points):
    plain = without_features(make, model)
    torch.testing.assert_close(model(points, torch.zeros(3, 128, 4)).logits, plain(points).logits)


def test_the_stem_is_one_matrix_over_coordinates_and_features(model, points, features):
    tokenizer = model.any2point.tokenizer
    embedded = tokenizer._embed(torch.cat([points, features], dim=-1))
    norm = tokenizer.stem_norm
    rows = points @ tokenizer.stem.weight[:, :3].T + features @ tokenizer.stem.weight[:, 3:].T
    rows = (rows - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(embedded, rows.clamp(min=0), rtol=1e-4, atol=1e-5)


def test_where_tokens_lie_does_not_depend_on_features(model, points, features):
    one, other = model(points, features), model(points, 1 - features)
    assert torch.equal(one.point_centers, other.point_centers)
    assert (one.logits - other.logits).abs().min() > 1e-4


@pytest.mark.parametrize("training", [False, True])
def test_gradients_reach_every_column_of_the_stem(model, points, features, training):
    model.train(training)
    model(points, features, labels=torch.tensor([0, 1, 2])).loss.backward()
    gradient = model.any2point.tokenizer.stem.weight.grad
    assert gradient.shape[1] == 7
    assert (gradient.abs().amax(dim=0) > 0).all()


def test_a_clouds_answer_does_not_depend_on_the_clouds_beside_it(model, points, features):
    together = model(points, features).logits
    alone = torch.cat([model(points[i : i + 1], features[i : i + 1]).logits for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_keeps_names_and_stem(model, points, features, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path, backbone=model.backbone)
    assert loaded.config.point_feature_names == NAMES
    assert torch.equal(loaded(points, features).logits, model(points, features).logits)


@pytest.mark.parametrize("settings", [{"token_scale": "embedding"}, {"adapter_start": "scaled"}])
def test_start_scales_are_measured_with_features(make, points, features, settings):
    backbone = make.backbone("bert")
    config = make.model(backbone, point_feature_names=NAMES, **settings).config
    model = Any2PointModel(config, backbone=backbone).eval()
    assert model(points, features).last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, r"needs point_features \[3, 128, 4\] \(red, green, blue, intensity\).*got none"),
        (torch.rand(3, 128, 3), r"\[3, 128, 4\].*got torch.float32 \[3, 128, 3\]"),
        (torch.rand(3, 64, 4), r"got torch.float32 \[3, 64, 4\]"),
        (torch.randint(0, 255, (3, 128, 4), dtype=torch.uint8), "floating point, colours 0…1, got torch.uint8"),
        ([1.0], "got a list"),
    ],
)
def test_missing_or_other_features_are_refused(model, points, given, said):
    with pytest.raises(PointCloudError, match=said):
        model(points, given)


def test_features_must_be_finite(model, points, features):
    features[1, 5, 2] = torch.nan
    with pytest.raises(PointCloudError, match=r"point_features must be finite.*clouds \[1\]"):
        model(points, features)


def test_a_model_of_coordinates_refuses_features_and_labels_in_their_place(make, points, features):
    plain = make.model("bert", head=True, num_labels=3)
    with pytest.raises(PointCloudError, match="takes no point_features"):
        plain(points, features)
    with pytest.raises(PointCloudError, match=r"got torch.int64 \[3\].*labels=…"):
        plain(points, torch.tensor([0, 1, 2]))


def test_a_mixed_batch_gives_features_to_the_adapters_that_take_them(make, points, features, tmp_path):
    backbone = make.backbone("bert")
    backbone.save_pretrained(tmp_path / "bert")
    folders = {}
    for name, names in (("colored", NAMES), ("plain", [])):
        settings = {"head": True, "num_labels": 3, "point_feature_names": names}
        model = make.model(type(backbone).from_pretrained(tmp_path / "bert"), **settings)
        model.save_pretrained(tmp_path / name)
        folders[name] = tmp_path / name
    model = Any2PointForPointCloudClassification.from_pretrained(folders["colored"]).eval()
    model.load_adapter(folders["plain"], adapter_name="plain")
    mixed = model(points, features, adapter_names=["default", "plain", "default"]).logits
    colored = model(points, features).logits
    model.set_adapter("plain")
    expected = torch.stack([colored[0], model(points).logits[1], colored[2]])
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)
