"""Parity with the released code: an original checkpoint by golden/README.md's recipe, converted and compared."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model

from any2point_hf.conversion_scripts.convert_any2point_checkpoint import SETTINGS, convert, main
from any2point_hf.modeling import Any2PointForPointCloudClassification, CheckpointError
from any2point_hf.modeling.virtual_projection import voxel_cells
from any2point_hf.processing_any2point import Any2PointProcessor

NUM_CLOUDS = 4
BACKBONES = {
    "clip-text-scan": ("clip_scan", lambda: CLIPTextModel(CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=2, vocab_size=8,
        bos_token_id=0, eos_token_id=1, pad_token_id=2))),
    "dinov2-scan": ("dinov2_scan", lambda: Dinov2Model(Dinov2Config(
        hidden_size=768, num_attention_heads=12, num_hidden_layers=2, image_size=518, patch_size=14))),
}  # fmt: skip


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


def fill_backbone(backbone: torch.nn.Module, setting: str, state: dict[str, torch.Tensor]) -> None:
    """Gives a backbone the frozen weights of an original state dict and the recipe's table."""
    blocks = backbone.encoder.layers if setting == "clip-text-scan" else backbone.encoder.layer
    with torch.no_grad():
        for index, block in enumerate(blocks):
            own = dict(block.named_parameters())
            for name, parts in SETTINGS[setting].frozen.items():
                original = state[f"encoder.{SETTINGS[setting].blocks}.{index}.{name}"]
                for part, tensor in zip(parts, original.chunk(len(parts)), strict=True):
                    own[part].copy_(tensor)
        rng = np.random.default_rng(zlib.crc32(b"base.positional_embedding"))
        if setting == "clip-text-scan":
            table = backbone.embeddings.position_embedding.weight
        else:
            table = backbone.embeddings.position_embeddings
        table.copy_(torch.from_numpy(rng.normal(0, 0.5, table.shape).astype(np.float32)))


@pytest.fixture(scope="module", params=list(BACKBONES))
def converted(request, tmp_path_factory):
    golden_folder = Path(__file__).parents[2].parent / "shared" / "golden"
    if not golden_folder.is_dir():
        pytest.skip("the golden numbers of shared/golden are not here")
    golden_name, make_backbone = BACKBONES[request.param]
    listed = json.loads((golden_folder / f"{golden_name}.json").read_text())["state_dict"]
    state = {name: recipe(name, shape) for name, shape, _rule in listed}
    folder = tmp_path_factory.mktemp(request.param)
    backbone = make_backbone()
    fill_backbone(backbone, request.param, state)
    backbone.save_pretrained(folder / "backbone")
    wrapped = {"base_model": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 7}
    torch.save(wrapped, folder / "original.pth")
    convert(folder / "original.pth", str(folder / "backbone"), folder / "converted")
    model = Any2PointForPointCloudClassification.from_pretrained(folder / "converted")
    return model, np.load(golden_folder / f"{golden_name}.npz"), folder, request.param


def assert_near(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=tolerance)


def assert_same_partition(actual: torch.Tensor, expected: np.ndarray) -> None:
    actual = actual.numpy()
    np.testing.assert_array_equal(actual[:, None] == actual[None], expected[:, None] == expected[None])


@pytest.mark.parametrize("cloud", range(NUM_CLOUDS))
def test_every_golden_array_of_a_single_cloud(converted, cloud):
    model, golden, _, _ = converted
    base = model.any2point
    points = torch.from_numpy(golden["clouds"][cloud : cloud + 1])
    with torch.no_grad():
        tokens, centers = base.tokenizer(points)
        coordinates = base.projection(centers)
        positions = base.encode_positions(centers, coordinates)
        outputs = model(points, output_hidden_states=True)
    prefix = f"c{cloud}_"
    assert_near(centers[0], golden[prefix + "centres"], 1e-6)
    assert_near(tokens[0], golden[prefix + "tokens"], 5e-4)
    assert_near(coordinates[0].squeeze(-1), golden[prefix + "coords"], 2e-4)
    assert_near(positions[0, 1:], golden[prefix + "pe"], 5e-5)
    cells = base.projection.cells(coordinates)[0]
    for view in range(6):
        assert_same_partition(cells[view], golden[prefix + "view_cell"][view])
    assert_same_partition(voxel_cells(centers, base.config.voxel_size)[0], golden[prefix + "voxel_cluster"])
    for block in range(2):
        if f"{prefix}hidden{block}" in golden:
            assert_near(outputs.hidden_states[block + 1][0], golden[f"{prefix}hidden{block}"], 5e-4)
    assert_near(outputs.pooler_output[0], golden[prefix + "feature"], 1e-4)
    assert_near(outputs.logits[0], golden[prefix + "logits"].reshape(-1), 1e-4)


def test_the_batch_of_four(converted):
    model, golden, _, _ = converted
    with torch.no_grad():
        outputs = model(torch.from_numpy(golden["clouds"]))
    assert_near(outputs.pooler_output, golden["feature_batch4"], 1e-4)
    assert_near(outputs.logits, golden["logits_batch4"], 1e-4)


def test_the_adapter_holds_no_backbone_and_is_small(converted):
    model, _, folder, _ = converted
    with safe_open(folder / "converted" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert not any("backbone" in name for name in names)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained <= names
    assert model.config.released_compatibility
    assert model.config.num_labels == 15
    assert Any2PointProcessor.from_pretrained(folder / "converted").scale_to_unit_sphere is False


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("encoder.cls_token"), r"Missing: \['any2point.cls_token'\]"),
        (lambda state: state.update({"encoder.extra": torch.zeros(1)}), r"of no use here: \['encoder.extra'\]"),
        (lambda state: state.update({"encoder.cls_pos": torch.zeros(1, 1, 8)}), r"wrongly shaped.*cls_position"),
        (lambda state: state["encoder.norm.weight"].mul_(2), None),
        (lambda state: next(v for n, v in state.items() if n.endswith(".0.mlp.fc1.weight") or "c_fc" in n).add_(1e-3),
         r"frozen weights must equal the backbone's to 0.0001"),
    ],
)  # fmt: skip
def test_whatever_does_not_fit_is_refused_before_anything_is_written(converted, tmp_path, damage, message):
    _, _, folder, _ = converted
    state = torch.load(folder / "original.pth", weights_only=True)["base_model"]
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    damage(state)
    torch.save(state, tmp_path / "damaged.pth")
    arguments = (tmp_path / "damaged.pth", str(folder / "backbone"), tmp_path / "output")
    if message is None:  # trained tensors may have any value
        convert(*arguments)
        return
    with pytest.raises(CheckpointError, match=message):
        convert(*arguments)
    assert not (tmp_path / "output").exists()


def test_a_forced_wrong_setting_is_exit_code_2(converted, tmp_path, capsys):
    _, _, folder, setting = converted
    other = next(name for name in SETTINGS if name != setting)
    command = ["--checkpoint", str(folder / "original.pth"), "--backbone", str(folder / "backbone")]
    assert main([*command, "--output", str(tmp_path / "output"), "--setting", other]) == 2
    assert f"--setting says {other}" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()
