import gc
import importlib.util
import os
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same draws every time: a run tells of the change at hand. To look further: --hypothesis-profile=default
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="module", autouse=True)
def _collect_new_garbage_alone():
    """Every training collects garbage, which takes half a second if all that is imported is looked through again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _shared_models_know_no_processor(request: pytest.FixtureRequest):
    """A pipeline gives its model the processor that is pushed beside it; the next test's model has none again."""
    yield
    for name in {"tiny_adapter", "tiny_segmenter", "segmenter_with_categories"} & set(request.fixturenames):
        request.getfixturevalue(name).model.processor = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that at the end no process is left alone with one."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # so that what is left is taken down as usual


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
    options += ("--set", "aggregation=source", "--set", "token_scale=embedding")  # told apart after sixty steps
    assert main(["train", *map(str, arguments), *SMALL_TRAINING, *options]) == 0
    return folder


PART_ARRAYS = {
    "part_names": np.array(["ball/low", "ball/high", "disc/rim", "disc/middle"]),
    "category_names": np.array(["ball", "disc"]),
}


def two_part_arrays(num_train=16, num_test=8):
    """The two classes as categories: a ball's halves are its parts, and a disc's middle and rim."""
    arrays = two_class_arrays(num_train, num_test)
    points, category = arrays["points"], arrays["labels"]
    halves = points[..., 2] > 0
    middle = 2 + (np.linalg.norm(points[..., :2], axis=-1) < 1)
    part = np.where(category[:, None] == 0, halves, middle)
    return {"points": points, "part": part, "category": category, "split": arrays["split"], **PART_ARRAYS}


@pytest.fixture(scope="session")
def two_categories(tmp_path_factory):
    """`arrays(num_train=16, num_test=8)` and `path`, an .npz of the default ones."""
    path = tmp_path_factory.mktemp("data") / "two_categories.npz"
    np.savez(path, **two_part_arrays())
    return SimpleNamespace(path=path, arrays=two_part_arrays)


@pytest.fixture(scope="session")
def part_adapter(tmp_path_factory, bert, two_categories, one_thread) -> Path:
    """The folder that the command line left of a training that tells most parts."""
    from any2point_hf.cli import main

    folder = tmp_path_factory.mktemp("adapter") / "two_categories"
    arguments = ("--data", two_categories.path, "--backbone", bert, "--output", folder)
    options = ("--epochs", "40", "--learning-rate", "1e-2")
    assert main(["train", *map(str, arguments), *SMALL_TRAINING, *options]) == 0
    return folder


@pytest.fixture(scope="session")
def hub_server(tmp_path_factory):
    folder = Path(__file__).parent / "hub_server"
    spec = importlib.util.spec_from_file_location("hub_server", folder / "__init__.py")
    sys.modules["hub_server"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.Hub(tmp_path_factory.mktemp("xet"))
    yield server
    server.close()


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """An empty Hub on localhost, to which the client of this process is pointed; the user "me" is logged in."""
    from huggingface_hub import HfFileSystem, constants

    HfFileSystem.clear_instance_cache()

    hub_server.reset()
    cache = tmp_path / "hub_cache"
    template = hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {"ENDPOINT": hub_server.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(cache)}
    for name, value in (settings | {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}).items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub_server.url)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    monkeypatch.setenv("HF_TOKEN", "token-of-me")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("ANY2POINT_NAMESPACE", raising=False)
    return hub_server


@pytest.fixture
def hub_waits(monkeypatch):
    """The seconds that the Hub's client wanted to wait between its tries; it goes on at once."""
    waits = []
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(**{**vars(time), "sleep": waits.append}))
    return waits


@pytest.fixture(scope="session")
def tiny_adapter(tmp_path_factory, bert):
    """A folder with config, tensors and processor of an untrained adapter, and its model."""
    import torch

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor

    folder = tmp_path_factory.mktemp("tiny") / "adapter"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Any2PointConfig(backbone=bert, num_points=64, num_neighbors=8, num_views=2, num_labels=3)
        model = Any2PointForPointCloudClassification(config).eval()
    model.save_pretrained(folder)
    Any2PointProcessor(64).save_pretrained(folder)
    return SimpleNamespace(folder=folder, model=model, points=torch.randn(2, 64, 3))


PART_NAMES = ("ant/head", "ant/body", "zebra/legs", "zebra/stripes", "zebra/tail")


def make_segmenter(backbone, **settings):
    """An untrained segmentation model of 64 points, every parameter away from its start value."""
    import torch

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudSegmentation

    with torch.random.fork_rng():
        torch.manual_seed(0)
        fields = {
            "num_points": 64,
            "num_neighbors": 8,
            "num_views": 2,
            "id2label": dict(enumerate(PART_NAMES)),
        } | settings
        model = Any2PointForPointCloudSegmentation(Any2PointConfig(backbone=backbone, **fields))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "backbone." not in name:
                    parameter.add_(0.2 * torch.randn_like(parameter))
            model.eval().segmenter.levels[0].linear.weight.mul_(5)  # so that the points of a cloud are of every part
            category = torch.tensor([0]) if model.config.category_parts else None
            points = torch.nn.functional.normalize(torch.randn(1, 64, 3), dim=-1)
            features = torch.rand(1, 64, model.config.num_point_features) if model.config.num_point_features else None
            logits = model(points, features, category=category).logits[0]
            model.segmenter.output.weight.div_(logits.std(dim=0).unsqueeze(1))
            model.segmenter.output.bias.copy_(-(logits / logits.std(dim=0)).mean(dim=0))
    return model


def save_segmenter(folder, bert, **settings):
    from any2point_hf import Any2PointProcessor

    model = make_segmenter(bert, **settings)
    model.save_pretrained(folder)
    processor = Any2PointProcessor(64, point_feature_names=model.config.point_feature_names)
    processor.save_pretrained(folder)
    return SimpleNamespace(folder=folder, model=model, processor=processor, part_names=PART_NAMES)


@pytest.fixture(scope="session")
def segmenter_of(bert, one_thread):
    """`segmenter_of(**settings)`: an untrained segmentation model with these fields of its config."""
    return partial(make_segmenter, bert)


@pytest.fixture(scope="session")
def tiny_segmenter(tmp_path_factory, bert, one_thread):
    """`folder`, `model`, `processor` and `part_names` of an untrained segmenter of five parts."""
    return save_segmenter(tmp_path_factory.mktemp("tiny") / "segmenter", bert)


@pytest.fixture(scope="session")
def segmenter_with_categories(tmp_path_factory, bert, one_thread):
    """The same with two categories, whose ids are not in the order of their names."""
    categories = {"zebra": [2, 3, 4], "ant": [0, 1]}
    return save_segmenter(tmp_path_factory.mktemp("tiny") / "with_categories", bert, category_parts=categories)
