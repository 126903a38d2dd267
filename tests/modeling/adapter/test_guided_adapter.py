import numpy as np
import pytest
import torch

from any2point_hf.modeling.adapter.cell_norm import CellNorm
from any2point_hf.modeling.adapter.guided_adapter import (
    Bottleneck,
    GuidedAggregation,
    LocalAttention,
    Neighborhoods,
    ensemble_weights,
)
from any2point_hf.modeling.adapter.token_cells import TokenCells

B, M, G, D = 2, 3, 10, 8


@pytest.fixture
def cells():
    view_cells, voxel_cells = torch.randint(4, (B, M, G)), torch.randint(5, (B, G))
    view_cells[0, 0] = torch.arange(G)  # every token alone
    view_cells[1, 0] = 7  # all together
    return view_cells, voxel_cells


def test_bottleneck_is_the_formula(make, naive):
    bottleneck = make.randomize(Bottleneck(D, 3, dropout=0.5, scale=0.3)).double().eval()
    hidden, state = torch.randn(4, 5, D, dtype=torch.float64), make.arrays(bottleneck)
    state = {f"a.{name}": value for name, value in state.items()}
    expected = naive.bottleneck(hidden.numpy(), state, "a", 0.3)
    np.testing.assert_allclose(bottleneck(hidden).detach(), expected, atol=1e-12)


def test_bottleneck_works_in_its_own_dtype_and_answers_in_the_input_s(make):
    bottleneck = make.randomize(Bottleneck(D, 3, 0.1, 0.3)).eval()
    hidden = torch.randn(4, D).bfloat16()
    found = bottleneck(hidden)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, bottleneck(hidden.float()).bfloat16())


def test_bottleneck_drops_inside(make):
    bottleneck = make.randomize(Bottleneck(D, 400, 0.25, 1.0)).train()
    with torch.no_grad():
        bottleneck.down.weight.zero_()
        bottleneck.down.bias.fill_(1.0)
        bottleneck.up.weight.zero_()
        bottleneck.up.weight[0] = 1
        bottleneck.up.bias.zero_()
    gelu_of_one = 1 / (1 + np.exp(-1.702))
    kept = bottleneck(torch.zeros(50, D))[:, 0] * 0.75 / gelu_of_one  # how many of the 400 were kept
    torch.testing.assert_close(kept, kept.round(), atol=1e-2, rtol=0)
    assert 290 < kept.mean() < 310
    assert kept.std() > 1


def neighborhoods(cells, dtype=torch.float64):
    return Neighborhoods.of(*cells, 10, dtype)


def test_neighborhoods_say_who_shares_a_cell(cells):
    view_cells, voxel_cells = cells
    found = neighborhoods(cells)
    mask, same_cell = found.mask.view(B, M, G, G), view_cells.unsqueeze(-1) == view_cells.unsqueeze(-2)
    assert torch.equal(mask == 0, same_cell)
    assert torch.equal(mask == -torch.inf, ~same_cell)
    for mine, numbers in ((view_cells, found.views.numbers), (voxel_cells.unsqueeze(1), found.voxels.numbers)):
        together = mine.unsqueeze(-1) == mine.unsqueeze(-2)
        assert torch.equal(numbers.unsqueeze(-1) == numbers.unsqueeze(-2), together)


def test_local_attention_is_the_naive_one(make, naive, cells):
    attention = make.randomize(LocalAttention(D, M, 12, 6)).double()
    view_cells, _voxel_cells = cells
    mask = neighborhoods(cells).mask
    tokens, state = torch.randn(B, G, D, dtype=torch.float64), make.arrays(attention)
    found = attention(tokens, mask)
    assert found.shape == (B, M, G, D)
    for b in range(B):
        for m in range(M):
            expected = naive.local_attention(tokens[b].numpy(), view_cells[b, m].tolist(), state, m)
            np.testing.assert_allclose(found[b, m].detach(), expected, atol=1e-10)


def test_local_attention_of_another_width_and_heads(make, naive, cells):
    attention = make.randomize(LocalAttention(D, M, 8, 2)).double()
    view_cells, _voxel_cells = cells
    tokens, state = torch.randn(B, G, D, dtype=torch.float64), make.arrays(attention)
    found = attention(tokens, neighborhoods(cells).mask)
    expected = naive.local_attention(tokens[1].numpy(), view_cells[1, 2].tolist(), state, 2, num_heads=2, width=8)
    np.testing.assert_allclose(found[1, 2].detach(), expected, atol=1e-10)


