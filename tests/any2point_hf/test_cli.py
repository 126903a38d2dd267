"""The command line, in this process and in its own."""

import json
import math
import re
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

from any2point_hf.cli import main
from any2point_hf.data import loading

pytestmark = pytest.mark.usefixtures("one_thread")


def test_train_then_evaluate_then_predict_then_info(run_train, run_command, two_classes, tmp_path):
    trained = run_train("--epochs", "2")
    assert trained.code == 0
    folder = tmp_path / "trained"
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    evaluated = run_command("evaluate", "--model", folder, "--data", two_classes.path, "--json")
    result = json.loads(evaluated.out)
    assert evaluated.out.count("\n") == 1
    assert set(result) == {
        "accuracy",
        "mean_class_accuracy",
        "per_class",
        "num_clouds",
        "confusion",
        "expected_calibration_error",
    }
    assert set(result["per_class"]) == {"ball", "disc"}
    assert trained.out.splitlines()[-1] == (
        f"accuracy {result['accuracy']:.4f} (last epoch, test split), adapter {megabytes:.2f} MB written to {folder}"
    )
    np.save(tmp_path / "a.npy", two_classes.arrays()["points"][0])
    predicted = run_command("predict", tmp_path / "a.npy", "--model", folder, "--json")
    (prediction,) = json.loads(predicted.out)
    assert prediction["file"] == str(tmp_path / "a.npy")
    assert sum(entry["probability"] for entry in prediction["classes"]) == pytest.approx(1, abs=2e-6)
    counts = json.loads(run_command("info", "--model", folder, "--json").out)
    assert counts["total"] == sum(counts["parts"].values())
    num_saved = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert counts["trainable"] < num_saved < 1.1 * counts["trainable"]  # the running statistics besides


def test_what_people_read(run_command, adapter, two_classes, tmp_path):
    np.save(tmp_path / "a.npy", two_classes.cloud(1, np.random.default_rng(5)))
    evaluated = run_command("evaluate", "--model", adapter, "--data", two_classes.path)
    lines = [line.split() for line in evaluated.out.splitlines()]
    assert lines[:2] == [["ball", "1.0000"], ["disc", "1.0000"]]
    accuracies = "accuracy 1.0000, mean class accuracy 1.0000, expected calibration error 0."
    assert evaluated.out.splitlines()[-1].startswith(accuracies)
    predicted = run_command("predict", tmp_path / "a.npy", "--model", adapter, "--top", "1").out
    file, _, (label, probability) = *predicted.rpartition(": ")[:2], predicted.rpartition(": ")[2].split()
    assert (file, label) == (str(tmp_path / "a.npy"), "disc")
    assert 0.5 < float(probability) <= 1
    counts = run_command("info", "--model", adapter).out
    result = json.loads(run_command("info", "--model", adapter, "--json").out)
    assert f"{result['total']:,}" in counts.splitlines()[-1]
    assert f"{result['trainable']:,}" in counts.splitlines()[-2]


def octahedron():
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = [[i, j, k] for i in (0, 3) for j in (1, 4) for k in (2, 5)]
    return vertices, np.array(faces)


def write_files_of_a_cloud(folder, points):
    """The same points in every format that can hold a cloud; decimals enough for float32."""
    rows = "\n".join(" ".join(f"{value:.9g}" for value in point) for point in points)
    header = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    pcd = f"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {len(points)}\nHEIGHT 1\n"
    pcd += f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA ascii\n"
    texts = {
        "xyz": rows + "\n",
        "txt": rows.replace(" ", ",") + "\n",
        "ply": header + rows + "\n",
        "pcd": pcd + rows + "\n",
        "off": f"OFF\n{len(points)} 0 0\n{rows}\n",
        "obj": "".join(f"v {row}\n" for row in rows.split("\n")),
    }
    for extension, text in texts.items():
        (folder / f"cloud.{extension}").write_text(text, newline="\n")
    np.save(folder / "cloud.npy", points)
    np.savez(folder / "cloud.npz", points=points)
    return [folder / f"cloud.{extension}" for extension in (*texts, "npy", "npz")]


