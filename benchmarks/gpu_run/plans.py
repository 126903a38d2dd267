"""Which trainings are to be run: lists of jobs by name, seed by seed, so that what is there when the time is up pairs.

`question`: whether the pretrained backbone and the adapters pay, on all of ModelNet10. `short`: the same on 1000 clouds of
128 points, as a CPU can do it. `starts`: start values and token sizes on three backbones. `small-data`: how to train on few
clouds, beside a small PointNet.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from any2point_hf.modeling.presets import PRESETS

from .training import Job

DATA = "modelnet10_1024"
MINILM, VIT, KWT = "minilm", "vit_cifar10", "kwt1"
_ON_A_PLANE = {VIT: [32, 32]}  # pixels of the images that it was trained on

# Rows of the question, from nothing to everything; a row's name, and fields of Any2PointConfig.
ROWS: dict[str, dict[str, Any]] = {
    "no backbone": {"backbone_blocks": 0},
    "frozen + head": {"adapter_blocks": 0},
    "bottlenecks": {"aggregation": "none"},
    "full": {},
    "full, zero start": {"adapter_start": "zero"},
    "full, scaled start": {"adapter_start": "scaled"},
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
    num_points: int,
    num_neighbors: int,
    rows: Mapping[str, Mapping[str, Any]],
    weights: Iterable[str],
    seed: int,
    **options: Any,
) -> list[Job]:
    """The jobs of all rows with one seed; a row without blocks has no weights to choose."""
    jobs = []
    for row, fields in rows.items():
        for which in ("",) if fields.get("backbone_blocks") == 0 else weights:
            own = base_fields(backbone, num_points, num_neighbors) | fields
            job = {"group": group, "row": row, "weights": which, "seed": seed, "backbone": backbone}
            jobs.append(Job(**job, num_points=num_points, fields=own, **{"data": DATA, "epochs": 0, **options}))
    return jobs


def question(seeds: Iterable[int], num_points: int = 512, num_neighbors: int = 24) -> list[Job]:
    """Rows × pretrained and permuted, all training clouds, as many epochs as fit."""
    group = f"MiniLM, {num_points} points"
    return [
        job
        for seed in seeds
        for job in paired_rows(group, MINILM, num_points, num_neighbors, ROWS, ("pretrained", "permuted"), seed)
    ]


def short(seeds: Iterable[int]) -> list[Job]:
    """The same rows, 100 clouds a class, 128 points, 15 epochs, with MiniLM and the ViT."""
    return [
        job
        for seed in seeds
        for backbone in (MINILM, VIT)
        for job in paired_rows(
            f"{backbone}, 100 clouds a class, 128 points, 15 epochs",
            *(backbone, 128, 16, ROWS, ("pretrained", "permuted"), seed),
            epochs=15,
            per_class=100,
        )
    ]


def starts(seeds: Iterable[int]) -> list[Job]:
    """The full method from every start, with and without tokens of the embeddings' size, on three backbones."""
    rows = {
        f"{start}, tokens {scale}": {"adapter_start": start, "token_scale": scale}
        for scale in ("none", "embedding")
        for start in ("scan", "modelnet", "zero", "scaled")
    } | {"no backbone": {"backbone_blocks": 0}}
    return [
        job
        for seed in seeds
        for backbone in (MINILM, VIT, KWT)
        for job in paired_rows(
            f"{backbone}, start values", backbone, 128, 16, rows, ("pretrained",), seed, epochs=15, per_class=100
        )
    ]


def small_data(seeds: Iterable[int]) -> list[Job]:
    """Few clouds a class: rates, lengths and starts of the full method, beside no backbone and the PointNet."""
    jobs = []
    for seed in seeds:
        for per_class in (20, 50):
            group = f"MiniLM, {per_class} clouds a class"
            options = {"per_class": per_class}
            for epochs in (40, 120):
                for rate in (5e-4, 1e-3, 2e-3):
                    rows = {
                        f"{row}, {epochs} epochs, rate {rate:g}": fields
                        for row, fields in ROWS.items()
                        if row in ("no backbone", "bottlenecks", "full, zero start", "full, scaled start")
                    }
                    jobs += paired_rows(
                        *(group, MINILM, 256, 24, rows, ("pretrained",), seed),
                        epochs=epochs,
                        learning_rate=rate,
                        **options,
                    )
                jobs.append(
                    Job(group, f"PointNet, {epochs} epochs", "", seed, DATA, "pointnet", epochs, 256, **options)
                )
    return jobs


def dry_run(seeds: Iterable[int]) -> list[Job]:
    """A few steps of three rows, to see that everything runs."""
    rows = {name: ROWS[name] for name in ("no backbone", "full", "full, scaled start")}
    return [
        job
        for seed in seeds
        for job in paired_rows(
            "dry run", MINILM, 64, 8, rows, ("pretrained", "permuted"), seed, epochs=1, per_class=4, batch=8
        )
    ]


PLANS = {"question": question, "short": short, "starts": starts, "small-data": small_data, "dry-run": dry_run}
