"""The Triton kernel gives the torch loop's indices: interpreted on the CPU, and compiled where there is a GPU."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from any2point_hf.modeling.tokenizer import point_ops
from any2point_hf.modeling.tokenizer.point_ops import farthest_point_sampling

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")


def grid(side):
    axes = [torch.arange(side, dtype=torch.float32)] * 3
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3)


def make_cases():
    """Name -> points [B, N, 3], how many to choose, and which are left out or None."""
    random = torch.Generator().manual_seed(0)

    def cloud(*shape):
        return torch.randn(*shape, 3, generator=random)

    def some(*shape):
        return torch.rand(*shape, generator=random) < 0.3

    few_places = torch.randint(-2, 3, (1, 300, 3), generator=random).float()
    return {
        "random": (cloud(2, 1000), 40, None),
        "power_of_two": (cloud(1, 1024), 15, None),
        "just_above_a_power_of_two": (cloud(1, 513), 15, None),
        "one_point": (cloud(2, 1), 1, None),
        "all_of_two": (cloud(3, 2), 2, None),
        "one_sample": (cloud(2, 70), 1, None),
        "grid": (grid(4), 64, None),  # nearly every choice is between equals
        "grid_of_tenths": (0.1 * grid(5), 80, None),  # equals that rounding makes unequal
        "duplicates": (cloud(1, 40).repeat(1, 3, 1), 60, None),
        "more_samples_than_places": (few_places, 130, None),
        "all_points_alike": (torch.ones(1, 90, 3), 5, None),
        "flat": (cloud(2, 333) * torch.tensor([1.0, 1.0, 0.0]), 20, None),
        "squares_without_normal_floats": (1e-20 * cloud(2, 150), 20, None),
        "squares_that_are_infinite": (1e20 * cloud(2, 150), 5, None),
        "excluded": (cloud(2, 400), 30, some(2, 400)),
        "excluded_on_a_grid": (grid(4), 64, some(1, 64)),
        "all_excluded": (cloud(2, 80), 4, torch.ones(2, 80, dtype=torch.bool)),
        "coordinates_not_in_registers": (cloud(2, 8200), 15, None),
        "largest": (cloud(1, point_ops.LARGEST_KERNEL_CLOUD), 8, None),
        "compiled": (cloud(2, 100), 10, None),
        "compiled_excluded": (cloud(2, 100), 10, some(2, 100)),
    }


CASES = make_cases()


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory, subprocess_environment):
    """What the kernel chose in every case: one process for all of them."""
    folder = tmp_path_factory.mktemp("sampling")
    arrays = {}
    for name, (points, samples, excluded) in CASES.items():
        arrays |= {f"{name}.points": points.numpy(), f"{name}.samples": np.array(samples)}
        if excluded is not None:
            arrays[f"{name}.excluded"] = excluded.numpy()
    np.savez(folder / "input.npz", **arrays)
    script = Path(__file__).with_name("interpreted_sampling.py")
    files = [str(folder / "input.npz"), str(folder / "output.npz")]
    process = subprocess.run(
        [sys.executable, str(script), *files], env=subprocess_environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return np.load(folder / "output.npz")


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_chooses_the_points_of_the_torch_loop(interpreted, case):
    points, samples, excluded = CASES[case]
    found = torch.from_numpy(interpreted[case])
    assert torch.equal(found, farthest_point_sampling(points, samples, excluded))


def sample(points, num_samples, square_of, ties_last=False):
    """The loop once more, with other squared distances or the other rule for ties."""
    ranks = torch.arange(points.shape[1])
    distance, order = torch.full(points.shape[:2], torch.inf), [torch.zeros(len(points), 1, dtype=torch.long)]
    for _ in range(num_samples - 1):
        offsets = points - points.gather(1, order[-1].unsqueeze(-1).expand(-1, -1, 3))
        distance = torch.minimum(distance, square_of(*offsets.unbind(-1)))
        farthest = distance == distance.amax(dim=1, keepdim=True)
        order.append((farthest * (ranks + 1 if ties_last else len(ranks) - ranks)).argmax(dim=1, keepdim=True))
    return torch.cat(order, dim=1)


def fused(x, y, z):
    """As a GPU fuses x·x + y·y + z·z: each product and its sum are rounded once."""
    square = ((x * x).double() + y.double() * y.double()).float()
    return (square.double() + z.double() * z.double()).float()


def test_the_cases_tell_a_kernel_with_fused_products_or_other_ties():
    points, samples, _ = CASES["grid_of_tenths"]
    expected = farthest_point_sampling(points, samples)
    assert torch.equal(sample(points, samples, lambda x, y, z: x * x + y * y + z * z), expected)
    assert not torch.equal(sample(points, samples, fused), expected)
    points, samples, _ = CASES["grid"]
    expected = farthest_point_sampling(points, samples)
    assert torch.equal(sample(points, samples, fused), expected)  # whole numbers are exact
    assert not torch.equal(sample(points, samples, fused, ties_last=True), expected)


class TestWhatTheKernelTakes:
    @pytest.fixture(autouse=True)
    def _works(self, monkeypatch):
        from any2point_hf.modeling.tokenizer.fast import sampling_kernel

        monkeypatch.setattr(sampling_kernel, "works_on", lambda device: True)

    @staticmethod
    def points_on(device, num_points=100, dtype=torch.float32):
        """A stand-in: there are no tensors of a GPU without one."""
        x = torch.empty(2, num_points, dtype=dtype, device="meta")
        return type("Plane", (), {"device": torch.device(device), "dtype": x.dtype, "shape": x.shape})()

    def test_it_takes_float32_on_a_gpu_up_to_its_largest_cloud(self):
        largest = point_ops.LARGEST_KERNEL_CLOUD
        assert point_ops._kernel_takes(self.points_on("cuda", largest))
        assert not point_ops._kernel_takes(self.points_on("cuda", largest + 1))
        assert not point_ops._kernel_takes(self.points_on("cpu"))
        assert not point_ops._kernel_takes(self.points_on("mps"))
        assert not point_ops._kernel_takes(self.points_on("cuda", dtype=torch.float64))
        assert not point_ops._kernel_takes(self.points_on("cuda", dtype=torch.float16))

    def test_without_triton_the_torch_loop_is_left(self, monkeypatch):
        monkeypatch.setattr(point_ops, "_HAS_TRITON", False)
        assert not point_ops._kernel_takes(self.points_on("cuda"))


def test_a_machine_that_cannot_build_the_kernel_is_told_once_and_uses_torch():
    from any2point_hf.modeling.tokenizer.fast import sampling_kernel

    device = torch.device("cpu")  # Triton compiles nothing for it
    sampling_kernel.works_on.cache_clear()
    with pytest.warns(UserWarning, match=r"torch's slower loop is used\. A C compiler") as told:
        assert [sampling_kernel.works_on(device) for _ in range(3)] == [False] * 3
    assert len(told) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_the_compiled_kernel_chooses_the_points_of_the_torch_loop_on_a_gpu(case):
    points, samples, excluded = CASES[case]
    on_gpu = points.cuda()
    assert point_ops._kernel_takes(on_gpu[..., 0])
    found = farthest_point_sampling(on_gpu, samples, None if excluded is None else excluded.cuda())
    assert torch.equal(found.cpu(), farthest_point_sampling(points, samples, excluded))
