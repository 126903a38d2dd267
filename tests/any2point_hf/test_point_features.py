"""Colours and normals on their way from a user's clouds through processor, pipelines, pictures and exported files."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import pipeline

from any2point_hf import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointProcessor,
    PointCloudError,
    export_onnx,
    export_program,
    read_point_cloud_with_features,
)
from any2point_hf.diagnose import diagnose
from any2point_hf.linear_probe import probe_accuracy
from any2point_hf.pictures.kinds import draw_attention
from any2point_hf.web_demo.inference import Adapter, classify
from any2point_hf.web_demo.upload_reader import read_upload

NAMES = ["red", "green", "blue", "intensity"]


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture(scope="module")
def processor():
    return Any2PointProcessor(64, point_feature_names=["rgb", "intensity"])


@pytest.fixture(scope="module")
def model(bert):
    config = Any2PointConfig(
        backbone=str(bert), num_points=64, num_neighbors=8, num_views=2, num_labels=3, point_feature_names=NAMES
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Any2PointForPointCloudClassification(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "backbone." not in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_cloud(seed, num_points=100):
    """Points and features that name their point: colours are functions of the place."""
    points = np.random.default_rng(seed).uniform(-1, 1, size=(num_points, 3)).astype(np.float32)
    return {"points": points, "rgb": (points + 1) / 2, "intensity": points[:, 0] ** 2}


def write_csv(path, cloud):
    columns = np.column_stack([cloud["points"], cloud["rgb"], cloud["intensity"]])
    np.savetxt(path, columns, delimiter=",", header="x,y,z,red,green,blue,intensity", comments="", fmt="%.9g")
    return path


def every_form(cloud, folder):
    path = write_csv(folder / "cloud.csv", cloud)
    columns = np.column_stack([cloud["points"], cloud["rgb"], cloud["intensity"]])
    single = {name: cloud["rgb"][:, i] for i, name in enumerate(NAMES[:3])} | {"intensity": cloud["intensity"][:, None]}
    return {
        "mapping": cloud,
        "mapping of tensors": {name: torch.from_numpy(values) for name, values in cloud.items()},
        "mapping of single features": {"points": cloud["points"].tolist(), **single},
        "array": columns,
        "tensor": torch.from_numpy(columns),
        "nested list": columns.tolist(),
        "file": path,
        "PointCloud": read_point_cloud_with_features(path),
    }


@pytest.mark.parametrize("num_points", [40, 64, 100])
@pytest.mark.filterwarnings("ignore:.*repeats are added")
def test_features_go_with_their_points_in_every_form(processor, tmp_path, num_points):
    cloud = make_cloud(0, num_points)
    for form, given in every_form(cloud, tmp_path).items():
        batch = processor([given, given])
        assert batch["point_features"].shape == (2, 64, 4), form
        assert batch["point_features"].dtype == torch.float32
        alone = processor(given)
        for name in ("points", "point_features"):
            assert torch.equal(batch[name][:1], alone[name]), form
            assert torch.equal(batch[name][0], batch[name][1]), form
        plain = Any2PointProcessor(64)(cloud["points"])["points"]
        torch.testing.assert_close(alone["points"], plain, atol=1e-6, rtol=0)
        centre = cloud["points"].astype(np.float64).mean(axis=0)
        radius = np.linalg.norm(cloud["points"] - centre, axis=1).max()
        places = alone["points"][0].double().numpy() * radius + centre
        expected = np.column_stack([(places + 1) / 2, places[:, 0] ** 2])
        np.testing.assert_allclose(alone["point_features"][0], expected, atol=1e-5, err_msg=form)
        assert torch.equal(processor.rows(given), torch.cat([alone["points"], alone["point_features"]], dim=-1)), form


def test_colours_of_eight_bits_are_scaled(processor):
    cloud = make_cloud(0)
    bits = (255 * cloud["rgb"]).round().astype(np.uint8)
    expected = processor(cloud | {"rgb": bits / 255})["point_features"]
    torch.testing.assert_close(processor(cloud | {"rgb": bits})["point_features"], expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rgb": None}, r"point_clouds\[0\] must have red, green, blue for every point; .*are: intensity"),
        ({"rgb": np.zeros((99, 3))}, r"rgb must be numbers \[100, 3\].*got \[99, 3\]"),
        ({"rgb": np.full((100, 3), -1.0)}, "colours must lie in 0…1"),
        ({"rgb": [[0, 0, 0], [0, 0]] * 50}, r"point_clouds\[0\]: rgb must be numbers, as many in every row"),
        ({"point_features": np.zeros(100)}, r"point_features must be numbers \[100, 4\] \(red, .*got \[100\]"),
        ({"point_features": np.zeros((9, 4))}, r"point_features must be numbers \[100, 4\] .*got \[9, 4\]"),
        ({"intensity": np.full(100, np.nan)}, "intensity must be finite numbers, got 100 of 100"),
        ({"points": None}, "must have the points .* under the name 'points', got the names rgb, intensity"),
    ],
)
def test_clouds_without_usable_features_are_refused(processor, change, said):
    cloud = {name: values for name, values in (make_cloud(0) | change).items() if values is not None}
    with pytest.raises(PointCloudError, match=said):
        processor([cloud])
    with pytest.raises(PointCloudError, match="must have red, green, blue, intensity for every point"):
        processor(make_cloud(0)["points"])


def test_a_processor_without_features_leaves_them_out(tmp_path):
    plain, cloud = Any2PointProcessor(64), make_cloud(0)
    for given in (cloud, write_csv(tmp_path / "a.csv", cloud), read_point_cloud_with_features(tmp_path / "a.csv")):
        batch = plain(given)
        assert list(batch) == ["points"]
        torch.testing.assert_close(batch["points"], plain(cloud["points"])["points"], atol=1e-6, rtol=0)


def test_settings_are_saved_with_the_names(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert Any2PointProcessor.from_pretrained(tmp_path).point_feature_names == NAMES


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pipelines_take_every_form(model, processor, tmp_path, num_workers):
    clouds = [make_cloud(seed) for seed in range(3)]
    classify = pipeline("point-cloud-classification", model=model, processor=processor)
    with torch.no_grad():
        scores = model(**processor(clouds)).logits.softmax(dim=-1)
    expected = [{f"LABEL_{i}": float(score) for i, score in enumerate(row)} for row in scores]

    def check(results, rows):
        for result, row in zip(results, rows, strict=True):
            found = {entry["label"]: entry["score"] for entry in result}
            assert found == pytest.approx(row, abs=1e-5)

    check(classify(clouds, num_workers=num_workers, batch_size=2), expected)
    check(classify([write_csv(tmp_path / f"{i}.csv", cloud) for i, cloud in enumerate(clouds)]), expected)
    check([classify(clouds[1])], expected[1:2])
    check(classify(iter(clouds)), expected)
    rows = Dataset.from_list([{name: values.tolist() for name, values in cloud.items()} for cloud in clouds])
    check(classify(rows, num_workers=num_workers), expected)
    features = pipeline("point-cloud-feature-extraction", model=model, processor=processor)
    assert np.shape(features(clouds[0])) == np.shape(features(clouds)[0])
    with pytest.raises(PointCloudError, match=r"inputs\[1\] must have red, green, blue, intensity"):
        classify([clouds[0], clouds[0]["points"]], num_workers=num_workers)


def test_probe_diagnosis_pictures_and_web_page_see_them(model, processor, tmp_path):
    clouds = [make_cloud(seed) for seed in range(6)]
    rows, labels = processor.rows(clouds), torch.tensor([0, 1, 2, 0, 1, 2])
    assert probe_accuracy(model, rows, labels, rows, labels) == 1.0
    other = rows.clone()
    other[..., 3:] = 1 - other[..., 3:]
    numbers = [diagnose(model, given)["tokens_rms"] for given in (rows, other)]
    assert abs(numbers[0] - numbers[1]) > 1e-4
    path = write_csv(tmp_path / "cloud.csv", clouds[0])
    panels = [draw_attention(model, processor, given, block=0).panels[0] for given in (path, clouds[0])]
    np.testing.assert_allclose(panels[0].values, panels[1].values, rtol=1e-3)
    prediction = classify(Adapter(model, processor), read_upload(path, NAMES, processor.seed))
    with torch.no_grad():
        best = model(**processor(path)).logits.softmax(dim=-1)[0].max()
    assert max(prediction.probabilities.values()) == pytest.approx(float(best), abs=1e-5)


@pytest.mark.slow
def test_exported_files_have_a_second_input(model, processor, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    batch = processor([make_cloud(seed) for seed in range(4)])
    with torch.no_grad():
        expected = model(**batch).logits
    report = export_onnx(model, tmp_path / "model.onnx", processor)
    assert report.max_difference <= 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    assert shapes == {"points": ["batch", 64, 3], "point_features": ["batch", 64, 4]}
    logits = session.run(["logits"], {name: batch[name].numpy() for name in shapes})[0]
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=0)
    assert "red" in session.get_modelmeta().custom_metadata_map["point_feature_names"]
    program = export_program(model, processor=processor)
    torch.testing.assert_close(program.module()(batch["points"], batch["point_features"]), expected, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:.*repeats are added")
def test_features_of_invalid_points_are_dropped_with_them(tmp_path):
    cloud, seen = make_cloud(0), slice(40, None)
    hidden = {name: values.copy() for name, values in cloud.items()}
    hidden["points"][:30], hidden["points"][30:40] = 0, np.nan  # as a depth camera writes what it did not see
    hidden["rgb"][30:40] = np.nan
    clean = {name: values[seen] for name, values in cloud.items()}
    processor = Any2PointProcessor(64, drop_invalid=True, point_feature_names=NAMES)
    expected = processor(clean)
    forms = [hidden, np.column_stack([*hidden.values()]), write_csv(tmp_path / "cloud.csv", hidden)]
    for given in forms:
        with pytest.warns(UserWarning, match="40 of 100 points are dropped"):
            found = processor(given)
        for name in ("points", "point_features"):
            torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0)


def test_a_white_mesh_is_white(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box()
    box.visual.vertex_colors = np.full((8, 4), 255, np.uint8)
    box.export(tmp_path / "box.glb")
    features = Any2PointProcessor(256, point_feature_names=["rgb"])(tmp_path / "box.glb")["point_features"]
    assert features.min() == pytest.approx(1)
