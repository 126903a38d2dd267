"""What the web page computes, without a browser."""

import json
import runpy
import shutil
import socket
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor
from any2point_hf import trained_adapter as commands
from any2point_hf.modeling.errors import Any2PointError, CheckpointError, PointCloudError
from any2point_hf.point_clouds.invalid import DroppedPoints
from any2point_hf.web_demo import inference, server, upload_reader
from any2point_hf.web_demo.inference import classify, example_cloud, load_adapters
from any2point_hf.web_demo.reader_process import Readers

PROCESSOR = Any2PointProcessor(num_points=64)

pytestmark = pytest.mark.usefixtures("one_thread")


def read_upload(path, processor, dropped=None):
    return upload_reader.read_upload(path, processor.point_feature_names, processor.seed, dropped)


@pytest.fixture(scope="module")
def loaded(adapter):
    (only,) = load_adapters([str(adapter)]).values()
    return only


def weights(adapter):
    return {tensor.data_ptr() for tensor in adapter.model.backbone.parameters()}


def test_adapters_on_one_backbone_share_it(adapter, bert, narrow_bert, tmp_path, two_classes):
    other = shutil.copytree(adapter, tmp_path / "elsewhere" / adapter.name)
    config = Any2PointConfig(backbone=str(narrow_bert), num_points=64, num_neighbors=8, num_labels=2)
    Any2PointForPointCloudClassification(config).save_pretrained(tmp_path / "narrow")
    Any2PointProcessor(num_points=64).save_pretrained(tmp_path / "narrow")
    adapters = load_adapters([str(adapter), str(tmp_path / "narrow"), str(other)])
    assert list(adapters) == [adapter.name, "narrow", f"{adapter.name} (2)"]
    first, narrow, second = adapters.values()
    assert weights(first) == weights(second)
    assert not weights(first) & weights(narrow)
    cloud = two_classes.cloud(0, np.random.default_rng(1))
    assert classify(second, cloud).probabilities == classify(first, cloud).probabilities


def test_a_given_backbone_is_loaded_once_for_all(adapter, bert, tmp_path):
    moved = shutil.copytree(bert, tmp_path / "moved")
    adapters = load_adapters([str(adapter), str(adapter)], backbone=str(moved))
    first, second = adapters.values()
    assert first.model.config.backbone == str(moved)
    assert weights(first) == weights(second)


def test_settings_of_one_adapter_do_not_reach_another_on_its_backbone(loaded, adapter, tmp_path, two_classes):
    changed = shutil.copytree(adapter, tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text(encoding="utf-8")) | {"layer_norm_eps": 0.5}
    (changed / "config.json").write_text(json.dumps(config), encoding="utf-8")
    first, second = load_adapters([str(changed), str(adapter)]).values()
    cloud = two_classes.cloud(0, np.random.default_rng(1))
    assert classify(first, cloud).probabilities != classify(loaded, cloud).probabilities
    assert classify(second, cloud).probabilities == classify(loaded, cloud).probabilities


def test_a_damaged_adapter_is_told(adapter, tmp_path):
    damaged = shutil.copytree(adapter, tmp_path / "damaged")
    (damaged / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"valid config\.json"):
        load_adapters([str(damaged)])


