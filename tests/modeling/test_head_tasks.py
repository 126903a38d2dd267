import pytest
import torch
from torch.nn import functional as F
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from any2point_hf.modeling import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    ConfigurationError,
    DatasetError,
)
from any2point_hf.modeling.head_tasks import head_loss, in_units_of_targets

LOGITS = torch.tensor([[0.5, -1.0, 2.0, 0.1], [1.5, 0.3, -0.7, 0.2], [-0.2, 0.4, 0.9, -1.1]])
MULTI_HOT = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])


def config_of(problem_type, num_labels=4, **fields):
    return Any2PointConfig(problem_type=problem_type, num_labels=num_labels, **fields)


@pytest.fixture
def model_of(bert):
    def make(problem_type, num_labels, **fields):
        torch.manual_seed(0)
        settings = {"backbone": bert, "num_points": 64, "num_neighbors": 8, "num_views": 2}
        return Any2PointForPointCloudClassification(config_of(problem_type, num_labels, **settings, **fields)).eval()

    return make


# Losses are those of torch and of transformers


def test_several_classes_are_a_binary_cross_entropy_and_no_softmax(model_of):
    model, points = model_of("multi_label_classification", 4), torch.randn(3, 64, 3)
    with torch.no_grad():
        output = model(points, labels=MULTI_HOT.float())
    torch.testing.assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, MULTI_HOT.float()))
    assert 0.6 < output.loss < 0.8  # about ln 2 of a new head, where a softmax has twice ln 4
    assert F.cross_entropy(output.logits, MULTI_HOT.float()) > 1.2


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bool, torch.int64])
def test_labels_of_several_classes_may_be_of_any_kind(kind):
    loss = head_loss(LOGITS, MULTI_HOT.to(kind), config_of("multi_label_classification"))
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(LOGITS, MULTI_HOT.float()))


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", torch.tensor([2, 0, 3])),
        ("multi_label_classification", MULTI_HOT.float()),
        ("regression", torch.tensor([[0.1, 2.0, -1.0, 0.0]] * 3)),
    ],
)
def test_losses_are_those_of_transformers(problem_type, labels):
    config = config_of(problem_type)
    torch.testing.assert_close(head_loss(LOGITS, labels, config), ForSequenceClassificationLoss(labels, LOGITS, config))


@pytest.mark.parametrize("labels", [torch.tensor([1.0, -2.0, 0.5]), torch.tensor([[1.0], [-2.0], [0.5]])])
def test_one_number_a_cloud_has_either_shape(labels):
    config, outputs = config_of("regression", 1), LOGITS[:, :1]
    expected = ((outputs[:, 0] - labels.flatten()) ** 2).mean()  # [3] minus [3, 1] would be [3, 3]
    torch.testing.assert_close(head_loss(outputs, labels, config), expected)
    torch.testing.assert_close(ForSequenceClassificationLoss(labels, outputs, config), expected)


def test_label_smoothing_of_several_classes_draws_both_answers_to_a_half():
    config = config_of("multi_label_classification", label_smoothing=0.2)
    expected = F.binary_cross_entropy_with_logits(LOGITS, MULTI_HOT * 0.8 + 0.1)
    torch.testing.assert_close(head_loss(LOGITS, MULTI_HOT, config), expected)


def test_losses_of_half_precision_are_computed_in_float32():
    for problem_type, labels in (("multi_label_classification", MULTI_HOT), ("regression", MULTI_HOT.float())):
        loss = head_loss(LOGITS.bfloat16(), labels, config_of(problem_type))
        torch.testing.assert_close(loss, head_loss(LOGITS.bfloat16().float(), labels, config_of(problem_type)))


# Regression: units


def test_answers_are_in_the_units_of_the_targets_and_the_loss_is_standardised(model_of):
    scale = {"target_mean": [1000.0, -0.5], "target_std": [250.0, 1e-3]}
    model, points = model_of("regression", 2, **scale), torch.randn(3, 64, 3)
    targets = torch.tensor([[900.0, -0.501], [1300.0, -0.499], [1000.0, -0.5]])
    with torch.no_grad():
        output = model(points, labels=targets)
        standardised = model.classifier(output.pooler_output)
    mean, deviation = torch.tensor(scale["target_mean"]), torch.tensor(scale["target_std"])
    torch.testing.assert_close(output.logits, standardised * deviation + mean)
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(output.loss, F.mse_loss(standardised, (targets - mean) / deviation))
    torch.testing.assert_close(output.loss, (((output.logits - targets) / deviation) ** 2).mean(), rtol=1e-3, atol=0)


