import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.tokenizer.fast import sine_table
from any2point_hf.modeling.tokenizer.fast.sine_table import GeometryEncoder
from any2point_hf.modeling.tokenizer.geometry_encoding import geometry_encoding

CHANNELS = st.integers(1, 40).map(lambda frequencies: 6 * frequencies)
IN_TABLE = st.floats(-1, 1, width=32)


@given(offsets=st.lists(st.tuples(IN_TABLE, IN_TABLE, IN_TABLE), min_size=1, max_size=8), channels=CHANNELS)
def test_the_table_is_nearer_to_the_formula_than_float32_gets_by_itself(offsets, channels):
    offsets = torch.tensor(offsets, dtype=torch.float32).unsqueeze(1)
    found = GeometryEncoder(offsets, channels).encode(slice(0, len(offsets)))
    expected = geometry_encoding(offsets.double(), channels)
    torch.testing.assert_close(found.double(), expected, atol=5e-7, rtol=0)


def test_every_place_and_the_middles_between_them():
    offsets = torch.linspace(-1, 1, 4 * 1024 + 1).view(-1, 1, 1).expand(-1, 2, 3).contiguous()
    found = GeometryEncoder(offsets, 96).encode(slice(0, len(offsets))).double()
    torch.testing.assert_close(found, geometry_encoding(offsets.double(), 96), atol=5e-7, rtol=0)


def test_through_is_the_encoding_times_the_weight():
    encoder = GeometryEncoder(torch.rand(9, 4, 3) * 2 - 1, 48)
    assert encoder.is_tabulated
    weight = torch.randn(7, 48)
    multiply = encoder.through(weight)
    for block in (slice(0, 9), slice(4, 6)):
        expected = geometry_encoding(encoder.offsets[block].double(), 48).flatten(0, 1) @ weight.double().t()
        torch.testing.assert_close(multiply(block).double(), expected, atol=1e-5, rtol=0)


def test_a_block_is_a_slice_of_the_whole():
    encode = GeometryEncoder(torch.rand(9, 4, 3) * 2 - 1, 24).encode
    whole = encode(slice(0, 9))
    assert whole.shape == (9, 4, 24)
    assert torch.equal(encode(slice(3, 7)), whole[3:7])
    assert torch.equal(encode(slice(7, 9)), whole[7:])


@pytest.mark.parametrize("value", [1.0000001, -1.5, torch.nan, torch.inf])
def test_what_the_table_does_not_reach_is_computed(value):
    offsets = torch.rand(5, 4, 3) * 2 - 1
    offsets[3, 1, 2] = value
    torch.testing.assert_close(
        GeometryEncoder(offsets, 24).encode(slice(1, 5)),
        geometry_encoding(offsets[1:], 24),
        atol=0,
        rtol=0,
        equal_nan=True,
    )


def test_wider_offsets_are_computed():
    offsets = torch.rand(5, 4, 3, dtype=torch.float64)
    assert torch.equal(GeometryEncoder(offsets, 24).encode(slice(0, 5)), geometry_encoding(offsets, 24))


def test_a_table_made_at_inference_serves_gradients():
    offsets, weight = torch.rand(5, 4, 3), torch.randn(7, 24, requires_grad=True)
    sine_table._table.cache_clear()
    sine_table._rows_of_places.cache_clear()
    with torch.inference_mode(), torch.device("meta"):
        first = GeometryEncoder(offsets, 24).encode(slice(0, 5))
    encoded = GeometryEncoder(offsets, 24).encode(slice(0, 5))
    assert torch.equal(encoded, first)
    (encoded @ weight.t()).sum().backward()
    torch.testing.assert_close(weight.grad, encoded.flatten(0, 1).sum(dim=0).expand(7, 24))


@pytest.mark.parametrize(("dtype", "reach"), [(torch.float32, 3), (torch.float64, 1)])
def test_only_the_table_goes_through_a_weight(dtype, reach):
    encoder = GeometryEncoder(reach * torch.ones(5, 4, 3, dtype=dtype), 24)
    assert not encoder.is_tabulated
    with pytest.raises(ValueError, match="read from the table"):
        encoder.through(torch.randn(7, 24))


def test_gradients_of_offsets_go_through_the_formula():
    offsets = (torch.rand(5, 4, 3) * 2 - 1).requires_grad_()
    encoder = GeometryEncoder(offsets, 24)
    assert not encoder.is_tabulated
    (found,) = torch.autograd.grad(encoder.encode(slice(None)).square().sum(), offsets)
    (expected,) = torch.autograd.grad(geometry_encoding(offsets, 24).square().sum(), offsets)
    assert torch.equal(found, expected)
