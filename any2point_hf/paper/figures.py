"""The paper's figures 5, 6 and 7 on one's own data, of adapters that one has trained.

    reproduce_figures("ScanObjectNN", ["virtual", "sinusoidal", "learnable"], "reproduced")

Figures 5 and 6 have a row for each cloud and a column for each model: the paper's columns differ in one setting, and
each column is an adapter trained with one value of it. Figure 7 has a column for each view, and rows for each backbone.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data import load_point_cloud_dataset
from ..data.hub_dataset import pinned
from ..data.sources import DataSource, name_of
from ..modeling.configuration_any2point import Any2PointConfig
from ..modeling.errors import Any2PointError, DatasetError, UnsupportedBackboneError
from ..modeling.files import write_whole
from ..pictures.kinds import draw_attention, draw_clusters, draw_similarity
from ..pictures.picture import Picture
from ..trained_adapter import load
from .reproduce import balanced_choice

NUM_CLOUDS = 2  # of each figure of the paper

POSITIONS = {
    "position_encoding=virtual": "virtual projection",
    "position_encoding=sinusoidal": "sinusoidal encoding",
    "position_encoding=learnable": "learnable encoding",
    "position_encoding=none": "no encoding",
}
ADAPTERS = {
    "ensemble=adaptive": "guided adapter",
    "ensemble=mean": "mean instead of adaptive ensemble",
    "aggregation=3d": "3D-guided aggregation",
    "aggregation=none": "no aggregation",
}


@dataclass
class PaperFigure:
    """A figure of the paper as models are added to it.

    Args:
        title: what it shows.
        caption: what its rows and columns are, and what the paper saw.
        variants: maps the setting that a model is trained with to the name of its column: the paper's columns, and the
            setting "none".
        columns: for each model its heading and its pictures, one for each cloud.
        notes: which models it does not show, and why.
    """

    title: str
    caption: str
    variants: Mapping[str, str]
    columns: list[tuple[str, list[Picture]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def reproduce_figures(
    data: DataSource,
    models: Sequence[str],
    output: str | os.PathLike,
    *,
    num_clouds: int = NUM_CLOUDS,
    drop_invalid: bool = False,
    command: str = "",
) -> Path:
    """Draws the figures as `figure-5.png`, `figure-5.html`, … and writes `figures.md`, which says what each shows.

    Args:
        data: what `load_point_cloud_dataset` takes; clouds of its test split are drawn, evenly from all classes.
        models: folders or Hub ids of trained adapters.
        output: folder, made if it is missing.
        num_clouds: rows of a figure.
        drop_invalid: whether to drop invalid points, with a warning.
        command: what was typed, for `figures.md`.

    Returns:
        The path of `figures.md`.

    Raises:
        Any2PointError: no model is given, or something in the input does not fit.
    """
    if not models:
        raise Any2PointError("the figures show trained adapters, and none is given. Train one and name its folder.")
    data = pinned(data)
    output, clouds, figures = Path(output), _test_clouds(data, num_clouds, drop_invalid), _figures()
    for name in models:
        _add_model(name, clouds, figures, drop_invalid)
    for number, figure in figures.items():
        if figure.columns:
            arrange = _views_side_by_side if number == 7 else _models_side_by_side
            picture = arrange(figure, [cloud for cloud, _ in clouds])
            for extension in (".png", ".html"):
                picture.save(output / f"figure-{number}{extension}")
    lines = ["# The paper's figures 5, 6 and 7", ""]
    lines += [f"`{command}`", ""] if command else []
    for number, figure in figures.items():
        lines += _section(number, figure)
    lines += ["## Made from", "", f"- Data: {name_of(data)}; test clouds {', '.join(cloud for cloud, _ in clouds)}."]
    lines += [f"- Models: {', '.join(models)}.", ""]
    write_whole(output / "figures.md", "\n".join(lines))
    return output / "figures.md"


def _figures() -> dict[int, PaperFigure]:
    """The three figures, by their numbers."""
    return {
        5: PaperFigure(
            "Attention of the CLS token with different positional encodings",
            "Each row is a cloud, each column a model; colours are the CLS token's attention in the last block, the "
            "mean over heads. The paper sees the virtual projection attend to salient parts of the object.",
            POSITIONS,
        ),
        6: PaperFigure(
            "Clusters of the point tokens by their similarity to the CLS token",
            "Each row is a cloud, each column a model; colours are three clusters of the cosine similarity to the CLS "
            "token after the last block. The paper sees the complete adapter tell the object's parts apart.",
            ADAPTERS,
        ),
        7: PaperFigure(
            "Similarity of the positional encodings of one token and of all",
            "Each row is a cloud; the first column has the encodings averaged over views, the others those of single "
            "views; the token compared with is marked. The paper sees the average fall with distance in space.",
            {"position_encoding=virtual": "virtual projection"},
        ),
    }


def _test_clouds(data: DataSource, count: int, drop_invalid: bool) -> list[tuple[str, np.ndarray]]:
    """Class names and points of `count` test clouds, taken evenly from all classes."""
    dataset = load_point_cloud_dataset(data, drop_invalid=drop_invalid, task="classification")
    if "test" not in dataset:
        raise DatasetError(f"the dataset must have a split test, got {', '.join(dataset)}.")
    test = dataset["test"]
    names = test.features["label"].names
    rows = [test[index] for index in balanced_choice(test["label"], count)]
    return [(names[row["label"]], np.asarray(row["points"], np.float32)) for row in rows]


def _add_model(
    name: str, clouds: Sequence[tuple[str, np.ndarray]], figures: Mapping[int, PaperFigure], drop_invalid: bool
) -> None:
    """Adds one model's pictures to the figures, or a note on why a figure does not show it."""
    model, processor = load(name)
    processor.drop_invalid |= drop_invalid  # of official data sets, it alone drops
    config: Any = model.config
    last_block = len(model.any2point.blocks()) - 1
    backbone = f"{config.backbone_config.model_type}, {model.any2point.modality}"
    draws: dict[int, Callable[..., Picture]] = {
        5: partial(draw_attention, block=last_block),
        6: partial(draw_clusters, block=last_block),
    }
    if model.any2point.position_encoding != "virtual":
        figures[7].notes.append(f"{name} is left out: its positions do not come from views.")
    elif backbone in (heading for heading, _ in figures[7].columns):
        figures[7].notes.append(f"{name} is left out: a model on such a backbone ({backbone}) is there.")
    else:
        draws[7] = draw_similarity
    for number, draw in draws.items():
        try:
            pictures = [draw(model, processor, points) for _, points in clouds]
        except UnsupportedBackboneError as error:
            figures[number].notes.append(f"{name} is left out: {error}")
            continue
        others = figures[number].columns
        if others and len(pictures[0].panels) != len(others[0][1][0].panels):
            figures[number].notes.append(f"{name} is left out: it has another number of views.")
            continue
        heading = backbone if number == 7 else f"{backbone}, {_variant(config, figures[number].variants)}"
        figures[number].columns.append((heading, pictures))


