import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared real data are not at {folder}")
    return folder


# What the tests of training, of the command line and of bad input share: a tiny frozen BERT, a data set of two classes
# that are easily told apart, an adapter trained on it, and the command line run in this process.


@pytest.fixture(scope="session")
def one_thread():
    """Tiny tensors gain nothing from threads, which wait for each other wherever a machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def subprocess_environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}


def save_bert(folder, hidden_size=48):
    import torch
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=hidden_size,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            vocab_size=50,
            max_position_embeddings=24,
        )
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    return save_bert(tmp_path_factory.mktemp("backbones") / "bert")


@pytest.fixture(scope="session")
def narrow_bert(tmp_path_factory) -> Path:
    return save_bert(tmp_path_factory.mktemp("backbones") / "narrow_bert", hidden_size=32)


def make_ball_or_disc(kind, generator, num_points=80):
    """Class 0 is a sphere, class 1 a flat disc."""
    points = generator.normal(size=(num_points, 3))
    if kind == 0:
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    else:
        points[:, 2] *= 0.05
    return points.astype(np.float32)


def two_class_arrays(num_train=16, num_test=8):
    generator = np.random.default_rng(0)
    labels = np.arange(num_train + num_test) % 2
    return {
        "points": np.stack([make_ball_or_disc(label, generator) for label in labels]),
        "labels": labels,
        "split": (np.arange(num_train + num_test) >= num_train).astype(np.int64),
        "class_names": np.array(["ball", "disc"]),
    }


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory):
    """`arrays(num_train=16, num_test=8)` and `path`, an .npz of the default ones."""
    path = tmp_path_factory.mktemp("data") / "two_classes.npz"
    np.savez(path, **two_class_arrays())
    return SimpleNamespace(path=path, arrays=two_class_arrays, cloud=make_ball_or_disc)


SMALL_TRAINING = ("--num-points", "64", "--num-neighbors", "8", "--epochs", "1", "--batch-size", "8")


@pytest.fixture
def run_command(capsys, one_thread):
    """Runs `any2point` with these arguments: exit code, standard output, standard error."""
    from any2point_hf.cli import main

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # of the parser
            code = stop.code
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run


@pytest.fixture
def run_train(run_command, bert, two_classes, tmp_path):
    """A small `any2point train` with defaults for everything: one epoch of two steps."""

    def run(*arguments, data=two_classes.path, backbone=bert, output=tmp_path / "trained"):
        folders = ("--data", data, "--backbone", backbone, "--output", output)
        return run_command("train", *folders, *SMALL_TRAINING, *arguments)

    return run


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, bert, two_classes, one_thread) -> Path:
    """The folder that the command line left of a training that tells both classes."""
    from any2point_hf.cli import main

    folder = tmp_path_factory.mktemp("adapter") / "two_classes"
    arguments = ("--data", two_classes.path, "--backbone", bert, "--output", folder)
    options = ("--epochs", "30", "--learning-rate", "1e-2")
    assert main(["train", *map(str, arguments), *SMALL_TRAINING, *options]) == 0
    return folder
