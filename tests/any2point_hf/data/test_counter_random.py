import numpy as np
import pytest
import torch

from any2point_hf.data.counter_random import mix, normal, uniform


def naive_mix(key, value):
    """splitmix64's finaliser in Python's own integers."""
    bits = 2**64 - 1
    mixed = ((key ^ value) + 0x9E3779B97F4A7C15) & bits
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & bits
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & bits
    return mixed ^ (mixed >> 31)


@pytest.mark.parametrize("value", [0, 1, 77])
def test_mixing_equals_unsigned_arithmetic(value):
    keys = [0, 1, 2, 12345, 2**40 + 3, 2**63 - 1, 2**64 - 1, 2**63]
    signed = torch.from_numpy(np.array(keys, dtype=np.uint64).view(np.int64).copy())
    mixed = mix(signed, value).numpy().view(np.uint64)
    assert mixed.tolist() == [naive_mix(key, value) for key in keys]


def test_the_published_first_number_of_splitmix64():
    """Of the reference implementation with seed 0."""
    assert mix(torch.zeros(1, dtype=torch.long), 0).numpy().view(np.uint64).tolist() == [0xE220A8397B1DCDAF]


def test_uniform_numbers():
    numbers = uniform(mix(torch.arange(2000), 0), 3, 50)
    assert numbers.dtype == torch.float32
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    assert (counts - 5000).square().sum() / 5000 < 45  # chi-squared, 19 degrees of freedom: 1 in 1400 exceeds 45
    flat = numbers.double()
    assert torch.corrcoef(flat.T).fill_diagonal_(0).abs().max() < 0.11  # numbers of one key
    assert torch.corrcoef(flat[:200]).fill_diagonal_(0).abs().max() < 0.75  # of different keys, 50 numbers each


def test_numbers_of_different_purposes_differ():
    keys = torch.arange(2000)
    first, second = uniform(keys, 0, 1), uniform(keys, 1, 1)
    assert torch.corrcoef(torch.cat([first, second], dim=1).T)[0, 1].abs() < 0.08


def test_more_numbers_begin_with_the_same():
    keys = torch.arange(3)
    assert torch.equal(uniform(keys, 0, 9)[:, :4], uniform(keys, 0, 4))


def test_normal_numbers():
    numbers = normal(torch.arange(1000), 5, 100).double()
    assert numbers.isfinite().all()
    assert numbers.mean() == pytest.approx(0, abs=0.015)
    assert numbers.var() == pytest.approx(1, abs=0.02)
    assert (numbers**4).mean() == pytest.approx(3, abs=0.15)