def _variant(config: Any2PointConfig, variants: Mapping[str, str]) -> str:
    """The paper's name of a model's setting: the last of the variants that it has, since the first is the default."""
    found = [name for setting, name in variants.items() if _has(config, setting)]
    return found[-1] if found else "other settings"


def _has(config: Any2PointConfig, setting: str) -> bool:
    name, _, value = setting.partition("=")
    return getattr(config, name) == value


def _models_side_by_side(figure: PaperFigure, clouds: Sequence[str]) -> Picture:
    panels = [
        replace(panel, title=f"{cloud}\n{heading}")
        for row, cloud in enumerate(clouds)
        for heading, pictures in figure.columns
        for panel in pictures[row].panels
    ]
    first = figure.columns[0][1][0]
    return replace(first, title=figure.title, panels=tuple(panels), columns=len(figure.columns))


def _views_side_by_side(figure: PaperFigure, clouds: Sequence[str]) -> Picture:
    """Puts all panels on one colour scale, from the lowest similarity to 1."""
    pictures = [picture for _, of_model in figure.columns for picture in of_model]
    names = [f"{cloud}, {heading}" for heading, of_model in figure.columns for cloud in clouds]
    lowest = min(panel.limits[0] for picture in pictures for panel in picture.panels)
    panels = [
        replace(panel, title=f"{name}\n{panel.title}", limits=(lowest, 1.0))
        for name, picture in zip(names, pictures, strict=True)
        for panel in picture.panels
    ]
    return replace(pictures[0], title=figure.title, panels=tuple(panels), columns=len(pictures[0].panels))


def _section(number: int, figure: PaperFigure) -> list[str]:
    """What `figures.md` says of a figure."""
    lines = [f"## Figure {number}: {figure.title}", ""]
    if figure.columns:
        lines += [
            f"![figure {number}](figure-{number}.png)",
            "",
            f"To turn: [figure-{number}.html](figure-{number}.html)",
        ]
        lines += ["", figure.caption, ""]
    shown = " ".join(heading for heading, _ in figure.columns)
    missing = [
        f"`--set {setting}` ({name})"
        for setting, name in figure.variants.items()
        if name not in shown and not setting.endswith("=none")
    ]
    if missing and number != 7:
        lines += [f"Not given, of the paper's columns: models trained with {', '.join(missing)}.", ""]
    if not figure.columns:
        lines += ["None of the models can be shown here.", ""]
    return lines + [f"- {note}" for note in figure.notes] + ([""] if figure.notes else [])
