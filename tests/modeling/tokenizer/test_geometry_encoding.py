import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.tokenizer.geometry_encoding import geometry_encoding, geometry_encoding_in


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.sampled_from([6, 12, 48, 96]))
def test_geometry_encoding_is_the_formula(naive, offset, channels):
    found = geometry_encoding(torch.tensor(offset, dtype=torch.float64), channels)
    np.testing.assert_allclose(found, naive.geometry_encoding(offset, channels), atol=1e-12)


def test_geometry_encoding_in_half_precision_is_the_rounded_one():
    offsets = torch.rand(5, 7, 3) * 2 - 1
    found = geometry_encoding_in(torch.bfloat16, offsets, 24)
    assert torch.equal(found, geometry_encoding(offsets, 24).bfloat16())


def test_geometry_encoding_by_hand():
    encoded = geometry_encoding(torch.tensor([0.01, 0.0, -0.02], dtype=torch.float64), 12)
    small = 1000**0.5  # the second of two wavelengths
    expected = [math.sin(1), math.sin(1 / small), math.cos(1), math.cos(1 / small)]
    expected += [0, 0, 1, 1]
    expected += [math.sin(-2), math.sin(-2 / small), math.cos(-2), math.cos(-2 / small)]
    np.testing.assert_allclose(encoded, expected, atol=1e-12)
