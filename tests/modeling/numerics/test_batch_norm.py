"""Batch norms over processes: two of them, started from this very file, against one that has the whole batch."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from any2point_hf.modeling.adapter.cell_norm import CellNorm
from any2point_hf.modeling.numerics.batch_norm import BatchNorm1d, in_many_processes, sum_over_processes
from any2point_hf.modeling.released_compatibility import ReleasedCellNorm

WARNINGS = [f"-Werror::{name}" for name in ("DeprecationWarning", "FutureWarning", "PendingDeprecationWarning")]
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5}
DTYPES = list(TOLERANCES)
COUNTS = [(6, 6), (9, 3), (11, 1)]  # clouds, or rows, of both processes
B, M, G, D = 12, 3, 5, 4

NORMS = {
    "rows": lambda: BatchNorm1d(D),
    "cells": lambda: CellNorm(D, M),
    "released_cells": lambda: ReleasedCellNorm(D, M, num_cells=7),
}


def whole_batch(name, dtype):
    """The norm, its inputs of all B clouds, and the gradient that its output receives."""
    generator = torch.Generator().manual_seed(0)
    norm = NORMS[name]().to(dtype).train()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(1 + torch.randn(parameter.shape, generator=generator))
    if name == "rows":
        rows, upstream = torch.randn(2, B, D, generator=generator)
        return norm, (3 + rows.to(dtype),), upstream.to(dtype)
    pooled, upstream = torch.randn(2, B, M, G, D, generator=generator)
    occupied = torch.rand(B, M, G, generator=generator) > 0.4
    occupied[..., 0] = True
    return norm, (3 + pooled.to(dtype), occupied), (upstream * occupied.unsqueeze(-1)).to(dtype)


def run(norm, inputs, upstream, steps=2):
    """Output and gradients of the last of some steps, and the running statistics after them."""
    values = inputs[0].clone().requires_grad_()
    for _ in range(steps):
        norm.zero_grad()
        values.grad = None
        output = norm(values, *inputs[1:])
        (output * upstream).sum().backward()
    found = {"output": output.detach(), "gradient": values.grad}
    found |= {f"gradient of {name}": parameter.grad for name, parameter in norm.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in norm.named_buffers()}


# What each of the two processes does


def run_share(rank):
    results = {}
    for name, dtype, counts in itertools.product(NORMS, DTYPES, COUNTS):
        norm, inputs, upstream = whole_batch(name, dtype)
        *inputs, upstream = (part.split(counts)[rank] for part in (*inputs, upstream))
        results[name, dtype, counts] = run(norm, inputs, upstream)
    return results


def run_far_from_zero(rank):
    generator = torch.Generator().manual_seed(0)
    rows = (1000 + 0.1 * torch.randn(B, D, generator=generator)).split((8, 4))[rank]
    return BatchNorm1d(D)(rows).detach()


def run_in_bfloat16(rank):
    rows = torch.randn(B, D, generator=torch.Generator().manual_seed(0)).bfloat16().split((8, 4))[rank]
    norm = BatchNorm1d(D)
    return norm(rows).detach(), norm.running_var


def run_mean_of_all_batches(rank):
    norm, steps = BatchNorm1d(D), torch.randn(3, B, D, generator=torch.Generator().manual_seed(0))
    norm.momentum = None  # as torch.optim.swa_utils.update_bn does
    for rows in steps:
        norm(rows.split((8, 4))[rank])
    return norm.running_mean, norm.running_var


def run_evaluation(rank):
    """The first process alone: were anything waited for, it would never end."""
    if rank == 1:
        return None
    norm, inputs, _ = whole_batch("rows", torch.float32)
    cells, cell_inputs, _ = whole_batch("cells", torch.float32)
    return norm.eval()(*inputs).detach(), cells.eval()(*cell_inputs).detach()


def run_compiled(rank):
    norm, (rows,), upstream = whole_batch("rows", torch.float32)
    rows, upstream = rows.split((8, 4))[rank], upstream.split((8, 4))[rank]
    compiled = torch.compile(norm, backend="eager")
    values = rows.clone().requires_grad_()
    (compiled(values) * upstream).sum().backward()
    return values.grad


def run_process(folder, rank):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    assert in_many_processes()
    parts = (run_share, run_far_from_zero, run_in_bfloat16, run_mean_of_all_batches, run_evaluation, run_compiled)
    torch.save({part.__name__: part(rank) for part in parts}, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What `run_process` found in each of two processes."""
    folder = tmp_path_factory.mktemp("two_processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *WARNINGS, __file__, str(folder)]
    processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


# Two processes against one


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_two_processes_find_what_one_does(both, name, dtype, counts):
    first, second = (results["run_share"][name, dtype, counts] for results in both)
    expected = run(*whole_batch(name, dtype))
    for key, value in expected.items():
        if key in ("output", "gradient"):
            found = torch.cat([first[key], second[key]])
        elif "gradient" in key:
            found = first[key] + second[key]
        else:
            assert torch.equal(first[key], second[key]), key
            found = first[key]
        torch.testing.assert_close(found, value, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype], msg=key)
    assert expected["gradient"].abs().max() > 0.1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_norm_of_two_processes_is_torch_s_own(both, dtype):
    norm, (rows,), upstream = whole_batch("rows", dtype)
    own = nn.BatchNorm1d(D).to(dtype)
    own.load_state_dict(norm.state_dict())
    expected = run(own, (rows,), upstream)
    shares = [results["run_share"]["rows", dtype, (11, 1)] for results in both]
    for key in ("output", "gradient"):
        found = torch.cat([share[key] for share in shares])
        torch.testing.assert_close(found, expected[key], atol=TOLERANCES[dtype], rtol=0)
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(shares[0][key], expected[key], atol=TOLERANCES[dtype], rtol=0)


