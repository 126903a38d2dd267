import torch

from any2point_hf.modeling.numerics.precision import at_least_float32, compute_dtype, without_autocast


def test_products_run_in_autocast_s_dtype_but_for_float64():
    values = torch.ones(2)
    assert compute_dtype(values) == torch.float32
    assert compute_dtype(values.bfloat16()) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(values) == torch.bfloat16
        assert compute_dtype(values.double()) == torch.float64
        with without_autocast(values.device):
            assert (values @ values).dtype == torch.float32


def test_devices_without_autocast_have_their_own_dtype():
    values = torch.ones(2, device="meta")
    assert compute_dtype(values) == torch.float32
    with without_autocast(values.device):
        assert (values + 1).device.type == "meta"


def test_statistics_are_never_narrower_than_float32():
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    assert [at_least_float32(kind) for kind in kinds] == [torch.float32] * 3 + [torch.float64]
