"""Damaged checkpoints: named and passed over, or refused in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from any2point_hf.modeling.errors import Any2PointError, CheckpointError
from any2point_hf.training import run as training_run
from any2point_hf.training.checkpoints import FILES_RECORD, damage_of
from any2point_hf.training.output_lock import LOCK_FILE, output_lock
from any2point_hf.training.seeds import SEEDS_FILE, train_with_seeds

pytestmark = pytest.mark.usefixtures("one_thread")

FIELDS = {"num_points": 64, "num_neighbors": 8}
NEEDED = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def remove(file):
    file.unlink()


def zero(file):
    file.write_bytes(bytes(file.stat().st_size))


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module")
def train(two_classes, bert, one_thread):
    def train(output, epochs=2, backbone=bert, **options):
        options = {"config_fields": FIELDS, "batch_size": 8, "seed": 5, **options}
        return training_run.train(str(two_classes.path), str(backbone), output, epochs=epochs, **options)

    return train


@pytest.fixture(scope="module")
def two_epochs(train, tmp_path_factory):
    """A folder as a training of two epochs left it, with the checkpoint of the first as well."""
    folder = tmp_path_factory.mktemp("two_epochs") / "output"
    make_trainer = training_run.make_trainer

    class KeepTheFirst(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                shutil.copytree(folder / "checkpoint-2", folder.with_name("first"))

    def make(*arguments, **options):
        trainer = make_trainer(*arguments, **options)
        trainer.add_callback(KeepTheFirst())
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "make_trainer", make)
        train(folder)
    shutil.copytree(folder.with_name("first"), folder / "checkpoint-2")
    return folder


@pytest.fixture
def output(two_epochs, tmp_path):
    return shutil.copytree(two_epochs, tmp_path / "output")


def assert_same_adapter(first, second):
    tensors = [load_file(folder / "model.safetensors") for folder in (first, second)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_the_record_names_what_a_resumed_training_needs(output):
    record = json.loads((output / "checkpoint-4" / FILES_RECORD).read_text())
    assert set(record["files"]) == set(NEEDED)
    assert record["files"]["optimizer.pt"]["bytes"] == (output / "checkpoint-4" / "optimizer.pt").stat().st_size
    assert damage_of(output / "checkpoint-4") is None


@pytest.mark.parametrize("damage", [remove, zero, cut, flip_a_bit])
@pytest.mark.parametrize("file", [*NEEDED, FILES_RECORD])
def test_no_damage_is_overlooked(output, file, damage):
    damage(output / "checkpoint-4" / file)
    found = damage_of(output / "checkpoint-4")
    if (damage, file) == (remove, FILES_RECORD):
        assert found is None
    else:
        assert file in found


@pytest.mark.parametrize("damage", [remove, zero, cut])
@pytest.mark.parametrize("file", NEEDED)
def test_no_damage_is_overlooked_in_a_checkpoint_of_an_earlier_version(output, file, damage):
    (output / "checkpoint-4" / FILES_RECORD).unlink()
    assert damage_of(output / "checkpoint-4") is None
    damage(output / "checkpoint-4" / file)
    assert damage_of(output / "checkpoint-4")


@pytest.mark.parametrize("damage", [remove, zero, cut])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(train, output, two_epochs, damage):
    damage(output / "checkpoint-4" / "optimizer.pt")
    with pytest.warns(UserWarning, match=r"checkpoint-4 is not whole, and is removed: optimizer\.pt is"):
        train(output, resume=True)
    assert_same_adapter(output, two_epochs)
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-4"]
    assert damage_of(output / "checkpoint-4") is None


def test_without_a_whole_checkpoint_the_damage_is_told_and_nothing_changes(train, output):
    for number in (2, 4):
        zero(output / f"checkpoint-{number}" / "scheduler.pt")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    message = r"there is none\. checkpoint-4: scheduler\.pt is not .* Delete it, and train without --resume"
    with pytest.raises(CheckpointError, match=message):
        train(output, epochs=3, resume=True)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_kill_inside_the_first_checkpoint(train, two_epochs, tmp_path, file):
    written = list(NEEDED).index(file)
    (cut_off := tmp_path / "output" / "checkpoint-2").mkdir(parents=True)
    for name in NEEDED[: written + 1]:
        shutil.copy(two_epochs / "checkpoint-2" / name, cut_off)
    cut(cut_off / file)
    with pytest.raises(CheckpointError, match=r"checkpoint-2: it was cut off .*\. Train without --resume"):
        train(tmp_path / "output", resume=True)
    with pytest.warns(UserWarning, match="checkpoint-2 is not whole, and is removed"):
        train(tmp_path / "output")
    assert_same_adapter(tmp_path / "output", two_epochs)


@pytest.mark.filterwarnings("ignore:.*is not whole")
def test_the_checkpoint_of_the_best_epoch_must_be_whole_too(train, tmp_path):
    options = {"validation_share": 0.25, "learning_rate": 1e-30, "batch_size": 6}  # the first epoch stays the best
    train(tmp_path / "whole", epochs=2, **options)
    best, last = tmp_path / "whole" / "checkpoint-2", tmp_path / "whole" / "checkpoint-4"
    assert json.loads((last / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    damaged = shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    cut(damaged / "checkpoint-2" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"the best epoch so far, .*damaged.checkpoint-2, and it is not whole"):
        train(damaged, epochs=3, resume=True, **options)


def test_a_folder_that_was_moved_uses_its_own_best_checkpoint(train, tmp_path):
    options = {"validation_share": 0.25, "learning_rate": 1e-30, "batch_size": 6}
    train(tmp_path / "first", epochs=2, **options)
    (tmp_path / "first").rename(tmp_path / "moved")
    train(tmp_path / "moved", epochs=3, resume=True, **options)
    kept = {path.name: path for path in (tmp_path / "moved").glob("checkpoint-*")}
    assert sorted(kept) == ["checkpoint-2", "checkpoint-6"]
    state = json.loads((kept["checkpoint-6"] / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(kept["checkpoint-2"])
    assert_same_adapter(tmp_path / "moved", kept["checkpoint-2"])


@pytest.mark.parametrize("content", ["", "\0\0\0", '{"seed": 5, ', "[]", '{"recipe": 7}', "null"])
def test_a_broken_record_of_the_run(train, output, content):
    (output / training_run.RUN_FILE).write_text(content)
    with pytest.raises(Any2PointError, match=r"damaged|differ now"):
        train(output, epochs=3, resume=True)


@pytest.mark.parametrize("says_so", [False, True])
def test_a_training_of_an_earlier_version_goes_on_as_it_began(train, tmp_path, says_so):
    first = {"config_fields": FIELDS | {"sampling_start": "first"}}
    train(tmp_path / "output", epochs=1, **first)
    for file in (tmp_path / "output").rglob("*onfig.json"):  # the checkpoint's and the processor's
        known = json.loads(file.read_text())
        known.pop("sampling_start", None)
        file.write_text(json.dumps(known))
    (tmp_path / "output" / "checkpoint-2" / FILES_RECORD).unlink()
    with pytest.raises(CheckpointError, match="these differ now: sampling_start was 'first'"):
        train(tmp_path / "output", resume=True, config_fields=FIELDS | {"sampling_start": "farthest"})
    train(tmp_path / "output", resume=True, **(first if says_so else {}))
    assert json.loads((tmp_path / "output" / "config.json").read_text())["sampling_start"] == "first"
    assert json.loads((tmp_path / "output" / "preprocessor_config.json").read_text())["sampling_start"] == "first"


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_training_goes_on_with_the_backbone_it_began_with(train, bert, tmp_path, is_recorded):
    output, backbone = tmp_path / "output", shutil.copytree(bert, tmp_path / "bert")
    train(output, epochs=1, backbone=backbone)
    tensors = load_file(file := backbone / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    if is_recorded:
        with pytest.raises(CheckpointError, match=r"these differ now: backbone_files was '\w{16}'\. Give the same"):
            train(output, resume=True, backbone=backbone)
        shutil.copy(bert / "model.safetensors", file)  # at another time
    else:  # by an earlier version
        record = json.loads((output / training_run.RUN_FILE).read_text())
        del record["backbone_files"]
        (output / training_run.RUN_FILE).write_text(json.dumps(record))
    train(output, resume=True, backbone=backbone)


@pytest.mark.parametrize("runs", [{"0": None}, {"0": {"accuracy": "high"}}, {"0": 0.5}])
def test_a_broken_record_of_seeds(tmp_path, runs):
    (tmp_path / SEEDS_FILE).write_text(json.dumps({"settings": {}, "runs": runs}))
    with pytest.raises(Any2PointError, match="those of seed 0 are damaged"):
        train_with_seeds([0], tmp_path, {}, lambda seed, folder: {"accuracy": 1.0})


def test_two_trainings_on_one_output(train, tmp_path):
    with output_lock(tmp_path / "output"):
        with pytest.raises(Any2PointError, match="must have one run at a time"):
            train(tmp_path / "output")
        assert [path.name for path in (tmp_path / "output").iterdir()] == [LOCK_FILE]
        with pytest.raises(Any2PointError, match="must have one run at a time"):
            train_with_seeds([0], tmp_path / "output", {}, lambda seed, folder: {"accuracy": 1.0})
    train(tmp_path / "output", epochs=1)
    assert not (tmp_path / "output" / LOCK_FILE).exists()