def write_meshes(folder):
    vertices, faces = octahedron()
    corners = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in vertices)
    triangles = "".join(f"3 {i} {j} {k}\n" for i, j, k in faces)
    (folder / "mesh.off").write_text(f"OFF\n{len(vertices)} {len(faces)} 0\n{corners}{triangles}")
    wavefront = "".join(f"v {line}\n" for line in corners.splitlines())
    (folder / "mesh.obj").write_text(wavefront + "".join(f"f {i + 1} {j + 1} {k + 1}\n" for i, j, k in faces))
    stl = bytes(80) + struct.pack("<I", len(faces))
    for face in faces:
        stl += struct.pack("<12fH", 0, 0, 0, *vertices[face].ravel(), 0)
    (folder / "mesh.stl").write_bytes(stl)
    return [folder / "mesh.off", folder / "mesh.obj", folder / "mesh.stl"]


def test_files_of_all_kinds(run_command, adapter, two_classes, tmp_path):
    clouds = write_files_of_a_cloud(tmp_path, two_classes.cloud(1, np.random.default_rng(3)))
    files = [*clouds, *write_meshes(tmp_path)]
    result = run_command("predict", *files, "--model", adapter, "--json")
    assert result.code == 0
    predictions = json.loads(result.out)
    assert [prediction["file"] for prediction in predictions] == list(map(str, files))
    for prediction in predictions[: len(clouds)]:  # the format makes no difference
        assert prediction["classes"] == predictions[0]["classes"]
    assert predictions[0]["classes"][0]["label"] == "disc"
    for prediction in predictions:
        assert {entry["label"] for entry in prediction["classes"]} == {"ball", "disc"}
        assert math.isclose(sum(entry["probability"] for entry in prediction["classes"]), 1, abs_tol=2e-6)


def test_settings_reach_the_model(run_train, run_command, tmp_path):
    settings = ["adapter_blocks=0", "position_encoding=none", "adapter_scale=0.5", 'pooling=["cls", "max"]']
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    assert run_train(*arguments).code == 0
    config = json.loads((tmp_path / "trained" / "config.json").read_text())
    assert (config["adapter_blocks"], config["position_encoding"]) == (0, "none")
    assert (config["adapter_scale"], config["pooling"]) == (0.5, ["cls", "max"])
    parts = json.loads(run_command("info", "--model", tmp_path / "trained", "--json").out)["parts"]
    assert set(parts) == {"tokenizer", "cls_token", "backbone", "classifier"}


@pytest.fixture
def used(monkeypatch):
    """What the command line hands to the training, which does not begin: `model`, `processor`, `recipe`, options."""
    from any2point_hf.training import run as training_run

    used = []

    def stop(model, processor, dataset, output, recipe, **options):
        used.append(SimpleNamespace(model=model, processor=processor, dataset=dataset, recipe=recipe, options=options))
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "make_trainer", stop)
    return used


