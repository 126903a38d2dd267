import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.backbones.blocks import call_block, freeze_backbone
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.backbones.loading import share_backbone
from any2point_hf.modeling.backbones.spec import find
from any2point_hf.modeling.released_compatibility import (
    ReleasedCellNorm,
    ReleasedLineProjection,
    ReleasedPlaneProjection,
    ReleasedPointTokenizer,
    batch_deviation_normalization,
    call_block_across_batch,
    fade_outside,
    near_origin,
    scramble,
    skewed_line_rows,
    stretched_to_canvas,
    unguarded_extent_normalization,
    wrapped_line,
    wrapped_pixels,
)


def read(table, rows, weights):
    return (table[rows] * weights.unsqueeze(-1)).sum(dim=-2)


# Tokenizer


def test_points_near_the_origin_are_known_by_their_squared_norm():
    radius = math.sqrt(1e-3)
    points = torch.tensor([[[0, 0, 0], [0.99 * radius, 0, 0], [0, 1.01 * radius, 0], [0.03, 0.03, 0]]])
    assert near_origin(points).tolist() == [[True, True, False, False]]
    assert near_origin(torch.tensor([[[0.03, 0.01, 0.0]]]).double()).tolist() == [[True]]  # 1e-3 itself, rounded


def test_sampling_never_picks_points_near_the_origin_after_the_first(naive, make):
    points = make.points(2, 96).double()
    points[:, :20] *= 0.05  # the first one too
    tokenizer = ReleasedPointTokenizer(24, 5, "deviation").double().eval()
    _, centers = tokenizer(points)
    for b in range(2):
        near = {index for index, point in enumerate(points[b].tolist()) if sum(c * c for c in point) <= 1e-3}
        assert len(near) > 10
        order = naive.farthest_points(points[b].tolist(), 12, near)
        assert torch.equal(centers[b], points[b, order])
        assert near.isdisjoint(order[1:])


def test_extent_normalization_has_no_guard(naive):
    offsets = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    for b in range(2):
        expected = naive.extent_normalized(offsets[b].numpy())
        np.testing.assert_allclose(unguarded_extent_normalization(offsets)[b], expected, atol=1e-14)
    offsets[1, 2, :, 0] = 0
    found = unguarded_extent_normalization(offsets)
    assert found[1, 2, :, 0].isnan().all()
    assert found.isnan().sum() == 4


def test_deviation_normalization_is_one_number_for_the_batch():
    offsets = torch.randn(3, 5, 4, 3, dtype=torch.float64) * torch.tensor([1.0, 5, 0.2]).view(3, 1, 1, 1)
    values = offsets.numpy()
    expected = values / (np.std(values, ddof=1) + 1e-5)
    np.testing.assert_allclose(batch_deviation_normalization(offsets), expected, atol=1e-12)


# Lines


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_wrapped_lines_are_modulo(fractions):
    found = wrapped_line(torch.tensor(fractions, dtype=torch.float64), 77).tolist()
    for fraction, value in zip(fractions, found, strict=True):
        expected = fraction * 77 - 0.5
        assert value == pytest.approx(expected + 77 if expected < 0 else expected)


def test_both_ends_of_a_wrapped_line_meet(make):
    assert wrapped_line(torch.tensor([0.0, 1.0, 0.5]), 77).tolist() == [76.5, 76.5, 38]
    projection = ReleasedLineProjection(6, (-1.0, 0.0, 1.0), 77, 2)
    coordinates = projection(make.points(2, 30))
    assert ((coordinates > 76.49).sum(dim=2) >= 2).all()
    assert coordinates.min() >= 0
    assert coordinates.max() < 77
    assert projection.num_cells == 39
    assert projection.cells(coordinates).max() == 38


def skewed_read(table, coordinate, extent):
    """One element of finding 5."""
    x = coordinate * (len(table) - 1) / extent
    left, right = (min(max(index, 0), len(table) - 1) for index in (math.floor(x), math.ceil(x)))
    return (right - x) * table[left] + (x - left) * table[right]


