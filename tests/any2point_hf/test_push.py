"""`any2point push` and the Trainer's push to the Hub on localhost (tests/hub_server)."""

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoProcessor, Trainer, TrainingArguments, pipeline

from any2point_hf import (
    Any2PointProcessor,
    AutoModelForPointCloudClassification,
    load_point_cloud_dataset,
    make_trainer,
)
from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification, CheckpointError
from any2point_hf.modeling.publishing.model_card import GENERATED
from any2point_hf.push import push

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning",  # huggingface_hub's own way of uploading by LFS
    "ignore:.*folder of this machine:UserWarning",
)
PUSHED = {"config.json", "model.safetensors", "preprocessor_config.json", "any2point.py", "README.md"}


@pytest.fixture
def folder(tiny_adapter, tmp_path):
    return shutil.copytree(tiny_adapter.folder, tmp_path / "adapter")


# The command line


def test_push_and_use_by_a_bare_name(hub, run_command, folder, bert, two_classes, tmp_path, monkeypatch):
    (folder / "training_args.bin").write_bytes(b"a pickle")
    pushed = run_command("push", folder)
    assert pushed.code == 0
    commit = hub.repositories["me/adapter"].commit_of("main")
    assert pushed.out.endswith(f" to me/adapter: {hub.url}/me/adapter/commit/{commit}\n")
    assert f"warning: the backbone of this adapter is a folder of this machine ({bert})" in pushed.err
    assert set(hub.repositories["me/adapter"].files()) == PUSHED
    assert hub.repositories["me/adapter"].messages == ["initial commit", "Upload adapter"]
    monkeypatch.chdir(tmp_path.parent)  # where no folder is called adapter
    told = run_command("info", "--model", "adapter", "--backbone", bert, "--json")
    assert json.loads(told.out)["trainable"] > 0
    np.savetxt(tmp_path / "cloud.xyz", two_classes.cloud(0, np.random.default_rng(0)))
    found = run_command("predict", tmp_path / "cloud.xyz", "--model", "adapter", "--backbone", bert, "--json")
    assert len(json.loads(found.out)[0]["classes"]) == 3


def test_options(hub, run_command, folder):
    result = run_command(
        "push", folder, "me/mine", "--private", "--revision", "trial", "--message", "A trial", "--json"
    )
    told = json.loads(result.out)
    repository = hub.repositories["me/mine"]
    assert repository.private
    assert set(repository.files("trial")) == PUSHED
    assert repository.messages[-1] == "A trial"
    assert told == {
        "repository": "me/mine",
        "url": f"{hub.url}/me/mine/commit/{repository.commit_of('trial')}",
        "commit": repository.commit_of("trial"),
        "files": sorted(PUSHED - {"README.md"}),
    }
    proposal = json.loads(run_command("push", folder, "me/mine", "--create-pr", "--json").out)
    assert proposal["url"] == f"{hub.url}/me/mine/discussions/1"
    assert repository.files("main") == {}


def test_the_folders_own_card_is_pushed(hub, folder):
    (folder / "README.md").write_text("---\n---\nmine")
    (folder / "images").mkdir()
    (folder / "images" / "curve.png").write_bytes(b"\x89PNG")
    assert push(folder, "me/mine")["files"] == sorted(PUSHED | {"images/curve.png"})
    assert hub.repositories["me/mine"].files()["README.md"].content == b"---\n---\nmine"


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (folder / "config.json").unlink(), r"Any2Point config\.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "its model_type is 'bert'"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"preprocessor_config\.json.*save_pretrained"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors"),
        (lambda folder: cut(folder / "model.safetensors"), r"a whole model\.safetensors"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "any2point", "architectures": []}'),
            "hold",
        ),
        (lambda folder: (folder / "README.md").write_bytes("Grüße".encode("latin-1")), "must be text in UTF-8"),
    ],
)
def test_only_a_whole_adapter_is_pushed(hub, folder, damage, message):
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        push(folder, "me/mine")
    assert hub.calls == []


def test_refusals_are_one_line(hub, run_command, folder, monkeypatch):
    monkeypatch.setenv("ANY2POINT_NAMESPACE", "other")
    result = run_command("push", folder, "mine")
    assert result.code == 2
    assert "Traceback" not in result.err
    last = result.err.splitlines()[-1]
    assert last.startswith(f"error: the Hub ({hub.url}) must allow us to push to other/mine, and it answered 403 (")
    result = run_command("info", "--model", "nowhere")
    assert result.code == 2
    assert "Tried: the folder nowhere (there is none); nowhere on the Hub" in result.err.splitlines()[-1]


