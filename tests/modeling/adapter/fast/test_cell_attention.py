import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any2point_hf.modeling.adapter.fast.cell_attention import (
    LARGEST_SHARE,
    CellPairs,
    attend_to_mates,
    find_mates,
    list_pairs,
)

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


def pairs_of(cells):
    """Whether or not a mask would be faster."""
    return list_pairs(cells.transpose(1, 2).unsqueeze(-1) == cells.unsqueeze(1))


def test_pairs_are_the_mates_of_each_row_and_turned_is_the_other_way_round():
    cells = small_cells()
    pairs = pairs_of(cells)
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


@given(st.integers(0, 10_000), st.sampled_from([(12, 6), (8, 2), (5, 1), (4, 4)]), st.sampled_from([1, 3, 20, 400]))
def test_attention_over_pairs_is_the_dense_one_with_its_gradient(seed, sizes, num_cells):
    torch.manual_seed(seed)
    (width, num_heads), cells = sizes, small_cells(num_cells)
    qkv = torch.randn(B * G * M, 3 * width, dtype=torch.float64, requires_grad=True)
    found, expected = attend_to_mates(qkv, pairs_of(cells), num_heads, 0.3), dense(qkv, cells, num_heads, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    upstream = torch.randn_like(found)
    (of_found,) = torch.autograd.grad(found, qkv, upstream)
    (of_expected,) = torch.autograd.grad(expected, qkv, upstream)
    torch.testing.assert_close(of_found, of_expected, atol=1e-13, rtol=0)


def test_large_scores_do_not_overflow():
    cells, qkv = small_cells(), 300 * torch.randn(B * G * M, 36)
    found = attend_to_mates(qkv, pairs_of(cells), 6, 1.0)
    assert (qkv[:, :12] * qkv[:, 12:24]).abs().max() > 1e5  # far above the 88 that exp can take
    torch.testing.assert_close(found, dense(qkv, cells, 6, 1.0), atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    pairs, qkv = pairs_of(small_cells()), torch.randn(B * G * M, 36, requires_grad=True)
    expected = attend_to_mates(qkv, pairs, 6, 0.3)
    (of_expected,) = torch.autograd.grad(expected.square().sum(), qkv)
    with torch.autocast("cpu", dtype):
        found = attend_to_mates(qkv, pairs, 6, 0.3)
        (of_found,) = torch.autograd.grad(found.square().sum(), qkv)
    assert torch.equal(found, expected)
    torch.testing.assert_close(of_found, of_expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_cloud_that_is_not_finite_spoils_no_other(value):
    pairs, other = pairs_of(small_cells()), slice(G * M, None)
    qkv = torch.randn(B * G * M, 36, requires_grad=True)
    expected = attend_to_mates(qkv, pairs, 6, 0.3)
    (of_expected,) = torch.autograd.grad(expected.square().sum(), qkv)
    spoilt = qkv.detach().clone()
    spoilt[: G * M] = value
    found = attend_to_mates(spoilt.requires_grad_(), pairs, 6, 0.3)
    (of_found,) = torch.autograd.grad(found.square().sum(), spoilt)
    assert not found[: G * M].isfinite().any()
    assert torch.equal(found[other], expected[other])
    assert torch.equal(of_found[other], of_expected[other])


def test_gradients_of_a_batch_of_losses():
    pairs, qkv = pairs_of(small_cells()), torch.randn(B * G * M, 36, requires_grad=True)
    mixed, upstream = attend_to_mates(qkv, pairs, 6, 0.3), torch.randn(2, B * G * M, 12)
    (found,) = torch.autograd.grad(mixed, qkv, upstream, is_grads_batched=True, retain_graph=True)
    expected = [torch.autograd.grad(mixed, qkv, one, retain_graph=True)[0] for one in upstream]
    torch.testing.assert_close(found, torch.stack(expected))


def test_crowded_cells_compilers_and_other_devices_take_a_mask(monkeypatch):
    cells = small_cells()
    assert isinstance(find_mates(cells, torch.float32), CellPairs)
    mask = find_mates(torch.randint(3, (B, M, G)), torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert find_mates(torch.empty(B, M, G, dtype=torch.long, device="meta"), torch.float32).shape == (B * M, 1, G, G)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    mask = find_mates(cells, torch.float32)
    same = (cells.unsqueeze(-1) == cells.unsqueeze(-2)).flatten(0, 1).unsqueeze(1)
    assert torch.equal(mask == 0, same)
    assert torch.equal(mask == -torch.inf, ~same)


def test_pairs_are_listed_up_to_a_share_of_the_tokens():
    num_tokens = 60
    share = int(LARGEST_SHARE * num_tokens)
    cells = (torch.arange(num_tokens) // share).view(1, 1, -1)
    assert isinstance(find_mates(cells, torch.float32), CellPairs)
    cells[0, 0, share] = 0  # one more mate for the first of them, one less for the second: more pairs
    assert isinstance(find_mates(cells, torch.float32), torch.Tensor)
    many = (torch.arange(300) // 25).view(1, 1, -1)  # 25 mates are a small share, but many
    assert isinstance(find_mates(many, torch.float32), torch.Tensor)
    assert isinstance(find_mates((torch.arange(300) // 24).view(1, 1, -1), torch.float32), CellPairs)
