"""The model card: its text against a golden file, its metadata as huggingface_hub reads them, and code that runs."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import BertConfig, BertModel

from any2point_hf import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointForPointCloudSegmentation,
    Any2PointModel,
    Any2PointProcessor,
)
from any2point_hf.modeling.publishing import model_description
from any2point_hf.modeling.publishing.model_card import GENERATED, model_card, renamed
from any2point_hf.modeling.publishing.model_card_text import Evaluation, TrainingFacts
from any2point_hf.modeling.publishing.model_description import describe, hub_repository, inherited_licence

GOLDEN = Path(__file__).parents[2] / "fixtures" / "model_card.md"
HUB_ID = "google-bert/bert-base-uncased"
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIG = {"num_points": 64, "num_neighbors": 8, "id2label": {0: "ball", 1: "disc", 2: "night|stand"}}


@pytest.fixture
def backbone():
    return BertModel(BertConfig(**SIZES, vocab_size=50, max_position_embeddings=24))


@pytest.fixture
def model(backbone):
    backbone.config._name_or_path = HUB_ID
    return Any2PointForPointCloudClassification(Any2PointConfig(**CONFIG), backbone=backbone)


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """What the Hub answers when it is asked for a repository: an error, or the card's metadata set here."""
    hub = SimpleNamespace(metadata=None, asked=[], cached=None)

    def model_info(repository, revision=None, token=None, timeout=None):
        hub.asked.append((repository, revision, token))
        if hub.metadata is None:
            raise ConnectionError("no network")
        return SimpleNamespace(card_data=ModelCardData(**hub.metadata))

    monkeypatch.setattr(model_description, "model_info", model_info)
    monkeypatch.setattr(model_description, "try_to_load_from_cache", lambda *_, **__: hub.cached)
    return hub


FACTS = TrainingFacts(
    dataset="scans.npz",
    fingerprint="0123456789abcdef",
    splits={"train": 1200, "validation": 80, "test": 16},
    evaluations=[
        Evaluation("epoch 3, the best on the validation split", "test", 13 / 16, 0.7),
        Evaluation("epoch 3, the best on the validation split", "validation", 0.9, 0.85),
        Evaluation("epoch 4, the last", "test", 0.75, 0.65, is_of_this_adapter=False),
    ],
    per_class={"ball": (9, 8 / 9), "disc": (7, 5 / 7), "night|stand": (0, None)},
    recipe="epochs: 4\nbatch_size: 8\n",
    command="any2point train --data scans.npz --backbone google-bert/bert-base-uncased --output my-adapter",
    remarks=["Seed 7."],
    backbone_commit="86b5e0934494bd15c9632b12f734a8a67f723594",
    pictures={"Loss and accuracy by epoch": "images/training_curves.png"},
)


def test_a_whole_card_equals_the_golden_file(model, hub):
    hub.metadata = {"license": "apache-2.0"}
    assert str(model_card(model, "my-adapter", FACTS)) == GOLDEN.read_text(encoding="utf-8")


def test_the_metadata_as_huggingface_hub_reads_them():
    data = ModelCard.load(GOLDEN).data
    assert (data.library_name, data.license, data.base_model) == ("any2point_hf", "apache-2.0", HUB_ID)
    assert data.base_model_relation == "adapter"
    assert data.tags == ["any2point", "point-cloud", "point-cloud-classification"]
    assert data.pipeline_tag is None
    assert data.datasets is None
    assert data.model_name == "my-adapter"
    named = {"task_type": "point-cloud-classification", "task_name": "Point cloud classification"}
    named |= {"dataset_type": "scans.npz", "dataset_name": "scans.npz", "dataset_revision": "0123456789abcdef"}
    accuracy = {"metric_type": "accuracy", "metric_name": "Accuracy"}
    by_class = {"metric_type": "mean_class_accuracy", "metric_name": "Mean class accuracy"}
    assert data.eval_results == [  # nothing of the last epoch, whose weights were not saved
        EvalResult(**named, dataset_split="test", **accuracy, metric_value=0.8125),
        EvalResult(**named, dataset_split="test", **by_class, metric_value=0.7),
        EvalResult(**named, dataset_split="validation", **accuracy, metric_value=0.9),
        EvalResult(**named, dataset_split="validation", **by_class, metric_value=0.85),
    ]