def test_training_by_options(run_train, used, tmp_path):
    from any2point_hf.data.augmentation import Augmentation
    from any2point_hf.training.recipe import Recipe, changed, read_recipe

    run_train()
    small = changed(read_recipe("small-data"), epochs=1, batch_size=8)  # the options of run_train
    assert used.pop().recipe == small
    plain = tmp_path / "plain.yaml"
    plain.write_text("")
    run_train("--recipe", plain)
    assert used.pop().recipe == Recipe(epochs=1, batch_size=8)
    augmentation = ("--scale", "0.9", "1.1", "--shift", "0", "--rotate", "y", "--jitter", "0.01", "--drop", "0.5")
    augmentation += ("--mirror", "z")
    training = ("--gradient-accumulation", "4", "--precision", "bfloat16", "--learning-rate", "1e-3", "--keep-scale")
    run_train(
        "--recipe",
        plain,
        *augmentation,
        *training,
        "--workers",
        "2",
        "--validation-share",
        "0.25",
        "--log",
        "tensorboard",
    )
    run = used.pop()
    assert run.recipe == Recipe(
        epochs=1,
        batch_size=8,
        gradient_accumulation=4,
        precision="bfloat16",
        learning_rate=1e-3,
        scale_to_unit_sphere=False,
        augmentation=Augmentation(
            scale=(0.9, 1.1), shift=0.0, rotation_axis="y", jitter=0.01, drop=0.5, mirror_axis="z"
        ),
    )
    assert not run.processor.scale_to_unit_sphere
    assert (run.options["workers"], run.options["loggers"]) == (2, ["tensorboard"])
    assert {name: len(split) for name, split in run.dataset.items()} == {"train": 12, "validation": 4, "test": 8}


def test_a_preset_sets_what_the_options_do_not(run_train, used):
    from any2point_hf.data.augmentation import Augmentation

    scans = Augmentation(scale=(0.9, 1.1), shift=0.0, rotation_axis="y")
    run_train("--preset", "clip-text-scan")
    run = used.pop()
    config = run.model.config
    assert (config.aggregation_scale, config.voxel_size, config.position_injection) == (0.3, 0.08, "input+blocks")
    assert (config.num_points, config.num_neighbors) == (64, 8)  # the options of run_train
    assert config.num_labels == 2  # of the data
    assert not run.processor.scale_to_unit_sphere
    assert run.recipe.augmentation == scans
    changes = ("--rotate", "none", "--shift", "0.1", "--no-keep-scale", "--set", "voxel_size=0.5")
    run_train("--preset", "clip-text-scan", *changes)
    run = used.pop()
    assert run.model.config.voxel_size == 0.5
    assert run.processor.scale_to_unit_sphere
    assert run.recipe.augmentation == Augmentation(scale=(0.9, 1.1), shift=0.1, rotation_axis=None)
    run_train("--preset", "clip-text-modelnet", "--keep-scale")
    run = used.pop()
    assert (run.model.config.neighborhood_norm, run.model.config.head_bias) == ("deviation", True)
    assert not run.processor.scale_to_unit_sphere
    assert run.recipe.augmentation.scale == pytest.approx((2 / 3, 3 / 2))


