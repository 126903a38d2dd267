"""Whatever a user gets wrong ends in exit code 2 and one message that says what is wrong, where, and what to do."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from any2point_hf.cli import main
from any2point_hf.modeling import Any2PointForPointCloudClassification

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def assert_refused(result, *expected):
    """Exit code 2 and one message that holds all the expected parts."""
    assert result.code == 2
    assert "Traceback" not in result.err
    before, mark, message = result.err.partition("error: ")
    assert mark
    assert not before or before[-1] in "\r\n"
    assert "error: " not in message.replace("Error: ", "")
    assert "error" not in result.out
    missing = [part for part in map(str, expected) if part not in message]
    assert not missing, message


@pytest.fixture
def copy_adapter(adapter, tmp_path):
    """The trained adapter without its checkpoints, to be damaged."""

    def copy(name="damaged"):
        return shutil.copytree(adapter, tmp_path / name, ignore=shutil.ignore_patterns("checkpoint-*"))

    return copy


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def halve(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


# Point clouds


BAD_CLOUDS = {
    "missing.npy": (lambda path, good: None, ["does not exist", "Check the path"]),
    "words.txt": (lambda path, good: path.write_text("a cat sat\non a mat\n"), ["words.txt"]),
    "poem.ply": (lambda path, good: path.write_text("roses are red\n"), [".ply", "Check that the file"]),
    "three.npy": (lambda path, good: np.save(path, good[:3]), ["at least 8 distinct points, got 3"]),
    "nan.npy": (lambda path, good: np.save(path, np.where(good > 1.5, np.nan, good)), ["finite", "NaN", "Remove"]),
    "flat.npy": (lambda path, good: np.save(path, good[:, :2]), ["[N, 3]", "[80, 2]"]),
    "cloud.docx": (lambda path, good: path.write_bytes(b"PK"), [".docx", ".ply .off"]),
    "empty.xyz": (lambda path, good: path.write_bytes(b""), ["empty (0 bytes)"]),
    "folder.npy": (lambda path, good: path.mkdir(), ["is a folder"]),
    "objects.npy": (lambda path, good: np.save(path, np.array([{}, None])), ["objects.npy"]),
}


@pytest.mark.parametrize("name", BAD_CLOUDS)
def test_predict_on_a_bad_file(run_command, adapter, tmp_path, name):
    make, expected = BAD_CLOUDS[name]
    good = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    np.save(tmp_path / "good.npy", good)
    make(tmp_path / name, good)
    assert_refused(
        run_command("predict", tmp_path / "good.npy", tmp_path / name, "--model", adapter), tmp_path / name, *expected
    )


# Data sets


@pytest.fixture
def write_npz(two_classes, tmp_path):
    def write(name="data.npz", **changes):
        np.savez(tmp_path / name, **{**two_classes.arrays(), **changes})
        return tmp_path / name

    return write


def test_a_label_outside_the_classes(run_train, write_npz, two_classes):
    labels = two_classes.arrays()["labels"]
    labels[3] = 7
    assert_refused(run_train(data=write_npz(labels=labels)), "data.npz", "0…1", "got 7 at index 3", "Correct")


def test_a_damaged_npz(run_train, write_npz):
    halve(path := write_npz())
    assert_refused(run_train(data=path), path, "truncated", "again")


def test_classes_the_model_does_not_know(run_command, write_npz, adapter):
    data = write_npz(class_names=np.array(["ball", "cube"]))
    result = run_command("evaluate", "--model", adapter, "--data", data)
    assert_refused(result, "(ball, disc)", "got also cube", "train a new adapter")


def test_an_unknown_split(run_command, two_classes, adapter):
    result = run_command("evaluate", "--model", adapter, "--data", two_classes.path, "--split", "tests")
    assert_refused(result, "--split", "train, test", "'tests'")


def test_a_folder_of_the_wrong_layout(run_train, tmp_path):
    (tmp_path / "data" / "balls" / "round").mkdir(parents=True)
    assert_refused(run_train(data=tmp_path / "data"), tmp_path / "data", "<class>/<split>/<file>", "balls", "Give")


def test_a_class_without_training_clouds(run_train, two_classes, tmp_path):
    for folder in ("ball/train", "ball/test", "disc/train", "disc/test"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        if folder != "disc/train":
            np.save(tmp_path / "data" / folder / "a.npy", two_classes.arrays()["points"][0])
    assert_refused(run_train(data=tmp_path / "data"), "Empty class", "disc", "add some")


def test_a_bad_file_in_a_folder(run_train, two_classes, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "data" / "ball" / split).mkdir(parents=True)
        np.save(tmp_path / "data" / "ball" / split / "a.npy", two_classes.arrays()["points"][0])
    bad = tmp_path / "data" / "ball" / "train" / "b.npy"
    np.save(bad, np.full((80, 3), np.nan))
    assert_refused(run_train(data=tmp_path / "data"), bad, "finite")


def test_no_such_data_set(run_train, tmp_path):
    assert_refused(run_train(data="shape"), "'shape'", "'shapes'", "does not exist")


def test_a_single_training_cloud(run_train, write_npz, two_classes):
    chosen = {name: two_classes.arrays()[name][[0, 16]] for name in ("points", "labels", "split")}
    assert_refused(run_train(data=write_npz(**chosen)), "at least 2 clouds", "got 1")


# Adapters


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.999])
def test_truncated_weights(run_command, copy_adapter, two_classes, keep):
    folder = copy_adapter()
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(keep * len(data))])
    result = run_command("evaluate", "--model", folder, "--data", two_classes.path)
    assert_refused(result, folder, "whole model.safetensors", "copied whole")


def test_weights_without_some_tensors(run_command, copy_adapter, two_classes):
    folder = copy_adapter()
    tensors = load((folder / "model.safetensors").read_bytes())
    del tensors["classifier.output.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    result = run_command("evaluate", "--model", folder, "--data", two_classes.path)
    assert_refused(result, folder, "missing (1): classifier.output.bias")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_a_missing_or_damaged_file_of_the_folder(run_command, copy_adapter, two_classes, name, damage):
    folder = copy_adapter()
    if damage == "missing":
        (folder / name).unlink()
    elif damage == "empty":
        (folder / name).write_bytes(b"")
    else:
        halve(folder / name)
    result = run_command("evaluate", "--model", folder, "--data", two_classes.path)
    assert_refused(result, folder, name)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_json_of_another_kind(run_command, copy_adapter, two_classes, name):
    folder = copy_adapter()
    (folder / name).write_text("[1, 2]")
    assert_refused(run_command("evaluate", "--model", folder, "--data", two_classes.path), folder, name)


def test_an_impossible_value_in_a_file_of_the_folder(run_command, copy_adapter, two_classes):
    folder = copy_adapter("config")
    change_json(folder / "config.json", adapter_dropout=3)
    result = run_command("evaluate", "--model", folder, "--data", two_classes.path)
    assert_refused(result, "adapter_dropout must lie in [0, 1), got 3", folder)
    folder = copy_adapter("preprocessor")
    change_json(folder / "preprocessor_config.json", num_points=3)
    result = run_command("evaluate", "--model", folder, "--data", two_classes.path)
    assert_refused(result, "num_points must be an integer of at least 64, got 3", folder)


def test_no_such_adapter(run_command, two_classes, tmp_path):
    result = run_command("evaluate", "--model", tmp_path / "none", "--data", two_classes.path)
    assert_refused(result, tmp_path / "none", "config.json", "spelling")


def test_a_model_of_another_kind(run_command, bert, two_classes):
    assert_refused(run_command("evaluate", "--model", bert, "--data", two_classes.path), bert, "Any2Point")


# Backbones


def test_a_backbone_of_another_width(run_command, adapter, narrow_bert, two_classes):
    arguments = ("--model", adapter, "--data", two_classes.path, "--backbone", narrow_bert)
    assert_refused(run_command("evaluate", *arguments), "hidden_size=48", "hidden_size=32", "recorded backbone")


def test_a_config_for_another_width(run_command, copy_adapter, narrow_bert, two_classes):
    folder = copy_adapter()
    other = json.loads((narrow_bert / "config.json").read_text())
    change_json(folder / "config.json", backbone=str(narrow_bert), backbone_config=other)
    result = run_command("evaluate", "--model", folder, "--data", two_classes.path)
    assert_refused(result, folder, "wrongly shaped", "[6, 48] instead of [6, 32]")


def test_a_recorded_backbone_that_has_moved(run_command, copy_adapter, two_classes, tmp_path):
    folder = copy_adapter()
    change_json(folder / "config.json", backbone=str(tmp_path / "gone"))
    result = run_command("evaluate", "--model", folder, "--data", two_classes.path)
    assert_refused(result, tmp_path / "gone", "backbone", "Check")


@pytest.fixture
def copy_bert(bert, tmp_path):
    return lambda: shutil.copytree(bert, tmp_path / "bert copy")


def test_a_backbone_without_weights(run_train, copy_bert):
    (folder := copy_bert()).joinpath("model.safetensors").unlink()
    assert_refused(run_train(backbone=folder), folder, "config.json and weights", "model.safetensors")


def test_a_backbone_with_corrupt_weights(run_train, copy_bert):
    (folder := copy_bert()).joinpath("model.safetensors").write_bytes(b"garbage" * 999)
    assert_refused(run_train(backbone=folder), folder, "Check")


@pytest.mark.parametrize("change", ["missing", "wrongly shaped"])
def test_a_backbone_with_a_wrong_tensor(run_train, copy_bert, change):
    """A frozen layer of random weights would make every result worthless."""
    folder = copy_bert()
    tensors = load((folder / "model.safetensors").read_bytes())
    name = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    tensors[name] = torch.zeros(3, 3)
    if change == "missing":
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert_refused(run_train(backbone=folder), folder, "layer.1.output.dense.weight")


@pytest.mark.parametrize("text", ["", "{", "{}", "[]"])
def test_a_backbone_with_a_broken_config(run_train, copy_bert, text):
    (folder := copy_bert()).joinpath("config.json").write_text(text)
    assert_refused(run_train(backbone=folder), folder, "config.json", "Check")


@pytest.mark.parametrize("name", ["nobody/no-such-backbone", "./nowhere"])
def test_a_backbone_that_does_not_exist(run_train, name):
    assert_refused(run_train(backbone=name), f"'{name}'", "Hub id or a folder", "spelling")


def test_a_backbone_of_a_family_that_is_not_supported(run_train, run_command, tmp_path):
    from transformers import SwinConfig, SwinModel

    sizes = {"image_size": 32, "patch_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 1]}
    SwinModel(SwinConfig(**sizes, window_size=4)).save_pretrained(tmp_path / "swin")
    assert_refused(run_train(backbone=tmp_path / "swin"), "bert", "vit", "got 'swin'", "Choose", "BackboneSpec")
    assert_refused(run_command("info", "--backbone", tmp_path / "swin"), "got 'swin'")


# Options


BAD_SETTINGS = {
    "no_such_field=1": "FIELD=VALUE",
    "adapter_dim": "FIELD=VALUE",
    "model_type=5": "FIELD=VALUE",
    "backbone=x": "backbone",
    "id2label=5": "id2label",
    "adapter_dim=-1": "adapter_dim must be positive, got -1",
    "adapter_dim=much": "'adapter_dim' expected int",
    "adapter_dropout=1.5": "adapter_dropout must lie in [0, 1), got 1.5",
    "adapter_scale=NaN": "adapter_scale",
    "adapter_scale=Infinity": "adapter_scale",
    "num_views=11": "num_views must lie in 1…10",
    "aggregation=4d": "aggregation",
    "local_attention_dim=7": "local_attention_heads must divide local_attention_dim (7), got 6",
    "adapter_blocks=9": "adapter_blocks must lie within the backbone's 2 blocks, got 9",
    "adapter_blocks=-1": "adapter_blocks",
    "adapter_blocks=[0, 5]": "adapter_blocks must lie within the backbone's 2 blocks, got [0, 5]",
    "line_length=999": "line_length must not exceed the backbone's 24 positions, got 999",
    "modality=2d": 'modality="2d" needs a backbone whose positions lie on a grid',
}


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_a_bad_setting(run_command, bert, setting):
    assert_refused(run_command("info", "--backbone", bert, "--set", setting), BAD_SETTINGS[setting])


def test_a_bad_setting_leaves_nothing_behind(run_train, tmp_path):
    assert_refused(run_train("--set", "adapter_dim=-1"), "adapter_dim must be positive, got -1")
    assert not (tmp_path / "trained").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num-points", "3"), "num_points must be at least 64, got 3"),
        (("--seed", "-1"), "seed"),
        (("--epochs", "inf"), "epochs"),
        (("--learning-rate", "inf"), "rate"),
        (("--batch-size", "1"), "batch"),
        (("--scale", "2", "1"), "scale"),
        (("--scale", "1", "inf"), "scale"),
        (("--shift", "nan"), "shift"),
    ],
)
def test_a_number_out_of_range(run_train, arguments, message):
    result = run_train(*arguments)
    assert result.code == 2
    assert message in result.err.rpartition("error: ")[2]
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "arguments", [["--epochs", "0"], ["--learning-rate", "nan"], ["--batch-size", "x"], ["--rotate", "w"]]
)
def test_the_parser_names_the_option(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", "shapes", "--backbone", "b", "--output", "o", *arguments])
    assert stop.value.code == 2
    assert f"error: argument {arguments[0]}: " in capsys.readouterr().err


def test_info_about_nothing(run_command):
    assert_refused(run_command("info"), "--model, --preset or --backbone")


def test_output_that_is_a_file(run_train, tmp_path):
    (tmp_path / "trained").write_text("mine")
    assert_refused(run_train(), "--output must be a folder", tmp_path / "trained")
    assert (tmp_path / "trained").read_text() == "mine"


def test_output_below_a_file(run_train, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_refused(run_train(output=tmp_path / "file" / "trained"), tmp_path / "file")


def test_nothing_to_resume(run_train, tmp_path):
    assert_refused(run_train("--resume"), "--resume", tmp_path / "trained", "without --resume")
    (tmp_path / "trained").mkdir()
    assert_refused(run_train("--resume"), "--resume", tmp_path / "trained", "without --resume")


def test_resuming_with_other_settings_or_classes(run_train, write_npz, tmp_path):
    assert run_train().code == 0
    assert_refused(run_train("--resume", "--set", "adapter_dim=4"), "--resume", tmp_path / "trained")
    more = write_npz(class_names=np.array(["ball", "disc", "cube"]))
    assert_refused(run_train("--resume", data=more), "--resume", tmp_path / "trained")


# Released checkpoints


class Payload:
    """Makes a folder when it is unpickled by a loader that runs code."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def run_convert(run_command, bert, tmp_path):
    def run(path, *arguments):
        folders = ("--checkpoint", path, "--backbone", bert, "--output", tmp_path / "converted")
        result = run_command("convert", *folders, *arguments)
        assert not (tmp_path / "converted").exists()
        return result

    return run


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_pickled_code_is_never_run(run_convert, tmp_path, save):
    save({"model": {"a": torch.zeros(3)}, "epoch": Payload(tmp_path / "ran")}, tmp_path / "evil.pth")
    result = run_convert(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    assert_refused(result, tmp_path / "evil.pth", "plain tensors", "never run")
    assert "weights_only" not in result.err  # no hint how to run it all the same
    with pytest.raises(FileExistsError):  # the payload does what it says
        (tmp_path / "ran").mkdir() or pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_a_truncated_pth(run_convert, tmp_path, keep):
    path = tmp_path / "original.pth"
    torch.save({"model": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert_refused(run_convert(path), path, "whole PyTorch checkpoint", "truncated")


def test_a_pth_that_is_not_there_or_of_another_model(run_convert, tmp_path):
    assert_refused(run_convert(tmp_path / "none.pth"), tmp_path / "none.pth", "Check the path")
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "other.pth")
    assert_refused(run_convert(tmp_path / "other.pth"), "clip-text-scan, dinov2-scan", "unknown (1): weight")
    torch.save({"model": 3}, tmp_path / "number.pth")
    assert_refused(run_convert(tmp_path / "number.pth"), tmp_path / "number.pth", "state dict")


# Kills, interruptions, full disks


def tensors_of(folder):
    model = Any2PointForPointCloudClassification.from_pretrained(folder)
    return {name: tensor for name, tensor in model.state_dict().items() if ".backbone." not in name}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_in_safetensors(*_, **__):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def no_space_in_torch(*_, **__):
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 384896 vs 384788")


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        ("os.replace", no_space),
        ("os.makedirs", no_space),
        ("transformers.modeling_utils.safe_save_file", no_space_in_safetensors),
        ("torch.save", no_space_in_torch),
    ],
)
def test_a_full_disk_leaves_the_old_adapter_whole(run_train, copy_adapter, monkeypatch, tmp_path, function, failure):
    folder = copy_adapter("trained")
    before = tensors_of(folder)
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "training_run.json"]
    files = {path: path.read_bytes() for path in paths}
    with monkeypatch.context() as patch:
        patch.setattr(function, failure)
        result = run_train()
    assert_refused(result, "disk")
    assert {path: path.read_bytes() for path in paths} == files
    assert not list(folder.glob(".writing-*"))
    assert_same(tensors_of(folder), before)