@torch.no_grad()
def test_auto_classes_and_pipelines_pull_by_hub_id(hub, folder, tiny_adapter, bert, monkeypatch):
    push(folder, "me/pulled", revision="v1", private=True)
    expected = tiny_adapter.model(tiny_adapter.points).logits
    model = AutoModelForPointCloudClassification.from_pretrained("me/pulled", revision="v1", backbone=bert)
    assert torch.equal(model(tiny_adapter.points).logits, expected)
    assert AutoProcessor.from_pretrained("me/pulled", revision="v1").num_points == 64
    options = {"revision": "v1", "model_kwargs": {"backbone": str(bert)}, "device": "cpu", "top_k": 1}
    classify = pipeline("point-cloud-classification", model="me/pulled", **options)
    cloud = tiny_adapter.points[0].numpy()
    best = int(tiny_adapter.model(**Any2PointProcessor(64)([cloud])).logits.argmax())
    assert classify(cloud)[0]["label"] == f"LABEL_{best}"


@torch.no_grad()
def test_a_lora_goes_along(hub, model, tmp_path):
    pytest.importorskip("peft")
    model.add_lora()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    model.eval().save_pretrained(tmp_path / "mine")
    Any2PointProcessor(64).save_pretrained(tmp_path / "mine")
    lora = {"lora/adapter_config.json", "lora/adapter_model.safetensors"}
    assert set(push(tmp_path / "mine")["files"]) == PUSHED - {"README.md"} | lora
    loaded = Any2PointForPointCloudClassification.from_pretrained("mine", backbone=model.config.backbone)
    points = torch.randn(2, 64, 3)
    assert torch.equal(loaded(points).logits, model(points).logits)


# The processor alone


def test_a_processor_is_pushed_and_pulled(hub, tmp_path):
    Any2PointProcessor(128, seed=5).push_to_hub("mine", private=True)
    loaded = Any2PointProcessor.from_pretrained("mine")
    assert (loaded.num_points, loaded.seed) == (128, 5)
    Any2PointProcessor(256).save_pretrained(tmp_path / "mine", push_to_hub=True, revision="larger")
    assert Any2PointProcessor.from_pretrained("me/mine", revision="larger").num_points == 256
    with pytest.raises(CheckpointError, match="Tried"):
        Any2PointProcessor.from_pretrained("nowhere")


def test_a_model_is_pushed_while_it_is_saved(hub, tiny_adapter, tmp_path):
    tiny_adapter.model.save_pretrained(tmp_path / "mine", push_to_hub=True, commit_message="saved")
    assert hub.repositories["me/mine"].messages[-1] == "saved"
    assert set(hub.repositories["me/mine"].files()) == PUSHED - {"preprocessor_config.json"}


# The stock Trainer


def every_file(hub):
    """Of all commits of all repositories."""
    return {path for repository in hub.repositories.values() for files in repository.commits.values() for path in files}


@pytest.fixture
def model(bert):
    config = Any2PointConfig(backbone=bert, num_points=64, num_neighbors=8, num_views=2, num_labels=2)
    return Any2PointForPointCloudClassification(config)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