def test_a_mean_far_from_zero_does_no_harm(both):
    rows = 1000 + 0.1 * torch.randn(B, D, generator=torch.Generator().manual_seed(0))
    expected = nn.BatchNorm1d(D).double()(rows.double()).detach().float()
    found = torch.cat([results["run_far_from_zero"] for results in both])
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)  # squares of 1000 in float32 are 0.06 apart


def test_statistics_are_never_halved(both):
    rows = torch.randn(B, D, generator=torch.Generator().manual_seed(0)).bfloat16()
    own = nn.BatchNorm1d(D)
    expected = own(rows).detach()
    found = torch.cat([results["run_in_bfloat16"][0] for results in both])
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(both[0]["run_in_bfloat16"][1], own.running_var)


def test_without_a_momentum_statistics_are_means_over_all_batches(both):
    own = nn.BatchNorm1d(D, momentum=None)
    for rows in torch.randn(3, B, D, generator=torch.Generator().manual_seed(0)):
        own(rows)
    for results in both:
        mean, variance = results["run_mean_of_all_batches"]
        torch.testing.assert_close(mean, own.running_mean)
        torch.testing.assert_close(variance, own.running_var)


def test_evaluation_waits_for_no_other_process(both):
    found = both[0]["run_evaluation"]
    for name, output in zip(("rows", "cells"), found, strict=True):
        norm, inputs, _ = whole_batch(name, torch.float32)
        assert torch.equal(output, norm.eval()(*inputs).detach())


def test_a_compiled_norm_is_synchronised_as_well(both):
    norm, (rows,), upstream = whole_batch("rows", torch.float32)
    expected = run(norm, (rows,), upstream, steps=1)["gradient"]
    torch.testing.assert_close(torch.cat([results["run_compiled"] for results in both]), expected, atol=1e-5, rtol=0)


# A single process


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_one_process_takes_torch_s_own_path_to_the_bit(training):
    norm, (rows,), upstream = whole_batch("rows", torch.float32)
    own = nn.BatchNorm1d(D)
    assert list(own.state_dict()) == list(norm.state_dict())
    own.load_state_dict(norm.state_dict())
    expected, found = (run(module.train(training), (rows,), upstream) for module in (own, norm))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_one_process_sums_nothing():
    values = torch.randn(3)
    assert not in_many_processes()
    assert sum_over_processes(values) is values


def test_start_values_leave_loaded_statistics_alone():
    norm = BatchNorm1d(D)
    assert norm.weight.eq(1).all()
    assert norm.bias.eq(0).all()
    assert norm.running_var.eq(1).all()
    loaded = torch.full((D,), 7.0)
    loaded._is_hf_initialized = True
    norm.running_mean = loaded
    norm.running_var = torch.full((D,), 7.0)
    norm.reset_parameters()
    assert norm.running_mean.tolist() == [7.0] * D
    assert norm.running_var.tolist() == [1.0] * D


def test_one_row_has_no_statistics():
    with pytest.raises(ValueError, match=r"at least 2 clouds in a batch.*got 1"):
        BatchNorm1d(D)(torch.randn(1, D))


@pytest.mark.parametrize("name", ["rows", "cells"])
def test_it_compiles_whole(name):
    norm, inputs, upstream = whole_batch(name, torch.float32)
    expected = run(norm, inputs, upstream, steps=1)["output"]
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*inputs), expected)


if __name__ == "__main__":
    run_process(Path(sys.argv[1]), int(sys.argv[2]))