def test_heads_padded_for_a_device_change_nothing(make, cells, monkeypatch):
    attention, mask = make.randomize(LocalAttention(D, M, 12, 6)).double(), neighborhoods(cells).mask
    tokens = torch.randn(B, G, D, dtype=torch.float64)
    plain = attention(tokens, mask)
    monkeypatch.setattr("any2point_hf.modeling.adapter.guided_adapter.head_multiple", lambda values: 8)
    assert attention.layers(B).qkv_weight.shape == (M * 3 * 6 * 8, D)
    torch.testing.assert_close(attention(tokens, mask), plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_cloud_that_is_not_finite_spoils_no_other(make, cells, value):
    attention = make.randomize(LocalAttention(D, M, 12, 6))
    aggregation = make.randomize(GuidedAggregation(D, M, 0.7, True, True)).eval()
    tokens, near = torch.randn(B, G, D), neighborhoods(cells, torch.float32)
    spoilt = tokens.clone()
    spoilt[0] = value
    found, expected = aggregation(spoilt, near, attention), aggregation(tokens, near, attention)
    assert not found[0].isfinite().any()
    assert torch.equal(found[1], expected[1])


def test_tokens_of_other_cells_are_not_seen(make):
    attention = make.randomize(LocalAttention(D, 1, 12, 6))
    view_cells = torch.tensor([[[0, 0, 1, 1]]])
    mask = neighborhoods((view_cells, view_cells[:, 0]), torch.float32).mask
    tokens = torch.randn(1, 4, D)
    changed = tokens.clone()
    changed[0, 3, 0] += 1
    before, after = attention(tokens, mask), attention(changed, mask)
    torch.testing.assert_close(before[0, 0, :2], after[0, 0, :2], atol=1e-6, rtol=0)
    assert (before[0, 0, 2] - after[0, 0, 2]).abs().max() > 1e-3


def random_norm(make, branches=M):
    norm = make.randomize(CellNorm(D, branches)).double()
    torch.nn.init.normal_(norm.weight, 1.0, 0.2)
    return norm


def test_cell_norm_in_evaluation_uses_running_statistics(make):
    norm = random_norm(make).eval()
    pooled, occupied = torch.randn(B, M, G, D, dtype=torch.float64), torch.rand(B, M, G) > 0.5
    before, found = make.arrays(norm), norm(pooled, occupied)
    for m in range(M):
        expected = torch.nn.functional.batch_norm(
            pooled[:, m].reshape(-1, D), norm.running_mean[m], norm.running_var[m], norm.weight[m], norm.bias[m]
        )
        expected = torch.nn.functional.gelu(expected)
        torch.testing.assert_close(found[:, m].reshape(-1, D), expected, atol=1e-12, rtol=0)
    for name, value in make.arrays(norm).items():
        np.testing.assert_array_equal(value, before[name])


def test_cell_norm_in_training_sees_occupied_cells_only(make):
    norm = random_norm(make).train()
    pooled, occupied = torch.randn(B, M, G, D, dtype=torch.float64), torch.rand(B, M, G) > 0.4
    means, variances = norm.running_mean.clone(), norm.running_var.clone()
    upstream = torch.randn(B, M, G, D, dtype=torch.float64) * occupied.unsqueeze(-1)  # nothing reads the other rows
    pooled.requires_grad_()
    found = norm(pooled, occupied)
    gradient, *of_parameters = torch.autograd.grad(found, [pooled, norm.weight, norm.bias], upstream)
    for m in range(M):
        rows = pooled[:, m][occupied[:, m]]
        expected = torch.nn.functional.batch_norm(  # torch's own, updates the clones in place
            rows, means[m], variances[m], norm.weight[m], norm.bias[m], training=True, momentum=0.1
        )
        expected = torch.nn.functional.gelu(expected)
        torch.testing.assert_close(found[:, m][occupied[:, m]], expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(norm.running_mean[m], means[m], atol=1e-12, rtol=0)
        torch.testing.assert_close(norm.running_var[m], variances[m], atol=1e-12, rtol=0)
        inputs = [pooled, norm.weight, norm.bias]
        expected, *expected_of_parameters = torch.autograd.grad(expected, inputs, upstream[:, m][occupied[:, m]])
        torch.testing.assert_close(gradient[:, m], expected[:, m], atol=1e-12, rtol=0)
        for ours, own in zip(of_parameters, expected_of_parameters, strict=True):
            torch.testing.assert_close(ours[m], own[m], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cell_norm_takes_its_statistics_in_float32_under_autocast(dtype):
    pooled, occupied = 400 * torch.randn(B, 1, G, D), torch.ones(B, 1, G, dtype=torch.bool)
    narrow, wide = CellNorm(D, 1).train(), CellNorm(D, 1).train()
    wide(pooled.to(dtype).float(), occupied)
    with torch.autocast("cpu", dtype):
        narrow(pooled.to(dtype), occupied)
    torch.testing.assert_close(narrow.running_var, wide.running_var, rtol=1e-5, atol=0)
    torch.testing.assert_close(narrow.running_mean, wide.running_mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cell_norm_s_gradient_is_that_of_float32_after_autocast(make, dtype):
    norm = make.randomize(CellNorm(D, M)).train()
    pooled, occupied = torch.randn(B, M, G, D, requires_grad=True), torch.rand(B, M, G) > 0.4
    inputs, upstream = [pooled, norm.weight, norm.bias], torch.randn(B, M, G, D)
    expected = torch.autograd.grad(norm(pooled, occupied), inputs, upstream)
    with torch.autocast("cpu", dtype):
        normalized = norm(pooled, occupied)
    found = torch.autograd.grad(normalized, inputs, upstream)
    for ours, own in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, own)


def test_cell_norm_with_a_single_cell_stays_finite():
    norm = CellNorm(D, 1).train()
    occupied = torch.zeros(1, 1, G, dtype=torch.bool)
    occupied[0, 0, 0] = True
    found = norm(torch.randn(1, 1, G, D), occupied)
    torch.testing.assert_close(found[0, 0, 0], torch.zeros(D), atol=1e-3, rtol=0)
    assert norm.running_var.isfinite().all()


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("adaptive", [True, False], ids=["adaptive", "mean_ensemble"])
@pytest.mark.parametrize("max_pooling", [False, True], ids=["mean", "mean+max"])
def test_guided_aggregation_is_the_naive_one(make, naive, cells, max_pooling, adaptive, training):
    attention = make.randomize(LocalAttention(D, M, 12, 6)).double()
    aggregation = make.randomize(GuidedAggregation(D, M, 0.7, max_pooling, adaptive)).double().train(training)
    view_cells, voxel_cells = cells
    tokens = torch.randn(B, G, D, dtype=torch.float64)
    state = make.arrays(aggregation)
    updates = {name: value.copy() for name, value in state.items() if "running" in name}
    expected = naive.aggregate(
        tokens.numpy(),
        view_cells.tolist(),
        voxel_cells.tolist(),
        state,
        make.arrays(attention),
        0.7,
        max_pooling,
        adaptive,
        training,
        updates,
    )
    found = aggregation(tokens, neighborhoods(cells), attention)
    np.testing.assert_allclose(found.detach(), expected, atol=1e-10)
    after = make.arrays(aggregation)
    for name, value in updates.items():
        np.testing.assert_allclose(after[name], value, atol=1e-12, err_msg=name)
        assert np.allclose(after[name], state[name]) != training
    assert (aggregation.voxel_norm is not None) == adaptive


def test_aggregation_of_scale_zero_is_the_identity(make, cells):
    attention = make.randomize(LocalAttention(D, M, 12, 6))
    aggregation = GuidedAggregation(D, M, 0.0, False, True).eval()
    tokens = torch.randn(B, G, D)
    assert torch.equal(aggregation(tokens, neighborhoods(cells, torch.float32), attention), tokens)


@pytest.mark.parametrize("adaptive", [True, False], ids=["adaptive", "mean_ensemble"])
@pytest.mark.parametrize("max_pooling", [False, True], ids=["mean", "mean+max"])
def test_gradients_of_aggregation_are_those_of_differences(make, cells, max_pooling, adaptive):
    attention = make.randomize(LocalAttention(D, M, 12, 6)).double()
    aggregation = make.randomize(GuidedAggregation(D, M, 0.7, max_pooling, adaptive)).double().train()
    tokens, found = torch.randn(B, G, D, dtype=torch.float64, requires_grad=True), neighborhoods(cells)
    inputs = [tokens, *attention.parameters(), *aggregation.parameters()]
    assert torch.autograd.gradcheck(lambda *_: aggregation(tokens, found, attention), inputs, fast_mode=True)


def test_the_output_layer_adds_in_its_own_dtype_under_autocast(make):
    attention = make.randomize(LocalAttention(D, M, 12, 6))
    rows, mixed = torch.randn(B, M, G, D).bfloat16(), torch.randn(B, M, G, 12).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = attention.add_to(rows, mixed, attention.layers(B))
    expected = torch.einsum("bmgw,mdw->bmgd", mixed.float(), attention.out_weight) + attention.out_bias.unsqueeze(1)
    torch.testing.assert_close(found, rows + expected, atol=1e-5, rtol=0)


def test_gradients_of_aggregation_reach_tokens_norms_and_attention(make, cells):
    attention = make.randomize(LocalAttention(D, M, 12, 6))
    aggregation = make.randomize(GuidedAggregation(D, M, 0.7, True, True)).train()
    tokens = torch.randn(B, G, D, requires_grad=True)
    aggregation(tokens, neighborhoods(cells, torch.float32), attention).square().sum().backward()
    for parameter in [tokens, *attention.parameters(), *aggregation.parameters()]:
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0


def own_cells(num_tokens):
    """Each token in a cell and a voxel of its own."""
    tokens = torch.arange(num_tokens)
    return (TokenCells.of(tokens.expand(1, views, -1), num_tokens, torch.float32) for views in (M, 1))


def test_ensemble_weights_are_the_formula_and_sum_to_one():
    views, voxels = (TokenCells.of(torch.randint(4, (B, m, G)), 4, torch.float64) for m in (M, 1))
    of_cells = torch.randn(*views.occupied.shape, D, dtype=torch.float64)
    of_voxels = torch.randn(*voxels.occupied.shape, D, dtype=torch.float64)
    weights = ensemble_weights(of_cells, of_voxels, views, voxels)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(B, G, dtype=torch.float64), atol=1e-12, rtol=0)
    features = of_cells.gather(2, views.numbers.unsqueeze(-1).expand(-1, -1, -1, D))
    reference = of_voxels.gather(2, voxels.numbers.unsqueeze(-1).expand(-1, -1, -1, D))
    cosine = (features * reference).sum(-1) / features.norm(dim=-1) / reference.norm(dim=-1)
    expected = (cosine + 1) / (cosine + 1).sum(dim=1, keepdim=True)
    torch.testing.assert_close(weights, expected, atol=1e-12, rtol=0)


def test_ensemble_weights_of_opposite_views_are_equal_and_their_gradients_finite():
    reference = torch.eye(D)[:1].view(1, 1, 1, D)
    features = (-reference).expand(1, M, 1, D).clone().requires_grad_()  # every cosine is −1, every weight 0 / 0
    weights = ensemble_weights(features, reference, *own_cells(1))
    torch.testing.assert_close(weights, torch.full((1, M, 1), 1 / M))
    (weights * torch.randn(1, M, 1)).sum().backward()
    assert features.grad.isfinite().all()


def test_a_zero_reference_weighs_all_views_equally_in_float16():
    reference = torch.zeros(1, 1, 1, D, dtype=torch.float16)
    weights = ensemble_weights(torch.randn(1, M, 1, D).half(), reference, *own_cells(1))
    torch.testing.assert_close(weights.float(), torch.full((1, M, 1), 1 / M))


def test_a_zero_reference_weighs_all_views_equally_and_gives_finite_gradients():
    reference = torch.zeros(1, 1, 1, D, requires_grad=True)
    weights = ensemble_weights(torch.randn(1, M, 1, D), reference, *own_cells(1))
    torch.testing.assert_close(weights, torch.full((1, M, 1), 1 / M))
    (weights * torch.randn(1, M, 1)).sum().backward()
    assert reference.grad.isfinite().all()


def test_rounding_of_cosines_near_minus_one_does_no_harm():
    reference = torch.randn(1, 1, 50, D)
    features = -reference * torch.rand(1, M, 1, 1)
    weights = ensemble_weights(features, reference, *own_cells(50))
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, 50), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 15.0])
def test_float16_under_autocast_stays_finite_and_near_float32(make, cells, scale):
    attention, aggregation = LocalAttention(384, M, 12, 6), GuidedAggregation(384, M, 0.7, True, True).eval()
    for norm in (aggregation.view_norm, aggregation.voxel_norm):
        norm.weight.data.fill_(scale)  # products of F and B beyond 65504
    tokens, near = torch.randn(B, G, 384), neighborhoods(cells, torch.float32)
    tokens[:, :, 7] = 7e4  # beyond float16 itself
    expected = aggregation(tokens, near, attention)
    with torch.autocast("cpu", torch.float16):
        found = aggregation(tokens, near, attention)
    torch.testing.assert_close(found, expected, atol=0.02 * scale, rtol=0.01)
