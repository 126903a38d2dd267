"""What is carried to the machine: one data set and one backbone's blocks, small enough for a slow line.

A folder of `NAME.npz` (points, labels, split, class_names) and a folder for each backbone, as `AutoModel` loads it, in
float16 and with the first rows of its vocabulary alone: words are never read.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from any2point_hf.modeling.backbones.loading import load_backbone
from any2point_hf.modeling.tokenizer.point_ops import farthest_point_sampling, gather_points

_WORDS = 1000  # kept: enough to measure the size of an embedding
_CLOUDS_AT_ONCE = 512


def pack(folder: Path, data: list[Path], backbones: dict[str, str], most_points: int) -> None:
    """Writes the folder that is carried.

    Args:
        folder: to make.
        data: .npz files.
        backbones: name to Hub id or folder.
        most_points: of a cloud that are kept, in farthest-point order: fewer are a prefix of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in data:
        with np.load(file) as arrays:
            kept = {name: arrays[name] for name in ("labels", "split", "class_names")}
            points = sampled(torch.from_numpy(arrays["points"][..., :3].astype(np.float32)), most_points)
        np.savez_compressed(folder / file.name, points=points.numpy().astype(np.float16), **kept)
    for name, source in backbones.items():
        backbone = load_backbone(source)
        words = backbone.get_input_embeddings()
        if isinstance(words, nn.Embedding) and len(words.weight) > _WORDS:
            backbone.resize_token_embeddings(_WORDS)
        backbone.half().save_pretrained(folder / name)


def load_packed_backbone(folder: Path, name: str) -> nn.Module:
    """A packed backbone in float32."""
    return load_backbone(str(folder / name), dtype=torch.float32)


def load_clouds(file: Path, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    """`train` and `test`, each points [n, S, 3] float32 in the unit sphere and labels [n] int64, on the device."""
    with np.load(file) as arrays:
        points, labels, split = arrays["points"][..., :3], arrays["labels"], arrays["split"]
    points = torch.from_numpy(points.astype(np.float32)).to(device)
    points = points - points.mean(dim=1, keepdim=True)
    points = points / points.norm(dim=-1).amax(dim=1).view(-1, 1, 1)
    labels = torch.from_numpy(labels.astype(np.int64)).to(device)
    parts = {"train": torch.from_numpy(split == 0).to(device), "test": torch.from_numpy(split == 1).to(device)}
    return {name: (points[part], labels[part]) for name, part in parts.items()}


def sampled(points: Tensor, num_points: int) -> Tensor:
    """Farthest points of each cloud: [n, S, 3] -> [n, num_points, 3]."""
    num_points = min(num_points, points.shape[1])
    chunks = points.split(_CLOUDS_AT_ONCE)
    return torch.cat([gather_points(chunk, farthest_point_sampling(chunk, num_points)) for chunk in chunks])


def balanced(labels: Tensor, per_class: int) -> Tensor:
    """Row numbers of as many clouds of every class, the same ones always: [m] int64."""
    generator = np.random.default_rng(0)
    values = labels.cpu().numpy()
    rows = [generator.permutation(np.flatnonzero(values == label))[:per_class] for label in np.unique(values)]
    return torch.from_numpy(np.concatenate(rows)).to(labels.device)
