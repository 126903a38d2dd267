"""Farthest point sampling, neighbours and pooling in cells, beside naive torch and the kernels of other packages."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from any2point_hf.modeling.adapter.token_cells import TokenCells
from any2point_hf.modeling.tokenizer import point_ops

from . import markdown, timing
from .clouds import random_clouds

HELP = "sampling, neighbours and pooling beside naive torch, torch-cluster and fpsample (about 2 minutes)"
OURS, NAIVE = "ours", "naive torch"
COLUMNS = (OURS, NAIVE, "torch-cluster", "fpsample")
HAS = {"torch-cluster": find_spec("torch_cluster") is not None, "fpsample": find_spec("fpsample") is not None}
OFFERED_BY = {"torch-cluster": ("sampling", "neighbours"), "fpsample": ("sampling",)}
# clouds, points, centres, neighbours
SIZES = ((32, 1024, 512, 81), (32, 2048, 1200, 32), (4, 16384, 1024, 32))
NUM_VIEWS, NUM_TOKENS, HIDDEN_SIZE, NUM_CELLS = 6, 128, 768, 39  # of CLIP text

Contestants = dict[str, Callable[[], object]]


def cases(quick: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Each operation at each size."""
    sizes = ((2, 128, 64, 8),) if quick else SIZES
    chosen = []
    for batch, points, centers, neighbors in sizes:
        size = {"batch": batch, "points": points, "centers": centers, "device": device}
        chosen.append({"operation": "sampling", **size})
        chosen.append({"operation": "neighbours", **size, "neighbors": neighbors})
    for mode in ("eval", "train"):
        chosen.append({"operation": "cell means", "mode": mode, "batch": 2 if quick else 8, "device": device})
    return chosen


def measure(operation: str, **arguments: Any) -> dict[str, Any]:
    """Seconds of every contestant that there is, and what ours is over each of the others."""
    contestants = CONTESTANTS[operation](**arguments)
    for call in contestants.values():
        call()
    times = timing.take_turns(contestants, time_box=5.0)
    others = [name for name in contestants if name != OURS]
    return {
        "seconds": {name: timing.spread(values) for name, values in times.items()},
        "ratios": {f"{OURS} / {other}": timing.ratio(times[OURS], times[other]) for other in others},
    }


def sampling(batch: int, points: int, centers: int, device: str) -> Contestants:
    """[B, N, 3] -> indices [B, G]."""
    clouds = random_clouds(batch, points).to(device)
    contestants: Contestants = {
        OURS: lambda: point_ops.farthest_point_sampling(clouds, centers),
        NAIVE: lambda: naive_sampling(clouds, centers),
    }
    if HAS["torch-cluster"]:
        import torch_cluster

        flat, numbers = _flat(clouds)
        share = centers / points
        contestants["torch-cluster"] = lambda: torch_cluster.fps(flat, numbers, ratio=share, random_start=False)
    if HAS["fpsample"] and device == "cpu":
        import fpsample

        arrays = list(clouds.numpy())
        contestants["fpsample"] = lambda: [
            fpsample.bucket_fps_kdline_sampling(array, centers, h=5 if points < 4096 else 7) for array in arrays
        ]
    return contestants


def neighbours(batch: int, points: int, centers: int, neighbors: int, device: str) -> Contestants:
    """[B, N, 3] and the first G points in farthest-point order -> indices [B, G, K]."""
    clouds = random_clouds(batch, points).to(device)
    chosen = point_ops.gather_points(clouds, point_ops.farthest_point_sampling(clouds, centers))
    contestants: Contestants = {
        OURS: lambda: point_ops.nearest_neighbors(clouds, chosen, neighbors),
        NAIVE: lambda: naive_neighbours(clouds, chosen, neighbors),
    }
    if HAS["torch-cluster"]:
        import torch_cluster

        (flat, numbers), (flat_centers, center_numbers) = _flat(clouds), _flat(chosen)
        contestants["torch-cluster"] = lambda: torch_cluster.knn(flat, flat_centers, neighbors, numbers, center_numbers)
    return contestants


