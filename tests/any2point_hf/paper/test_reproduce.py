import json
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

from any2point_hf.data import build_dataset_dict
from any2point_hf.modeling.errors import Any2PointError, DatasetError, PointCloudError
from any2point_hf.modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from any2point_hf.modeling.presets import SCAN
from any2point_hf.paper.reproduce import balanced_choice, reproduce
from any2point_hf.paper.rows import Row
from any2point_hf.paper.runs import Budget, Runs, base_fields, make_budget
from any2point_hf.paper.tables import TABLES, find_table
from any2point_hf.paper.tuning_baselines import METHODS, apply_method
from any2point_hf.training.output_lock import LOCK_FILE, output_lock

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

pytest.importorskip("peft")

SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
BUDGET = make_budget(True, num_points=64, num_neighbors=4, epochs=1, train_clouds=8, batch_size=4)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Folders of a BERT and a DINOv2 of four blocks."""
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    line = BertConfig(**SIZES, intermediate_size=32, vocab_size=50, max_position_embeddings=24)
    BertModel(line).save_pretrained(folder / "line")
    Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2, image_size=32, patch_size=8)).save_pretrained(folder / "plane")
    return {"1d": str(folder / "line"), "2d": str(folder / "plane")}


@pytest.fixture
def run(backbones, two_classes, tmp_path):
    """`reproduce` with the tiny backbones and data, into `tmp_path / "out"`."""

    def reproduce_table(table, **options):
        options = {"data": str(two_classes.path), "backbones": backbones, "budget": BUDGET, "say": str} | options
        data, folders = options.pop("data"), options.pop("backbones")
        return reproduce(table, data, folders, options.pop("output", tmp_path / "out"), **options)

    return reproduce_table


@pytest.fixture
def trainings(monkeypatch):
    """Runs are measured at once, each with an accuracy of its own; the list of their settings."""
    done = []

    def train(_, run):
        done.append(run.settings)
        counted = {"trained_parameters": 3_000_000, "trained_without_head": 1_234_000, "minutes": 2.0}
        return {"accuracy": 0.5 + len(done) / 100, "mean_class_accuracy": 0.4, **counted}

    monkeypatch.setattr(Runs, "train", train)
    return done


def rows_of(file):
    """The cells of a markdown table, without its heading."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# What the rows are


def plans(table, backbones, dataset, tmp_path):
    runs = Runs("two classes", dataset, backbones, {name: {} for name in backbones}, BUDGET, tmp_path)
    for row in find_table(table).rows:
        for modality in find_table(table).trained_for(row, False).values():
            if modality in backbones:
                yield runs.plan(row, modality, 0), modality


@pytest.fixture(scope="module")
def dataset(two_classes):
    from any2point_hf.data import load_point_cloud_dataset

    return load_point_cloud_dataset(str(two_classes.path))


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_model_of_its_own(table, backbones, dataset, tmp_path):
    planned = list(plans(table, backbones, dataset, tmp_path))
    assert Counter(modality for _, modality in planned) == {
        "1d": 3 + sum("1D" in row.accuracy or row.modality == "1d" for row in TABLES[table].rows),
        "2d": 3 + sum("2D" in row.accuracy or row.modality == "2d" for row in TABLES[table].rows),
    }
    assert len({run.file for run, _ in planned}) == len(planned)
    points = torch.randn(2, 64, 3)
    for run, _ in planned:
        model = Any2PointForPointCloudClassification(run.config)
        apply_method(model, run.settings["method"])
        with torch.no_grad():
            assert model.eval()(points).logits.shape == (2, 2)


def test_rows_of_several_tables_share_a_run(backbones, dataset, tmp_path):
    files = {table: [run.file for run, _ in plans(table, backbones, dataset, tmp_path)] for table in TABLES}
    itself = set(files[1])  # the method and its controls on both backbones
    assert len(itself) == 2 + 6
    for table in (2, 3, 4, 5, 6, 7, 8, 9, 10):
        assert itself <= set(files[table])
    assert set(files[3][4:6]) == set(files[4][:2])  # no positions
    assert set(files[2][4:6]) == set(files[5][:2])  # a bottleneck alone