@given(st.lists(st.floats(0, 77, exclude_max=True), min_size=4, max_size=4).filter(lambda c: max(c) - min(c) > 0.1))
def test_skewed_reading_is_the_formula(coordinates):
    table = torch.randn(77, 3, dtype=torch.float64)
    tensor = torch.tensor(coordinates, dtype=torch.float64).view(2, 1, 2, 1)  # the extent is that of the batch
    rows, weights = skewed_line_rows(tensor, 77)
    assert rows.dtype == torch.int64
    extent = max(coordinates) - min(coordinates)
    expected = [skewed_read(table.numpy(), c, extent) for c in coordinates]
    np.testing.assert_allclose(read(table, rows, weights).view(4, 3), expected, atol=1e-9)


def test_whole_coordinates_and_those_past_the_end_read_nothing():
    table = torch.randn(77, 3, dtype=torch.float64)
    # The extent is 76, so that the scale is 1: 3 and 40 are whole; 76 and 76.9 lie at or past n − 1.
    coordinates = torch.tensor([0.9, 3.0, 40, 76, 76.9, 40.25], dtype=torch.float64).view(1, 1, 6, 1)
    encoding = read(table, *skewed_line_rows(coordinates, 77))[0, 0]
    assert (encoding[1:5].abs() < 1e-12).all()
    torch.testing.assert_close(encoding[5], 0.75 * table[40] + 0.25 * table[41])
    assert encoding[0].abs().max() > 0.01


def test_line_projection_encodes_the_mean_of_skewed_readings(make, naive):
    table, centers = torch.randn(20, 4, dtype=torch.float64), make.points(2, 9).double()
    projection = ReleasedLineProjection(3, (1.0, -1.0, 0.0), 20, 2)
    coordinates = projection(centers)
    found = projection.encode(coordinates, table)
    flat = coordinates.flatten().tolist()
    extent = max(flat) - min(flat)
    for b in range(2):
        lines = naive.line_coordinates(centers[b].numpy(), 3, (1, -1, 0), 20) / 19 * 20 - 0.5
        lines = np.where(lines < 0, lines + 20, lines)
        np.testing.assert_allclose(coordinates[b, ..., 0], lines, atol=1e-5)
        for g in range(9):
            each = [skewed_read(table.numpy(), coordinates[b, m, g, 0].item(), extent) for m in range(3)]
            np.testing.assert_allclose(found[b, g], sum(each) / 3, atol=1e-9)


# Planes


@given(st.lists(st.tuples(*[st.integers(-10_000, 10_000).map(lambda tenths: tenths / 10)] * 2), min_size=3, max_size=3))
def test_wrapped_pixels_are_modulo_the_canvas(pixels):
    found = wrapped_pixels(torch.tensor(pixels, dtype=torch.float64), 192, 304)
    expected = [[x - math.floor(x / 192) * 192, y - math.floor(y / 304) * 304] for x, y in pixels]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_audio_is_stretched_in_y_alone():
    found = stretched_to_canvas(torch.tensor([[0.5, 0.5], [-1, 0.9]]), 192, 304)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5 * 304 / 192], [-1, 0.9 * 304 / 192]]))
    square = torch.randn(5, 2)
    assert torch.equal(stretched_to_canvas(square, 518, 518), square)


@pytest.mark.parametrize(("plane", "grid"), [((518, 518), (37, 37)), ((192, 304), (19, 12))])
def test_reading_is_grid_sample_with_zeros_outside(plane, grid):
    width, height = plane
    table = torch.randn(grid[0] * grid[1], 3, dtype=torch.float64)
    pixels = torch.rand(1, 1, 300, 2, dtype=torch.float64) * torch.tensor([width, height])
    pixels[..., :20, 0] = width - torch.rand(20)  # in (W − 1, W)
    pixels[..., 10:30, 1] = height - torch.rand(20)
    projection = ReleasedPlaneProjection(1, width, height, grid, 16)
    found = read(table, *projection.rows(pixels))
    scaled = 2 * pixels / torch.tensor([width - 1, height - 1]) - 1
    sampled = torch.nn.functional.grid_sample(
        table.T.reshape(1, 3, *grid), scaled, mode="bilinear", padding_mode="zeros", align_corners=True
    )
    torch.testing.assert_close(found[0, 0], sampled[0, :, 0].T, atol=1e-9, rtol=0)


