import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from any2point_hf.modeling.projection.virtual_projection import (
    LineProjection,
    PlaneProjection,
    rotation_matrices,
    voxel_cells,
)

DIRECTION = (1.0, -1.0, 0.0)
centers_batches = st_numpy.arrays(np.float64, (2, 9, 3), elements=st.floats(-0.75, 0.75, width=16), fill=st.nothing())


def test_rotations_are_the_products_of_the_three_axes(naive):
    found = rotation_matrices(10)
    assert (found.dtype, found.shape) == (torch.float32, (10, 3, 3))
    np.testing.assert_allclose(found, [naive.rotation(angles) for angles in naive.ANGLES], atol=1e-7)
    torch.testing.assert_close(found @ found.mT, torch.eye(3).expand(10, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(10), atol=1e-6, rtol=0)
    for count in (1, 4, 6, 8):
        assert torch.equal(rotation_matrices(count), found[:count])


def test_rotation_order_by_hand():
    # The first view turns x into y: a quarter about z. The fifth is Ry(−90°) Rz(90°): x → y → y, y → −x → −z.
    projection = LineProjection(6, DIRECTION, 77, 2)
    views = projection.rotate(torch.eye(3)[None])
    expected = torch.tensor([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]).float()
    torch.testing.assert_close(views[0, 0], expected, atol=1e-7, rtol=0)
    expected = torch.tensor([[0, 1, 0], [0, 0, -1], [-1, 0, 0]]).float()
    torch.testing.assert_close(views[0, 4], expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("projection", [LineProjection(6, DIRECTION, 77, 2), PlaneProjection(6, 32, 32, (4, 4), 4)])
def test_coordinates_are_not_rounded_under_autocast(projection):
    centers = torch.randn(2, 32, 3)
    expected = projection(centers)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(projection(centers), expected)


def effective_lines(direction):
    lines = rotation_matrices(6).transpose(1, 2) @ (torch.tensor(direction) / math.sqrt(2))
    return (lines @ lines.T).abs()


def test_the_six_default_lines_are_six_different_lines():
    off_diagonal = effective_lines(DIRECTION)[~torch.eye(6, dtype=torch.bool)]
    assert (off_diagonal < 0.6).all()
    released = effective_lines((-1.0, 0.0, 1.0))
    torch.testing.assert_close(released[2, 4:], torch.ones(2))  # method.md 6.4: three released views share one line


def test_rotations_are_no_part_of_the_state():
    assert not LineProjection(6, DIRECTION, 77, 2).state_dict()
    projection = PlaneProjection(6, 32, 32, (4, 4), 4)
    assert not projection.state_dict()
    projection.rotations.zero_()
    projection.reset_parameters()
    assert torch.equal(projection.rotations, rotation_matrices(6))


@given(centers_batches, st.sampled_from([DIRECTION, (1.0, 2.0, -0.5)]), st.sampled_from([2, 7, 77]))
def test_line_coordinates_are_the_naive_ones(naive, centers, direction, length):
    found = LineProjection(6, direction, length, 2)(torch.from_numpy(centers))
    assert found.shape == (2, 6, 9, 1)
    for b in range(2):
        views = [v @ (np.array(direction) / np.linalg.norm(direction)) for v in naive.views(centers[b], 6)]
        expected = naive.line_coordinates(centers[b], 6, direction, length)
        for m, view in enumerate(views):
            if np.ptp(view) > 1e-9:  # below it, rounding decides
                np.testing.assert_allclose(found[b, m, :, 0], expected[m], atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= length - 1


def test_both_ends_of_a_line_are_attained_by_every_cloud_and_view(make):
    coordinates = LineProjection(10, DIRECTION, 77, 2)(make.points(3, 20))
    assert (coordinates.amin(dim=2) == 0).all()
    torch.testing.assert_close(coordinates.amax(dim=2), torch.full((3, 10, 1), 76.0))


def test_lines_do_not_see_where_the_cloud_is_or_how_large(make):
    projection, centers = LineProjection(6, DIRECTION, 77, 2), make.points(1, 20)
    moved = projection(3 * centers + torch.tensor([5.0, -2.0, 1.0]))
    torch.testing.assert_close(moved, projection(centers), atol=1e-3, rtol=0)


def test_a_degenerate_line_gives_the_middle():
    projection = LineProjection(6, DIRECTION, 77, 2)
    assert (projection(torch.ones(2, 8, 3)) == 38).all()
    along_z = torch.zeros(1, 8, 3)
    along_z[0, :, 2] = torch.linspace(-1, 1, 8)
    assert (projection(along_z)[0, 0] == 38).all()  # the first view only turns about z
    assert projection(along_z)[0, 1].amax() == 76


@pytest.mark.parametrize(("axis", "views"), [(0, [1, 3]), (1, [4, 5]), (2, [0, 2])])
def test_a_line_across_a_view_s_own_is_degenerate_there(axis, views):
    # These views' lines have no part along the axis; rounding of the rotations must not be blown up to the full range.
    line = torch.zeros(1, 8, 3)
    line[0, :, axis] = torch.linspace(-1, 1, 8)
    coordinates = LineProjection(6, DIRECTION, 77, 2)(line)[0, ..., 0]
    for view in range(6):
        span = (coordinates[view].min().item(), coordinates[view].max().item())
        assert span == ((38, 38) if view in views else (0, 76)), view


@given(st.lists(st.floats(0, 76), min_size=3, max_size=3), st.sampled_from([1, 2, 3, 0.5]))
def test_line_cells_are_floors(coordinates, size):
    projection = LineProjection(1, DIRECTION, 77, size)
    found = projection.cells(torch.tensor(coordinates, dtype=torch.float64).view(1, 1, 3, 1))
    assert found.dtype == torch.int64
    assert found[0, 0].tolist() == [math.floor(c / size) for c in coordinates]


@given(centers_batches, st.booleans(), st.sampled_from([(32, 32), (304, 192)]), st.sampled_from([1.4, 1.8]))
def test_plane_pixels_are_the_naive_ones(naive, centers, orthographic, canvas, distance):
    width, height = canvas
    centers = centers + np.linspace(0, 1e-3, 9)[None, :, None]  # never all at one place
    projection = PlaneProjection(6, width, height, (4, 4), 8, distance, orthographic)
    found = projection(torch.from_numpy(centers))
    assert found.shape == (2, 6, 9, 2)
    for b in range(2):
        expected = naive.plane_coordinates(centers[b], 6, width, height, distance, orthographic)
        np.testing.assert_allclose(found[b], expected, atol=1e-6 * width)


def test_perspective_by_hand():
    projection = PlaneProjection(1, 100, 50, (5, 10), 5, camera_distance=1.5)
    pixels = projection(torch.tensor([[[0.0, 0, 0], [0.5, -0.4, 0.5], [0, 0, 1]]], dtype=torch.float64))
    # The first view maps (x, y, z) to (−y, x, z); 0.4 / 2 and 0.5 / 2 are the image coordinates of the second point.
    expected = [[49.5, 24.5], [1.2 * 50 - 0.5, 1.25 * 25 - 0.5], [49.5, 24.5]]
    np.testing.assert_allclose(pixels[0, 0], expected, atol=1e-5)


def test_pixels_are_clamped_to_the_canvas_even_behind_the_camera():
    projection = PlaneProjection(6, 100, 50, (5, 10), 5, camera_distance=1.4)
    far = torch.tensor([[[9.0, 0, 0], [-9, 0, 0], [0, 9, 0], [0, -9, 0], [0, 0, -1.4], [1, 1, -1.4]]])
    pixels = projection(far)
    assert pixels.isfinite().all()
    assert pixels[..., 0].min() == 0
    assert pixels[..., 0].max() == 99
    assert pixels[..., 1].min() == 0
    assert pixels[..., 1].max() == 49


def test_orthographic_fills_eight_tenths_of_the_canvas_and_ignores_depth(make):
    projection = PlaneProjection(6, 101, 101, (4, 4), 5, orthographic=True)
    box = torch.tensor([[[-2.0, -1, 0], [2, 1, 0.5], [0, 0, 0.1]]])
    pixels = projection(box)[0, 0]  # (x, y) -> (−y, x)
    torch.testing.assert_close(pixels[:, 1].min().item(), (1 - 0.8) * 50.5 - 0.5, atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels[:, 1].max().item(), (1 + 0.8) * 50.5 - 0.5, atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels[:, 0].min().item(), (1 - 0.4) * 50.5 - 0.5, atol=1e-4, rtol=0)
    moved = projection(5 * box + 7)[0, 0]
    torch.testing.assert_close(moved, pixels, atol=1e-3, rtol=0)
    assert projection(torch.ones(1, 5, 3)).isfinite().all()


@given(st.lists(st.tuples(st.floats(0, 99), st.floats(0, 49)), min_size=6, max_size=6), st.sampled_from([5, 7, 26]))
def test_plane_cells_part_the_tokens_as_pairs_of_floors(naive, pixels, size):
    projection = PlaneProjection(1, 100, 50, (5, 10), size)
    found = projection.cells(torch.tensor(pixels, dtype=torch.float64).view(1, 1, 6, 2))[0, 0].tolist()
    (expected,) = naive.plane_cells([pixels], size)
    assert sorted(naive.members(found)) == sorted(naive.members(expected))


def test_plane_cells_are_numbered_row_by_row():
    projection = PlaneProjection(1, 518, 518, (37, 37), 26)
    pixels = torch.tensor([[0.0, 0], [26, 0], [0, 26], [517, 517]]).view(1, 1, 4, 2)
    assert projection.cells(pixels)[0, 0].tolist() == [0, 1, 20, 399]


@given(centers_batches, st.sampled_from([0.08, 0.16, 0.5, 3.0]))
def test_voxels_part_the_centers_as_the_naive_ones(naive, centers, size):
    found = voxel_cells(torch.from_numpy(centers), size)
    assert found.dtype == torch.int64
    for b in range(2):
        expected = naive.voxels(centers[b], size)
        assert sorted(naive.members(found[b].tolist())) == sorted(naive.members(expected))


def test_voxel_grid_starts_at_the_cloud_s_minimum():
    line = torch.tensor([[[10.0, 5, 5], [10.4, 5, 5], [10.6, 5, 5], [11.1, 5, 5]]])
    first, second, third, fourth = voxel_cells(line, 0.5)[0].tolist()
    assert first == second
    assert len({first, third, fourth}) == 3


def test_voxels_along_different_axes_are_never_confused():
    corners = [[0, 0, 0], [0, 0, 1], [0, 2, 0], [0, 1, 0], [1, 0, 0], [3, 0, 0], [0, 0, 3], [1, 2, 3], [3, 2, 1]]
    for axes in ([0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]):  # grids of any proportions
        for count in range(2, len(corners) + 1):
            cells = voxel_cells(torch.tensor([corners[:count]]).float()[..., axes], 0.9)
            assert len(set(cells[0].tolist())) == count