def test_no_adapter_no_page(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        load_adapters([str(tmp_path / "nowhere")])


def test_invalid_points_are_refused_or_dropped_as_the_processor_says(loaded, two_classes, tmp_path):
    clean = two_classes.cloud(1, np.random.default_rng(1))
    points = np.concatenate([np.zeros((40, 3), np.float32), clean])
    np.save(tmp_path / "depth.npy", points)
    with pytest.raises(PointCloudError, match=r"^depth\.npy must not have more than a quarter .*: 40 of 120 are at"):
        read_upload(tmp_path / "depth.npy", PROCESSOR)
    dropped = DroppedPoints()
    assert np.array_equal(read_upload(tmp_path / "depth.npy", PROCESSOR, dropped).points, clean)
    assert dropped.count == 40
    dropping = inference.Adapter(loaded.model, Any2PointProcessor(loaded.processor.num_points, drop_invalid=True))
    with pytest.warns(UserWarning, match="40 of 120 points are dropped"):
        prediction = classify(dropping, points)
    assert prediction.probabilities == classify(loaded, clean).probabilities
    assert len(prediction.points) == len(clean)
    app = pytest.importorskip("any2point_hf.web_demo.app", reason="the page needs the extra demo")
    from any2point_hf.web_demo.model_calls import model_call

    readers, shown = Readers(number=1), (dropping, "disc", "chair", 0, None)
    try:
        *_, message, _ = app._results(*shown, str(tmp_path / "depth.npy"), 1, readers, model_call({"disc": dropping}))
    finally:
        readers.close()
    assert "80 points of which the model sees 64" in message
    assert message.endswith(" 40 invalid points were dropped.</p>")


def test_a_cloud_gets_what_predict_gives_it(loaded, adapter, two_classes, tmp_path):
    file = tmp_path / "disc.npy"
    np.save(file, two_classes.cloud(1, np.random.default_rng(7)))
    prediction = classify(loaded, read_upload(file, PROCESSOR))
    (expected,) = commands.predict(str(adapter), [str(file)])
    assert list(prediction.probabilities) == [entry["label"] for entry in expected["classes"]] == ["disc", "ball"]
    assert list(prediction.probabilities.values()) == pytest.approx(
        [entry["probability"] for entry in expected["classes"]], abs=1e-5
    )
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_attention_lies_on_the_points_that_are_shown(loaded, two_classes):
    cloud = two_classes.cloud(0, np.random.default_rng(2), num_points=9000)
    prediction = classify(loaded, cloud)
    expected = cloud - cloud.mean(axis=0, dtype=np.float64)
    expected /= np.linalg.norm(expected, axis=1).max()
    np.testing.assert_allclose(prediction.points, expected[::3], atol=1e-6)  # 9000 in steps of 3 are at most 4096
    num_blocks = loaded.model.config.backbone_config.num_hidden_layers
    assert prediction.attention.shape == (num_blocks, 3000)
    assert (prediction.attention > 0).all()
    assert len(np.unique(prediction.attention[0])) > 1


def test_a_cloud_of_few_points_is_shown_without_repeats(loaded, two_classes):
    cloud = two_classes.cloud(0, np.random.default_rng(2), num_points=40)
    with pytest.warns(UserWarning, match="repeats"):
        prediction = classify(loaded, cloud)
    assert prediction.points.shape == (40, 3)
    assert prediction.attention.shape[1] == 40


def test_visitors_at_once_get_what_they_get_alone(loaded, two_classes):
    clouds = [two_classes.cloud(kind, np.random.default_rng(kind)) for kind in (0, 1)] * 4
    alone = [classify(loaded, cloud) for cloud in clouds]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda cloud: classify(loaded, cloud), clouds))
    for one, other in zip(alone, together, strict=True):
        assert other.probabilities == one.probabilities
        np.testing.assert_array_equal(other.attention, one.attention)


def test_without_attention_weights_there_are_classes(loaded, two_classes, monkeypatch):
    def refuse(*_):
        raise inference.UnsupportedBackboneError("fused")

    monkeypatch.setattr(inference, "cls_attention", refuse)
    prediction = classify(loaded, two_classes.cloud(0, np.random.default_rng(1)))
    assert prediction.attention is None
    assert next(iter(prediction.probabilities)) == "ball"


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def zipped(path, num_points):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("points.npy", "w") as file:
        np.lib.format.write_array(file, np.zeros((num_points, 3)))
    return path


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.ply", b"ply\nformat ascii 1.0\n", "cut.ply cannot be read as .ply"),
        ("empty.xyz", b"", "empty.xyz is empty"),
        ("song.mp3", b"ID3", "song.mp3 has the extension '.mp3'; point cloud files end in"),
        ("few.xyz", b"0 0 0\n0 0 1\n0 1 0\n", "few.xyz must have at least 8 distinct points, got 3"),
        ("words.txt", b"\xff\xfe\x00", "words.txt cannot be read as .txt"),
    ],
)
def test_errors_name_the_file_and_no_folder(tmp_path, name, content, said):
    with pytest.raises(PointCloudError) as error:
        read_upload(write(tmp_path, name, content), PROCESSOR)
    assert str(error.value).startswith(said)
    assert str(tmp_path) not in str(error.value)
    assert str(Path.cwd()) not in str(error.value)


