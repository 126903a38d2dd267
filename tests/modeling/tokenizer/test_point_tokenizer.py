import copy
import itertools

import numpy as np
import pytest
import torch

from any2point_hf.modeling.tokenizer.fast import block_size, sine_table
from any2point_hf.modeling.tokenizer.point_tokenizer import (
    PointTokenizer,
    TokenizerStage,
    deviation_normalization,
    extent_normalization,
    plain_stage,
)


def test_extent_normalization_is_per_axis_and_neighborhood(naive):
    offsets = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    found = extent_normalization(offsets)
    for b in range(2):
        np.testing.assert_allclose(found[b], naive.extent_normalized(offsets[b].numpy()), atol=1e-14)
    assert torch.equal(found.abs().amax(dim=2), torch.ones(2, 5, 3, dtype=torch.float64))


def test_a_flat_axis_gives_zero_and_finite_gradients():
    offsets = torch.randn(1, 2, 4, 3)
    offsets[0, 1, :, 2] = 0
    offsets.requires_grad_()
    found = extent_normalization(offsets)
    assert not found[0, 1, :, 2].any()
    assert found[0, 1, :, :2].abs().amax(dim=0).tolist() == [1, 1]
    found.sum().backward()
    assert offsets.grad.isfinite().all()


def test_deviation_normalization_is_one_unbiased_number_per_cloud(naive):
    offsets = torch.randn(3, 5, 4, 3, dtype=torch.float64) * torch.tensor([1.0, 5, 0.2]).view(3, 1, 1, 1)
    found = deviation_normalization(offsets)
    for b in range(3):
        np.testing.assert_allclose(found[b], naive.deviation_normalized(offsets[b].numpy()), atol=1e-12)
        alone = deviation_normalization(offsets[b : b + 1])[0]
        torch.testing.assert_close(found[b], alone, atol=1e-14, rtol=1e-14)
    assert not deviation_normalization(torch.zeros(1, 2, 3, 3)).any()


@pytest.mark.parametrize("normalization", ["extent", "deviation"])
@pytest.mark.parametrize(("hidden_size", "num_points", "num_neighbors"), [(48, 64, 6), (50, 72, 5), (24, 64, 64)])
@pytest.mark.parametrize("with_gradients", [True, False], ids=["plain", "inference"])
def test_tokens_in_evaluation_are_the_naive_ones(
    naive, make, normalization, hidden_size, num_points, num_neighbors, with_gradients
):
    tokenizer = make.randomize(PointTokenizer(hidden_size, num_neighbors, normalization)).double().eval()
    points = make.points(2, num_points).double()
    with torch.set_grad_enabled(with_gradients):
        tokens, centers = tokenizer(points)
    expected, expected_centers = naive.tokenize(points.numpy(), make.arrays(tokenizer), num_neighbors, normalization)
    assert tokens.shape == (2, num_points // 8, hidden_size)
    np.testing.assert_array_equal(centers, expected_centers)
    np.testing.assert_allclose(tokens.detach(), expected, atol=1e-9)


@pytest.mark.parametrize("normalization", ["extent", "deviation"])
def test_training_uses_and_keeps_the_statistics_of_the_batch(naive, make, normalization):
    tokenizer = make.randomize(PointTokenizer(50, 5, normalization)).double().train()
    points = make.points(2, 64).double()
    state, updates = make.arrays(tokenizer), {}
    expected, _ = naive.tokenize(points.numpy(), state, 5, normalization, training=True, updates=updates)
    tokens, _ = tokenizer(points)
    np.testing.assert_allclose(tokens.detach(), expected, atol=1e-8)
    after = make.arrays(tokenizer)
    assert len(updates) == 2 * 9  # stem and two norms of each of four bottlenecks
    for name, value in updates.items():
        np.testing.assert_allclose(after[name], value, atol=1e-9, err_msg=name)
        assert not np.allclose(after[name], state[name])
    assert after["stem_norm.num_batches_tracked"] == 1


def test_evaluation_changes_no_statistic(make):
    tokenizer = make.randomize(PointTokenizer(48, 5, "extent")).eval()
    before = make.arrays(tokenizer)
    tokenizer(make.points(2, 64))
    for name, value in make.arrays(tokenizer).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("hidden_size", "channels"), [(24, 3), (8, 3), (48, 6), (50, 6), (384, 48), (768, 96), (1024, 129), (100, 12)]
)
def test_stem_width_is_the_multiple_of_three_nearest_an_eighth(hidden_size, channels):
    tokenizer = PointTokenizer(hidden_size, 4, "extent")
    assert tokenizer.stem.weight.shape == (channels, 3)
    assert tokenizer.stem.bias is None
    if 8 * channels == hidden_size:
        assert not list(tokenizer.projection.parameters())
    else:
        assert tokenizer.projection.weight.shape == (hidden_size, 8 * channels)