HALF_A_SAVE = """
import os, signal, sys
import safetensors.torch, torch, transformers.modeling_utils
from any2point_hf.modeling import Any2PointForPointCloudClassification

def write_half(tensors, filename, metadata=None):
    data = safetensors.torch.save(tensors, metadata)
    with open(filename, "wb") as file:
        file.write(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

model = Any2PointForPointCloudClassification.from_pretrained(sys.argv[1])
with torch.no_grad():
    model.classifier.output.weight.add_(1)
transformers.modeling_utils.safe_save_file = write_half
model.save_pretrained(sys.argv[1])
"""


@needs_signals
def test_a_kill_while_saving_leaves_the_old_adapter_whole(copy_adapter, subprocess_environment):
    folder = copy_adapter()
    before = tensors_of(folder)
    command = [sys.executable, "-c", HALF_A_SAVE, str(folder)]
    process = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert_same(tensors_of(folder), before)
    model = Any2PointForPointCloudClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.output.weight.add_(1)
    model.save_pretrained(folder)  # what the killed process left is not in the way
    after = tensors_of(folder)
    assert torch.equal(after.pop("classifier.output.weight"), before.pop("classifier.output.weight") + 1)
    assert_same(after, before)


def remove_state(checkpoint):
    (checkpoint / "trainer_state.json").unlink()


