"""Random clouds: points on the surfaces of a few spheres and boxes, scaled into the unit sphere."""

import torch
from torch import Tensor

MOST_SURFACES = 4


def random_clouds(batch: int, num_points: int, seed: int = 0) -> Tensor:
    """Clouds [B, N, 3] float32, the same ones for the same seed; cloud i does not depend on the batch's size."""
    return torch.stack([_random_cloud(num_points, seed + index) for index in range(batch)])


def _random_cloud(num_points: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    num_surfaces = int(torch.randint(1, MOST_SURFACES + 1, (), generator=generator))
    surface = torch.randint(num_surfaces, (num_points,), generator=generator)
    is_box = torch.rand(num_surfaces, generator=generator) < 0.5
    center = torch.randn(num_surfaces, 3, generator=generator)
    size = torch.rand(num_surfaces, 3, generator=generator) + 0.3

    direction = torch.randn(num_points, 3, generator=generator)
    on_sphere = direction / direction.norm(dim=-1, keepdim=True)
    on_box = torch.rand(num_points, 3, generator=generator) * 2 - 1
    face = torch.randint(3, (num_points, 1), generator=generator)
    on_box = on_box.scatter(1, face, on_box.gather(1, face).sign())

    points = center[surface] + size[surface] * torch.where(is_box[surface].unsqueeze(-1), on_box, on_sphere)
    points = points - points.mean(dim=0)
    return points / points.norm(dim=-1).max()