def test_a_card_that_is_read_and_written_again_stays_as_it_is():
    assert str(ModelCard.load(GOLDEN)) == GOLDEN.read_text(encoding="utf-8")


def test_parameters_and_bytes_are_those_of_the_saved_file(model, tmp_path):
    from safetensors.torch import load_file

    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    head = {name for name in trained if name.startswith("classifier.")}
    description = describe(model)
    assert description.trained == sum(saved[name].numel() for name in trained)
    assert description.trained_without_head == sum(saved[name].numel() for name in trained - head)
    assert description.num_bytes == sum(tensor.nbytes for tensor in saved.values())


@pytest.mark.parametrize("categories", [None, {"round": [0, 1], "flat": [2]}], ids=["alone", "with categories"])
def test_a_segmentation_model_s_card_says_so_and_its_code_runs(backbone, monkeypatch, capsys, categories):
    model = Any2PointForPointCloudSegmentation(Any2PointConfig(**CONFIG, category_parts=categories), backbone=backbone)
    card = model_card(model, "me/parts")
    text = str(card)
    assert card.data.tags == ["any2point", "point-cloud", "point-cloud-segmentation"]
    assert "labels every point" in text
    assert "| Parts | 3: ball, disc, night\\|stand |" in text
    assert ("| Categories | 2: round, flat |" in text) == (categories is not None)
    head = sum(parameter.numel() for parameter in model.segmenter.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"{trained:,} trained parameters ({trained - head:,} without the head)" in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    points = np.random.default_rng(0).normal(size=(64, 3))
    code = code.replace('["chair.ply"]', "[points]")
    processor = Any2PointProcessor(num_points=64)
    monkeypatch.setattr(Any2PointForPointCloudSegmentation, "from_pretrained", lambda *_, **__: model.eval())
    monkeypatch.setattr(Any2PointProcessor, "from_pretrained", lambda *_, **__: processor)
    exec(code, {"points": points})
    named = eval(capsys.readouterr().out)
    assert len(named) == 64
    assert set(named) <= ({"ball", "disc"} if categories else {"ball", "disc", "night|stand"})


def test_a_data_set_on_the_hub_is_linked(model):
    data = model_card(model, "x", replace(FACTS, dataset="ModelNet40", dataset_id="someone/modelnet40")).data
    assert data.datasets == ["someone/modelnet40"]
    assert {(result.dataset_type, result.dataset_name) for result in data.eval_results} == {
        ("someone/modelnet40", "ModelNet40")
    }


# The licence


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: nc\nlicense_link: https://x.org/nc\n---\n",
            {"license": "other", "license_name": "nc", "license_link": "https://x.org/nc"},
        ),
        ("---\nlicense: other\nlicense_link: LICENSE\n---\n", {"license": "other"}),  # a file of another folder
        ("---\ntags: [a]\n---\nlicense: mit\n", {}),
        ("---\nlicense: [\n---\n", {}),
        ("no metadata", {}),
        (None, {}),
    ],
)
def test_the_licence_of_a_local_folder(tmp_path, hub, card, expected):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert inherited_licence(str(tmp_path)) == expected
    assert not hub.asked


def test_the_licence_of_a_hub_card(hub, tmp_path):
    hub.metadata = {"license": "other", "license_name": "nc", "license_link": "LICENSE.md", "tags": ["a"]}
    expected = {
        "license": "other",
        "license_name": "nc",
        "license_link": "https://huggingface.co/org/name/blob/v2/LICENSE.md",
    }
    assert inherited_licence("org/name", "v2", "hf_x") == expected
    assert hub.asked == [("org/name", "v2", "hf_x")]
    (tmp_path / "cached.md").write_text("---\nlicense: mit\n---\n")
    hub.cached = str(tmp_path / "cached.md")
    assert inherited_licence("org/name") == {"license": "mit"}
    assert len(hub.asked) == 1  # not again


def test_an_unknown_licence_is_left_out_and_said_to_be_unknown(model):
    card = model_card(model, "x")
    assert card.data.license is None
    assert "| Licence | not known, so none is stated |" in card.text
    assert inherited_licence(None) == {}


