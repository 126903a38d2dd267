"""The paper's tables on one's own data and backbones: rows × modalities × seeds, each trained once.

    reproduce(3, "ScanObjectNN", {"1d": clip, "2d": dinov2}, "reproduced", budget=make_budget(quick=True))

Every finished training has a record, `OUTPUT/runs/<hash of its settings>.json`, which rows of several tables may share.
A training with a record is never repeated; an interrupted one starts anew. `OUTPUT/table-N.md` is written after each
training. Below the paper's rows stand controls of our own (`rows.py`).
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from ..data import load_point_cloud_dataset
from ..data.hub_dataset import pinned
from ..data.sources import DataSource, name_of
from ..modeling.backbones.fingerprint import BACKBONE_FILES, backbone_fingerprint
from ..modeling.configuration_any2point import recorded_path
from ..modeling.errors import Any2PointError, DatasetError
from ..modeling.files import check_output_folder, read_record, write_whole
from ..modeling.tokenizer.fast.freed_memory import keep_freed_memory
from ..training.output_lock import output_lock
from .markdown import write_table
from .rows import FULL, PaperTable
from .runs import Budget, Run, Runs
from .tables import check_backbones, find_table
from .tuning_baselines import check_method

FOLDER_FILE = "settings.json"
PAPER_DATA = "ScanObjectNN (PB-T50-RS), and in Table 1 also of ModelNet40"


def reproduce(
    table: int,
    data: DataSource,
    backbones: Mapping[str, str | None],
    output: str | os.PathLike,
    *,
    budget: Budget | None = None,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    modalities: Sequence[str] | None = None,
    drop_invalid: bool = False,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Path:
    """Trains the rows of one of the paper's tables that are not done, and writes the table.

    Args:
        table: 1…10.
        data: what `load_point_cloud_dataset` takes.
        backbones: Hub id or folder by modality, `"1d"`, `"2d"`, `"audio"`; None for none.
        output: folder of the table and of the records; one folder has one data set, budget and set of backbones.
        budget: by default the published one (`make_budget`).
        seeds: every row is trained with each seed, all rows with the first seed first; from three seeds on, the table
            shows differences.
        settings: further fields of Any2PointConfig by modality; a row's own fields take precedence.
        modalities: train only these now; the table still shows what is done of the others.
        drop_invalid: whether to drop invalid points, with a warning.
        command: what was typed; the table shows it.
        say: called with a line of text after each training.

    Returns:
        The file of the table.

    Raises:
        Any2PointError: something does not fit, or another run is at work in the folder; raised before anything is
            trained.
    """
    paper_table, output, budget = find_table(table), Path(output), budget or Budget()
    given = {name: recorded_path(backbone) for name, backbone in backbones.items() if backbone}
    check_backbones(table, given)
    _check_asked(modalities or (), settings or {}, given)
    for row in paper_table.rows:
        check_method(row.method)
    extra_fields = {name: dict((settings or {}).get(name, {})) for name in given}
    data = pinned(data)
    dataset = _load(data, budget.train_clouds, drop_invalid)
    runs = Runs(name_of(data), dataset, given, extra_fields, budget, output / "runs", drop_invalid)
    folder = {"data": runs.fingerprint, "budget": asdict(budget), "backbones": given, "settings": extra_fields}
    folder[BACKBONE_FILES] = {f"files of {name}": backbone_fingerprint(backbone) for name, backbone in given.items()}
    _check_folder(output, folder)
    plans = {
        (number, heading, modality, seed): runs.plan(row, modality, seed)
        for seed in seeds
        for number, row in enumerate(paper_table.rows)
        for heading, modality in paper_table.trained_for(row, runs.on_scans).items()
        if modality in given
    }
    full_plans = {(modality, seed): runs.plan(FULL, modality, seed) for *_, modality, seed in plans}
    with output_lock(output):
        _check_folder(output, folder)  # again: another run may have ended since
        _write_json(output / FOLDER_FILE, _joined(output, folder))
        keep_freed_memory()
        file = output / f"table-{table}.md"
        _write(file, table, paper_table, plans, full_plans, runs, command)
        for (number, heading, modality, seed), run in plans.items():
            if run.record() is not None or modality not in (modalities or given):
                continue
            result = runs.train(run)
            _write_json(run.file, {"settings": run.settings, "result": result})
            _write(file, table, paper_table, plans, full_plans, runs, command)
            name = " ".join(filter(None, paper_table.rows[number].cells))
            accuracy, minutes = result["accuracy"], result["minutes"]
            say(f"table {table}, {name}, {heading}, seed {seed}: accuracy {accuracy:.4f} in {minutes:.1f} min")
    return file


def _write(
    file: Path,
    number: int,
    table: PaperTable,
    plans: Mapping[tuple, Run],
    full_plans: Mapping[tuple, Run],
    runs: Runs,
    command: str,
) -> None:
    """Writes the table with what is done by now; its full Any2Point may have been trained for another table."""
    records: dict[tuple[int, str], dict[int, dict[str, Any]]] = {}
    full: dict[tuple[int, str], dict[int, dict[str, Any]]] = {}
    for (row, heading, modality, seed), run in plans.items():
        records.setdefault((row, heading), {}).update(_by_seed(run))
        compared = full_plans[modality, seed]
        if compared.file != run.file:
            full.setdefault((row, heading), {}).update(_by_seed(compared))
    scaled = {(row, heading): run.scaled for (row, heading, *_), run in plans.items()}
    seeds = list(dict.fromkeys(seed for *_, seed in plans))
    write_table(file, number, table, records, full, scaled=scaled, command=command, facts=_facts(runs, seeds))


def _by_seed(run: Run) -> dict[int, dict[str, Any]]:
    record = run.record()
    return {} if record is None else {run.settings["seed"]: record}


def _facts(runs: Runs, seeds: Sequence[int]) -> list[str]:
    """Lines for below a table: data, backbones, training."""
    recipe, augmentation, train = runs.recipe, runs.recipe.augmentation, runs.dataset["train"]
    turned = f", turned about {augmentation.rotation_axis}" if augmentation.rotation_axis else ""
    low, high = augmentation.scale
    fields = {name: ", ".join(f"{key}={value}" for key, value in own.items()) for name, own in runs.fields.items()}
    return [
        f"Data: {runs.data}, {len(train)} training and {len(runs.dataset['test'])} test clouds of "
        f"{train.features['label'].num_classes} classes; the paper's are of {PAPER_DATA}.",
        *(
            f"Backbone {name}: {backbone}, plane and cells as it defines them unless given; {fields[name]}."
            for name, backbone in runs.backbones.items()
        ),
        f"Training: {recipe.epochs:g} epochs, batches of {recipe.batch_size}, learning rate {recipe.learning_rate:g}, "
        f"scale {low:.3g} to {high:.3g}, shift {augmentation.shift:g}{turned}; seeds {', '.join(map(str, seeds))}. "
        "The paper's: 300 epochs, batches of 32, learning rate 0.0005, 1024 points.",
        "#P ours: trained parameters without the head.",
    ]


def balanced_choice(labels: Sequence[int] | np.ndarray, count: int, seed: int = 0) -> list[int]:
    """Row numbers of `count` clouds, as evenly from all classes as their sizes allow; the same for the same seed."""
    labels = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    turns = np.empty(len(labels), dtype=np.int64)  # for each cloud, how many of its class come before it
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turns[members] = np.arange(len(members))
    return sorted(order[np.argsort(turns[order], kind="stable")][:count].tolist())


def _load(data: DataSource, train_clouds: int | None, drop_invalid: bool) -> DatasetDict:
    """Splits `train`, cut to this many clouds, and `test`."""
    dataset = load_point_cloud_dataset(data, drop_invalid=drop_invalid, task="classification")
    for name in ("train", "test"):
        if name not in dataset:
            raise DatasetError(f"the dataset must have splits train and test, got {', '.join(dataset)}.")
    train = dataset["train"]
    if train_clouds is not None and train_clouds < len(train):
        train = train.select(balanced_choice(train["label"], train_clouds))
    return DatasetDict({"train": train, "test": dataset["test"]})


def _check_asked(
    modalities: Sequence[str], settings: Mapping[str, Mapping[str, Any]], backbones: Mapping[str, str]
) -> None:
    """Checks that every modality that --only or --set names has a backbone."""
    asked = {f"--only {name}": name for name in modalities} | {
        f"--set-{name}": name for name in settings if settings[name]
    }
    for option, name in asked.items():
        if name not in backbones:
            raise Any2PointError(f"{option} needs --backbone-{name}: Hub id or folder of a transformer; got none.")


def _check_folder(output: Path, folder: dict[str, Any]) -> None:
    """Checks that the folder's earlier tables had the same data, budget and backbones, so that all are comparable."""
    check_output_folder(output)
    earlier, changed = _earlier(output) if any(output.glob("runs/*.json")) else {}, []
    for name, values in json.loads(json.dumps(folder)).items() if earlier else ():
        parts = values if isinstance(values, dict) else {name: values}
        before = earlier.get(name, {}) if isinstance(values, dict) else {name: earlier[name]}
        changed += [f"{key} was {before[key]!r}" for key in parts if key in before and before[key] != parts[key]]
    if changed:
        raise Any2PointError(
            f"{output} holds tables of other settings, these differ: {', '.join(changed)}. Give the same ones, or "
            "choose another folder."
        )


def _earlier(output: Path) -> dict[str, Any]:
    file = output / FOLDER_FILE
    return read_record(file) if file.is_file() else {}


def _joined(output: Path, folder: dict[str, Any]) -> dict[str, Any]:
    """What a folder's runs share, together with the backbones and settings of earlier tables."""
    earlier = _earlier(output)
    return folder | {name: earlier.get(name, {}) | folder[name] for name in ("backbones", "settings", BACKBONE_FILES)}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_whole(file, json.dumps(content, indent=2) + "\n")
