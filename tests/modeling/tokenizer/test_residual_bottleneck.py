import torch

from any2point_hf.modeling.tokenizer.residual_bottleneck import ResidualBottleneck, fold_batch_norm


def test_folding_a_batch_norm_changes_nothing(make):
    for bias in (True, False):
        linear, norm = torch.nn.Linear(5, 7, bias=bias).double(), torch.nn.BatchNorm1d(7).double()
        make.randomize(torch.nn.ModuleDict({"linear": linear, "norm": norm}))
        rows = torch.randn(9, 5, dtype=torch.float64)
        folded = torch.nn.functional.linear(rows, *fold_batch_norm(linear, norm))
        torch.testing.assert_close(folded, norm.eval()(linear(rows)), atol=1e-12, rtol=0)


def test_bottleneck_leaves_its_input_alone(make):
    for training in (True, False):
        bottleneck = make.randomize(ResidualBottleneck(6, 3)).train(training)
        rows = torch.randn(8, 6)
        before = rows.clone()
        assert (bottleneck(rows) >= 0).all()
        assert torch.equal(rows, before)
