import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.projection.position_encoding import (
    LearnableEncoding,
    average_over_views,
    line_rows,
    plane_rows,
    sinusoidal_encoding,
)
from any2point_hf.modeling.projection.virtual_projection import LineProjection, PlaneProjection


def read(table, rows, weights):
    return (table[rows] * weights.unsqueeze(-1)).sum(dim=-2)


@given(st.integers(1, 9), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_line_interpolation_is_the_naive_one(naive, length, fractions):
    table = torch.randn(length, 3, dtype=torch.float64)
    coordinates = torch.tensor(fractions, dtype=torch.float64) * (length - 1)
    rows, weights = line_rows(coordinates.unsqueeze(-1), length)
    assert rows.dtype == torch.int64
    expected = [naive.read_line(table.numpy(), c) for c in coordinates.tolist()]
    np.testing.assert_allclose(read(table, rows, weights), expected, atol=1e-12)


def test_whole_line_coordinates_read_their_rows_exactly():
    table = torch.randn(7, 5)
    rows, weights = line_rows(torch.arange(7.0).unsqueeze(-1), 7)
    assert torch.equal(read(table, rows, weights), table)


planes = st.tuples(st.integers(2, 40), st.integers(2, 40), st.integers(1, 5), st.integers(1, 6))


@given(planes, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=4, max_size=4))
def test_plane_interpolation_is_the_naive_one(naive, sizes, fractions):
    width, height, num_rows, num_columns = sizes
    table = torch.randn(num_rows * num_columns, 3, dtype=torch.float64)
    pixels = torch.tensor(fractions, dtype=torch.float64) * torch.tensor([width - 1, height - 1])
    rows, weights = plane_rows(pixels, (width, height), (num_rows, num_columns))
    expected = [
        naive.read_plane(table.numpy(), pixel, (width, height), (num_rows, num_columns)) for pixel in pixels.tolist()
    ]
    np.testing.assert_allclose(read(table, rows, weights), expected, atol=1e-9)


def test_plane_interpolation_is_grid_sample_with_aligned_corners():
    table, plane, grid = torch.randn(15, 4, dtype=torch.float64), (30, 21), (3, 5)
    pixels = torch.rand(40, 2, dtype=torch.float64) * torch.tensor([29, 20])
    image = table.T.reshape(1, 4, *grid)
    sampled = torch.nn.functional.grid_sample(
        image, (2 * pixels / torch.tensor([29, 20]) - 1).view(1, 1, 40, 2), align_corners=True
    )
    found = read(table, *plane_rows(pixels, plane, grid))
    torch.testing.assert_close(found, sampled[0, :, 0].T, atol=1e-12, rtol=0)


def test_corner_pixels_lie_on_corner_cells():
    table = torch.randn(12, 4)  # 3 rows of 4 columns
    corners = torch.tensor([[0.0, 0], [31, 0], [0, 23], [31, 23]])
    rows, weights = plane_rows(corners, (32, 24), (3, 4))
    torch.testing.assert_close(read(table, rows, weights), table[[0, 3, 8, 11]], atol=1e-6, rtol=0)


def test_averaging_over_views_is_the_mean_of_reading_each(naive):
    table = torch.randn(7, 5, dtype=torch.float64)
    coordinates = torch.rand(2, 3, 4, 1, dtype=torch.float64) * 6
    found = average_over_views(table, *line_rows(coordinates, 7))
    assert found.shape == (2, 4, 5)
    for b in range(2):
        for g in range(4):
            each = [naive.read_line(table.numpy(), coordinates[b, m, g, 0].item()) for m in range(3)]
            np.testing.assert_allclose(found[b, g], sum(each) / 3, atol=1e-12)


def test_averaging_reads_a_half_precision_table_in_the_weights_dtype():
    table = torch.randn(7, 5).bfloat16()
    rows, weights = line_rows(torch.arange(6.0).view(1, 1, 6, 1), 7)
    found = average_over_views(table, rows, weights)
    assert found.dtype == torch.float32
    assert torch.equal(found[0], table[:6].float())


@pytest.mark.parametrize("kind", ["line", "plane"])
def test_projections_encode_by_their_own_rows(naive, make, kind):
    centers, table = make.points(2, 9).double(), torch.randn(20, 4, dtype=torch.float64)
    line = LineProjection(6, (1.0, -1.0, 0.0), 15, 2)  # reads rows from the start of a longer table
    projection = line if kind == "line" else PlaneProjection(6, 40, 32, (4, 5), 5)
    found = projection.encode(projection(centers), table)
    for b in range(2):
        if kind == "line":
            coordinates = naive.line_coordinates(centers[b].numpy(), 6, (1, -1, 0), 15)
            each = [[naive.read_line(table[:15].numpy(), c) for c in view] for view in coordinates]
        else:
            pixels = naive.plane_coordinates(centers[b].numpy(), 6, 40, 32)
            each = [[naive.read_plane(table.numpy(), p, (40, 32), (4, 5)) for p in view] for view in pixels]
        np.testing.assert_allclose(found[b], np.mean(each, axis=0), atol=1e-9)


@pytest.mark.parametrize("hidden_size", [48, 50])
def test_sinusoidal_encoding_is_the_geometry_encoding_padded_with_zeros(naive, make, hidden_size):
    centers = make.points(1, 5).double()
    found = sinusoidal_encoding(centers, hidden_size)
    assert found.shape == (1, 5, hidden_size)
    for g in range(5):
        np.testing.assert_allclose(found[0, g, :48], naive.geometry_encoding(centers[0, g], 48), atol=1e-9)
    assert not found[..., 48:].any()


def test_learnable_encoding_is_a_network_of_the_centers(make, naive):
    network = make.randomize(LearnableEncoding(48)).double()
    centers, state = make.points(2, 5).double(), make.arrays(network)
    inner = naive.gelu(naive.linear(centers.numpy(), state, "0"))
    np.testing.assert_allclose(network(centers).detach(), naive.linear(inner, state, "2"), atol=1e-12)
