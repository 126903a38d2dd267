"""Original checkpoints by golden/README.md's recipe, at depth 2, and what conversion makes of them."""

import importlib.util
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model

from any2point_hf.conversion_scripts.convert_any2point_checkpoint import convert
from any2point_hf.conversion_scripts.original_layouts import layout_of
from any2point_hf.modeling import Any2PointForPointCloudClassification, ImageBindAudioConfig, ImageBindAudioModel
from any2point_hf.modeling.backbones.detector import backbone_spec
from any2point_hf.modeling.backbones.spec import find

GOLDEN_NAMES = {
    f"{backbone}-{dataset}": f"{golden}_{dataset}"
    for dataset in ("scan", "modelnet")
    for backbone, golden in {"clip-text": "clip", "dinov2": "dinov2", "imagebind-audio": "imagebind"}.items()
}
WIDE = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 2}


def make_backbone(model_type: str) -> torch.nn.Module:
    if model_type == "clip_text_model":
        tokens = {"vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        return CLIPTextModel(CLIPTextConfig(**WIDE, intermediate_size=3072, **tokens))
    if model_type == "dinov2":
        return Dinov2Model(Dinov2Config(**WIDE, image_size=518, patch_size=14))
    return ImageBindAudioModel(ImageBindAudioConfig(**WIDE, projection_dim=8))


def recipe(name: str, shape: list[int]) -> torch.Tensor:
    """One tensor by golden/README.md."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        values = rng.normal(0, 0.1, shape)
    elif len(shape) == 1 and name.endswith(".weight"):
        values = 1 + rng.normal(0, 0.1, shape)
    elif len(shape) >= 2 and (name.endswith(".weight") or name.endswith("in_proj_weight")):
        values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
    else:
        values = rng.normal(0, 0.1, shape)
    return torch.from_numpy(values.astype(np.float32))


def fill_backbone(backbone: torch.nn.Module, setting: str, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Gives a backbone the frozen weights of an original state dict and the recipe's table, which is returned."""
    layout, prefix = layout_of(setting)
    spec = backbone_spec(backbone.config)
    with torch.no_grad():
        for index, block in enumerate(find(backbone, spec.blocks)):
            own = dict(block.named_parameters())
            for name, parts in layout.frozen.items():
                original = state[f"{prefix}{layout.blocks}.{index}.{name}"]
                for part, tensor in zip(parts, original.chunk(len(parts)), strict=True):
                    own[part].copy_(tensor)
        positions = find(backbone, spec.positions)
        table = positions.weight if isinstance(positions, torch.nn.Module) else positions
        rng = np.random.default_rng(zlib.crc32(b"base.positional_embedding"))
        table.copy_(torch.from_numpy(rng.normal(0, 0.5, table.shape).astype(np.float32)))
    return table.detach().clone()


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the golden numbers of shared/golden are not here")
    return folder


@pytest.fixture(scope="session")
def released_twin():
    spec = importlib.util.spec_from_file_location("released_twin", Path(__file__).with_name("released_twin.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def convert_recipe(golden_folder, tmp_path_factory):
    """Makes, once for each setting, an original file and its backbone, and converts them."""
    made = {}

    def make(setting: str) -> SimpleNamespace:
        if setting in made:
            return made[setting]
        listed = json.loads((golden_folder / f"{GOLDEN_NAMES[setting]}.json").read_text())
        state = {name: recipe(name, shape) for name, shape, _rule in listed["state_dict"]}
        folder = tmp_path_factory.mktemp(setting)
        backbone = make_backbone(layout_of(setting)[0].model_type)
        table = fill_backbone(backbone, setting, state)
        backbone.save_pretrained(folder / "backbone")
        original = {f"module.{name}": tensor for name, tensor in state.items()}
        if setting.endswith("modelnet"):  # one layout with the counts, the other without
            counted = [name for name in original if name.endswith("running_var")]
            original |= {name.replace("running_var", "num_batches_tracked"): torch.tensor(7) for name in counted}
        wrapped = {"base_model" if setting.endswith("modelnet") else "model": original, "epoch": 7}
        wrapped["optimizer"] = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}
        torch.save(wrapped, folder / "original.pth")
        convert(folder / "original.pth", str(folder / "backbone"), folder / "converted")
        model = Any2PointForPointCloudClassification.from_pretrained(folder / "converted")
        arrays = golden_folder / f"{GOLDEN_NAMES[setting]}.npz"
        made[setting] = SimpleNamespace(
            setting=setting,
            model=model,
            folder=folder,
            state=state,
            table=table,
            listed=listed,
            arrays=np.load(arrays) if arrays.exists() else None,
        )
        return made[setting]

    return make
