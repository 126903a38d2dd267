"""A backbone's fingerprint follows its config and weights, and a copy has the same."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from any2point_hf.modeling.backbones.fingerprint import backbone_fingerprint
from any2point_hf.modeling.errors import BackboneLoadError


@pytest.fixture
def backbone(bert, tmp_path):
    return shutil.copytree(bert, tmp_path / "bert")


def change_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[-1]
    save_file(tensors | {name: tensors[name] + 1e-3}, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))


@pytest.mark.parametrize("change", [change_weights, change_config])
def test_a_change(bert, backbone, change):
    change(backbone)
    assert backbone_fingerprint(str(backbone)) != backbone_fingerprint(str(bert))


def test_a_copy_differs_by_its_times_alone(bert, backbone):
    os.utime(backbone / "model.safetensors", ns=(0, 0))
    (backbone / "README.md").write_text("A tiny BERT.")
    assert backbone_fingerprint(str(backbone)) == backbone_fingerprint(str(bert))
    assert backbone_fingerprint(str(backbone), with_times=True) != backbone_fingerprint(str(bert), with_times=True)


def test_no_backbone(tmp_path):
    with pytest.raises(BackboneLoadError):
        backbone_fingerprint(str(tmp_path / "nowhere"))