def test_fading_leaves_pixels_inside_alone_and_falls_linearly_outside():
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25]]).expand(4, -1)
    coordinates = torch.tensor([[0.0, 0.0], [99, 49], [99.5, 10], [99.5, 49.5]])
    found = fade_outside(weights, coordinates, (100, 50), (5, 10))
    column, row = 1 - 0.5 * 9 / 99, 1 - 0.5 * 4 / 49
    expected = torch.tensor([1.0, 1.0, column, column * row])
    torch.testing.assert_close(found, weights * expected.unsqueeze(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("tokens", "channels"), [(4, 6), (16, 48), (7, 5)])
def test_scrambling_is_the_element_formula(tokens, channels):
    encoding = torch.randn(2, tokens, channels)
    found = scramble(encoding)
    for t in range(tokens):
        for c in range(channels):
            flat = channels * t + c
            assert torch.equal(found[:, t, c], encoding[:, flat % tokens, flat // tokens])


def test_plane_projection_wraps_scrambles_and_counts_its_cells(make, naive):
    projection = ReleasedPlaneProjection(6, 192, 304, (19, 12), 16)
    assert projection.num_cells == 12 * 19
    assert ReleasedPlaneProjection(6, 518, 518, (37, 37), 26).num_cells == 400
    centers, table = make.points(1, 30).double(), torch.randn(228, 4, dtype=torch.float64)
    pixels = projection(centers)
    wrapped = 0
    for m, rotated in enumerate(naive.views(centers[0].numpy(), 6)):
        for g, (x, y, z) in enumerate(rotated):
            px = (x / (z + 1.4) + 1) * 96 - 0.5
            py = (y / (z + 1.4) * 304 / 192 + 1) * 152 - 0.5
            wrapped += not 0 <= py < 304
            np.testing.assert_allclose(pixels[0, m, g], [px % 192, py % 304], atol=1e-4)
    assert wrapped > 0
    plain = torch.stack([read(table, *projection.rows(pixels[:, m : m + 1])) for m in range(6)]).mean(dim=0)[:, 0]
    torch.testing.assert_close(projection.encode(pixels, table), scramble(plain), atol=1e-9, rtol=0)


# Cells and blocks


def test_cell_norm_counts_empty_cells_as_zeros(make):
    num_cells, branches, width = 12, 3, 5
    norm = make.randomize(ReleasedCellNorm(width, branches, num_cells)).double().train()
    pooled, occupied = torch.randn(2, branches, 8, width, dtype=torch.float64), torch.rand(2, branches, 8) > 0.4
    means, variances = norm.running_mean.clone(), norm.running_var.clone()
    pooled.requires_grad_()
    found = norm(pooled, occupied)
    upstream = torch.randn_like(found) * occupied.unsqueeze(-1)
    (gradient,) = torch.autograd.grad(found, pooled, upstream)
    for m in range(branches):
        rows = pooled[:, m][occupied[:, m]]
        every = torch.cat([rows, torch.zeros(2 * num_cells - len(rows), width, dtype=torch.float64)])
        expected = torch.nn.functional.batch_norm(
            every, means[m], variances[m], norm.weight[m], norm.bias[m], training=True, momentum=0.1
        )
        expected = torch.nn.functional.gelu(expected[: len(rows)])
        torch.testing.assert_close(found[:, m][occupied[:, m]], expected, atol=1e-12, rtol=0)
        (of_rows,) = torch.autograd.grad(expected, pooled, upstream[:, m][occupied[:, m]])
        torch.testing.assert_close(gradient[:, m], of_rows[:, m], atol=1e-12, rtol=0)
        torch.testing.assert_close(norm.running_mean[m], means[m], atol=1e-12, rtol=0)
        torch.testing.assert_close(norm.running_var[m], variances[m], atol=1e-12, rtol=0)


@torch.no_grad()
def test_attention_across_the_batch_sees_only_the_same_token_of_other_clouds(make):
    backbone = share_backbone(make.backbone("clip_text"))
    spec = backbone_spec(backbone.config)
    freeze_backbone(backbone, spec, None)
    block = find(backbone, spec.blocks)[0]
    hidden = torch.randn(3, 5, 48)
    found = call_block_across_batch(block, hidden)
    for t in range(5):
        torch.testing.assert_close(found[:, t], call_block(block, hidden[:, t][None])[0], atol=1e-5, rtol=0)
    changed = hidden.clone()
    changed[0, 2] = torch.randn(48)
    moved = (call_block_across_batch(block, changed) - found).abs().amax(dim=-1) > 1e-4
    assert torch.equal(moved, (torch.arange(5) == 2).expand(3, -1))
    # Alone, a cloud's attention is out(value(x)).
    normed = block.layer_norm1(hidden[:1])
    residual = hidden[:1] + block.self_attn.out_proj(block.self_attn.v_proj(normed))
    expected = residual + block.mlp(block.layer_norm2(residual))
    torch.testing.assert_close(call_block_across_batch(block, hidden[:1]), expected, atol=1e-5, rtol=0)


# The switch


@pytest.mark.filterwarnings("ignore:this converted model:UserWarning")
@pytest.mark.parametrize("family", ["clip_text", "bert", "dinov2", "ast", "imagebind_audio"])
@torch.no_grad()
def test_the_switch_changes_what_spec_6_names_and_no_parameter(make, family):
    backbone = make.backbone(family)
    method = make.model(backbone)
    released = make.model(backbone, released_compatibility=True)
    assert {n: p.shape for n, p in released.named_parameters()} == {n: p.shape for n, p in method.named_parameters()}
    released.load_state_dict(method.state_dict())
    assert type(released.tokenizer) is ReleasedPointTokenizer
    is_text = family in ("clip_text", "bert")
    assert type(released.projection) is (ReleasedLineProjection if is_text else ReleasedPlaneProjection)
    assert released.call_block is (call_block_across_batch if is_text else call_block)
    for aggregation in released.aggregations.values():
        assert type(aggregation.view_norm) is ReleasedCellNorm
        assert aggregation.view_norm.num_cells == released.projection.num_cells
        assert type(aggregation.voxel_norm) is not ReleasedCellNorm
    points = make.points(3)
    found, expected = released(points).last_hidden_state, method(points).last_hidden_state
    assert found.isfinite().all()
    assert (found - expected).abs().max() > 1e-2
    cls = released(points).last_hidden_state[:, 0]
    alone = torch.cat([released(cloud[None]).last_hidden_state[:, 0] for cloud in points])
    if is_text:  # the CLS feature is the same for every cloud
        torch.testing.assert_close(cls, cls[:1].expand(3, -1), atol=1e-6, rtol=0)
        torch.testing.assert_close(alone, alone[:1].expand(3, -1), atol=1e-6, rtol=0)
    else:
        assert (cls[0] - cls[1]).abs().max() > 1e-3


@torch.no_grad()
def test_imagebinds_key_and_value_rows_are_left_out_of_the_released_model_alone(make):
    backbone = make.backbone("imagebind_audio")
    method = make.model(backbone)
    released = make.model(backbone, released_compatibility=True)
    assert all(not layer.attention.append_key_value_rows for layer in released.backbone.layers)
    assert all(layer.attention.append_key_value_rows for layer in (*method.backbone.layers, *backbone.layers))
    points = make.points(2)
    before = method(points).last_hidden_state, released(points).last_hidden_state
    for layer in backbone.layers:
        layer.attention.bias_v.add_(1.0)
    assert (method(points).last_hidden_state - before[0]).abs().max() > 1e-3
    assert torch.equal(released(points).last_hidden_state, before[1])


def test_released_models_train(make):
    for family in ("clip_text", "dinov2"):
        model = make.model(family, head=True, num_labels=3, released_compatibility=True).train()
        twin = copy.deepcopy(model)
        model(make.points(4), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad and p.grad is not None)
        moved = model.any2point.aggregations["0"].view_norm.running_mean
        assert not torch.equal(moved, twin.any2point.aggregations["0"].view_norm.running_mean)