def test_a_recipe_sets_what_the_options_do_not(run_train, used, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("epochs: 9\nlearning_rate: 0.01\nconfig: {adapter_dim: 4, num_neighbors: 5, voxel_size: 0.5}\n")
    run_train("--recipe", file, "--preset", "clip-text-scan")
    run = used.pop()
    assert (run.recipe.epochs, run.recipe.learning_rate) == (1, 0.01)
    config = run.model.config
    assert (config.adapter_dim, config.num_neighbors, config.voxel_size) == (4, 8, 0.5)
    assert config.position_injection == "input+blocks"  # of the preset
    result = run_train("--recipe", "modelnt")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "Did you mean modelnet?" in result.err


def test_the_best_epoch_is_reported_beside_the_last(run_train):
    result = run_train("--validation-share", "0.25")
    assert result.code == 0
    assert re.search(r"accuracy \d\.\d{4} \(last epoch, test split\), \d\.\d{4} \(epoch 1, the best on", result.out)


@pytest.mark.parametrize(
    ("name", "trainable", "without_head"),
    [("dinov2-modelnet", 1_271_328, 800_760), ("imagebind-audio-scan", 1_338_167, 874_536)],
)
def test_info_of_a_preset_needs_no_network(run_command, name, trainable, without_head):
    counts = json.loads(run_command("info", "--preset", name, "--json").out)
    assert (counts["trainable"], counts["trainable_without_head"]) == (trainable, without_head)
    assert counts["total"] - counts["trainable"] == counts["parts"]["backbone"] > 80_000_000


def test_settings_may_be_null_and_lists(run_command, bert):
    arguments = ("--set", "adapter_blocks=[1]", "--set", "line_length=null", "--num-labels", "4", "--json")
    parts = json.loads(run_command("info", "--backbone", bert, *arguments).out)["parts"]
    assert parts["bottlenecks"] == 48 * 16 + 16 + 16 * 48 + 48
    plain = json.loads(run_command("info", "--backbone", bert, "--num-labels", "3", "--json").out)["parts"]
    assert parts["classifier"] - plain["classifier"] == 257


def test_blocks_of_the_backbone_are_a_setting(run_command, bert):
    arguments = ("--set", "backbone_blocks=0", "--json")
    parts = json.loads(run_command("info", "--backbone", bert, *arguments).out)["parts"]
    assert not {"bottlenecks", "aggregations", "local_attention"} & set(parts)
    assert run_command("info", "--backbone", bert, "--set", "backbone_revision=main").code == 2


def test_a_folder_of_files(run_train, run_command, two_classes, tmp_path):
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for kind, name in enumerate(("ball", "disc")):
            folder = tmp_path / "data" / name / split
            folder.mkdir(parents=True)
            for number in range(count):
                np.save(folder / f"{number}.npy", two_classes.cloud(kind, generator))
    assert run_train(data=tmp_path / "data").code == 0
    result = run_command("evaluate", "--model", tmp_path / "trained", "--data", tmp_path / "data", "--json")
    assert json.loads(result.out)["num_clouds"] == 4


def test_resuming_goes_on_where_it_stopped(run_train, tmp_path):
    assert run_train("--seed", "3", "--epochs", "1").code == 0
    assert [path.name for path in (tmp_path / "trained").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = run_train("--seed", "3", "--epochs", "3", "--resume")
    assert resumed.code == 0
    assert [path.name for path in (tmp_path / "trained").glob("checkpoint-*")] == ["checkpoint-6"]
    assert re.findall(r"^epoch (\d)/3  loss ", resumed.err, re.MULTILINE) == ["2", "3"]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["predict", "--help"], ["convert", "--help"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert "usage: any2point" in capsys.readouterr().out


@pytest.mark.slow
def test_in_a_process_of_its_own(subprocess_environment, bert, two_classes, tmp_path, run_command):
    command = [sys.executable, "-m", "any2point_hf", "train", "--epochs", "1", "--batch-size", "8"]
    command += ["--num-points", "64", "--num-neighbors", "8", "--rotate", "z"]
    command += ["--data", str(two_classes.path), "--backbone", str(bert), "--output", "out put"]
    process = subprocess.run(
        command, cwd=tmp_path, env=subprocess_environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1].endswith("MB written to out put")
    result = run_command("evaluate", "--model", tmp_path / "out put", "--data", two_classes.path, "--json")
    accuracy = json.loads(result.out)["accuracy"]
    assert process.stdout.splitlines()[-1].startswith(f"accuracy {accuracy:.4f} ")


# Large collections, and the paper's tables


@pytest.fixture
def folder_of_clouds(two_classes, tmp_path):
    """Ten clouds, a ball and a disc in turn, and among them one of three points."""
    generator = np.random.default_rng(5)
    folder = tmp_path / "collection"
    (folder / "more").mkdir(parents=True)
    for index in range(10):
        np.savetxt(folder / "more" / f"{index}.xyz", two_classes.cloud(index % 2, generator))
    return folder


def test_predict_and_embed_a_collection(run_command, adapter, folder_of_clouds, tmp_path):
    import pyarrow.parquet as parquet

    out = tmp_path / "classes.parquet"
    result = run_command("predict", folder_of_clouds, "--model", adapter, "--out", out, "--shard-size", 4)
    assert (result.code, result.out) == (0, f"10 clouds written to {out}\n")
    table = parquet.read_table(out)
    assert table["id"].to_pylist() == [f"more/{index}.xyz" for index in range(10)]
    assert table["label"].to_pylist() == ["ball", "disc"] * 5
    out = tmp_path / "features.parquet"
    assert run_command("embed", folder_of_clouds, "--model", adapter, "--out", out).code == 0
    assert np.stack(parquet.read_table(out)["embedding"].to_numpy()).shape == (10, 96)


def test_bad_clouds_of_a_collection(run_command, adapter, folder_of_clouds, tmp_path):
    (folder_of_clouds / "bad.xyz").write_text("0 0 0\n1 1 1\n")
    out = tmp_path / "features.parquet"
    refused = run_command("embed", folder_of_clouds, "--model", adapter, "--out", out)
    assert (refused.code, out.exists()) == (2, False)
    assert "bad.xyz" in refused.err
    assert "--skip-bad" in refused.err
    result = run_command("embed", folder_of_clouds, "--model", adapter, "--out", out, "--skip-bad")
    listed = tmp_path / "features.bad.jsonl"
    assert result.out == f"10 clouds written to {out}, 1 skipped (listed in {listed})\n"
    assert json.loads(listed.read_text())["id"] == "bad.xyz"


def test_two_sources_cannot_go_to_one_file(run_command, adapter, tmp_path):
    result = run_command("predict", "a", "b", "--model", adapter, "--out", tmp_path / "out.parquet")
    assert (result.code, result.err) == (2, "error: --out takes one folder or dataset, got 2. Give their folder.\n")


def test_options_of_a_collection_need_a_place_for_the_results(run_command, adapter, folder_of_clouds):
    result = run_command("predict", folder_of_clouds, "--model", adapter)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "is a folder. Give --out FILE.parquet" in result.err
    result = run_command("predict", "a.ply", "--model", adapter, "--skip-bad", "--engine", "ray")
    assert (result.code, result.err) == (2, "error: --skip-bad, --engine needs --out FILE.parquet, got none.\n")


def test_built_in_shapes_are_turned_unless_told_otherwise(run_train, used, monkeypatch):
    few = loading.make_shapes(40, 10, num_points=128)
    monkeypatch.setattr(loading, "make_shapes", lambda seed=0: few)
    for arguments, axis in (((), "z"), (("--rotate", "none"), None), (("--rotate", "x"), "x")):
        run_train(*arguments, data="shapes")
        assert used.pop().recipe.augmentation.rotation_axis == axis


def test_what_is_asked_of_a_table_needs_its_backbone(run_command, bert, two_classes, tmp_path):
    arguments = ("--table", "6", "--data", two_classes.path, "--backbone-1d", bert, "--output", tmp_path / "tables")
    for option, value in (("--only", "2d"), ("--set-2d", "adapter_dim=4")):
        result = run_command("reproduce", *arguments, "--quick", option, value)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "needs --backbone-2d" in result.err
    assert not (tmp_path / "tables").exists()


def test_a_table_of_the_paper(run_command, bert, two_classes, tmp_path):
    output = tmp_path / "tables"
    arguments = ("--data", two_classes.path, "--backbone-1d", bert, "--backbone-2d", bert, "--output", output)
    small = ("--quick", "--epochs", "1", "--num-points", "64", "--num-neighbors", "8", "--train-clouds", "8")
    plane = ("--set-2d", "plane=[24,16]", "--only", "1d")
    result = run_command("reproduce", "--table", "10", *arguments, *small, *plane)
    assert result.code == 0
    assert result.out.endswith(f"written to {output / 'table-10.md'}\n")
    assert result.out.count("table 10, ") == 5  # two rows and three controls
    text = (output / "table-10.md").read_text(encoding="utf-8")
    assert "8 training and 8 test clouds of 2 classes" in text
    assert "plane=[24, 16]" in text
    wrong = run_command("reproduce", "--table", "11", *arguments)
    assert (wrong.code, wrong.err) == (2, "error: --table must be one of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, got 11.\n")
