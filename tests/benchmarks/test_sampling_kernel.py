"""What the sampling kernel compiles to: results rest on roundings and speed on registers, both seen without a GPU."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "sampling_kernel.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_sampling_kernel", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not (module.TOOLS / "cuobjdump").exists():
        pytest.skip("this Triton brings no compiler for NVIDIA's GPUs")
    return module


@pytest.mark.parametrize("num_points", [64, 1000, 8192, 16384])
def test_no_multiply_and_add_are_fused_and_distances_stay_in_registers(benchmark, num_points):
    code = benchmark.compiled_code(num_points, 90)
    assert code["fused multiply-adds"] == 0
    assert code["spilled bytes a thread"] <= 8


def test_that_reading_finds_fused_ones_and_spills_where_there_are_some(benchmark, monkeypatch):
    wrong = benchmark.launch_options(16384) | {"enable_fp_fusion": True, "IN_REGISTERS": True}
    monkeypatch.setattr(benchmark, "launch_options", lambda num_points: wrong)
    code = benchmark.compiled_code(16384, 90)
    assert code["fused multiply-adds"] > 0
    assert code["spilled bytes a thread"] > 8
