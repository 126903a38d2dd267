"""A backbone on the Hub is recorded with its commit, so that an adapter is put on the one that it was trained on."""

import pytest
import torch
from transformers import AutoModel

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointForPointCloudSegmentation
from any2point_hf.modeling import Any2PointModel, CheckpointError
from any2point_hf.modeling.publishing.model_card import model_card

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
SMALL = {"num_points": 64, "num_neighbors": 8, "num_views": 2, "num_labels": 3}


@pytest.fixture
def repository(hub, bert):
    """The backbone me/bert, as yet with a single commit of weights."""
    AutoModel.from_pretrained(bert).push_to_hub("me/bert")
    return hub.repositories["me/bert"]


@pytest.fixture
def move(repository):
    """Pushes a next version of the backbone: other weights under the same name."""

    def push():
        moved = AutoModel.from_pretrained("me/bert")
        with torch.no_grad():
            for parameter in moved.parameters():
                parameter.mul_(1.5)
        moved.push_to_hub("me/bert")

    return push


@pytest.mark.parametrize(
    "model_class", [Any2PointForPointCloudClassification, Any2PointForPointCloudSegmentation, Any2PointModel]
)
@torch.no_grad()
def test_an_adapter_stays_on_its_commit(repository, move, model_class, tmp_path):
    torch.manual_seed(0)
    model = model_class(Any2PointConfig(backbone="me/bert", **SMALL)).eval()
    first = repository.commit_of("main")
    model.save_pretrained(tmp_path)
    points = torch.randn(2, 64, 3)
    expected = model(points)
    move()
    assert repository.commit_of("main") != first
    loaded = model_class.from_pretrained(tmp_path)
    assert (loaded.config.backbone, loaded.config.backbone_revision) == ("me/bert", first)
    assert torch.equal(loaded(points)[0], expected[0])
    card = str(model_card(loaded, "me/adapter"))
    assert "base_model: me/bert\n" in card
    assert f"revision `{first}`" in card


@pytest.mark.parametrize("revision", [None, "main", "branch"])
def test_whatever_names_it_the_commit_is_recorded(repository, revision):
    from huggingface_hub import HfApi

    HfApi().create_branch("me/bert", branch="branch")
    model = Any2PointModel(Any2PointConfig(backbone="me/bert", backbone_revision=revision, **SMALL))
    assert model.config.backbone_revision == repository.commit_of("main")


def test_of_a_module_no_commit_is_claimed(repository):
    """transformers does not tell which one it loaded."""
    given = Any2PointModel(Any2PointConfig(**SMALL), backbone=AutoModel.from_pretrained("me/bert"))
    assert (given.config.backbone, given.config.backbone_revision) == ("me/bert", None)


def test_with_a_config_given_beside_the_name(repository):
    config = AutoModel.from_pretrained("me/bert").config
    config._commit_hash = None
    model = Any2PointModel(Any2PointConfig(backbone="me/bert", backbone_config=config, **SMALL))
    assert model.config.backbone_revision == repository.commit_of("main")


def test_another_backbone_on_loading(repository, tiny_adapter, bert):
    loaded = Any2PointForPointCloudClassification.from_pretrained(tiny_adapter.folder, backbone="me/bert")
    assert (loaded.config.backbone, loaded.config.backbone_revision) == ("me/bert", repository.commit_of("main"))
    again = Any2PointForPointCloudClassification.from_pretrained(tiny_adapter.folder)
    assert (again.config.backbone, again.config.backbone_revision) == (str(bert), None)


def test_offline_the_commit_is_that_of_the_cache(repository, monkeypatch):
    AutoModel.from_pretrained("me/bert")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = Any2PointModel(Any2PointConfig(backbone="me/bert", **SMALL))
    assert model.config.backbone_revision == repository.commit_of("main")


def test_adapters_of_two_commits_do_not_share_a_backbone(repository, move, tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "early")]
    for folder in folders:
        model = Any2PointForPointCloudClassification(Any2PointConfig(backbone="me/bert", **SMALL))
        if folder.name == "early":
            model.config.backbone_revision = None  # of a version that recorded no commit
        model.save_pretrained(folder)
        if folder.name == "first":
            move()
    load = Any2PointForPointCloudClassification.from_pretrained
    with pytest.raises(
        CheckpointError, match=r"'me/bert' \(revision [0-9a-f]{40}\), the model's backbone is 'me/bert'"
    ):
        load(folders[0]).load_adapter(folders[1], "second")
    load(folders[1]).load_adapter(folders[2], "early")
    load(folders[2]).load_adapter(folders[1], "second")