def halve_weights(checkpoint):
    remove_state(checkpoint)
    (checkpoint / "optimizer.pt").unlink()
    halve(checkpoint / "model.safetensors")


@pytest.mark.parametrize("damage", [remove_state, halve_weights])
def test_resuming_after_a_kill_in_the_middle_of_a_checkpoint(run_train, tmp_path, damage):
    """The Trainer writes trainer_state.json last; a checkpoint without it is passed over."""
    assert run_train().code == 0
    folder = tmp_path / "trained"
    damage(shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-4"))
    resumed = run_train("--epochs", "2", "--resume")
    assert resumed.code == 0
    assert [resumed.err.count(f"epoch {number}/2") for number in (1, 2)] == [0, 1]  # the second epoch, again


def test_resuming_from_half_a_checkpoint_alone(run_train, tmp_path):
    assert run_train().code == 0
    remove_state(tmp_path / "trained" / "checkpoint-2")
    assert_refused(run_train("--resume"), "--resume", tmp_path / "trained", "without --resume")


INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where tests run in the background
from any2point_hf.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@needs_signals
def test_ctrl_c_in_training(run_train, bert, two_classes, subprocess_environment, tmp_path):
    arguments = ["train", "--data", two_classes.path, "--backbone", bert, "--output", tmp_path / "trained"]
    arguments += ["--num-points", "64", "--num-neighbors", "8", "--batch-size", "8", "--epochs", "100000"]
    command = [sys.executable, "-c", INTERRUPTIBLE, *map(str, arguments)]
    with open(tmp_path / "stderr", "w+b") as stderr:
        process = subprocess.Popen(command, env=subprocess_environment, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            deadline = time.monotonic() + 120
            while not list((tmp_path / "trained").glob("checkpoint-*/trainer_state.json")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 2
        finally:
            process.kill()
            process.wait()
        stderr.seek(0)
        text = stderr.read().decode()
    assert "Traceback" not in text
    assert text.count("error: ") == 1
    message = text.partition("error: ")[2]
    assert message.startswith("interrupted.")
    assert str(tmp_path / "trained") in message
    assert "--resume" in message
    whole = [path.parent for path in (tmp_path / "trained").glob("checkpoint-*/trainer_state.json")]
    assert tensors_of(whole[-1])
    assert run_train("--epochs", "2", "--resume").code == 0


@pytest.mark.parametrize("command", ["evaluate", "predict", "info", "convert"])
def test_ctrl_c_in_other_commands(run_command, monkeypatch, command, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for loader in ("adapter_loading.load", "trained_adapter.load"):
        monkeypatch.setattr(f"any2point_hf.{loader}", interrupt)
    monkeypatch.setattr("any2point_hf.trained_adapter.info", interrupt)
    monkeypatch.setattr("any2point_hf.conversion_scripts.convert_any2point_checkpoint.convert", interrupt)
    for name in ("f.ply", "c.pth"):
        (tmp_path / name).write_text("checked before the work that is interrupted")
    arguments = {
        "evaluate": ["--model", tmp_path, "--data", "shapes"],
        "predict": [tmp_path / "f.ply", "--model", "m"],
        "info": ["--model", "m"],
        "convert": ["--checkpoint", tmp_path / "c.pth", "--backbone", "b", "--output", tmp_path / "o"],
    }
    result = run_command(command, *arguments[command])
    assert (result.code, result.err) == (2, "error: interrupted.\n")


def test_a_fresh_run_does_not_replace_the_checkpoint_of_another(run_train, tmp_path):
    assert run_train().code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "trained").rglob("*") if path.is_file()}
    assert_refused(run_train("--epochs", "2"), tmp_path / "trained", "--resume", "another folder")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("change", [["--seed", "9"], ["--learning-rate", "0.01"], ["--batch-size", "4"]])
def test_resuming_with_other_settings_of_the_run(run_train, change):
    assert run_train().code == 0
    assert_refused(
        run_train("--epochs", "2", "--resume", *change), change[0].strip("-").replace("-", "_"), "differ now"
    )


def test_a_cloud_of_too_few_distinct_points_is_named(run_command, two_classes, tmp_path):
    for split in ("train", "test"):
        folder = tmp_path / "clouds" / "ball" / split
        folder.mkdir(parents=True)
        np.savetxt(folder / "small.xyz", np.eye(3))
    result = run_command("train", "--data", tmp_path / "clouds", "--backbone", "b", "--output", tmp_path / "o")
    assert_refused(result, "small.xyz", "8 distinct points")


def test_presets_that_are_none_or_lack_a_backbone(run_command, two_classes, tmp_path):
    folders = ("--data", two_classes.path, "--output", tmp_path / "output")
    assert_refused(
        run_command("train", *folders, "--preset", "clip-scan"), "clip-text-scan, dinov2-scan", "Did you mean"
    )
    assert_refused(run_command("info", "--preset", "nothing"), "a preset must be one of")
    refused = run_command("train", *folders, "--preset", "imagebind-audio-scan")
    assert_refused(refused, "--backbone is needed", "convert_imagebind_audio.py")
    assert_refused(run_command("train", *folders), "--backbone is needed")
    assert not (tmp_path / "output").exists()