def test_where_a_backbone_comes_from(tmp_path):
    commit = "86b5e0934494bd15c9632b12f734a8a67f723594"
    assert hub_repository(HUB_ID) == (HUB_ID, None)
    assert hub_repository(str(tmp_path)) == (None, None)
    assert hub_repository("/home/someone/bert") == (None, None)
    assert hub_repository(r"C:\models\bert") == (None, None)
    assert hub_repository(f"/cache/models--org--some-name/snapshots/{commit}") == ("org/some-name", commit)
    assert hub_repository(rf"C:\cache\models--gpt2\snapshots\{commit}") == ("gpt2", commit)


def test_no_directory_of_the_machine_is_in_a_card(backbone, tmp_path):
    backbone.config._name_or_path = str(tmp_path / "some bert")
    (tmp_path / "some bert").mkdir()
    card = model_card(Any2PointForPointCloudClassification(Any2PointConfig(**CONFIG), backbone=backbone), "x")
    assert card.data.base_model is None
    assert "| Backbone | `some bert`, which is not known to be on the Hub |" in card.text
    assert "any2point predict chair.ply --model x --backbone 'some bert'" in card.text
    assert str(tmp_path) not in str(card)


# What it shows runs


def python_blocks(card):
    return re.findall(r"```python\n(.*?)\n```", str(card), flags=re.DOTALL)


@pytest.mark.parametrize("has_head", [True, False])
def test_the_python_code_runs_on_a_folder(backbone, tmp_path, monkeypatch, capsys, has_head):
    monkeypatch.chdir(tmp_path)
    backbone.save_pretrained("bert")
    model_class = Any2PointForPointCloudClassification if has_head else Any2PointModel
    model = model_class(Any2PointConfig(backbone="bert", **CONFIG)).eval()
    model.save_pretrained("my-adapter")
    processor = Any2PointProcessor(num_points=64)
    processor.save_pretrained("my-adapter")
    points = np.random.default_rng(0).normal(size=(100, 3))
    header = ["ply", "format ascii 1.0", "element vertex 100", *(f"property float {axis}" for axis in "xyz")]
    rows = [" ".join(f"{value:.6f}" for value in point) for point in points]
    Path("chair.ply").write_text("\n".join([*header, "end_header", *rows, ""]))
    (code,) = python_blocks(model_card(model, "my-adapter"))
    exec(code, {})
    with torch.no_grad():
        outputs = model(**processor(["chair.ply"]))
    expected = model.config.id2label[int(outputs.logits[0].argmax())] if has_head else "torch.Size([1, 96])"
    assert capsys.readouterr().out.strip() == expected


# Special models


def test_attention_across_the_batch_is_warned_of(backbone):
    released = Any2PointConfig(**CONFIG, released_compatibility=True)
    card = model_card(Any2PointForPointCloudClassification(released, backbone=backbone), "x")
    assert "runs attention **across the batch**" in card.text
    assert "`released_compatibility=True`" in card.text
    assert "a backbone without a name" in card.text


def test_a_plain_model_has_no_such_warning(model):
    card = model_card(model, "x")
    assert "across the batch" not in card.text
    assert "neither its data nor its accuracy are known here" in card.text
    assert card.data.eval_results is None


# Under another name


@pytest.mark.parametrize("name", ["user/other", 'a "b" c', "my-adapter"])
def test_a_renamed_card_is_the_one_of_that_name(model, name):
    mine = str(model_card(model, "my-adapter", FACTS))
    other = str(model_card(model, name, FACTS))
    assert renamed(mine, name) == other
    assert renamed(other, "my-adapter") == mine
    assert "--output my-adapter" in other  # the command that was run stays


def test_a_card_written_by_hand_is_not_renamed(model):
    card = str(model_card(model, "my-adapter", FACTS)).replace(GENERATED, "")
    assert renamed(card, "user/other") == card
    assert renamed("# my-adapter\n", "user/other") == "# my-adapter\n"


def test_features_of_points_are_named(backbone):
    names = ["red", "green", "blue"]
    colored = Any2PointForPointCloudClassification(
        Any2PointConfig(**CONFIG, point_feature_names=names), backbone=backbone
    )
    card = str(model_card(colored, "my-adapter", FACTS))
    assert "| Features of a point | `red`, `green`, `blue` |" in card
    assert "Every cloud must have red, green, blue for each point; one without them is refused." in card
