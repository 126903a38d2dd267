import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.adapter.token_cells import TokenCells, number_cells, same_cell_mask

B, M, G, D = 2, 3, 8, 5

cell_numbers = st.integers(1, 9).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(-3, 3).map(lambda n: n * 10**12), min_size=size, max_size=size),
        min_size=1,
        max_size=3,
    )
)


@given(cell_numbers)
def test_cells_are_numbered_in_the_order_of_their_first_tokens(naive, batch):
    found = number_cells(torch.tensor(batch))
    assert found.dtype == torch.int64
    for cells, row in zip(batch, found.tolist(), strict=True):
        for number, group in enumerate(naive.members(cells)):
            assert [row[token] for token in group] == [number] * len(group)


@given(cell_numbers)
def test_pooling_is_that_of_a_loop_over_cells(naive, batch):
    size = len(batch[0])
    cells = TokenCells.of(torch.tensor(batch).unsqueeze(0), size, torch.float64)  # the lists are views of one cloud
    shared = torch.randn(1, size, 3, dtype=torch.float64)
    of_views = torch.randn(1, len(batch), size, 3, dtype=torch.float64)
    for features, each in ((shared, shared.unsqueeze(1).expand_as(of_views)), (of_views, of_views)):
        mean = cells.mean(features)
        for m, view in enumerate(batch):
            for number, group in enumerate(naive.members(view)):
                np.testing.assert_allclose(mean[0, m, number], each[0, m, group].mean(dim=0), atol=1e-12)
    largest = cells.maximum(of_views)
    for m, view in enumerate(batch):
        groups = naive.members(view)
        for number, group in enumerate(groups):
            assert torch.equal(largest[0, m, number], of_views[0, m, group].amax(dim=0))
        assert cells.occupied[0, m].tolist() == [n < len(groups) for n in range(cells.occupied.shape[-1])]
        assert not largest[0, m, len(groups) :].any()


def test_rows_name_each_token_s_pooled_row():
    cells = TokenCells.of(torch.randint(4, (B, M, G)), 4, torch.float32)
    features = torch.randn(B, G, D)
    pooled = cells.mean(features).flatten(1, 2)
    rows = cells.rows
    for b in range(B):
        for m in range(M):
            for token in range(G):
                mates = cells.numbers[b, m] == cells.numbers[b, m, token]
                torch.testing.assert_close(pooled[b, rows[b, m, token]], features[b, mates].mean(dim=0))


def test_as_many_cells_as_there_are_on_a_cpu_and_the_bound_elsewhere():
    numbers = torch.tensor([[[5, 5, 9, 7]], [[1, 1, 1, 1]]])
    assert TokenCells.of(numbers, 39, torch.float32).occupied.tolist() == [[[True] * 3], [[True, False, False]]]
    assert TokenCells.of(numbers.to("meta"), 39, torch.float32).shares.shape == (2, 1, 4, 4)
    assert TokenCells.of(numbers.to("meta"), 2, torch.float32).shares.shape == (2, 1, 2, 4)


def test_pooling_keeps_views_and_clouds_apart():
    numbers, features = torch.randint(3, (B, M, G)), torch.randn(B, M, G, D)
    cells = TokenCells.of(numbers, 3, torch.float32)
    for b in range(B):
        for m in range(M):
            alone = TokenCells.of(numbers[b : b + 1, m : m + 1], 3, torch.float32)
            own = features[b : b + 1, m : m + 1]
            count = alone.occupied.shape[2]
            torch.testing.assert_close(cells.mean(features)[b, m, :count], alone.mean(own)[0, 0])
            assert torch.equal(cells.maximum(features)[b, m, :count], alone.maximum(own)[0, 0])


def test_pooling_gradients_are_those_of_the_dense_formula():
    numbers = torch.randint(3, (B, 1, G))
    features = torch.randn(B, 1, G, D, dtype=torch.float64, requires_grad=True)
    cells = TokenCells.of(numbers, 3, torch.float64)
    same = (numbers.unsqueeze(-1) == numbers.unsqueeze(-2)).unsqueeze(-1)  # [B, 1, G, G, 1]
    spread = features.unsqueeze(2)
    dense_mean = (spread * same).sum(dim=3) / same.sum(dim=3)
    dense_max = spread.masked_fill(~same, -torch.inf).amax(dim=3)
    index = cells.numbers.unsqueeze(-1).expand(-1, -1, -1, D)
    upstream = torch.randn_like(dense_mean)
    for pooled, dense in ((cells.mean(features), dense_mean), (cells.maximum(features), dense_max)):
        copied = pooled.gather(2, index)
        torch.testing.assert_close(copied, dense)
        (found,) = torch.autograd.grad(copied, features, upstream, retain_graph=True)
        (expected,) = torch.autograd.grad(dense, features, upstream, retain_graph=True)
        torch.testing.assert_close(found, expected)


def test_equal_maxima_share_the_gradient():
    cells = TokenCells.of(torch.tensor([[[0, 0, 0, 1]]]), 2, torch.float64)
    features = torch.tensor([[[[5.0], [2.0], [5.0], [1.0]]]], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(cells.maximum(features), features, torch.tensor([[[[6.0], [7.0]]]]).double())
    assert found.flatten().tolist() == [3, 0, 3, 7]


def test_weighted_sums_and_products_are_those_of_loops():
    cells, voxels = (TokenCells.of(torch.randint(4, (B, views, G)), 4, torch.float64) for views in (M, 1))
    features = torch.randn(*cells.occupied.shape, D, dtype=torch.float64)
    reference = torch.randn(*voxels.occupied.shape, D, dtype=torch.float64)
    weights = torch.rand(B, M, G, dtype=torch.float64)
    total, products = cells.weighted_sum(features, weights), cells.of_pairs(cells.products(features, reference), voxels)
    for b in range(B):
        for g in range(G):
            own = [features[b, m, cells.numbers[b, m, g]] for m in range(M)]
            torch.testing.assert_close(total[b, g], sum(w * f for w, f in zip(weights[b, :, g], own, strict=True)))
            of_voxel = reference[b, 0, voxels.numbers[b, 0, g]]
            torch.testing.assert_close(products[b, :, g], torch.stack([f @ of_voxel for f in own]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_off_by_its_own_rounding_alone(dtype):
    cells = TokenCells.of(torch.randint(3, (B, M, G)), 3, torch.float32)
    tokens, weights = torch.randn(B, G, D).to(dtype), torch.rand(B, M, G).to(dtype)
    features = torch.randn(*cells.occupied.shape, D).to(dtype)
    for compute, inputs in ((cells.mean, [tokens]), (cells.weighted_sum, [features, weights])):
        found, expected = compute(*inputs), compute(*(values.float() for values in inputs))
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=4 * torch.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("shape", [(1, G), (1, 1, G)])
def test_a_mean_in_half_precision_does_not_overflow(shape):
    cells = TokenCells.of(torch.zeros(1, 1, G, dtype=torch.long), 1, torch.float16)
    assert (cells.mean(torch.full((*shape, D), 60000.0).half()) == torch.tensor(60000.0).half()).all()


def test_the_mask_lets_tokens_of_a_cell_see_each_other():
    mask = same_cell_mask(torch.tensor([[[7, 7, 3]]]), torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    hidden = -torch.inf
    assert mask.tolist() == [[[[0, 0, hidden], [0, 0, hidden], [hidden, hidden, 0]]]]
