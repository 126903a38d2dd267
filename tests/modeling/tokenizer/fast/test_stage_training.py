"""The training stage beside its plain twin, which autograd differentiates: outputs, statistics and every gradient."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.tokenizer.fast import block_size
from any2point_hf.modeling.tokenizer.fast import stage_training as tokenizer_training
from any2point_hf.modeling.tokenizer.fast.neighbor_rows import NeighborRows
from any2point_hf.modeling.tokenizer.fast.stage_training import train_stage
from any2point_hf.modeling.tokenizer.point_tokenizer import plain_stage
from any2point_hf.modeling.tokenizer.residual_bottleneck import ResidualBottleneck


def make_stage(make, num_bottlenecks=2, half=6, width=5, dtype=torch.float64):
    bottlenecks = torch.nn.ModuleList(ResidualBottleneck(2 * half, width) for _ in range(num_bottlenecks))
    return make.randomize(bottlenecks).to(dtype).train()


def make_rows(num_points=20, num_centers=9, num_neighbors=4, half=6, dtype=torch.float64):
    return NeighborRows(
        torch.randn(num_points, half, dtype=dtype).relu().requires_grad_(),
        torch.rand(num_centers, num_points).argsort(dim=1)[:, :num_neighbors],  # two alike would share a gradient
        torch.rand(num_centers, num_neighbors, 3, dtype=dtype) * 2 - 1,
        torch.randn(num_centers, half, dtype=dtype).relu().requires_grad_(),
    )


def run(stage, bottlenecks, rows, upstream):
    """Output, and gradients by name (zero for the biases before a batch norm, where plain ones are rounding)."""
    output = stage(rows, bottlenecks)
    named = {"features": rows.features, "centers": rows.centers, **dict(bottlenecks.named_parameters())}
    return output, dict(zip(named, torch.autograd.grad(output, list(named.values()), upstream), strict=True))


def assert_same(bottlenecks, rows, tolerance):
    twin = copy.deepcopy(bottlenecks)
    upstream = torch.randn(*rows.centers.shape[:1], rows.channels, dtype=rows.features.dtype)
    expected, expected_gradients = run(plain_stage, twin, rows, upstream)
    found, gradients = run(train_stage, bottlenecks, rows, upstream)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    largest = max(value.abs().max() for value in expected_gradients.values())
    for name, expected in expected_gradients.items():
        scale = largest if name.endswith(("down.bias", "up.bias")) else expected.abs().max()
        assert (gradients[name] - expected).abs().max() <= 10 * tolerance * scale, name
        if name.endswith(("down.bias", "up.bias")):
            assert not gradients[name].any()
    for (name, found), expected in zip(bottlenecks.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance, msg=name)


@given(
    num_bottlenecks=st.integers(1, 3),
    num_centers=st.integers(1, 12),
    num_neighbors=st.integers(2, 6),
    block=st.sampled_from([1, 100, 1 << 20]),
)
def test_outputs_statistics_and_gradients_are_those_of_autograd(
    make, num_bottlenecks, num_centers, num_neighbors, block
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_size, "_CPU_VALUES", block)
        rows = make_rows(num_centers=num_centers, num_neighbors=num_neighbors)
        assert_same(make_stage(make, num_bottlenecks, width=24), rows, 1e-10)  # narrower ones tie at 0


def test_in_float32_within_the_tolerances_of_the_project(make):
    rows = make_rows(500, 200, 16, half=24, dtype=torch.float32)
    assert_same(make_stage(make, half=24, width=24, dtype=torch.float32), rows, 1e-5)


def test_rows_far_from_zero_lose_no_variance(make):
    rows = make_rows(500, 200, 16, half=24, dtype=torch.float32)
    with torch.no_grad():
        rows.features.add_(300)
        rows.centers.add_(300)
    bottlenecks = make_stage(make, 1, half=24, width=24, dtype=torch.float32)
    twin, wide = copy.deepcopy(bottlenecks), copy.deepcopy(bottlenecks).double()
    train_stage(rows, bottlenecks)
    plain_stage(rows, twin)
    plain_stage(NeighborRows(*(part.double() if part.is_floating_point() else part for part in rows)), wide)
    exact, norms = wide[0].down_norm.running_var, (bottlenecks[0].down_norm, twin[0].down_norm)
    ours, plain = ((norm.running_var - exact).abs().max() for norm in norms)
    assert ours <= 2 * plain + 1e-6


def test_a_second_backward_is_refused_and_a_kept_graph_repeats_it(make):
    rows, bottlenecks = make_rows(), make_stage(make)
    output = train_stage(rows, bottlenecks)
    first = torch.autograd.grad(output.sum(), rows.features, retain_graph=True)
    second = torch.autograd.grad(output.sum(), rows.features)
    assert torch.equal(first[0], second[0])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(output.sum(), rows.features)


def test_without_gradients_only_statistics_move(make):
    rows, bottlenecks = make_rows(), make_stage(make)
    with torch.no_grad():
        output = train_stage(rows, bottlenecks)
    assert not output.requires_grad
    assert bottlenecks[0].down_norm.num_batches_tracked == 1


def test_autocast_takes_the_products_to_bfloat16_and_keeps_statistics_wide(make):
    rows, bottlenecks = make_rows(dtype=torch.float32), make_stage(make, dtype=torch.float32)
    expected = train_stage(rows, copy.deepcopy(bottlenecks))
    with torch.autocast("cpu", torch.bfloat16):
        found = train_stage(rows, bottlenecks)
        found.float().square().sum().backward()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.05)
    assert bottlenecks[0].down_norm.running_var.dtype == torch.float32
    for parameter in (rows.features, rows.centers, *bottlenecks.parameters()):
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_many_rows_are_those_of_float32(make, monkeypatch, dtype):
    monkeypatch.setattr(block_size, "_CPU_VALUES", 1 << 26)  # one block, as on a GPU
    rows = make_rows(1000, 12500, 16, dtype=torch.float32)
    bottlenecks = make_stage(make, 1, dtype=torch.float32)
    wide = copy.deepcopy(bottlenecks)
    with torch.no_grad():
        train_stage(rows, wide)
        with torch.autocast("cpu", dtype):
            train_stage(rows, bottlenecks)
    for norm in ("down_norm", "up_norm"):
        found, expected = (getattr(module[0], norm).running_var for module in (bottlenecks, wide))
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0.02)


def test_bfloat16_weights_train(make):
    rows = make_rows(500, 200, 16, half=24, dtype=torch.float32)
    upstream = torch.randn(200, 48)
    _, expected = run(train_stage, make_stage(make, half=24, width=24, dtype=torch.float32), rows, upstream)
    narrow = NeighborRows(
        rows.features.detach().bfloat16().requires_grad_(),
        rows.neighbors,
        rows.offsets,
        rows.centers.detach().bfloat16().requires_grad_(),
    )
    torch.manual_seed(0)
    bottlenecks = make_stage(make, half=24, width=24, dtype=torch.float32).bfloat16()
    _, found = run(train_stage, bottlenecks, narrow, upstream.bfloat16())
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all(value.isfinite().all() for value in found.values())
    assert found.keys() == expected.keys()


def test_equal_neighbors_share_a_weight_s_gradient_as_one_of_them_would_have_it(make):
    rows = make_rows(num_neighbors=3)
    rows = rows._replace(neighbors=rows.neighbors[:, :1].expand(-1, 3).contiguous())
    rows = rows._replace(offsets=rows.offsets[:, :1].expand(-1, 3, -1).contiguous())
    bottlenecks = make_stage(make)
    twin, upstream = copy.deepcopy(bottlenecks), torch.randn(9, 12, dtype=torch.float64)
    _, expected = run(plain_stage, twin, rows, upstream)
    _, found = run(train_stage, bottlenecks, rows, upstream)
    for name in ("0.down.weight", "1.up.weight", "0.up_norm.bias", "features", "centers"):  # the same point thrice
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize(("num_bottlenecks", "most"), [(1, 1 << 27), (2, 1 << 27), (2, 1600 * 12 - 1), (3, 1600 * 12)])
def test_what_is_kept_is_half_the_width_of_a_bottleneck_and_a_small_last_input(
    make, monkeypatch, num_bottlenecks, most
):
    monkeypatch.setattr(tokenizer_training, "_MOST_KEPT_VALUES", most)
    rows, num_rows, kept = make_rows(200, 100, 16), 1600, []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        train_stage(rows, make_stage(make, num_bottlenecks))
    shapes = [tuple(tensor.shape) for tensor in kept if tensor.shape[:1] == (num_rows,)]
    is_input_kept = num_bottlenecks > 1 and most >= num_rows * 12
    assert sorted(shapes) == [(num_rows, 5)] * num_bottlenecks + [(num_rows, 12)] * is_input_kept


@pytest.mark.parametrize("num_bottlenecks", [2, 3])
def test_keeping_an_input_changes_no_bit(make, monkeypatch, num_bottlenecks):
    rows, bottlenecks, upstream = (
        make_rows(200, 100, 16),
        make_stage(make, num_bottlenecks),
        torch.randn(100, 12).double(),
    )
    kept, kept_gradients = run(train_stage, copy.deepcopy(bottlenecks), rows, upstream)
    monkeypatch.setattr(tokenizer_training, "_MOST_KEPT_VALUES", 0)
    made, made_gradients = run(train_stage, bottlenecks, rows, upstream)
    assert torch.equal(kept, made)
    assert all(torch.equal(kept_gradients[name], made_gradients[name]) for name in made_gradients)
