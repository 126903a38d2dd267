"""Which trainings are run: lists of jobs by name, seed by seed, so that what is there when the time is up pairs.

- `question`: whether the pretrained backbone and the adapters pay, on all of ModelNet10.
- `defaults`: how to train on 50 clouds a class, beside a small PointNet.
- `starts`: start values and token sizes on three backbones, short enough for a CPU.
- `short`: the rows of the question on 1000 clouds of 128 points, as a CPU can train them.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from any2point_hf.modeling.presets import PRESETS

from .training import Job

DATA = "modelnet10_1024"
MINILM, VIT, KWT = "minilm", "vit_cifar10", "kwt1"
BOTH = ("pretrained", "permuted")
_ON_A_PLANE = {VIT: [32, 32]}  # pixels of the images that it was trained on

# Rows of the question, from nothing to everything: fields of Any2PointConfig.
ROWS: dict[str, dict[str, Any]] = {
    "no backbone": {"backbone_blocks": 0},
    "frozen + head": {"adapter_blocks": 0},
    "bottlenecks": {"aggregation": "none"},
    "full": {},
    "full, zero start": {"adapter_start": "zero"},
    "full, scaled start": {"adapter_start": "scaled"},
}
WITH_BLOCKS = {"full": ROWS["full"], **ROWS}  # in this order
del WITH_BLOCKS["no backbone"]
STARTS: dict[str, dict[str, Any]] = {
    f"full, {start} start, tokens {scale}": {"adapter_start": start, "token_scale": scale}
    for scale in ("none", "embedding")
    for start in ("modelnet", "zero", "scaled")
}


def base_fields(backbone: str, num_points: int, num_neighbors: int) -> dict[str, Any]:
    """The published ModelNet setting of the backbone's modality, without the published backbone's plane and cells."""
    preset = PRESETS["dinov2-modelnet" if backbone in _ON_A_PLANE else "clip-text-modelnet"]
    fields = {name: value for name, value in preset.config.items() if name not in ("plane", "cell_size")}
    plane = {"plane": _ON_A_PLANE[backbone]} if backbone in _ON_A_PLANE else {}
    return fields | plane | {"num_points": num_points, "num_neighbors": num_neighbors}


def paired_rows(
    group: str,
    backbone: str,
    size: tuple[int, int],
    rows: Mapping[str, Mapping[str, Any]],
    weights: Iterable[str],
    seed: int,
    **options: Any,
) -> list[Job]:
    """The jobs of all rows with one seed; a row without blocks has no weights to choose.

    Args:
        group: name of their table.
        backbone: name of the packed one.
        size: points a cloud and neighbours.
        rows: name to fields.
        weights: of the backbone, for each row.
        seed: of all of them.
        options: further fields of `Job`.
    """
    jobs = []
    for row, fields in rows.items():
        for which in ("",) if fields.get("backbone_blocks") == 0 else weights:
            own = base_fields(backbone, *size) | fields
            job = {"group": group, "row": row, "weights": which, "seed": seed, "backbone": backbone}
            jobs.append(Job(**job, num_points=size[0], fields=own, **{"data": DATA, "epochs": 0, **options}))
    return jobs


def question(seeds: Iterable[int], num_points: int = 256, num_neighbors: int = 24) -> list[Job]:
    """Rows with pretrained and permuted weights, all training clouds, as many epochs as fit."""
    group = f"MiniLM, all of ModelNet10, {num_points} points"
    return [job for seed in seeds for job in paired_rows(group, MINILM, (num_points, num_neighbors), ROWS, BOTH, seed)]


def defaults(seeds: Iterable[int]) -> list[Job]:
    """50 clouds a class, 256 points, 60 epochs: starts, token sizes, rates; no adapters, no backbone, PointNet."""
    jobs = []
    options = {"per_class": 50, "epochs": 60}
    group = "MiniLM, 50 clouds a class, 256 points, 60 epochs"
    fewer = {name: ROWS[name] for name in ("no backbone", "frozen + head", "bottlenecks")}
    for seed in seeds:
        jobs += paired_rows(group, MINILM, (256, 16), fewer | STARTS, ("pretrained",), seed, **options)
        for rate in (5e-4, 2e-3):
            rows = {f"full, zero start, rate {rate:g}": ROWS["full, zero start"]}
            jobs += paired_rows(group, MINILM, (256, 16), rows, ("pretrained",), seed, learning_rate=rate, **options)
        jobs.append(Job(group, "PointNet", "", seed, DATA, "pointnet", num_points=256, **options))
    return jobs


def starts(seeds: Iterable[int]) -> list[Job]:
    """100 clouds a class, 128 points, 6 epochs, on three backbones: starts, token sizes, and the controls."""
    fewer = {name: ROWS[name] for name in ("no backbone", "frozen + head", "bottlenecks")}
    return [
        job
        for seed in seeds
        for backbone in (MINILM, VIT, KWT)
        for job in paired_rows(
            f"{backbone}, 100 clouds a class, 128 points, 6 epochs",
            *(backbone, (128, 16), fewer | STARTS, ("pretrained",), seed),
            epochs=6,
            per_class=100,
        )
    ]


def short(seeds: Iterable[int]) -> list[Job]:
    """100 clouds a class, 128 points, 15 epochs, with MiniLM and the ViT: first all that is pretrained."""
    return [
        job
        for which in BOTH
        for backbone in (MINILM, VIT)
        for seed in seeds
        for job in paired_rows(
            f"{backbone}, pretrained and permuted, 100 clouds a class, 128 points, 15 epochs",
            *(backbone, (128, 16), ROWS if which == "pretrained" else WITH_BLOCKS, (which,), seed),
            epochs=15,
            per_class=100,
        )
    ]


def dry_run(seeds: Iterable[int]) -> list[Job]:
    """A few steps of three rows, to see that everything runs."""
    rows = {name: ROWS[name] for name in ("no backbone", "full", "full, scaled start")}
    return [
        job
        for seed in seeds
        for job in paired_rows(
            "dry run", MINILM, (64, 8), rows, BOTH, seed, epochs=1, per_class=4, batch=8, num_test=100
        )
    ]


PLANS = {
    "question": question,
    "question-512": partial(question, num_points=512),
    "question-1024": partial(question, num_points=1024),
    "defaults": defaults,
    "starts": starts,
    "short": short,
    "dry-run": dry_run,
}