def test_the_trainer_pushes_no_pickle(hub, model, two_classes, tmp_path, one_thread, strategy):
    arrays = two_classes.arrays(8, 4)
    rows = [
        {"points": torch.tensor(p[:64]), "labels": int(label)}
        for p, label in zip(arrays["points"], arrays["labels"], strict=True)
    ]
    arguments = TrainingArguments(
        tmp_path / "run",
        push_to_hub=True,
        hub_model_id="me/mine",
        hub_strategy=strategy,
        hub_always_push=True,
        num_train_epochs=2,
        per_device_train_batch_size=4,
        save_strategy="epoch",
        remove_unused_columns=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=Any2PointProcessor(64))
    trainer.train()
    trainer.push_to_hub()
    messages = hub.repositories["me/mine"].messages
    assert messages[-1] == "End of training"
    assert "Training in progress, epoch 1" in messages
    assert (tmp_path / "run" / "training_args.bin").exists()
    pushed = every_file(hub)
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= pushed
    assert ("last-checkpoint/model.safetensors" in pushed) == (strategy == "checkpoint")
    assert not [path for path in pushed if path.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert not any(content.startswith((b"PK", b"\x80")) for content in hub.large_files.values())
    # The Trainer writes a card of its own over any other; ours takes its place again.
    assert GENERATED not in hub.repositories["me/mine"].files()["README.md"].content.decode()
    model.push_to_hub("mine")
    assert GENERATED in hub.repositories["me/mine"].files()["README.md"].content.decode()


def test_the_trainer_of_make_trainer_pushes_no_pickle(hub, model, two_classes, tmp_path, one_thread):
    dataset = load_point_cloud_dataset(str(two_classes.path))
    trainer = make_trainer(model, Any2PointProcessor(64), dataset, tmp_path / "mine", epochs=1, batch_size=8)
    trainer.train()
    trainer.push_to_hub()
    assert (tmp_path / "mine" / "training_args.bin").exists()
    assert every_file(hub) == PUSHED | {".gitignore"}
    card = ModelCard(files_of(hub)["README.md"].decode())
    assert GENERATED in card.content
    assert '.from_pretrained("me/mine"' in card.content
    assert card.data.library_name == "any2point_hf"
    assert json.loads(files_of(hub)["config.json"])["auto_map"]["AutoModel"] == "any2point.Any2PointModel"
    assert "AutoProcessor" in json.loads(files_of(hub)["preprocessor_config.json"])["auto_map"]
    loaded = Any2PointForPointCloudClassification.from_pretrained("me/mine", backbone=model.backbone)
    assert torch.equal(loaded.classifier.output.weight, model.classifier.output.weight)
    (tmp_path / "mine" / "README.md").write_text("---\nlicense: mit\n---\nwritten by hand")
    trainer.push_to_hub(tags="scans")
    card = ModelCard(files_of(hub)["README.md"].decode())
    assert (card.data.license, card.data.tags, card.text.strip()) == ("mit", ["scans"], "written by hand")


# Options of a model's push


def files_of(hub, name="me/mine"):
    return {path: file.content for path, file in hub.repositories[name].files().items()}


def test_a_model_pushes_the_processor_that_it_is_given(hub, tiny_adapter):
    tiny_adapter.model.push_to_hub("mine")
    assert set(files_of(hub)) == PUSHED - {"preprocessor_config.json"}
    tiny_adapter.model.push_to_hub("mine", processor=Any2PointProcessor(64, seed=3))
    assert set(files_of(hub)) == PUSHED
    assert Any2PointProcessor.from_pretrained("me/mine").seed == 3
    assert tiny_adapter.model.processor is None


def test_a_pipeline_and_a_trainer_tell_the_model_its_processor(hub, model, two_classes, bert, tmp_path, one_thread):
    dataset = load_point_cloud_dataset(str(two_classes.path))
    make_trainer(model, Any2PointProcessor(64, seed=1), dataset, tmp_path / "run", epochs=1, batch_size=8)
    model.push_to_hub("mine")
    classify = pipeline("point-cloud-classification", model="me/mine", model_kwargs={"backbone": str(bert)})
    assert classify.feature_extractor.seed == 1
    classify.model.push_to_hub("again")
    assert Any2PointProcessor.from_pretrained("me/again").seed == 1


@pytest.mark.parametrize("tags", ["scans", ["scans", "mine"]])
def test_options_as_in_transformers(hub, tiny_adapter, monkeypatch, tags):
    described = []
    original = HfApi.create_commit
    monkeypatch.setattr(
        HfApi, "create_commit", lambda *a, **k: described.append(k["commit_description"]) or original(*a, **k)
    )
    tiny_adapter.model.push_to_hub(
        "mine", tags=tags, commit_message="A", commit_description="Trained on scans", max_shard_size="1MB"
    )
    assert described == ["Trained on scans"]
    metadata = ModelCard(files_of(hub)["README.md"].decode()).data
    wanted = [tags] if isinstance(tags, str) else tags
    assert metadata.tags == ["any2point", "point-cloud", "point-cloud-classification", *wanted]
    assert "model.safetensors" in files_of(hub)


def test_tags_join_those_of_a_card_that_somebody_wrote(hub, folder, tiny_adapter):
    (folder / "README.md").write_text("---\ntags:\n- own\n---\nmine\n")
    push(folder, "me/mine")
    tiny_adapter.model.push_to_hub("me/mine", tags=["scans", "own"])
    card = ModelCard(files_of(hub)["README.md"].decode())
    assert (card.data.tags, card.text.strip()) == (["own", "scans"], "mine")
    Any2PointProcessor(64).push_to_hub("me/mine", tags=["more"])
    assert ModelCard(files_of(hub)["README.md"].decode()).data.tags == ["own", "scans", "more"]
    Any2PointProcessor(64).push_to_hub("me/bare", tags=["more"])
    assert set(files_of(hub, "me/bare")) == {"preprocessor_config.json", "any2point.py"}