def cell_means(batch: int, mode: str, device: str) -> Contestants:
    """Features [B, G, D] averaged over the cells of each view, [B, M, C, D]; in training also backward."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, NUM_VIEWS, NUM_TOKENS)
    numbers = torch.randint(NUM_CELLS, shape, generator=generator).to(device)
    features = torch.randn(batch, NUM_TOKENS, HIDDEN_SIZE, generator=generator).to(device)
    features.requires_grad_(mode == "train")
    cells = TokenCells.of(numbers, NUM_CELLS, features.dtype)
    rows = cells.numbers.unsqueeze(-1).expand(-1, -1, -1, HIDDEN_SIZE)

    def ours() -> Tensor:
        return cells.mean(features)

    def naive() -> Tensor:
        means = features.new_zeros(*cells.occupied.shape, HIDDEN_SIZE)
        copies = features.unsqueeze(1).expand(rows.shape)
        return means.scatter_reduce(2, rows, copies, "mean", include_self=False)

    def whole(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def call() -> Tensor:
            pooled = function()
            if mode == "train":
                pooled.sum().backward()
                features.grad = None
            return pooled

        return call

    return {OURS: whole(ours), NAIVE: whole(naive)}


CONTESTANTS = {"sampling": sampling, "neighbours": neighbours, "cell means": cell_means}


def naive_sampling(points: Tensor, num_samples: int) -> Tensor:
    """The loop that most PointNet++ code has: [B, N, 3] -> [B, G]."""
    batch_size, num_points, _ = points.shape
    rows = torch.arange(batch_size, device=points.device)
    distance = torch.full((batch_size, num_points), torch.inf, device=points.device)
    chosen = torch.zeros(batch_size, dtype=torch.long, device=points.device)
    indices = torch.zeros(batch_size, num_samples, dtype=torch.long, device=points.device)
    for sample in range(num_samples):
        indices[:, sample] = chosen
        step = ((points - points[rows, chosen].unsqueeze(1)) ** 2).sum(dim=-1)
        distance = torch.minimum(distance, step)
        chosen = distance.argmax(dim=-1)
    return indices


def naive_neighbours(points: Tensor, centers: Tensor, num_neighbors: int) -> Tensor:
    """All distances at once, as a product: [B, N, 3], [B, G, 3] -> [B, G, K]."""
    return torch.cdist(centers, points).topk(num_neighbors, largest=False).indices


def _flat(clouds: Tensor) -> tuple[Tensor, Tensor]:
    """[B, N, 3] -> [B·N, 3] and the cloud's number of each point, as torch-cluster takes them."""
    batch, num_points, _ = clouds.shape
    return clouds.flatten(0, 1), torch.arange(batch, device=clouds.device).repeat_interleave(num_points)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds of all, with "not installed" where a package is not."""
    lines = []
    for row in rows:
        arguments, seconds = row["arguments"], row["seconds"]
        words = [arguments["operation"]]
        if "points" in arguments:
            words.append(f"{arguments['batch']} × {arguments['points']} → {arguments['centers']}")  # noqa: RUF001
            words += [f"K = {arguments['neighbors']}"] if "neighbors" in arguments else []
        else:
            words.append(f"{arguments['mode']} B = {arguments['batch']}")
        absent = [_why_absent(name, arguments["operation"]) for name in COLUMNS]
        cells = [
            markdown.with_spread(seconds[name], 1e3, 1) if name in seconds else why
            for name, why in zip(COLUMNS, absent, strict=True)
        ]
        lines.append([" ".join(words), *cells])
    return markdown.table(["ms", *COLUMNS], lines)


def _why_absent(name: str, operation: str) -> str:
    return "not installed" if name in OFFERED_BY and operation in OFFERED_BY[name] and not HAS[name] else "none"
