import json
import shutil
import statistics

import pytest
from safetensors.torch import load_file, save_file

from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.training.seeds import SEEDS_FILE, train_with_seeds

pytestmark = pytest.mark.usefixtures("one_thread")


def test_mean_and_deviation_of_the_sample(tmp_path):
    reached = {0: 0.5, 3: 0.7, 8: 0.9}
    calls = []

    def train(seed, output):
        calls.append((seed, output))
        return {"accuracy": reached[seed], "adapter_megabytes": 1.0}

    summary = train_with_seeds([0, 3, 8], tmp_path, {"epochs": 3}, train)
    assert calls == [(seed, tmp_path / f"seed-{seed}") for seed in reached]
    assert summary["accuracy"]["mean"] == pytest.approx(0.7)
    assert summary["accuracy"]["deviation"] == pytest.approx(statistics.stdev(reached.values()))
    assert summary["adapter_megabytes"] == {"mean": 1.0, "deviation": 0.0}
    written = json.loads((tmp_path / SEEDS_FILE).read_text())
    assert written["summary"] == summary
    assert written["runs"]["3"]["accuracy"] == 0.7
    assert train_with_seeds([3], tmp_path, {"epochs": 3}, train)["accuracy"] == {"mean": 0.7, "deviation": 0.0}
    assert len(calls) == 3  # what is done is not repeated


def test_a_stopped_run_goes_on_with_the_seed_it_stopped_at(tmp_path):
    calls = []

    def train(seed, _):
        calls.append(seed)
        if calls == [1, 2]:
            raise KeyboardInterrupt
        return {"accuracy": seed / 10}

    with pytest.raises(KeyboardInterrupt):
        train_with_seeds([1, 2, 3], tmp_path, {"epochs": 3}, train)
    assert train_with_seeds([1, 2, 3], tmp_path, {"epochs": 3}, train)["accuracy"]["mean"] == pytest.approx(0.2)
    assert calls == [1, 2, 2, 3]


def test_runs_of_other_settings_are_not_mixed(tmp_path):
    train_with_seeds([1], tmp_path, {"epochs": 3}, lambda *_: {"accuracy": 0.5})
    with pytest.raises(Any2PointError, match="other settings, these differ: epochs was 3"):
        train_with_seeds([1, 2], tmp_path, {"epochs": 4}, lambda *_: {"accuracy": 0.5})


def test_runs_on_another_backbone_are_not_mixed(run_train, bert, tmp_path):
    backbone = shutil.copytree(bert, tmp_path / "bert")
    assert run_train("--seeds", "0", backbone=backbone).code == 0
    tensors = load_file(file := backbone / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    refused = run_train("--seeds", "0,1", backbone=backbone)
    assert (refused.code, "these differ: backbone_files was" in refused.err) == (2, True)
    record = json.loads((seeds := tmp_path / "trained" / SEEDS_FILE).read_text())
    del record["settings"]["backbone_files"]  # as of an earlier version
    seeds.write_text(json.dumps(record))
    assert run_train("--seeds", "0", backbone=backbone).code == 0


def test_runs_of_an_earlier_version_are_not_mixed_with_another_start_of_sampling(run_train, tmp_path):
    start = ("--set", "sampling_start=first")
    assert run_train("--seeds", "0", *start).code == 0
    file = tmp_path / "trained" / SEEDS_FILE
    record = json.loads(file.read_text())
    del record["settings"]["sampling_start"]
    file.write_text(json.dumps(record))
    refused = run_train("--seeds", "0,1")
    assert (refused.code, "these differ: sampling_start was 'first'. Give the same ones" in refused.err) == (2, True)
    assert run_train("--seeds", "0,1", *start).code == 0
    assert set(json.loads(file.read_text())["runs"]) == {"0", "1"}


@pytest.mark.filterwarnings("ignore:this converted model computes")
def test_the_start_of_sampling_is_recorded_as_trained(run_train, tmp_path):
    result = run_train("--seeds", "0", "--set", "released_compatibility=true")
    assert result.code == 0, result.err
    trained = json.loads((tmp_path / "trained" / "seed-0" / "config.json").read_text())
    record = json.loads((tmp_path / "trained" / SEEDS_FILE).read_text())
    assert record["settings"]["sampling_start"] == trained["sampling_start"] == "first"


def test_on_the_command_line(run_train, tmp_path):
    result = run_train("--seeds", "0,5")
    assert result.code == 0, result.err
    runs = json.loads((tmp_path / "trained" / SEEDS_FILE).read_text())["runs"]
    assert set(runs) == {"0", "5"}
    assert result.out.splitlines()[-1].startswith("seeds 0, 5: accuracy on the test split 0.")
    for seed in (0, 5):
        folder = tmp_path / "trained" / f"seed-{seed}"
        assert (folder / "model.safetensors").is_file()
        assert json.loads((folder / "training_run.json").read_text())["seed"] == seed
    assert run_train("--seeds", "0,5", "--epochs", "2").code == 2
    again = run_train("--seeds", "0,5")
    assert again.out.splitlines() == result.out.splitlines()[-1:]  # nothing is trained twice


@pytest.mark.parametrize("arguments", [("--seeds", "0,0"), ("--seeds", "a"), ("--seeds", "0", "--seed", "1")])
def test_bad_seeds(run_train, arguments):
    assert run_train(*arguments).code == 2
