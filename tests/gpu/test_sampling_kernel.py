"""The Triton kernel orders points as the torch loop does, on the GPU and on the CPU, index by index."""

import warnings

import pytest
import torch

from any2point_hf.modeling.tokenizer import point_ops
from any2point_hf.modeling.tokenizer.point_ops import farthest_point_sampling


def cloud(*shape, seed=0):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))


def grid(side):
    axes = [torch.arange(side, dtype=torch.float32)] * 3
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3)


def some(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < 0.3


CASES = {  # points, how many to choose, which are left out
    **{f"{number}_points": (cloud(1, number), number // 2, None) for number in (64, 100, 512, 1000, 1024, 4096, 16384)},
    "a_batch_of_33": (cloud(33, 1000), 500, None),
    "a_batch_of_33_large_clouds": (cloud(33, 16384), 64, None),
    "grid": (grid(8), 512, None),  # nearly every choice is between equals
    "grid_of_tenths": (0.1 * grid(10), 1000, None),  # equals that rounding makes unequal
    "duplicates": (cloud(2, 100).repeat(1, 5, 1), 300, None),  # more samples than places
    "all_alike": (torch.ones(1, 90, 3), 40, None),
    "excluded": (cloud(3, 1000), 400, some(3, 1000)),
    "excluded_on_a_grid": (grid(8), 256, some(1, 512)),
    "excluded_of_a_large_cloud": (cloud(2, 9000), 100, some(2, 9000)),
}


@pytest.fixture
def loop(monkeypatch):
    """The torch loop, on whatever device."""

    def sample(points, num_samples, excluded):
        with monkeypatch.context() as patch:
            patch.setattr(point_ops, "_kernel_takes", lambda x: False)
            return farthest_point_sampling(points, num_samples, excluded)

    return sample


def on(device, tensor):
    return None if tensor is None else tensor.to(device)


def assert_same(found, expected, what):
    found, expected = found.cpu(), expected.cpu()
    wrong = (found != expected).nonzero()
    first = [] if len(wrong) == 0 else wrong[0].tolist()
    assert len(wrong) == 0, (
        f"{len(wrong)} of {found.numel()} indices are not {what}, the first at [cloud, sample] {first}"
    )


@pytest.mark.usefixtures("needs_cuda")
def test_the_kernel_can_be_built(device):
    from any2point_hf.modeling.tokenizer.fast import sampling_kernel

    sampling_kernel.works_on.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert sampling_kernel.works_on(torch.zeros(1, device=device).device), [str(one.message) for one in told]


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_chooses_the_points_of_the_loop(case, device, loop):
    points, num_samples, excluded = CASES[case]
    given = (on(device, points), num_samples, on(device, excluded))
    if device.type == "cuda":
        assert point_ops._kernel_takes(given[0][..., 0]), "the kernel was not used"
    found = farthest_point_sampling(*given)
    if num_samples < 2000:  # thousands of steps of five launches take seconds
        assert_same(found, loop(*given), "those of the loop on the same device")
    assert_same(found, loop(points, num_samples, excluded), "those of the loop on the CPU")


def test_one_point_more_than_the_kernel_takes_is_left_to_the_loop(device, loop):
    points = cloud(1, point_ops.LARGEST_KERNEL_CLOUD + 1)
    assert not point_ops._kernel_takes(points.to(device)[..., 0])
    found = farthest_point_sampling(points.to(device), 100)
    assert_same(found, loop(points, 100, None), "those of the loop on the CPU")
