import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from any2point_hf.evaluation.calibration import TEMPERATURES, expected_calibration_error, fit_temperature


def naive_calibration_error(probabilities, labels):
    """Bin by bin, as equation 3 is written."""
    error = 0.0
    for lower in range(15):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if lower / 15 <= row.max() < (lower + 1) / 15 or (lower == 14 and row.max() == 1)
        ]
        if inside:
            confidence, right = np.mean(inside, axis=0)
            error += len(inside) / len(labels) * abs(confidence - right)
    return error


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 6))
def test_as_written_bin_by_bin(seed, size, classes):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.5), size)
    labels = generator.integers(classes, size=size)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(
        naive_calibration_error(probabilities, labels), abs=1e-12
    )


def test_sure_and_right_is_0_and_sure_and_wrong_is_1():
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(sure, np.array([0, 1])) == 0
    assert expected_calibration_error(sure, np.array([1, 0])) == 1
    assert expected_calibration_error(np.full((4, 2), 0.5), np.array([0, 0, 1, 1])) == pytest.approx(0)


def calibrated(temperature, size=4000, classes=4):
    """Labels drawn from the softmax of logits, which are then given `temperature` times as large."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    return temperature * logits, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_logits_is_found(temperature):
    logits, labels = calibrated(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    before, after = (
        expected_calibration_error((logits / divisor).softmax(dim=1).numpy(), labels.numpy())
        for divisor in (1.0, found)
    )
    assert after < 0.03
    assert after < before + 0.005


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(5, 50))
def test_no_other_temperature_has_a_lower_cross_entropy(seed, size):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, 3, generator=generator)
    labels = torch.randint(3, (size,), generator=generator)
    found = fit_temperature(logits, labels)
    loss = F.cross_entropy(logits.double() / found, labels)
    for other in np.geomspace(*TEMPERATURES, 200):
        assert loss <= F.cross_entropy(logits.double() / other, labels) + 1e-12


def test_where_all_answers_are_wrong_it_is_the_highest_and_where_all_are_right_nothing_is_left_to_gain():
    logits, right, wrong = torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 1]), torch.tensor([1, 0])
    assert fit_temperature(logits, wrong) == pytest.approx(TEMPERATURES[1])
    for size in (1, 1e4):
        found = fit_temperature(size * logits, right)
        assert TEMPERATURES[0] <= found <= TEMPERATURES[1]
        assert F.cross_entropy(size * logits.double() / found, right) < 1e-12