def test_bottlenecks_are_two_one_one_with_the_spec_s_widths():
    tokenizer = PointTokenizer(768, 81, "extent")
    shapes = [[tuple(b.down.weight.shape) for b in stage.bottlenecks] for stage in tokenizer.stages]
    assert shapes == [[(96, 192), (96, 192)], [(192, 384)], [(32, 768)]]
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) == 276672


@pytest.mark.parametrize("num_points", [64, 100, 1000])
def test_any_number_of_points_gives_an_eighth_of_it_in_tokens(make, num_points):
    tokenizer = PointTokenizer(24, 81, "deviation").eval()  # K = 81 is capped at the 64 (32, 16…) points there are
    points = make.points(1, num_points)
    tokens, centers = tokenizer(points)
    assert tokens.shape == (1, num_points // 8, 24)
    assert torch.equal(centers[:, 0], points[:, 0])
    assert all((center == points[0]).all(dim=1).any() for center in centers[0])


@pytest.fixture
def plainly(monkeypatch):
    """Runs a function with every stage in plain autograd operations: the twin of both fast ways."""

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(TokenizerStage, "_choose_way", lambda stage, rows: plain_stage)
            return function()

    return run


@pytest.mark.parametrize("start", ["farthest", "first"])
@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_levels_are_what_the_tokens_are_made_of(make, start, mode):
    tokenizer = make.randomize(PointTokenizer(50, 5, "extent", 2, start)).train(mode == "train")
    points, features = make.points(2, 64), torch.rand(2, 64, 2)
    twin = copy.deepcopy(tokenizer)
    tokens, centers, *levels = tokenizer(points, features, output_levels=True)
    plain = twin(points, features)
    assert len(plain) == 2
    assert torch.equal(plain[0], tokens)
    assert torch.equal(plain[1], centers)
    assert [level.points.shape[1] for level in levels] == [64, 32, 16, 8]
    assert [level.features.shape[2] for level in levels] == tokenizer.level_widths
    assert torch.equal(levels[0].points, points)
    stem = twin.eval()._embed(torch.cat([points, features], dim=-1))  # in the order given
    if mode == "evaluate":
        torch.testing.assert_close(levels[0].features, stem)
    assert torch.equal(levels[3].points, centers)
    assert torch.equal(tokenizer.projection(levels[3].features), tokens)
    for denser, level in itertools.pairwise(levels[1:]):
        assert torch.equal(denser.points[:, : level.points.shape[1]], level.points)


@pytest.mark.parametrize("normalization", ["extent", "deviation"])
@pytest.mark.parametrize("block", [1, 1000, 1 << 20])
def test_inference_in_blocks_is_the_plain_way(make, monkeypatch, plainly, block, normalization):
    tokenizer = make.randomize(PointTokenizer(48, 5, normalization)).eval()
    points = make.points(3, 64)
    expected, _ = plainly(lambda: tokenizer(points))
    monkeypatch.setattr(block_size, "_CPU_VALUES", block)
    with torch.no_grad():
        found, _ = tokenizer(points)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("normalization", "per_block"), [("extent", 0), ("deviation", 1)])
def test_a_sine_outside_the_table_is_computed_once(make, monkeypatch, normalization, per_block):
    tokenizer = make.randomize(PointTokenizer(48, 5, normalization)).eval()
    calls, formula = [], sine_table.geometry_encoding
    monkeypatch.setattr(sine_table, "geometry_encoding", lambda *arguments: calls.append(0) or formula(*arguments))
    with torch.no_grad():
        tokenizer(make.points(3, 64))
    assert len(calls) == 3 * per_block


