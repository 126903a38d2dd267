"""A linear probe in closed form: how well frozen features tell classes apart before anything is trained.

Ridge regression of one-hot classes on standardised features. Its strength is the one that gives the least squared error
when each training cloud is left out in turn (Allen 1974's PRESS, exact from one decomposition), so that no choice is
made on test clouds. Everything is computed in float64 and without random numbers.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .modeling.adapter.cell_norm import BATCH_NORM_MOMENTUM
from .modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from .modeling.tokenizer.point_ops import split_features

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-8, 9))  # of the ridge, for each training cloud
SMALLEST_DEVIATION = 1e-6  # over a feature's largest size; less is the rounding of a float32


class LinearProbe(NamedTuple):
    """A fitted probe; all float64.

    Args:
        mean: [F] of the training features.
        deviation: [F] of them; 1 where a feature does not change.
        weight: [F, C], of standardised features.
        bias: [C], the classes' shares of the training clouds.
        strength: of the ridge for each training cloud, chosen among `STRENGTHS`.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor
    strength: float


def fit_linear_probe(features: Tensor, labels: Tensor, num_classes: int) -> LinearProbe:
    """Fits a probe.

    Args:
        features: [n, F] floating point, n ≥ 2.
        labels: [n] int64 in 0…num_classes − 1.
        num_classes: C.
    """
    features = features.double()
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    deviation = deviation.where(deviation > SMALLEST_DEVIATION * features.abs().amax(dim=0), 1.0)
    standardized = (features - mean) / deviation
    targets = F.one_hot(labels, num_classes).double()
    bias = targets.mean(dim=0)
    left, singular, right = torch.linalg.svd(standardized, full_matrices=False)
    projected = left.T @ (targets - bias)  # [r, C]
    strengths = [share * len(features) for share in STRENGTHS]
    errors = [_left_out_error(left, singular, projected, targets - bias, strength) for strength in strengths]
    best = errors.index(min(errors))
    shrunk = singular / (singular.square() + strengths[best])
    return LinearProbe(mean, deviation, right.T @ (shrunk.unsqueeze(1) * projected), bias, STRENGTHS[best])


def _left_out_error(left: Tensor, singular: Tensor, projected: Tensor, targets: Tensor, strength: float) -> float:
    """Mean squared error when each row is predicted by a fit to all others: its residual over 1 − its leverage."""
    kept = singular.square() / (singular.square() + strength)
    residuals = targets - left @ (kept.unsqueeze(1) * projected)
    leverage = 1 / len(targets) + left.square() @ kept  # the bias is fitted too
    return float((residuals / (1 - leverage).unsqueeze(1)).square().mean())


def predict(probe: LinearProbe, features: Tensor) -> Tensor:
    """The likeliest class of each row of features [m, F]: [m] int64."""
    standardized = (features.double() - probe.mean) / probe.deviation
    return (standardized @ probe.weight + probe.bias).argmax(dim=-1)


def accuracy(probe: LinearProbe, features: Tensor, labels: Tensor) -> float:
    """Share of rows of features [m, F] whose class is their label, [m] int64."""
    return float((predict(probe, features) == labels).double().mean())


@torch.no_grad()
def set_statistics(
    model: Any2PointForPointCloudClassification, points: Tensor, batch_size: int, max_batches: int = 16
) -> None:
    """Gives an untrained model's batch norms the statistics of training clouds.

    They start as mean 0 and variance 1, far from what the tokenizer gives at first, so that untrained features would
    not be normalised, and a training of a hundred steps would keep a trace of them. The model is left in evaluation
    mode.

    Args:
        model: untrained.
        points: [n, N, 3 + F] float32, with their features, of the training split alone, n ≥ 2.
        batch_size: clouds at once, at least 2.
        max_batches: how many batches of the first clouds are used; a few settle the statistics.
    """
    batches = [batch for batch in points.split(batch_size) if len(batch) > 1][:max_batches]  # a lone one has none
    statistics = _statistics(model)
    for buffer in statistics.values():
        buffer.zero_()
    model.train()
    with torch.random.fork_rng():  # for the adapters' dropout
        torch.manual_seed(0)
        for batch in batches:
            model(*split_features(batch.to(model.device)))
    for buffer in statistics.values():  # moving averages that began at 0, corrected as in Adam
        buffer.div_(1 - (1 - BATCH_NORM_MOMENTUM) ** len(batches))
    model.eval()  # nothing else is restored: `probe_accuracy` does that


@torch.no_grad()
def frozen_features(model: Any2PointForPointCloudClassification, points: Tensor, batch_size: int) -> Tensor:
    """The pooled features that the head would read.

    Args:
        model: untrained, with the statistics of its training clouds (`set_statistics`).
        points: [n, N, 3 + F] float32, with their features.
        batch_size: clouds at once; the result does not depend on it.

    Returns:
        [n, 2D] float32 on the CPU.
    """
    model.eval()
    batches = [split_features(batch.to(model.device)) for batch in points.split(batch_size)]
    return torch.cat([model.any2point(*batch).pooler_output for batch in batches]).float().cpu()


def probe_accuracy(
    model: Any2PointForPointCloudClassification,
    train_points: Tensor,
    train_labels: Tensor,
    test_points: Tensor,
    test_labels: Tensor,
    batch_size: int = 32,
) -> float:
    """Accuracy on test clouds of a linear probe on an untrained model's features; the model is left as it was.

    Args:
        model: untrained.
        train_points: [n, N, 3 + F] float32, with their features.
        train_labels: [n] int64.
        test_points: [m, N, 3 + F] float32.
        test_labels: [m] int64.
        batch_size: clouds at once.
    """
    was_training = model.training
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    set_statistics(model, train_points, batch_size)
    features = [frozen_features(model, points, batch_size) for points in (train_points, test_points)]
    with torch.no_grad():
        for name, buffer in model.named_buffers():  # a later training is then as without the probe
            buffer.copy_(before[name])
    model.train(was_training)
    num_labels: Any = model.config.num_labels
    probe = fit_linear_probe(features[0], train_labels, num_labels)
    return accuracy(probe, features[1], test_labels)


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """The running means and variances of our batch norms; a backbone's own are frozen with it."""
    endings = ("running_mean", "running_var")
    return {n: b for n, b in model.named_buffers() if n.endswith(endings) and ".backbone." not in n}
