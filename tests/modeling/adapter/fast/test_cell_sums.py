"""Sums in sorted order beside their twins, products with dense matrices."""

import pytest
import torch

from any2point_hf.modeling.adapter.token_cells import TokenCells

B, M, G, D = 2, 3, 12, 5


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def dtype(request):
    return request.param


def both(numbers, dtype, monkeypatch):
    """Cells sorted, and as matrices of as many columns."""
    cells = TokenCells.of(numbers, 0, dtype)
    assert not isinstance(cells.members, torch.Tensor)
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        dense = TokenCells.of(numbers, cells.occupied.shape[2], dtype)
    assert isinstance(dense.members, torch.Tensor)
    assert torch.equal(cells.occupied, dense.occupied)
    return cells, dense


@pytest.fixture
def views(dtype, monkeypatch):
    numbers = torch.randint(6, (B, M, G))
    numbers[0, 0] = torch.arange(G)  # every token alone
    numbers[1, 2] = 3  # all together, so that the last cells of all are empty
    return both(numbers, dtype, monkeypatch)


@pytest.fixture
def voxels(dtype, monkeypatch):
    return both(torch.randint(4, (B, 1, G)), dtype, monkeypatch)


def check(compute, inputs, pair):
    """The same values and gradients from both kinds of cells."""
    atol = 1e-12 if inputs[0].dtype == torch.float64 else 1e-5
    inputs = [values.requires_grad_() for values in inputs]
    found, expected = (compute(cells, *inputs) for cells in pair)
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
    upstream = torch.randn_like(expected)
    for ours, own in zip(*(torch.autograd.grad(result, inputs, upstream) for result in (found, expected)), strict=True):
        torch.testing.assert_close(ours, own, atol=atol, rtol=0)
        assert own.abs().max() > 0.01


def test_means_of_tokens_and_of_slots(views, dtype):
    check(TokenCells.mean, [torch.randn(B, G, D, dtype=dtype)], views)
    check(TokenCells.mean, [torch.randn(B, M, G, D, dtype=dtype)], views)
    cells, features = views[0], torch.ones(B, G, D, dtype=dtype)
    assert not cells.occupied[-1, -1, 1:].any()
    torch.testing.assert_close(cells.mean(features), cells.occupied.unsqueeze(-1).expand(-1, -1, -1, D).to(dtype))


def test_a_single_cloud(dtype, monkeypatch):
    views, voxels = (both(torch.randint(4, (1, m, G)), dtype, monkeypatch) for m in (M, 1))
    features = torch.randn(*views[0].occupied.shape, D, dtype=dtype)
    reference = torch.randn(*voxels[0].occupied.shape, D, dtype=dtype)
    check(TokenCells.mean, [torch.randn(1, G, D, dtype=dtype)], views)
    check(TokenCells.mean, [torch.randn(1, M, G, D, dtype=dtype)], views)
    check(TokenCells.weighted_sum, [features, torch.randn(1, M, G, dtype=dtype)], views)
    pairs = list(zip(views, voxels, strict=True))
    check(lambda pair, *inputs: pair[0].products(*inputs, pair[1]), [features.detach(), reference], pairs)


def test_weighted_sum_of_a_token_s_cells(views, dtype):
    features = torch.randn(*views[0].occupied.shape, D, dtype=dtype)
    weights = torch.randn(B, M, G, dtype=dtype)
    check(TokenCells.weighted_sum, [features, weights], views)
    check(lambda cells, features: cells.weighted_sum(features, weights.detach()), [features.detach()], views)


def test_products_of_cells_with_voxels(views, voxels, dtype):
    features = torch.randn(*views[0].occupied.shape, D, dtype=dtype)
    reference = torch.randn(*voxels[0].occupied.shape, D, dtype=dtype)
    pairs = list(zip(views, voxels, strict=True))
    check(lambda pair, *inputs: pair[0].products(*inputs, pair[1]), [features, reference], pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_at_the_end_alone(views, voxels, dtype):
    (cells, _), (boxes, _) = views, voxels
    tokens, slots = (torch.randn(*shape, D).to(dtype) for shape in ((B, G), (B, M, G)))
    features = torch.randn(*cells.occupied.shape, D).to(dtype)
    reference, weights = torch.randn(*boxes.occupied.shape, D).to(dtype), torch.rand(B, M, G).to(dtype)
    for compute, inputs in (
        (cells.mean, [tokens]),
        (cells.mean, [slots]),
        (cells.weighted_sum, [features, weights]),
        (lambda *given: cells.products(*given, boxes), [features, reference]),
    ):
        inputs = [values.requires_grad_() for values in inputs]
        wide = [values.detach().double().requires_grad_() for values in inputs]
        found, expected = compute(*inputs), compute(*wide)
        upstream = torch.randn_like(found)
        of_found = torch.autograd.grad(found, inputs, upstream)
        of_expected = torch.autograd.grad(expected, wide, upstream.double())
        for ours, own in zip((found, *of_found), (expected, *of_expected), strict=True):
            assert ours.dtype == dtype
            half_a_step = torch.finfo(dtype).eps / 2
            torch.testing.assert_close(ours.double(), own, atol=1e-5, rtol=1.01 * half_a_step)


@pytest.mark.parametrize("shape", [(1, G), (1, 1, G)])
def test_a_mean_in_half_precision_does_not_overflow(shape):
    cells = TokenCells.of(torch.zeros(1, 1, G, dtype=torch.long), 1, torch.float16)
    assert (cells.mean(torch.full((*shape, D), 60000.0).half()) == torch.tensor(60000.0).half()).all()


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32], ids=str)
def test_autocast_changes_nothing_and_dtypes_may_differ(views, voxels, dtype, narrow):
    (cells, _), (boxes, _) = views, voxels
    features = torch.randn(*cells.occupied.shape, D, requires_grad=True)
    reference = torch.randn(*boxes.occupied.shape, D, requires_grad=True)
    slots = torch.randn(B, M, G, D).to(narrow).requires_grad_()

    def run():
        weights = cells.products(features, reference, boxes).to(narrow)
        total = cells.weighted_sum(features, weights) + cells.mean(slots).sum()
        return total, *torch.autograd.grad(total.square().sum(), [features, reference, slots])

    expected = run()
    with torch.autocast("cpu", narrow):
        found = run()
    for ours, own in zip(found, expected, strict=True):
        assert ours.dtype == own.dtype
        torch.testing.assert_close(ours, own)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_cloud_that_is_not_finite_spoils_no_other(views, voxels, dtype, value, spoilt):
    (cells, _), (boxes, _) = views, voxels

    def run(value):
        features = torch.ones(*cells.occupied.shape, D, dtype=dtype)
        reference = torch.ones(*boxes.occupied.shape, D, dtype=dtype)
        tokens, slots = torch.ones(B, G, D, dtype=dtype), torch.ones(B, M, G, D, dtype=dtype)
        for values in (features, reference, tokens, slots):
            values[spoilt] = value
            values.requires_grad_()
        total = cells.weighted_sum(features, cells.products(features, reference, boxes))
        loss = total.sum() + cells.mean(tokens).square().sum() + cells.mean(slots).square().sum()
        return total, *torch.autograd.grad(loss, [features, reference, tokens, slots])

    for found, expected in zip(run(value), run(1.0), strict=True):
        assert not found[spoilt].isfinite().all()
        assert torch.equal(found[1 - spoilt], expected[1 - spoilt])
