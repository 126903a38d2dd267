import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from any2point_hf.conversion_scripts.convert_any2point_checkpoint import REPORT_FILE, convert, main
from any2point_hf.conversion_scripts.original_layouts import SETTINGS, layout_of
from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.modeling.presets import PRESETS
from any2point_hf.processing_any2point import Any2PointProcessor


@pytest.fixture(params=["dinov2-scan", "clip-text-modelnet"])
def converted(request, convert_recipe):
    return convert_recipe(request.param)


def run(capsys, checkpoint, backbone, output, *options):
    """Exit code and standard error of the command line."""
    capsys.readouterr()
    folders = ("--checkpoint", checkpoint, "--backbone", backbone, "--output", output)
    code = main([str(argument) for argument in (*folders, *options)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_is_written(convert_recipe, setting):
    converted = convert_recipe(setting)
    folder, preset, config = converted.folder / "converted", PRESETS[setting], converted.model.config
    written = {file.name for file in folder.iterdir()}
    adapter = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert written == adapter | {"README.md", ".gitignore", REPORT_FILE}
    assert not list(converted.folder.glob(".writing-*"))
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert not any("backbone" in name for name in names)
    assert {name for name, parameter in converted.model.named_parameters() if parameter.requires_grad} <= names
    assert config.released_compatibility
    assert config.backbone == str(converted.folder / "backbone")
    for field, value in {**preset.config, **preset.released}.items():
        assert getattr(config, field) == value, field
    assert [config.id2label[index] for index in range(config.num_labels)] == list(preset.dataset.class_names)
    processor = Any2PointProcessor.from_pretrained(folder)
    assert processor.scale_to_unit_sphere == setting.endswith("modelnet")
    assert processor.num_points == 1024
    assert processor.sampling_start == Any2PointConfig.from_pretrained(folder).sampling_start == "first"


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_report_says_where_every_tensor_went(convert_recipe, setting):
    converted = convert_recipe(setting)
    report = json.loads((converted.folder / "converted" / REPORT_FILE).read_text())
    original = torch.load(converted.folder / "original.pth", weights_only=True)
    state = original["base_model" if setting.endswith("modelnet") else "model"]
    in_file = {name.removeprefix("module.") for name in state}
    frozen = report["frozen, equal to the backbone's and not stored"]
    left_out = set(report["left out"])
    assert {"epoch", "optimizer"} <= left_out
    assert set(report["trained"]) | set(frozen) | (left_out - {"epoch", "optimizer"}) == in_file
    assert len(report["trained"]) + len(frozen) + len(left_out) - 2 == len(in_file)  # none twice
    assert sorted(frozen) == sorted(converted.listed["frozen_names"])
    assert all(name.endswith("num_batches_tracked") for name in left_out - {"epoch", "optimizer"})
    assert report["setting"] == setting
    assert report["largest difference of the frozen"] == 0
    own = converted.model.state_dict()
    for name, target in report["trained"].items():
        target, _, view = target.partition("[")
        tensor = own[target][int(view[:-1])] if view else own[target]
        torch.testing.assert_close(tensor.flatten(), state[f"module.{name}"].flatten(), rtol=0, atol=0)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_model_card(convert_recipe, setting):
    converted = convert_recipe(setting)
    card = (converted.folder / "converted" / "README.md").read_text()
    published = converted.listed["params_depth2"]
    assert f"{published['trainable']:,} trained parameters" in card
    assert f"{published['trainable_without_head']:,} without the head" in card
    assert f"{PRESETS[setting].accuracy} %" in card
    assert f"--preset {setting}" in card
    assert ("attention **across the batch**" in card) == setting.startswith("clip")
    data = ModelCard(card).data
    assert (data.library_name, data.base_model) == ("any2point_hf", PRESETS[setting].backbone)
    assert data.license is None  # the authors', which is not in their file
    assert data.eval_results is None  # nothing was measured here
    named = PRESETS[setting].backbone or "backbone"
    assert f'Any2PointForPointCloudClassification.from_pretrained("converted", backbone="{named}")' in card


def test_an_attention_across_the_batch_is_warned_of_once_in_eval(convert_recipe):
    folder = convert_recipe("clip-text-scan").folder
    model = Any2PointForPointCloudClassification.from_pretrained(folder / "converted")
    points = torch.rand(2, 128, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train()(points)
    with pytest.warns(UserWarning, match="depends on the clouds beside it"):
        model.eval()(points)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(points)
        Any2PointForPointCloudClassification.from_pretrained(convert_recipe("dinov2-scan").folder / "converted")(points)


def test_depth_and_classes_are_those_of_the_file(convert_recipe, tmp_path):
    converted = convert_recipe("dinov2-scan")
    state = {**converted.state, "prediction.head.4.0.weight": torch.zeros(3, 256)}
    state["prediction.head.4.0.bias"] = torch.tensor([0.0, 2.0, 1.0])
    torch.save(state, tmp_path / "three.pth")
    convert(tmp_path / "three.pth", str(converted.folder / "backbone"), tmp_path / "output", "dinov2-scan")
    model = Any2PointForPointCloudClassification.from_pretrained(tmp_path / "output")
    assert model.config.num_labels == 3
    assert model.config.id2label[1] == "LABEL_1"
    assert model(torch.rand(1, 128, 3)).logits.tolist() == [[0, 2, 1]]
    assert len(model.any2point.bottlenecks) == 2


@pytest.mark.parametrize("wrapper", [None, "base_model", "model", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_may_or_may_not_be_there(convert_recipe, tmp_path, wrapper, prefix):
    converted = convert_recipe("imagebind-audio-modelnet")
    state = {prefix + name: tensor for name, tensor in converted.state.items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "file.pth")
    convert(tmp_path / "file.pth", str(converted.folder / "backbone"), tmp_path / "output")
    with (
        safe_open(tmp_path / "output" / "model.safetensors", "pt") as found,
        safe_open(converted.folder / "converted" / "model.safetensors", "pt") as expected,
    ):
        assert set(found.keys()) == set(expected.keys())
        for name in found.keys():  # noqa: SIM118 - no mapping
            if not name.endswith("num_batches_tracked"):
                assert torch.equal(found.get_tensor(name), expected.get_tensor(name))


def first_frozen(state):
    return next(name for name in state if name.endswith((".0.mlp.fc1.weight", ".0.mlp.c_fc.weight")))


def first_head(state):
    return next(name for name in state if name.endswith(("head.0.0.weight", "finetune.0.weight")))


def named(state, ending):
    return next(name for name in state if name.endswith(ending))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda s: s.pop(named(s, "LGA_list.1.linear2.0.net2.0.bias")),
            r"Missing \(1\): .*LGA_list.1.linear2.0.net2.0.bias; unknown \(0\): none",
        ),
        (lambda s: s.pop(first_head(s)), r"Missing \(1\): (prediction.head.0.0|cls_head_finetune.0).weight;"),
        (
            lambda s: s.pop(named(s, "1.norm2.bias" if "encoder.cls_pos" in s else "1.ln_2.bias")),
            r"Missing \(1\): .*1.(norm2|ln_2).bias;",
        ),
        (lambda s: s.update({"extra": torch.zeros(1)}), r"Missing \(0\): none; unknown \(1\): extra\."),
        (lambda s: s.update({named(s, "cls_pos"): torch.zeros(1, 1, 8)}), r"wrongly shaped.*cls_position"),
        (lambda s: s.update({named(s, "attn1.3.qkv.bias"): torch.zeros(5)}), r"must have one shape"),
        (lambda s: s[first_frozen(s)].add_(1e-3), r"frozen weights must equal the backbone's to 0.0001; .* by 0.001"),
        (lambda s: s.update({n: t.half() for n, t in s.items()}), r"full precision.*torch.float16"),
        (lambda s: s[named(s, "cls_token")].fill_(float("nan")), r"finite weights.*cls_token"),
        (lambda s: [s.pop(n) for n in list(s) if "blocks.1." in n], r"has 1 blocks, and the backbone has 2"),
        (lambda s: s.update({"blocks.0.ls1.gamma": torch.ones(768)}), r"unknown \(1\): blocks.0.ls1.gamma"),
        (lambda s: s.update({"encoder.resblocks.0.out_transform_2d.0.0.weight": torch.ones(768)}), r"unknown \(1\): "),
        (lambda s: s.update({named(s, "norm.bias"): torch.ones(768).to_sparse()}), r"must hold dense .*sparse"),
        (lambda s: s.update({named(s, "norm.bias"): torch.ones(768).cfloat()}), r"must hold dense .*complex64"),
        (lambda s: [s.pop(n) for n in list(s) if "attn1" in n], r"Missing \(24\): .*attn1.0.qkv.weight"),
        (lambda s: (s.clear(), s.update(layer=torch.ones(2))), r"another project's file.*unknown \(1\): layer"),
    ],
)
def test_whatever_does_not_fit_is_refused_before_anything_is_written(converted, tmp_path, capsys, damage, message):
    state = {name: tensor.clone() for name, tensor in converted.state.items()}
    damage(state)
    torch.save(state, tmp_path / "damaged.pth")
    code, error = run(capsys, tmp_path / "damaged.pth", converted.folder / "backbone", tmp_path / "new" / "output")
    assert code == 2
    assert re.search(message, error), error
    assert error.count("error: ") == 1
    assert "Traceback" not in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "damaged.pth"]


def test_files_that_are_no_checkpoint(converted, tmp_path, capsys):
    backbone = converted.folder / "backbone"
    whole = (converted.folder / "original.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save({"model": {"a": torch.ones(1)}, "code": Path("pickled")}, tmp_path / "code.pth")
    for name, message in {
        "truncated.pth": "truncated",
        "text.pth": "another format",
        "empty.pth": "found none",
        "code.pth": "pickled code, which is never run",
        "missing.pth": "is not there",
    }.items():
        code, error = run(capsys, tmp_path / name, backbone, tmp_path / "output")
        assert code == 2
        assert message in error
    assert not (tmp_path / "output").exists()


def test_a_forced_wrong_setting_or_backbone(converted, convert_recipe, tmp_path, capsys):
    checkpoint = converted.folder / "original.pth"
    other = next(name for name in SETTINGS if layout_of(name)[0] is not layout_of(converted.setting)[0])
    code, error = run(capsys, checkpoint, converted.folder / "backbone", tmp_path / "output", "--setting", other)
    assert code == 2
    assert f"--setting says {other}, but the file's names are those of {converted.setting}" in error
    code, error = run(capsys, checkpoint, convert_recipe(other).folder / "backbone", tmp_path / "output")
    assert code == 2
    assert f"{converted.setting} runs on a {layout_of(converted.setting)[0].model_type} backbone" in error
    code, error = run(capsys, checkpoint, tmp_path / "nowhere", tmp_path / "output")
    assert code == 2
    assert "could not be loaded" in error
    (tmp_path / "file").write_text("")
    code, error = run(capsys, checkpoint, converted.folder / "backbone", tmp_path / "file")
    assert code == 2
    assert "--output must be a folder" in error
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_the_backbones_own_folder_is_never_overwritten(converted, tmp_path, capsys):
    backbone = tmp_path / "backbone"
    shutil.copytree(converted.folder / "backbone", backbone)
    code, error = run(capsys, converted.folder / "original.pth", backbone, backbone)
    assert code == 2
    assert "holds another model, of type" in error
    assert (backbone / "config.json").read_bytes() == (converted.folder / "backbone" / "config.json").read_bytes()
    (tmp_path / "output" / "preprocessor_config.json").mkdir(parents=True)
    code, error = run(capsys, converted.folder / "original.pth", backbone, tmp_path / "output")
    assert code == 2
    assert "has a folder where the file preprocessor_config.json belongs" in error
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["preprocessor_config.json"]


def test_a_dinov2_file_without_its_layer_scale_is_named_as_such(convert_recipe, tmp_path, capsys):
    converted = convert_recipe("dinov2-scan")
    state = {name: tensor for name, tensor in converted.state.items() if not name.endswith("ls1.gamma")}
    torch.save(state, tmp_path / "damaged.pth")
    code, error = run(capsys, tmp_path / "damaged.pth", converted.folder / "backbone", tmp_path / "output")
    assert code == 2
    assert "nearest to dinov2-scan. Missing (2): encoder.blocks.0.ls1.gamma, encoder.blocks.1.ls1.gamma;" in error


def test_a_name_with_and_without_its_prefix(convert_recipe, tmp_path, capsys):
    converted = convert_recipe("dinov2-scan")
    torch.save({**converted.state, "module.encoder.cls_token": torch.zeros(1, 1, 768)}, tmp_path / "twice.pth")
    code, error = run(capsys, tmp_path / "twice.pth", converted.folder / "backbone", tmp_path / "output")
    assert code == 2
    assert "encoder.cls_token with and without 'module.'" in error
