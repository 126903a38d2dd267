"""Farthest point sampling as one Triton kernel: one program per cloud, which keeps all distances in registers.

`point_ops.farthest_point_sampling` uses it for float32 points on a GPU. It keeps its torch loop for clouds of more than
16384 points (16 distances in each of 1024 threads, which have 64 registers each), and where Triton is not installed
(torch brings it for CUDA and ROCm) or cannot build a kernel.

Unusual here: the sums of squares must be rounded as the torch loop rounds them, or another point wins, so multiply and
add are never fused.
"""

import functools
import warnings

import torch
import triton
import triton.language as tl
from torch import Tensor

_LARGEST_IN_REGISTERS = 8192  # up to so many points, coordinates are in registers too; else read again at each step
_POINTS_PER_THREAD = 8
_MOST_WARPS = 32  # in a program
_THREADS_PER_WARP = 32


@triton.jit
def farthest_points_kernel(
    planes,  # noqa: ANN001
    indices,  # noqa: ANN001
    num_samples,  # noqa: ANN001
    SIZE: tl.constexpr,  # noqa: N803
    IN_REGISTERS: tl.constexpr,  # noqa: N803
) -> None:
    """Orders the points of one cloud.

    Args:
        planes: [B, 4, SIZE] float32: x, y, z, and the squared distance to start from.
        indices: [B, num_samples] int64, written.
        num_samples: how many points to choose; the first is point 0.
        SIZE: a power of two, the number of the cloud's points and of the filling after them.
        IN_REGISTERS: whether to keep the coordinates in registers.
    """
    cloud = tl.program_id(0).to(tl.int64)
    xs = planes + cloud * 4 * SIZE
    ys, zs = xs + SIZE, xs + 2 * SIZE
    indices += cloud * num_samples
    point = tl.arange(0, SIZE)
    distance = tl.load(xs + 3 * SIZE + point)
    if IN_REGISTERS:
        x, y, z = tl.load(xs + point), tl.load(ys + point), tl.load(zs + point)
    chosen = 0
    tl.store(indices, chosen)
    for sample in range(1, num_samples):
        if not IN_REGISTERS:
            x, y, z = tl.load(xs + point), tl.load(ys + point), tl.load(zs + point)
        by_x, by_y, by_z = x - tl.load(xs + chosen), y - tl.load(ys + chosen), z - tl.load(zs + chosen)
        distance = tl.minimum(distance, by_x * by_x + by_y * by_y + by_z * by_z)
        chosen = tl.argmax(distance, axis=0, tie_break_left=True)
        tl.store(indices + sample, chosen)


def launch_options(num_points: int) -> dict[str, int | bool]:
    """Returns the keyword arguments with which the kernel is compiled and launched for clouds of N points."""
    size = triton.next_power_of_2(max(num_points, _POINTS_PER_THREAD * _THREADS_PER_WARP))
    return {
        "SIZE": size,
        "IN_REGISTERS": size <= _LARGEST_IN_REGISTERS,
        "num_warps": min(size // (_POINTS_PER_THREAD * _THREADS_PER_WARP), _MOST_WARPS),
        "enable_fp_fusion": False,  # a fused multiply-add rounds once where the torch loop rounds twice
    }


def farthest_points(x: Tensor, y: Tensor, z: Tensor, distance: Tensor, num_samples: int) -> Tensor:
    """Orders points greedily by distance to those already chosen, starting at the first point.

    Args:
        x: [B, N] float32; so are y and z.
        y: [B, N].
        z: [B, N].
        distance: [B, N] float32, the squared distance to start from: infinite, or −1 for points never to be picked.
        num_samples: how many indices to return, 1 ≤ num_samples ≤ N ≤ 16384.

    Returns:
        [B, num_samples] int64 indices into N, those of the torch loop.
    """
    batch_size, num_points = x.shape
    options = launch_options(num_points)
    planes = torch.stack([x, y, z, distance], dim=1)
    planes = torch.nn.functional.pad(planes, (0, options["SIZE"] - num_points), value=-1.0)  # filling is never picked
    indices = torch.empty(batch_size, num_samples, dtype=torch.long, device=x.device)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        farthest_points_kernel[(batch_size,)](planes, indices, num_samples, **options)
    return indices


@functools.cache
def works_on(device: torch.device) -> bool:
    """Whether the kernel runs on a device; tried once, with a warning where it does not.

    Triton needs a C compiler and Python's headers, which not every machine has.
    """
    try:
        zeros = torch.zeros(1, 2, device=device)
        farthest_points(zeros, zeros, zeros, zeros, 2)
    except Exception as error:  # whatever is missing, the torch loop needs none of it
        warnings.warn(
            f"Triton cannot build the kernel of farthest point sampling on {device} ({type(error).__name__}: {error}); "
            "torch's slower loop is used. A C compiler and Python's header files are what is usually missing.",
            stacklevel=2,
        )
        return False
    return True
