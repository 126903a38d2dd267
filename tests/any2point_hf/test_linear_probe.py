"""The linear probe: equal to a plain ridge regression, chosen by clouds left out, and without a trace on the model."""

import pytest
import torch
from torch.nn import functional as F

from any2point_hf.linear_probe import (
    STRENGTHS,
    accuracy,
    fit_linear_probe,
    frozen_features,
    predict,
    probe_accuracy,
    set_statistics,
)
from any2point_hf.modeling.configuration_any2point import Any2PointConfig
from any2point_hf.modeling.modeling_any2point_classification import Any2PointForPointCloudClassification

pytestmark = pytest.mark.usefixtures("one_thread")


def noisy_classes(num_rows=40, num_features=30, seed=0):
    """Features that tell three classes apart, but not always, with a constant one among them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_rows) % 3
    features = torch.randn(num_rows, num_features, generator=generator)
    features[:, :3] += 1.5 * F.one_hot(labels, 3)
    features[:, 4] = 0.7
    return features, labels


def plain_ridge(features, labels, strength):
    """Weights and bias by the normal equations of standardised features."""
    features = features.double()
    deviation = features.std(dim=0, correction=0)
    standardized = (features - features.mean(dim=0)) / torch.where(deviation > 0, deviation, 1.0)
    targets = F.one_hot(labels, 3).double()
    bias = targets.mean(dim=0)
    gram = standardized.T @ standardized + strength * len(features) * torch.eye(features.shape[1])
    return standardized, torch.linalg.solve(gram, standardized.T @ (targets - bias)), bias


@pytest.mark.parametrize("num_rows", [12, 90])  # fewer and more than features
def test_it_is_a_ridge_regression(num_rows):
    features, labels = noisy_classes(num_rows)
    probe = fit_linear_probe(features, labels, 3)
    _, weight, bias = plain_ridge(features, labels, probe.strength)
    torch.testing.assert_close(probe.weight, weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(probe.bias, bias)
    assert probe.weight[4].abs().max() < 1e-12  # of the constant feature


def test_the_strength_is_that_of_least_error_on_rows_left_out():
    features, labels = noisy_classes(24, 10)
    targets, errors = F.one_hot(labels, 3).double(), []
    for strength in STRENGTHS:
        standardized, _, _ = plain_ridge(features, labels, strength)
        total = 0.0
        for row in range(24):  # fitted anew without each row; the standardisation stays
            rest = torch.arange(24) != row
            mean, bias = standardized[rest].mean(dim=0), targets[rest].mean(dim=0)
            own = standardized[rest] - mean
            gram = own.T @ own + strength * 24 * torch.eye(10)
            weight = torch.linalg.solve(gram, own.T @ (targets[rest] - bias))
            total += float((targets[row] - bias - (standardized[row] - mean) @ weight).square().sum())
        errors.append(total)
    best = STRENGTHS[errors.index(min(errors))]
    assert fit_linear_probe(features, labels, 3).strength == best
    assert STRENGTHS[0] < best < STRENGTHS[-1]


def test_accuracy_of_what_can_and_cannot_be_told():
    features, labels = noisy_classes(300)
    probe = fit_linear_probe(features[:200], labels[:200], 3)
    assert 0.6 < accuracy(probe, features[200:], labels[200:]) < 1
    assert predict(probe, features[:5]).dtype == torch.int64
    noise = torch.randn(300, 400, generator=torch.Generator().manual_seed(1))
    probe = fit_linear_probe(noise[:200], labels[:200], 3)
    assert accuracy(probe, noise[:200], labels[:200]) <= 1
    assert accuracy(probe, noise[200:], labels[200:]) < 0.5
    easy = F.one_hot(labels, 3).float()
    assert accuracy(fit_linear_probe(easy, labels, 3), easy, labels) == 1.0


# On a model


@pytest.fixture
def model(bert):
    torch.manual_seed(0)
    config = Any2PointConfig(backbone=bert, num_points=64, num_neighbors=8, num_labels=2)
    return Any2PointForPointCloudClassification(config)


@pytest.fixture(scope="module")
def clouds(two_classes):
    arrays = two_classes.arrays(24, 16)
    points, labels = torch.from_numpy(arrays["points"][:, :64]), torch.from_numpy(arrays["labels"])
    return points[:24], labels[:24], points[24:], labels[24:]


def test_statistics_are_the_batches(model, clouds):
    points = clouds[0]
    stem = model.any2point.tokenizer.stem(points).flatten(0, 1)
    set_statistics(model, points, 24)
    norm = model.any2point.tokenizer.stem_norm
    torch.testing.assert_close(norm.running_mean, stem.mean(dim=0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, stem.var(dim=0), atol=1e-5, rtol=1e-4)
    assert not model.training
    assert model.classifier.norm1.running_mean.abs().min() > 0
    for part in model.any2point.aggregations.values():
        assert (part.view_norm.running_mean != 0).all()
    set_statistics(model, points[:13], 12)  # a batch of one has no statistics
    torch.testing.assert_close(norm.running_mean, stem.view(24, 64, -1)[:12].mean(dim=(0, 1)), atol=1e-5, rtol=1e-4)
    set_statistics(model, points, 12)  # two batches, the later one a little heavier
    first, second = (model.any2point.tokenizer.stem(half).flatten(0, 1).mean(dim=0) for half in points.split(12))
    torch.testing.assert_close(norm.running_mean, (0.9 * first + second) / 1.9, atol=1e-5, rtol=1e-4)


def test_features_do_not_depend_on_the_batch_size(model, clouds):
    set_statistics(model, clouds[0], 8)
    features = frozen_features(model, clouds[2], 16)
    assert features.shape == (16, 2 * 48)
    torch.testing.assert_close(features, frozen_features(model, clouds[2], 3), atol=1e-5, rtol=1e-5)
    assert not features.requires_grad


def test_the_model_is_left_as_it_was(model, clouds):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    state = torch.get_rng_state()
    found = probe_accuracy(model, *clouds)
    assert found == 1.0  # a ball and a disc
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert probe_accuracy(model.eval(), *clouds) == found
    assert not model.training
