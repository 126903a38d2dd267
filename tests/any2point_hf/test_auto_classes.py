"""Every Auto class makes ours, from a folder and from a config, whatever is imported first."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, BertConfig, BertModel, pipelines

from any2point_hf import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    Any2PointProcessor,
    AutoModelForPointCloudClassification,
    CheckpointError,
)
from any2point_hf.modeling.publishing.push import push_files

pytestmark = pytest.mark.usefixtures("one_thread")

ORDERS = {
    "ours first": """
import any2point_hf
from any2point_hf import AutoModelForPointCloudClassification
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline
""",
    "pipelines first": """
from transformers import pipeline
from any2point_hf import AutoModelForPointCloudClassification
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
""",
    "our pipeline first": """
from any2point_hf import PointCloudClassificationPipeline, AutoModelForPointCloudClassification
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline
""",
}
EVERYTHING = """
import sys
import numpy, torch
folder = sys.argv[1]
{imports}
points = numpy.random.default_rng(0).normal(size=(80, 3))
inputs = AutoProcessor.from_pretrained(folder)(points)
assert torch.equal(AutoFeatureExtractor.from_pretrained(folder)(points)["points"], inputs["points"])
assert AutoConfig.from_pretrained(folder).num_points == inputs["points"].shape[1] == 64
classifier = AutoModelForPointCloudClassification.from_pretrained(folder)
with torch.no_grad():  # as pipelines run: with gradients another way is taken, which rounds otherwise
    feature = AutoModel.from_pretrained(folder)(**inputs).pooler_output
scores = classifier(**inputs).logits.softmax(dim=-1)
(best,) = pipeline("point-cloud-classification", model=folder, device="cpu")(points, top_k=1)
extracted = pipeline("point-cloud-feature-extraction", model=folder, device="cpu")(points, return_tensors=True)
assert torch.equal(extracted, feature[0])
assert abs(best["score"] - float(scores.max())) < 1e-6, (best, scores)
print(classifier.config.id2label[int(scores.argmax())], best["label"])
"""


@pytest.mark.parametrize("order", ORDERS)
def test_everything_is_known_in_any_order_of_imports(order, adapter, subprocess_environment):
    script = EVERYTHING.format(imports=ORDERS[order])
    command = [sys.executable, "-W", "error::DeprecationWarning:any2point_hf", "-c", script, str(adapter)]
    process = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    directly, by_pipeline = process.stdout.split()
    assert directly == by_pipeline


def test_a_folder_gives_the_class_that_the_auto_class_is_for(adapter):
    points = np.random.default_rng(1).normal(size=(3, 70, 3))
    inputs = AutoProcessor.from_pretrained(adapter)(points)
    classifier = AutoModelForPointCloudClassification.from_pretrained(adapter)
    assert type(classifier) is Any2PointForPointCloudClassification
    expected = Any2PointForPointCloudClassification.from_pretrained(adapter)(**inputs).logits
    assert torch.equal(classifier(**inputs).logits, expected)
    encoder = AutoModel.from_pretrained(adapter)
    assert type(encoder) is Any2PointModel
    assert torch.equal(encoder(**inputs).pooler_output, classifier(**inputs).pooler_output)
    assert type(AutoConfig.from_pretrained(adapter)) is Any2PointConfig
    assert type(AutoFeatureExtractor.from_pretrained(adapter)) is Any2PointProcessor


def test_from_config_makes_a_new_model(bert):
    config = Any2PointConfig(backbone=str(bert), num_points=64, num_neighbors=8, num_labels=5)
    torch.manual_seed(0)
    model = AutoModelForPointCloudClassification.from_config(config)
    torch.manual_seed(0)
    same = Any2PointForPointCloudClassification(config)
    points = torch.rand(2, 64, 3, generator=torch.Generator().manual_seed(0))
    assert model.eval()(points).logits.shape == (2, 5)
    assert torch.equal(model(points).logits, same.eval()(points).logits)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForPointCloudClassification])
def test_another_backbone_may_be_given(auto_class, adapter, bert, narrow_bert):
    module = BertModel.from_pretrained(bert)
    with torch.no_grad():
        module.encoder.layer[0].output.dense.weight.mul_(20)
    points = torch.rand(2, 64, 3, generator=torch.Generator().manual_seed(0))
    recorded = auto_class.from_pretrained(adapter)
    other = auto_class.from_pretrained(adapter, backbone=module)
    assert other(points)[0].sub(recorded(points)[0]).abs().max() > 1e-3
    named = auto_class.from_pretrained(adapter, backbone=str(bert))
    assert torch.equal(named(points)[0], recorded(points)[0])
    with pytest.raises(ValueError, match="hidden_size"):
        auto_class.from_pretrained(adapter, backbone=str(narrow_bert))


def test_names_of_the_hub(hub, adapter):
    files = {name: adapter / name for name in ("config.json", "model.safetensors", "preprocessor_config.json")}
    hub.large_suffixes = ()
    push_files(files, "shared", commit_message="put")  # to the logged-in user's namespace
    assert set(hub.repositories) == {"me/shared"}
    points = np.random.default_rng(1).normal(size=(3, 70, 3))
    expected = pipelines.pipeline("point-cloud-classification", model=str(adapter), device="cpu")(points)
    for name in ("shared", "me/shared"):
        loaded = AutoModelForPointCloudClassification.from_pretrained(name)
        pipe = pipelines.pipeline("point-cloud-classification", model=loaded, device="cpu")  # finds the processor
        assert pipe(points) == expected
    assert pipelines.pipeline("point-cloud-classification", model="me/shared", device="cpu")(points) == expected
    with pytest.raises(CheckpointError, match="Tried: the folder nowhere"):
        AutoModelForPointCloudClassification.from_pretrained("nowhere")


def test_models_of_other_families_are_refused(bert):
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    with pytest.raises(ValueError, match="AutoModelForPointCloudClassification"):
        AutoModelForPointCloudClassification.from_config(config)
    with pytest.raises(CheckpointError, match=r"class Any2PointConfig, and the one of .* is BertConfig. Is it the"):
        AutoModelForPointCloudClassification.from_pretrained(bert)
    with pytest.raises(OSError, match="from_pretrained"):
        AutoModelForPointCloudClassification()


def test_the_tasks_are_among_those_of_transformers():
    assert {"point-cloud-classification", "point-cloud-feature-extraction"} <= set(pipelines.get_supported_tasks())
