import copy
import json

import pytest
import torch
from torch import nn

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification, CheckpointError
from any2point_hf.modeling.custom_heads import CLASSIFIERS, register_classifier
from any2point_hf.modeling.errors import ConfigurationError

POINTS = torch.randn(3, 64, 3, generator=torch.Generator().manual_seed(0))


class Gated(nn.Module):
    """A head with every kind of tensor: a table that is not saved, running statistics, norms and a parameter."""

    def __init__(self, in_features, num_labels, width=8):
        super().__init__()
        self.hidden = nn.Linear(in_features, width)
        self.norm = nn.LayerNorm(width)
        self.statistics = nn.BatchNorm1d(width)
        self.output = nn.Linear(width, num_labels)
        self.gate = nn.Parameter(torch.full((num_labels,), 0.5))
        self.register_buffer("table", torch.arange(width, dtype=torch.float32), persistent=False)

    def forward(self, feature):
        return self.output(self.statistics(self.norm(self.hidden(feature))) + self.table) * self.gate


@pytest.fixture(autouse=True)
def nothing_is_registered(monkeypatch):
    monkeypatch.setattr("any2point_hf.modeling.custom_heads.CLASSIFIERS", {})
    CLASSIFIERS.clear()


@pytest.fixture
def config(bert):
    return Any2PointConfig(backbone=bert, num_points=64, num_neighbors=8, num_views=2, num_labels=3)


@pytest.fixture
def trained_head():
    head = Gated(96, 3)
    for tensor in head.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return head


def logits_of(model):
    with torch.no_grad():
        return model.eval()(POINTS).logits


def same(one, other):
    return torch.equal(logits_of(one), logits_of(other))


def test_a_module_is_the_head_as_it_is_and_takes_part_in_training(config, trained_head):
    before = copy.deepcopy(trained_head.state_dict())
    model = Any2PointForPointCloudClassification(config, classifier=trained_head)
    assert model.classifier is trained_head
    assert model.config.classifier == "Gated"
    for name, tensor in trained_head.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # no start value was drawn over it
    with torch.no_grad():
        output = model.eval()(POINTS)
        assert torch.equal(output.logits, trained_head(output.pooler_output))
    model.train()(POINTS, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(parameter.grad is not None for parameter in trained_head.parameters())


def test_a_module_is_saved_and_loaded_back_into_a_module(config, trained_head, tmp_path):
    model = Any2PointForPointCloudClassification(config, classifier=trained_head)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["classifier"] == "Gated"
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path, classifier=Gated(96, 3))
    assert same(loaded, model)
    assert torch.equal(loaded.classifier.table, torch.arange(8.0))


def test_an_unknown_head_says_how_to_load_it(config, trained_head, tmp_path):
    Any2PointForPointCloudClassification(config, classifier=trained_head).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=r"'Gated' is no part .* Pass classifier=.*register_classifier"):
        Any2PointForPointCloudClassification.from_pretrained(tmp_path)


def test_a_registered_class_is_made_and_loaded_by_its_name(config, tmp_path):
    register_classifier("gated", Gated)
    config.classifier = "gated"
    torch.manual_seed(0)
    model = Any2PointForPointCloudClassification(config)
    torch.manual_seed(0)
    assert same(Any2PointForPointCloudClassification(config), model)  # start values by the seed
    with torch.no_grad():
        model.classifier.gate.add_(1)
    model.save_pretrained(tmp_path)
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path)
    assert type(loaded.classifier) is Gated
    assert same(loaded, model)
    assert torch.equal(loaded.classifier.table, torch.arange(8.0))


def test_a_module_of_a_registered_class_has_its_name(config):
    register_classifier("gated", Gated)
    assert Any2PointForPointCloudClassification(config, classifier=Gated(96, 3)).config.classifier == "gated"


def test_a_head_of_other_widths_is_an_error_and_other_classes_get_start_values(config, tmp_path):
    register_classifier("gated", Gated)
    config.classifier = "gated"
    Any2PointForPointCloudClassification(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="wrongly shaped"):
        Any2PointForPointCloudClassification.from_pretrained(tmp_path, classifier=Gated(96, 3, width=9))
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert torch.equal(loaded.classifier.gate.data, torch.full((5,), 0.5))
    assert logits_of(loaded).isfinite().all()


def test_a_head_that_gives_something_else_is_an_error(config):
    model = Any2PointForPointCloudClassification(config, classifier=nn.Linear(96, 4))
    with pytest.raises(ConfigurationError, match=r"'Linear' must give \[3, 3\] \(num_labels\), got \[3, 4\]"):
        logits_of(model)
    with pytest.raises(ConfigurationError, match=r"must be a torch\.nn\.Module"):
        Any2PointForPointCloudClassification(config, classifier=Gated)
    with pytest.raises(ConfigurationError, match=r"sizes from the start \(here 96 features\), got 'lazy modules'"):
        Any2PointForPointCloudClassification(config, classifier=nn.Sequential(nn.LazyLinear(3)))


def test_what_is_registered_must_be_a_class_of_modules_of_its_own_name():
    for wrong in (Gated(96, 3), int):
        with pytest.raises(ConfigurationError, match=r"class of torch\.nn\.Module"):
            register_classifier("gated", wrong)
    register_classifier("gated", Gated)
    register_classifier("gated", Gated)
    with pytest.raises(ConfigurationError, match="registered as Gated"):
        register_classifier("gated", nn.Linear)


def test_the_auto_class_and_a_lora_take_the_head_along(config, trained_head, tmp_path):
    from any2point_hf import AutoModelForPointCloudClassification

    model = Any2PointForPointCloudClassification(config, classifier=trained_head)
    model.add_lora()
    model.save_pretrained(tmp_path)
    assert same(AutoModelForPointCloudClassification.from_pretrained(tmp_path, classifier=Gated(96, 3)), model)
    register_classifier("Gated", Gated)
    assert same(AutoModelForPointCloudClassification.from_pretrained(tmp_path), model)