def test_an_upload_that_was_deleted_is_asked_for_again(tmp_path):
    with pytest.raises(PointCloudError, match=r"^gone\.ply is no longer on the server.*again"):
        read_upload(tmp_path / "gone.ply", PROCESSOR)


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (write, (tmp_path, "sprung", b""))

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(PointCloudError, match=r"^trap\.npy cannot be read"):
        read_upload(tmp_path / "trap.npy", PROCESSOR)
    assert not (tmp_path / "sprung").exists()


def test_too_many_points_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(upload_reader, "MAX_POINTS", 100)
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).normal(size=(250, 3)))
    with pytest.raises(PointCloudError, match=r"at most 100 points, scan\.npy has 250\. Keep one point in 3"):
        read_upload(tmp_path / "scan.npy", PROCESSOR)
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).normal(size=(100, 3)))
    assert read_upload(tmp_path / "scan.npy", PROCESSOR).points.shape == (100, 3)


@pytest.mark.parametrize("name", ["bomb.npz", "bomb.npy"])
def test_archives_are_measured_before_they_are_unpacked(tmp_path, name, monkeypatch):
    path = zipped(tmp_path / name, 5_000_000)
    assert path.stat().st_size < 1_000_000  # unpacked it has 120
    monkeypatch.setattr(upload_reader, "read_cloud", pytest.fail)
    with pytest.raises(PointCloudError, match=rf"unpacks to at most 100,000,000 bytes, {name} to 120,000"):
        read_upload(path, PROCESSOR)


def test_examples_are_other_than_the_built_in_clouds():
    from any2point_hf.data.shapes import SHAPE_NAMES, make_cloud

    chair = example_cloud("chair")
    assert chair.shape == (inference.EXAMPLE_POINTS, 3)
    np.testing.assert_array_equal(example_cloud("chair"), chair)
    assert not np.array_equal(example_cloud("chair", 1), chair)
    assert not np.array_equal(make_cloud("test", SHAPE_NAMES.index("chair"), len(chair), seed=0), chair)


def test_a_missing_gradio_is_told_before_anything_is_loaded(run_command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = run_command("demo", "--model", tmp_path)
    assert result.code == 2
    assert 'pip install "any2point-hf[web]"' in result.err
    with pytest.raises(Any2PointError, match="gradio"):
        server.serve([str(tmp_path)])


@pytest.mark.parametrize("port", ["taken", 70_000])
def test_an_address_that_is_not_free_is_told_before_anything_is_loaded(run_command, monkeypatch, tmp_path, port):
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio", "as if it were installed"))
    sys.modules["gradio"].__spec__ = ModuleSpec("gradio", None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1] if port == "taken" else port
        result = run_command("demo", "--model", tmp_path, "--port", port)
    assert result.code == 2
    assert result.err.startswith("error: --host and --port must be an address of this machine that is free")
    assert f"127.0.0.1 {port}" in result.err


SPACE = Path(__file__).parents[3] / "docs" / "space"


@pytest.mark.parametrize(
    ("variable", "expected"),
    [(None, ["user/any2point-clip-text-scan"]), ("me/one, me/two,", ["me/one", "me/two"])],
)
def test_the_space_serves_the_adapters_of_its_settings(monkeypatch, variable, expected):
    calls = []
    monkeypatch.setattr(server, "serve", lambda models, **options: calls.append((models, options)))
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7861")
    monkeypatch.delenv("ANY2POINT_ADAPTERS", raising=False)
    if variable is not None:
        monkeypatch.setenv("ANY2POINT_ADAPTERS", variable)
    runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    assert calls == [(expected, {"host": "0.0.0.0", "port": 7861})]


def test_the_space_names_its_file_and_an_installable_version():
    yaml = pytest.importorskip("yaml")
    header = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (SPACE / header["app_file"]).is_file()
    assert header["sdk"] == "gradio"
    assert header["sdk_version"].split(".")[0] == "6"
    assert len(header["short_description"]) <= 60  # the Hub's rule
    assert (SPACE / "requirements.txt").read_text(encoding="utf-8").split() == ["any2point-hf[web]", "spaces"]
