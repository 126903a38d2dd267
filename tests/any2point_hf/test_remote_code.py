"""A pushed adapter in processes that never imported any2point_hf, as people write them who found it on the Hub."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from any2point_hf import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointProcessor,
    AutoModelForPointCloudClassification,
)
from any2point_hf.modeling.publishing.remote_code import CODE, MODULE

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAMES = {0: "chair", 1: "lamp", 2: "mug"}


@pytest.fixture
def pushed(hub, bert, tmp_path):
    """A model on the Hub with its processor, on a backbone on the Hub: the model."""
    AutoModel.from_pretrained(bert).push_to_hub("me/bert")
    torch.manual_seed(0)
    config = Any2PointConfig(backbone="me/bert", num_points=64, num_neighbors=8, num_views=2, id2label=NAMES)
    model = Any2PointForPointCloudClassification(config).eval()
    model.push_to_hub("me/adapter", processor=Any2PointProcessor(64, seed=5))
    return model


@pytest.fixture
def run(hub, tmp_path):
    """Runs a script in a new process with an empty cache: what it prints as JSON, or the error's last line."""

    def run(script, *arguments):
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]

    return run


AUTO_CLASSES = """
import json, os, sys, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
assert "any2point_hf" not in sys.modules
name = "me/adapter"
auto_classes = {"config": AutoConfig, "model": AutoModel, "processor": AutoProcessor, "extractor": AutoFeatureExtractor}
made = {}
for kind in sys.argv[2:]:
    made[kind] = auto_classes[kind].from_pretrained(name, trust_remote_code=True)
points = torch.load(sys.argv[1], weights_only=True)
pooled = made["model"](points).pooler_output.tolist() if "model" in made else None
kinds = {kind: type(thing).__name__ for kind, thing in made.items()}
seeds = [thing.seed for kind, thing in made.items() if kind in ("processor", "extractor")]
if "model" in made:
    made["model"].save_pretrained("saved")
for kind in ("processor", "extractor"):
    if kind in made:
        made[kind].save_pretrained("saved")
print(json.dumps({"kinds": kinds, "pooled": pooled, "seeds": seeds, "files": sorted(os.listdir("saved"))}))
"""


@pytest.mark.parametrize("order", [("model", "processor"), ("processor",), ("extractor", "config", "model")])
@torch.no_grad()
def test_auto_classes_without_an_import(pushed, run, order, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points = torch.randn(2, 64, 3)
    torch.save(points, tmp_path / "points.pt")
    found = run(AUTO_CLASSES, tmp_path / "points.pt", *order)
    classes = {"config": "Any2PointConfig", "model": "Any2PointModel"}
    assert found["kinds"] == {kind: classes.get(kind, "Any2PointProcessor") for kind in order}
    if "model" in order:
        expected = pushed(points).pooler_output
        torch.testing.assert_close(torch.tensor(found["pooled"]), expected, rtol=1e-5, atol=1e-6)
    assert all(seed == 5 for seed in found["seeds"])
    own = {"config.json", "model.safetensors"} if "model" in order else set()
    assert set(found["files"]) == own | ({"preprocessor_config.json", ".gitignore"} if found["seeds"] else set())


PIPELINE = """
import json, sys, numpy
from transformers import pipeline
assert "any2point_hf" not in sys.modules
classify = pipeline("point-cloud-classification", model="me/adapter", trust_remote_code=True, device="cpu")
print(json.dumps(classify(numpy.load(sys.argv[1]))))
"""


@torch.no_grad()
def test_a_pipeline_without_an_import(pushed, run, tmp_path):
    cloud = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    np.save(tmp_path / "cloud.npy", cloud)
    found = run(PIPELINE, tmp_path / "cloud.npy")
    scores = pushed(**Any2PointProcessor(64, seed=5)(cloud)).logits.softmax(-1)[0]
    expected = [(NAMES[index], scores[index].item()) for index in scores.argsort(descending=True).tolist()]
    assert [(entry["label"], pytest.approx(entry["score"], rel=1e-4)) for entry in found] == expected


def test_the_card_s_own_lines_run(pushed, hub, run, tmp_path, monkeypatch):
    card = hub.repositories["me/adapter"].files()["README.md"].content.decode()
    assert card.index("```bash\npip install any2point-hf\n```") < card.index("from any2point_hf import")
    plain, remote = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    cloud = np.random.default_rng(0).normal(size=(100, 3))
    np.savetxt(tmp_path / "chair.xyz", cloud)
    monkeypatch.chdir(tmp_path)
    rewritten = "import json\nprint_value = lambda value: print(json.dumps(value))\n"
    codes = [code.replace("chair.ply", "chair.xyz").replace("print(", "print_value(") for code in (plain, remote)]
    printed = [run(rewritten + code) for code in codes]
    assert printed[1][0]["label"] == printed[0]


WITHOUT_THE_PACKAGE = """
import sys
sys.modules["any2point_hf"] = None  # as if it were not installed
import transformers
getattr(transformers, sys.argv[1]).from_pretrained("me/adapter", trust_remote_code=True)
"""


@pytest.mark.parametrize("auto_class", ["AutoConfig", "AutoModel", "AutoFeatureExtractor"])
def test_without_the_package_the_error_says_what_to_install(pushed, run, auto_class):
    found = run(WITHOUT_THE_PACKAGE, auto_class)
    assert found == "ImportError: this model needs the package any2point-hf: pip install any2point-hf"


def test_without_trust_transformers_says_what_is_missing(pushed, run):
    found = run('import transformers\ntransformers.AutoModel.from_pretrained("me/adapter")')
    assert "trust_remote_code=True" in found


def test_what_is_ours_is_loaded_without_a_warning_and_never_run(pushed, hub, monkeypatch):
    said = []
    monkeypatch.setattr("any2point_hf.modeling.pulled_config.logger.warning", said.append)
    repository = hub.repositories["me/adapter"]
    assert repository.files()[MODULE].content == CODE
    hub.calls.clear()
    for model_class in (Any2PointForPointCloudClassification, AutoModelForPointCloudClassification):
        model = model_class.from_pretrained("me/adapter")
        assert not hasattr(model.config, "auto_map")
        assert "auto_map" not in model.config.to_dict()
    assert "auto_map" not in Any2PointProcessor.from_pretrained("me/adapter").to_dict()
    assert said == []
    assert not any(MODULE in call for call in hub.calls)


def test_a_process_that_has_imported_us_runs_no_code_either(pushed, hub):
    hub.calls.clear()
    assert type(AutoModel.from_pretrained("me/adapter")).__name__ == "Any2PointModel"
    assert AutoProcessor.from_pretrained("me/adapter").seed == 5
    assert not any(MODULE in call for call in hub.calls)