def test_half_precision_outputs_get_their_units_in_float32():
    config = config_of("regression", 1, target_mean=[12345.0], target_std=[1.0])
    assert in_units_of_targets(torch.tensor([[0.5]], dtype=torch.bfloat16), config).item() == 12345.5


def test_large_units_survive_a_round_trip(model_of, tmp_path):
    model = model_of("regression", 1, target_mean=[3e9], target_std=[7e8], id2label={0: "price"})
    model.save_pretrained(tmp_path)
    loaded = Any2PointForPointCloudClassification.from_pretrained(tmp_path)
    points = torch.randn(2, 64, 3)
    with torch.no_grad():
        torch.testing.assert_close(loaded(points).logits, model(points).logits, rtol=0, atol=0)
    assert (loaded.config.target_std, loaded.config.problem_type) == ([7e8], "regression")


# Class weights


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_those_of_torch_over_all_clouds(smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 3), torch.tensor([0] * 15 + [1] * 9 + [2] * 6)
    weights = [30 / (3 * 15), 30 / (3 * 9), 30 / (3 * 6)]
    config = config_of(None, 3, class_weight=weights, label_smoothing=smoothing)
    expected = F.cross_entropy(logits, labels, weight=torch.tensor(weights), label_smoothing=smoothing)
    torch.testing.assert_close(head_loss(logits, labels, config), expected)
    order = torch.randperm(30)
    parts = [head_loss(logits[rows], labels[rows], config) for rows in order.split(5)]
    torch.testing.assert_close(torch.stack(parts).mean(), expected)  # however a step is divided


def test_balanced_weights_need_a_training():
    with pytest.raises(ConfigurationError, match="computed by make_trainer"):
        head_loss(LOGITS, torch.tensor([0, 1, 2]), config_of(None, class_weight="balanced"))


# Labels that do not fit


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels", "message"),
    [
        (None, 4, MULTI_HOT.float(), r"must be \[3\] integers"),
        (None, 4, MULTI_HOT, "Several classes a cloud need problem_type='multi_label_classification'"),
        (None, 4, torch.tensor([0.0, 1.0, 2.0]), "numbers 'regression'"),
        (None, 1, torch.tensor([0.3, 1.7, 2.0]), "numbers 'regression'"),
        (None, 4, torch.tensor([True, False, True]), "integers, a class for each cloud"),
        (None, 4, torch.tensor([0, 1, 4]), "0…3"),
        (None, 4, torch.tensor([0, 1]), r"got torch.int64 \[2\]"),
        (None, 4, [0, 1, 2], "got list"),
        ("multi_label_classification", 4, torch.tensor([0, 1, 2]), r"must be \[3, 4\] 0 or 1 for each class"),
        ("multi_label_classification", 3, MULTI_HOT, r"got torch.int64 \[3, 4\]"),
        ("multi_label_classification", 4, MULTI_HOT * 2, "got 2 for cloud 0"),
        ("multi_label_classification", 4, MULTI_HOT - 0.5, "got -0.5 for cloud 0"),
        ("multi_label_classification", 4, MULTI_HOT * float("nan"), "got nan for cloud 0"),
        ("regression", 2, torch.zeros(3), r"must be \[3, 2\] finite numbers"),
        ("regression", 1, torch.zeros(3, 3), r"must be \[3, 1\] or \[3\]"),
        ("regression", 1, torch.tensor([0.0, float("inf"), 1.0]), "got inf for cloud 1"),
        ("regression", 1, torch.tensor([True, False, True]), "got torch.bool"),
    ],
)
def test_labels_of_another_kind_are_one_clear_error(model_of, problem_type, num_labels, labels, message):
    model = model_of(problem_type, num_labels)
    with pytest.raises(DatasetError, match=message):
        model(torch.randn(3, 64, 3), labels=labels)


# Probabilities


def test_probabilities_of_several_classes_are_sigmoids_and_a_regression_has_none(model_of):
    torch.testing.assert_close(model_of("multi_label_classification", 4).probabilities(LOGITS), LOGITS.sigmoid())
    torch.testing.assert_close(model_of(None, 4).probabilities(LOGITS), LOGITS.softmax(dim=-1))
    with pytest.raises(ConfigurationError, match="no probabilities"):
        model_of("regression", 4).probabilities(LOGITS)
