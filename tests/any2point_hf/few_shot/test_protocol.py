"""The protocol: what each row is given, what is resumed, and what is refused before anything is trained."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from any2point_hf.data import build_dataset_dict
from any2point_hf.few_shot import protocol, rows
from any2point_hf.few_shot.folds import open_folds
from any2point_hf.few_shot.protocol import few_shot, make_recipe
from any2point_hf.few_shot.rows import ROWS, row_accuracy
from any2point_hf.modeling.backbones.loading import load_backbone
from any2point_hf.modeling.errors import Any2PointError, DatasetError, PointCloudError
from any2point_hf.training.output_lock import LOCK_FILE, output_lock
from any2point_hf.training.recipe import changed
from any2point_hf.training.trainer import make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = changed(make_recipe("data"), batch_size=4, config={"num_points": 64, "num_neighbors": 8})


@pytest.fixture(scope="module")
def data(two_classes, tmp_path_factory):
    """Two easy classes of 30 training clouds each."""
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, **two_classes.arrays(60, 8))
    return str(path)


@pytest.fixture
def run(data, bert, tmp_path):
    """`few_shot` of two folds of the two classes, into `tmp_path / "out"`."""

    def run_protocol(**options):
        options = {"ways": (2,), "shots": (3,), "folds": 2, "recipe": RECIPE, "say": str} | options
        chosen, output = options.pop("data", data), options.pop("output", tmp_path / "out")
        return few_shot(chosen, options.pop("backbone", bert), output, **options)

    return run_protocol


@pytest.fixture
def measured(monkeypatch):
    """Rows are measured at once, each with an accuracy of its own; what they were given."""
    given = []

    def accuracy(row, fold, backbone, name, recipe, seed, drop_invalid):
        given.append((row, seed, fold["train"].with_format("numpy")["points"][0].tobytes()))
        return len(given) / 100

    monkeypatch.setattr(protocol, "row_accuracy", accuracy)
    return given


@pytest.mark.slow
def test_every_row_learns_what_is_easy(run, monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "NUM_STEPS", 20)
    lines = []
    text = run(folds=1, shots=(10,), recipe=changed(RECIPE, batch_size=10), say=lines.append).read_text(
        encoding="utf-8"
    )
    assert len(lines) == len(ROWS)
    assert all(
        line.startswith(f"2-way 10-shot, fold 0, {row}: accuracy ") for line, row in zip(lines, ROWS, strict=True)
    )
    for row in ROWS:
        file = tmp_path / "out" / "folds" / "2way_10shot" / "0" / f"{row.replace(' ', '_')}.json"
        record = json.loads(file.read_text(encoding="utf-8"))
        assert {"accuracy", "seconds", "torch", "transformers"} == set(record["result"])
        accuracy = record["result"]["accuracy"]
        assert (accuracy * 40) % 1 == pytest.approx(0)  # of 40 query clouds
        assert accuracy >= 0.9, row  # a ball and a disc
        assert f"| {row}: {ROWS[row]} | {100 * accuracy:.1f} |" in text


def test_rows_start_alike_and_differ_in_their_backbone(data, bert, monkeypatch):
    made = {}

    class Trainer:
        """Keeps the model."""

        def __init__(self, model, processor, dataset, folder, recipe, seed):
            made[row] = [model, seed]
            self.args = type("Arguments", (), {})()

        def train(self):
            made[row].append(self.args.max_steps)

        def evaluate(self):
            return {"eval_accuracy": 0.5}

    monkeypatch.setattr(rows, "make_trainer", Trainer)
    fold, backbone = open_folds(data)(2, 3, 7), load_backbone(str(bert))
    for row in ("pretrained", "permuted", "random", "no backbone"):
        assert row_accuracy(row, fold, backbone, str(bert), RECIPE, 7) == 0.5
    assert {(steps, seed) for _, seed, steps in made.values()} == {(rows.NUM_STEPS, 7)}
    models = {row: model for row, (model, *_) in made.items()}
    trained = {row: {n: p for n, p in m.named_parameters() if p.requires_grad} for row, m in models.items()}
    for row in ("permuted", "random"):
        assert trained[row].keys() == trained["pretrained"].keys()
        own = {name for name in trained[row] if not torch.equal(trained[row][name], trained["pretrained"][name])}
        # CLS and the final norm start from the backbone's own, which a random one has others of
        assert not {name for name in own if "tokenizer" in name or "bottlenecks" in name or "classifier" in name}
    for name, parameter in trained["no backbone"].items():
        if "tokenizer" in name or "classifier" in name:
            torch.testing.assert_close(parameter, trained["pretrained"][name], rtol=0, atol=0)
    weights = {
        row: dict(models[row].backbone.named_parameters())["encoder.layer.1.output.dense.weight"]
        for row in ("pretrained", "permuted", "random")
    }
    kept = weights["pretrained"].flatten().sort().values
    assert torch.equal(weights["permuted"].flatten().sort().values, kept)
    assert not torch.equal(weights["permuted"], weights["pretrained"])
    assert not torch.equal(weights["random"].flatten().sort().values, kept)
    assert torch.equal(weights["pretrained"], backbone.state_dict()["encoder.layer.1.output.dense.weight"])


@pytest.mark.parametrize("shots", [1, 3])  # less than a batch, and one and a half
def test_folds_of_every_size_train_as_many_steps(data, bert, monkeypatch, shots):
    monkeypatch.setattr(rows, "NUM_STEPS", 3)
    trainers = []

    def keep(*arguments, **options):
        trainers.append(make_trainer(*arguments, **options))
        return trainers[-1]

    monkeypatch.setattr(rows, "make_trainer", keep)
    row_accuracy("no backbone", open_folds(data)(2, shots, 0), load_backbone(str(bert)), str(bert), RECIPE, 0)
    assert trainers[0].state.global_step == 3


def test_the_same_fold_gives_the_same_accuracy(data, bert, monkeypatch):
    monkeypatch.setattr(rows, "NUM_STEPS", 3)
    fold, backbone = open_folds(data)(2, 3, 1), load_backbone(str(bert))
    for row in ROWS:
        first, second = (row_accuracy(row, fold, backbone, str(bert), RECIPE, 1) for _ in range(2))
        assert first == second


@pytest.mark.parametrize("row", ["pretrained", "linear probe", "Point-NN"])
def test_invalid_points_of_an_official_data_set_can_be_dropped(data, bert, monkeypatch, row):
    monkeypatch.setattr(rows, "NUM_STEPS", 1)
    fold = open_folds(data)(2, 3, 0)
    clouds = list(fold["train"].with_format("numpy")["points"])
    clouds[0] = np.concatenate([clouds[0], np.full((5, 3), np.nan, np.float32)])
    fold["train"] = build_dataset_dict({"train": (clouds, fold["train"]["label"])}, ["ball", "disc"])["train"]
    arguments = (row, fold, load_backbone(str(bert)), str(bert), RECIPE, 0)
    with pytest.raises(PointCloudError, match="--drop-invalid"):
        row_accuracy(*arguments)
    with pytest.warns(UserWarning, match="5 .*points are dropped"):
        dropped = row_accuracy(*arguments, drop_invalid=True)
    assert dropped == row_accuracy(row, open_folds(data)(2, 3, 0), *arguments[2:])


# Resuming


def test_rows_of_a_fold_see_the_same_clouds_and_seed(run, measured):
    run(shots=(3, 5))
    assert len(measured) == len(ROWS) * 2 * 2
    assert [row for row, *_ in measured] == [*ROWS] * 4
    assert [seed for _, seed, _ in measured] == [0] * 12 + [1] * 12  # every setting's first fold first
    assert len({cloud for _, _, cloud in measured[:6]}) == 1


def test_what_is_done_is_not_repeated(run, measured):
    run(folds=1)
    run(folds=1)
    assert len(measured) == 6
    text = run(folds=3).read_text(encoding="utf-8")
    assert [seed for _, seed, _ in measured] == [0] * 6 + [1] * 6 + [2] * 6
    assert "| pretrained: adapters on the frozen backbone | 7.0 ± 6.0 (3 folds) |" in text  # 1, 7 and 13
    assert "| pretrained \N{MINUS SIGN} permuted | -1.0 [-1.0, -1.0] |" in text


def test_rows_on_another_backbone_are_not_mixed(run, measured, bert, tmp_path):
    backbone = shutil.copytree(bert, tmp_path / "bert")
    run(folds=1, backbone=backbone)
    tensors = load_file(file := backbone / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    with pytest.raises(Any2PointError, match="these differ: backbone_files was"):
        run(folds=2, backbone=backbone)
    for record in (tmp_path / "out").rglob("0/*.json"):
        known = json.loads(record.read_text())
        del known["settings"]["backbone_files"]  # as of an earlier version
        record.write_text(json.dumps(known))
    run(folds=2, backbone=backbone)
    assert len(measured) == 2 * len(ROWS)


def test_two_runs_on_one_output(run, measured, tmp_path):
    with output_lock(tmp_path / "out"), pytest.raises(Any2PointError, match="must have one run at a time"):
        run()
    assert measured == []
    run()
    assert not (tmp_path / "out" / LOCK_FILE).exists()


def test_an_interrupted_fold_goes_on(run, measured, monkeypatch, tmp_path):
    measure = protocol.row_accuracy

    def interrupted(*arguments):
        if len(measured) == 4:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(protocol, "row_accuracy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folds=1)
    text = (tmp_path / "out" / "few_shot.md").read_text(encoding="utf-8")
    assert f"| no backbone: {ROWS['no backbone']} | 4.0 |" in text
    assert f"| Point-NN: {ROWS['Point-NN']} | – |" in text
    monkeypatch.setattr(protocol, "row_accuracy", measure)
    run(folds=1)
    assert [row for row, *_ in measured] == [*ROWS]
    assert not list((tmp_path / "out").rglob("*.tmp"))


# What is refused


def test_other_settings_in_the_folder(run, measured, narrow_bert, two_classes, tmp_path):
    run(folds=1)
    with pytest.raises(
        Any2PointError, match=r"pretrained\.json was measured with other settings.*learning_rate was 0\.001"
    ):
        run(recipe=changed(RECIPE, learning_rate=2e-3))
    with pytest.raises(Any2PointError, match="these differ: backbone was"):
        run(backbone=narrow_bert)
    arrays = two_classes.arrays(60, 8)
    np.savez(tmp_path / "other.npz", **arrays | {"points": arrays["points"] * 2})
    with pytest.raises(Any2PointError, match="these differ: data was"):
        run(data=str(tmp_path / "other.npz"))
    assert len(measured) == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ways": (1,)}, r"at least 2 ways, 1 shot and 1 fold, got \[1\], \[3\] and 2"),
        ({"shots": (3, 0)}, r"got \[2\], \[3, 0\] and 2"),
        ({"folds": 0}, "and 0"),
        ({"ways": ()}, r"got \[\]"),
    ],
)
def test_impossible_numbers(run, measured, options, said):
    with pytest.raises(Any2PointError, match=said):
        run(**options)
    assert not measured


def test_folds_that_cannot_be_drawn_cost_nothing(run, measured, tmp_path):
    with pytest.raises(DatasetError, match="2 ways of 11 shots and 20 queries need 2 classes of at least 31"):
        run(shots=(3, 11))
    (tmp_path / "file").touch()
    with pytest.raises(Any2PointError, match="must be a folder"):
        run(output=tmp_path / "file")
    with pytest.raises(Any2PointError, match="nowhere"):
        run(backbone=str(tmp_path / "nowhere"))
    assert not measured
    assert not (tmp_path / "out").exists()