def test_depths_and_cells_are_fitted_to_the_backbone(backbones, dataset, tmp_path):
    blocks = [run.settings["config"].get("adapter_blocks") for run, _ in plans(7, backbones, dataset, tmp_path)]
    assert blocks == [1, 1, 2, 2, 3, 3, None, None] * 3 + [0, 0, None, None, None, None]
    cells = [run.settings["config"]["cell_size"] for run, _ in plans(9, backbones, dataset, tmp_path)]
    assert cells == [1.2308, 2, 2.6154] * 2 + [1, 2, 3] * 2 + [2] * 6


def test_scans_start_from_the_presets_of_scans():
    line, plane = (base_fields(modality, True, Budget()) for modality in ("1d", "2d"))
    assert (line["voxel_size"], line["num_neighbors"], line["neighborhood_norm"]) == (0.08, 81, "extent")
    assert (plane["voxel_size"], plane["camera_distance"], plane["num_points"]) == (0.16, 1.8, 1024)
    quick = base_fields("2d", False, make_budget(True))
    assert (quick["num_points"], quick["num_neighbors"], quick["neighborhood_norm"]) == (128, 16, "deviation")
    assert not {"plane", "cell_size"} & {*line, *plane, *quick}


def test_budgets():
    assert make_budget() == Budget()
    quick = make_budget(True, epochs=9, shift=None)
    assert (quick.epochs, quick.train_clouds, quick.learning_rate, quick.scale) == (9, 1000, 1e-3, (0.9, 1.1))
    assert quick.shift == 0.1


def test_the_recipe_is_the_published_one_where_the_budget_says_nothing(backbones, dataset, tmp_path):
    extra = {name: {} for name in backbones}
    published = Runs("data", dataset, backbones, extra, Budget(), tmp_path).recipe
    assert (published.epochs, published.batch_size, published.learning_rate) == (300, 32, 5e-4)
    assert published.augmentation.scale == pytest.approx((2 / 3, 3 / 2))
    assert published.scale_to_unit_sphere
    scans = dataset.cast_column("label", type(dataset["train"].features["label"])(names=list(SCAN.class_names)))
    published = Runs("data", scans, backbones, extra, Budget(), tmp_path).recipe
    assert (published.augmentation.rotation_axis, published.scale_to_unit_sphere) == ("y", False)


def test_training_clouds_are_chosen_evenly():
    labels = np.array([0] * 50 + [1] * 5 + [2] * 20)
    chosen = balanced_choice(labels, 25)
    assert Counter(labels[chosen]) == {0: 10, 1: 5, 2: 10}
    assert chosen == balanced_choice(labels, 25) == sorted(set(chosen))
    assert chosen != balanced_choice(labels, 25, seed=1)
    assert balanced_choice(labels, 75) == list(range(75))


# Training


def test_table_2_is_trained(run, tmp_path):
    file = run(2, command="any2point reproduce --table 2 --quick")
    rows = rows_of(file)
    assert [row[0] for row in rows[:5]] == ["Full Fine-Tuning", "Prompt Tuning", "Adapter Tuning", "LoRA", "Any2Point"]
    assert [row[0] for row in rows[5:]] == ["No backbone", "Permuted weights", "Random weights"]
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "runs").glob("*.json")]
    assert Counter(record["settings"]["method"] for record in records) == dict.fromkeys(METHODS, 2) | {"any2point": 10}
    assert Counter(record["settings"].get("weights") for record in records) == {None: 12, "permuted": 2, "random": 2}
    for record in records:
        result = record["result"]
        assert round(result["accuracy"] * 8) == pytest.approx(result["accuracy"] * 8)  # of eight test clouds
        assert 0 < result["trained_without_head"] < result["trained_parameters"]
        assert result["minutes"] > 0
        assert {"accuracy", "mean_class_accuracy", "torch", "transformers"} <= set(result)
        assert record["settings"]["train_clouds"] == 8
        assert record["settings"]["recipe"]["epochs"] == 1
    assert not list((tmp_path / "out").rglob("*.tmp"))
    before = file.read_text()
    assert run(2, command="any2point reproduce --table 2 --quick").read_text() == before  # minutes and all


def test_one_seed_gives_one_result(run, tmp_path):
    results = []
    for name in ("first", "second"):
        run(10, output=tmp_path / name, modalities=["1d"])
        records = [json.loads(path.read_text()) for path in sorted((tmp_path / name / "runs").glob("*.json"))]
        results.append([(r["result"]["accuracy"], r["result"]["mean_class_accuracy"]) for r in records])
    assert results[0] == results[1]
    assert len(results[0]) == 2 + 3


# Resuming


