import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from any2point_hf.modeling.cell_attention import CellPairs, attend_to_mates, find_mates

B, M, G = 2, 3, 40


def dense(qkv, cells, num_heads, scale):
    """The twin: every pair of tokens under a mask."""
    batch_size, num_views, num_tokens = cells.shape
    qkv = qkv.view(batch_size, num_tokens, num_views, 3, num_heads, -1).permute(3, 0, 2, 4, 1, 5)
    scores = scale * qkv[0] @ qkv[1].transpose(-1, -2)
    apart = (cells.unsqueeze(-1) != cells.unsqueeze(-2)).unsqueeze(2)
    mixed = scores.masked_fill(apart, -torch.inf).softmax(dim=-1) @ qkv[2]  # [B, M, heads, G, width / heads]
    return mixed.permute(0, 3, 1, 2, 4).reshape(batch_size * num_tokens * num_views, -1)


def small_cells(num_cells=20):
    return torch.randint(num_cells, (B, M, G))


def test_pairs_are_the_mates_of_each_row_and_turned_is_the_other_way_round():
    cells = small_cells()
    pairs = find_mates(cells, torch.float32)
    assert isinstance(pairs, CellPairs)
    by_row = cells.transpose(1, 2).reshape(-1)  # a row is (b·G + g)·M + m
    rows = torch.arange(len(by_row))
    cloud, view = rows // (G * M), rows % M
    expected = [
        (i, j)
        for i in rows.tolist()
        for j in rows.tolist()
        if cloud[i] == cloud[j] and view[i] == view[j] and by_row[i] == by_row[j]
    ]
    listed = list(zip(pairs.attending.tolist(), pairs.attended.tolist(), strict=True))
    assert listed == expected
    assert [listed[turned] for turned in pairs.turned] == [(j, i) for i, j in listed]
    assert torch.equal(pairs.counts, torch.bincount(pairs.attending, minlength=len(rows)))
    assert torch.equal(pairs.starts, torch.searchsorted(pairs.attending, rows))


@given(st.integers(0, 10_000), st.sampled_from([(12, 6), (8, 2), (5, 1), (4, 4)]), st.sampled_from([12, 20, 400]))
def test_attention_over_pairs_is_the_dense_one_with_its_gradient(seed, sizes, num_cells):
    torch.manual_seed(seed)
    (width, num_heads), cells = sizes, small_cells(num_cells)
    pairs = find_mates(cells, torch.float64)
    assert isinstance(pairs, CellPairs)
    qkv = torch.randn(B * G * M, 3 * width, dtype=torch.float64, requires_grad=True)
    found, expected = attend_to_mates(qkv, pairs, num_heads, 0.3), dense(qkv, cells, num_heads, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    upstream = torch.randn_like(found)
    (found,) = torch.autograd.grad(found, qkv, upstream)
    (expected,) = torch.autograd.grad(expected, qkv, upstream)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)


def test_large_scores_do_not_overflow():
    cells, qkv = small_cells(), 300 * torch.randn(B * G * M, 36)
    found = attend_to_mates(qkv, find_mates(cells, torch.float32), 6, 1.0)
    assert (qkv[:, :12] * qkv[:, 12:24]).abs().max() > 1e5  # far above the 88 that exp can take
    torch.testing.assert_close(found, dense(qkv, cells, 6, 1.0), atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_compute_in_float32(dtype):
    cells = small_cells()
    pairs, qkv = find_mates(cells, dtype), torch.randn(B * G * M, 36).to(dtype)
    expected = attend_to_mates(qkv.float(), pairs, 6, 0.3)
    assert torch.equal(attend_to_mates(qkv, pairs, 6, 0.3), expected)
    leaf = qkv.float().requires_grad_()
    (wide,) = torch.autograd.grad(attend_to_mates(leaf, pairs, 6, 0.3).square().sum(), leaf)
    with torch.autocast("cpu", dtype):
        found = attend_to_mates(leaf, pairs, 6, 0.3)
        assert torch.equal(found, expected)
        (narrow,) = torch.autograd.grad(found.square().sum(), leaf)
    torch.testing.assert_close(narrow, wide)


def test_a_cloud_that_is_not_finite_spoils_no_other():
    cells = small_cells()
    qkv, pairs = torch.randn(B * G * M, 36), find_mates(cells, torch.float32)
    expected = attend_to_mates(qkv, pairs, 6, 0.3)
    qkv[: G * M] = torch.nan
    found = attend_to_mates(qkv, pairs, 6, 0.3)
    assert found[: G * M].isnan().all()
    assert torch.equal(found[G * M :], expected[G * M :])


def test_crowded_cells_and_other_devices_take_a_mask():
    cells = torch.randint(3, (B, M, G))
    mask = find_mates(cells, torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    same = (cells.unsqueeze(-1) == cells.unsqueeze(-2)).flatten(0, 1).unsqueeze(1)
    assert torch.equal(mask == 0, same)
    assert torch.equal(mask == -torch.inf, ~same)
    assert find_mates(torch.empty(B, M, G, dtype=torch.long, device="meta"), torch.float32).shape == (B * M, 1, G, G)


def test_pairs_and_mask_give_the_same_attention():
    cells, qkv = small_cells(), torch.randn(B * G * M, 36, dtype=torch.float64)
    mask = torch.where(cells.unsqueeze(-1) == cells.unsqueeze(-2), 0.0, -torch.inf).flatten(0, 1).unsqueeze(1)
    query, key, value = qkv.view(B, G, M, 3, 6, 2).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.double(), scale=0.3)
    expected = expected.view(B, M, 6, G, 2).permute(0, 3, 1, 2, 4).reshape(-1, 12)
    found = attend_to_mates(qkv, find_mates(cells, torch.float64), 6, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