@pytest.mark.parametrize("change", ["frozen", "cumulative"])
def test_norms_made_to_do_otherwise_are_obeyed(make, plainly, change):
    tokenizer = make.randomize(PointTokenizer(48, 5, "extent")).train()
    for norm in (module for module in tokenizer.modules() if isinstance(module, torch.nn.BatchNorm1d)):
        if change == "frozen":
            norm.eval()
        else:
            norm.momentum = None  # as torch.optim.swa_utils.update_bn does
    twin, points = copy.deepcopy(tokenizer), make.points(2, 64)
    found, _ = tokenizer(points)
    expected, _ = plainly(lambda: twin(points))
    assert torch.equal(found, expected)
    norm, other = tokenizer.stages[0].bottlenecks[0].up_norm, twin.stages[0].bottlenecks[0].up_norm
    assert torch.equal(norm.running_var, other.running_var)
    assert norm.num_batches_tracked == (0 if change == "frozen" else 1)


def test_gradients_of_the_points_in_training_take_the_plain_way(make):
    tokenizer = make.randomize(PointTokenizer(48, 5, "extent")).train()
    points = make.points(2, 64).requires_grad_()
    tokenizer(points)[0].square().sum().backward()
    assert points.grad.abs().max() > 0


def test_a_cloud_s_tokens_do_not_depend_on_its_batch(make):
    for normalization in ("extent", "deviation"):
        tokenizer = make.randomize(PointTokenizer(48, 5, normalization)).eval()
        points = make.points(3, 64)
        tokens, _ = tokenizer(points)
        for b in range(3):
            torch.testing.assert_close(tokenizer(points[b : b + 1])[0][0], tokens[b], atol=1e-5, rtol=0)
            with torch.no_grad():
                torch.testing.assert_close(tokenizer(points[b : b + 1])[0][0], tokens[b], atol=1e-5, rtol=0)


def test_evaluation_and_frozen_statistics_agree_and_gradients_reach_everything(make):
    tokenizer = make.randomize(PointTokenizer(50, 5, "extent")).train()
    tokenizer(make.points(2, 64))[0].square().sum().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    gradients = {name: parameter.grad.abs().max() for name, parameter in tokenizer.named_parameters()}
    weights = {name: value for name, value in gradients.items() if name.endswith("weight")}
    assert all(value > 0 for value in weights.values())


def test_a_cloud_of_one_repeated_point_gives_finite_tokens(make):
    for normalization in ("extent", "deviation"):
        tokens, _ = make.randomize(PointTokenizer(48, 5, normalization)).eval()(torch.ones(1, 64, 3))
        assert tokens.isfinite().all()


CLOUDS_WITH_TIES = {
    "a grid": (torch.cartesian_prod(*[torch.arange(5.0)] * 3)[None] / 4, 0),
    "of a depth camera, searched in leaves": (torch.randint(0, 12, (2, 1024, 3)) / 12, 0),
    "repeated": (torch.randint(0, 40, (2, 24, 3)).repeat(1, 4, 1) / 40, 0),
    "coloured": (torch.randint(0, 4, (2, 96, 3)) / 4, 2),
}


@pytest.mark.parametrize("case", CLOUDS_WITH_TIES)
@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_from_the_farthest_point_tokens_do_not_depend_on_the_order_of_the_points(make, case, mode):
    points, num_features = CLOUDS_WITH_TIES[case]
    features = torch.randint(0, 3, (*points.shape[:2], num_features)) / 3 if num_features else None
    permutation = torch.randperm(points.shape[1])
    permuted = None if features is None else features[:, permutation]
    different = {}
    for start in ("first", "farthest"):
        torch.manual_seed(0)
        tokenizer = make.randomize(PointTokenizer(24, 6, "extent", num_features, start)).train(mode == "train")
        with torch.no_grad():
            tokens, centers = tokenizer(points, features)
            again, centers_again = tokenizer(points[:, permutation], permuted)
        different[start] = not (torch.equal(tokens, again) and torch.equal(centers, centers_again))
    assert different == {"first": True, "farthest": False}