def test_what_is_done_is_not_repeated(run, trainings):
    run(3)
    assert len(trainings) == 14
    run(3)
    assert len(trainings) == 14
    run(4)
    assert len(trainings) == 18  # the row without positions, the method itself and the controls are there
    run(4, seeds=(0, 1))
    assert len(trainings) == 32
    assert [settings["seed"] for settings in trainings[18:]] == [1] * 14


def test_an_interrupted_row_is_done_anew(run, trainings, monkeypatch, tmp_path):
    measure = Runs.train

    def interrupted(runs, planned):
        if len(trainings) == 3:
            raise KeyboardInterrupt
        return measure(runs, planned)

    monkeypatch.setattr(Runs, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(3)
    partial = rows_of(tmp_path / "out" / "table-3.md")
    assert [row[5] for row in partial] == ["51.0", "53.0", *["–"] * 5]
    assert [row[8] for row in partial] == ["52.0", *["–"] * 6]
    monkeypatch.setattr(Runs, "train", measure)
    finished = rows_of(run(3))
    assert [row[5] for row in finished] == ["51.0", "53.0", "55.0", "57.0", "59.0", "61.0", "63.0"]
    assert len(trainings) == 14


def test_one_modality_after_the_other(run, trainings):
    rows = rows_of(run(3, modalities=["2d"]))
    assert [settings["config"]["modality"] for settings in trainings] == ["2d"] * 7
    assert [row[5] for row in rows] == ["–"] * 7
    rows = rows_of(run(3, modalities=["1d"]))
    assert [row[8] for row in rows[:4]] == ["51.0", "52.0", "53.0", "54.0"]
    assert [row[5] for row in rows[:4]] == ["58.0", "59.0", "60.0", "61.0"]


def test_the_markdown(run, trainings, two_classes):
    file = run(3, seeds=(0, 1), command="any2point reproduce --table 3")
    lines = file.read_text().splitlines()
    assert lines[0] == "# Table 3: Ablation Study on Main Components"
    assert lines[2] == "`any2point reproduce --table 3`"
    assert lines[4] == (
        "| 3D-to-any V.P. | Any-to-3D G.A. | #P paper (M) | #P ours (M) | 1D paper (%) | 1D ours (%) | 1D difference "
        "| 2D paper (%) | 2D ours (%) | 2D difference | minutes a run |"
    )
    assert lines[6] == (  # seeds give 51 and 65, 52 and 66
        "| - | - | 0.3 | 1.23 / 1.23 | 88.7 | 58.0 (2 seeds) | 1 seed missing | 86.1 | 59.0 (2 seeds) | 1 seed missing "
        "| 2.0 / 2.0 |"
    )
    assert lines[9].startswith("| ✓ | ✓ | 0.8 | 1.23 / 1.23 | 91.9 | 64.0 (2 seeds) | – | 87.7 |")  # the full one
    assert lines[10].startswith("| No backbone |  | – | 1.23 / 1.23 | – | 66.0 (2 seeds) | 1 seed missing | – |")
    text = "\n".join(lines[13:])
    assert f"Data: {two_classes.path}, 8 training and 8 test clouds of 2 classes" in text
    assert "1 epochs, batches of 4, learning rate 0.001, scale 0.9 to 1.1, shift 0.1; seeds 0, 1." in text
    assert "standard error" not in text
    assert "Difference: in points, to the full Any2Point on the same backbone" in text
    assert "- Permuted weights: each matrix of the pretrained blocks" in text


def test_differences_are_those_of_pairs(run, monkeypatch):
    noise = {0: 0.10, 1: -0.20, 2: 0.05, 3: 0.0}  # that runs of a seed share

    def train(_, planned):
        seed, weights = planned.settings["seed"], planned.settings.get("weights")
        lost = {"permuted": 0.02, "random": 0.03}.get(weights, 0.0) + (0.01 * seed if weights == "random" else 0.0)
        counted = {"trained_parameters": 3_000_000, "trained_without_head": 1_234_000, "minutes": 2.0}
        return {"accuracy": 0.7 + noise[seed] - lost, **counted}

    monkeypatch.setattr(Runs, "train", train)
    assert [row[6] for row in rows_of(run(3, seeds=(0,)))] == [*["2 seeds missing"] * 3, "–", *["2 seeds missing"] * 3]
    full, *_, permuted, random = rows_of(run(3, seeds=(0, 1, 2, 3)))[3:]
    assert (full[5], full[6]) == ("68.8 (4 seeds)", "–")
    assert permuted[5:7] == ["66.8 (4 seeds)", "-2.0 ± 0.0 (4 seeds)"]
    assert random[6] == "-4.5 ± 2.1 (4 seeds)"  # of −3, −4, −5 and −6: 3.182 · 1.291 / 2


def test_the_full_one_may_be_of_another_table(run, trainings):
    settings = {"1d": {"voxel_size": 0.5}}  # which Table 9 has in no row
    seeds = {"seeds": (0, 1, 2)}
    before = rows_of(run(9, settings=settings, **seeds))
    assert before[6][7] == "3 seeds missing"
    done = len(trainings)
    run(10, settings=settings, modalities=["1d"], **seeds)
    assert len(trainings) == done + 2 * 3  # its own row of 3D cells, and the full one
    assert rows_of(run(9, settings=settings, **seeds))[6][7].endswith("(3 seeds)")
    assert len(trainings) == done + 2 * 3


def test_rows_on_another_backbone_are_not_mixed(run, trainings, backbones, tmp_path):
    line = shutil.copytree(backbones["1d"], tmp_path / "line")
    run(4, backbones=backbones | {"1d": str(line)})
    tensors = load_file(file := line / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    with pytest.raises(Any2PointError, match="these differ: files of 1d was '"):
        run(4, backbones=backbones | {"1d": str(line)}, seeds=[0, 1])
    settings = json.loads((record := tmp_path / "out" / "settings.json").read_text())
    assert settings.pop("backbone_files")
    record.write_text(json.dumps(settings))  # as of an earlier version
    done = len(trainings)
    run(4, backbones=backbones | {"1d": str(line)}, seeds=[0, 1])
    assert len(trainings) == 2 * done


def test_two_runs_on_one_output(run, trainings, tmp_path):
    with output_lock(tmp_path / "out"), pytest.raises(Any2PointError, match="must have one run at a time"):
        run(4)
    assert trainings == []
    run(4)
    assert not (tmp_path / "out" / LOCK_FILE).exists()


def test_hashes_of_pretrained_rows_do_not_name_weights(backbones, dataset, tmp_path):
    runs = Runs("two classes", dataset, backbones, {name: {} for name in backbones}, BUDGET, tmp_path)
    plain, permuted, random = (runs.plan(Row((), {}, weights=w), "1d", 0) for w in ("pretrained", "permuted", "random"))
    assert "weights" not in plain.settings
    assert permuted.settings == plain.settings | {"weights": "permuted"}
    assert random.settings == plain.settings | {"weights": "random"}
    assert len({plain.file, permuted.file, random.file}) == 3


def test_controls_differ_from_the_full_one_by_their_weights_alone(backbones, dataset, tmp_path, monkeypatch):
    class Stopped(Exception):  # noqa: N818
        pass

    models = []

    def stop(model, *_, **__):
        models.append(model)
        raise Stopped

    monkeypatch.setattr("any2point_hf.paper.runs.make_trainer", stop)
    runs = Runs("two classes", dataset, backbones, {name: {} for name in backbones}, BUDGET, tmp_path)
    for row in (Row((), {}), Row((), {}, weights="permuted"), Row((), {}, weights="random")):
        for _ in range(2):
            with pytest.raises(Stopped):
                runs.train(runs.plan(row, "1d", 3))
    plain, _, *controls = (model.state_dict() for model in models)
    backbone = {name for name in plain if ".backbone." in name}
    matrix = next(name for name in sorted(backbone) if name.endswith("layer.0.attention.self.query.weight"))
    for own, again in zip(controls[::2], controls[1::2], strict=True):
        assert all(torch.equal(own[name], again[name]) for name in plain)  # the same for the same seed
        assert all(torch.equal(own[name], plain[name]) for name in set(plain) - backbone)
        assert not torch.equal(own[matrix], plain[matrix])
    permuted, random = controls[0], controls[2]
    assert torch.equal(permuted[matrix].flatten().sort().values, plain[matrix].flatten().sort().values)
    assert not torch.equal(random[matrix].flatten().sort().values, plain[matrix].flatten().sort().values)


def test_invalid_points_of_an_official_data_set_can_be_dropped(backbones, dataset, tmp_path):
    clouds = {name: list(dataset[name].with_format("numpy")["points"]) for name in dataset}
    clouds["test"][0] = np.concatenate([clouds["test"][0], np.full((5, 3), np.nan, np.float32)])
    spoiled = build_dataset_dict({name: (clouds[name], dataset[name]["label"]) for name in clouds}, ["ball", "disc"])
    made = ("two classes", spoiled, {"1d": backbones["1d"]}, {"1d": {}}, BUDGET, tmp_path)
    with pytest.raises(PointCloudError, match="--drop-invalid"):
        Runs(*made).train(Runs(*made).plan(Row((), {}), "1d", 0))
    runs = Runs(*made, drop_invalid=True)
    with pytest.warns(UserWarning, match="5 .*points are dropped"):
        assert runs.train(runs.plan(Row((), {}), "1d", 0))["accuracy"] > 0


def test_table_1_shows_the_data_set_it_was_run_on(run, trainings, backbones):
    rows = rows_of(run(1, backbones={"2d": backbones["2d"], "1d": None}))
    assert [row[:2] for row in rows[:6]] == [
        *(["Any2Point", kind] for kind in ("Audio", "2D", "Language")),
        *(["No backbone", kind] for kind in ("Audio", "2D", "Language")),
    ]
    assert [row[4:10] for row in rows[:5]] == [
        ["87.0", "–", "–", "92.7", "–", "–"],
        ["87.7", "–", "–", "93.2", "51.0", "–"],
        ["91.9", "–", "–", "94.3", "–", "–"],
        ["–", "–", "–", "–", "–", "–"],
        ["–", "–", "–", "–", "52.0", "2 seeds missing"],
    ]


def test_scaled_depths_stand_in_the_rows(run, trainings):
    assert [row[3] for row in rows_of(run(7))[:4]] == [
        "3 (1D: 1, 2D: 1)",
        "6 (1D: 2, 2D: 2)",
        "9 (1D: 3, 2D: 3)",
        "12 (1D: 4, 2D: 4)",
    ]
    assert [row[0] for row in rows_of(run(9))[:3]] == ["16 (2D: 1.2308)", "26 (2D: 2)", "34 (2D: 2.6154)"]


def test_fields_of_a_modality(run, trainings, backbones):
    run(3, backbones={"1d": backbones["1d"], "2d": backbones["2d"]}, settings={"2d": {"adapter_dim": 5}})
    dims = {settings["config"]["modality"]: settings["config"].get("adapter_dim") for settings in trainings}
    assert dims == {"1d": None, "2d": 5}  # 16 is the default


# What is refused


def test_a_table_that_there_is_not(run):
    with pytest.raises(Any2PointError, match=r"--table must be one of .* got 0"):
        run(0)


@pytest.mark.parametrize(
    ("table", "given", "message"),
    [
        (3, ["1d"], "table 3 needs --backbone-2d:"),
        (3, [], "table 3 needs --backbone-1d and --backbone-2d:"),
        (6, [], "table 6 needs --backbone-audio or --backbone-2d or --backbone-1d:"),
    ],
)
def test_a_missing_backbone(run, trainings, backbones, table, given, message):
    with pytest.raises(Any2PointError, match=message):
        run(table, backbones={name: backbones[name] for name in given})
    assert not trainings


def test_other_settings_in_the_folder(run, trainings, backbones, tmp_path):
    run(3)
    with pytest.raises(Any2PointError, match=r"tables of other settings, these differ: epochs was 1"):
        run(3, budget=make_budget(True, num_points=64, num_neighbors=4, epochs=2, train_clouds=8, batch_size=4))
    with pytest.raises(Any2PointError, match=r"these differ: 1d was "):
        run(3, backbones={"1d": backbones["2d"], "2d": backbones["2d"]})
    assert len(trainings) == 14
    (tmp_path / "file").touch()
    with pytest.raises(Any2PointError, match="must be a folder"):
        run(3, output=tmp_path / "file")


def test_data_with_one_split(run, trainings, two_classes, tmp_path):
    arrays = two_classes.arrays()
    np.savez(tmp_path / "one.npz", **(arrays | {"split": np.zeros_like(arrays["split"])}))
    with pytest.raises(DatasetError, match="split"):
        run(3, data=str(tmp_path / "one.npz"))
    assert not trainings


def test_peft_missing_is_told_before_any_training(run, trainings, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(Any2PointError, match="pip install"):
        run(2)
    assert not trainings
    assert run(3).is_file()
