"""Both pipelines give what the processor and the model's forward give, for every kind of input."""

import json
import warnings

import numpy as np
import pytest
import torch
import trimesh
from datasets import Dataset, DatasetDict, Features, List, Mesh, Value
from transformers import BertModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from any2point_hf import (
    Any2PointError,
    Any2PointForPointCloudClassification,
    Any2PointModel,
    Any2PointProcessor,
    PointCloudClassificationPipeline,
)
from any2point_hf.modeling.errors import CheckpointError, ConfigurationError, DatasetError, PointCloudError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def classify(adapter):
    return pipeline("point-cloud-classification", model=str(adapter), device="cpu")


@pytest.fixture(scope="module")
def extract(adapter):
    return pipeline("point-cloud-feature-extraction", model=str(adapter), device="cpu")


@pytest.fixture(scope="module")
def clouds(two_classes):
    """Seven clouds of four sizes, none smaller than the model's 64 points: a ball, a disc, and what lies between."""
    generator = np.random.default_rng(4)
    sizes_and_heights = ((80, 1), (64, 0.05), (90, 0.4), (80, 0.3), (64, 0.5), (90, 0.2), (70, 0.6))
    return [two_classes.cloud(0, generator, size) * np.float32([1, 1, height]) for size, height in sizes_and_heights]


@pytest.fixture(scope="module")
def expected(adapter, clouds):
    """Probabilities [7, 2] and pooled features [7, 96] by the model's own forward."""
    model = Any2PointForPointCloudClassification.from_pretrained(adapter)
    with torch.no_grad():
        outputs = model(**Any2PointProcessor.from_pretrained(adapter)(clouds))
    return outputs.logits.softmax(dim=-1), outputs.pooler_output


def scores(results, names=("ball", "disc")):
    """Results of all classes -> [B, classes] in the order of the names."""
    return torch.tensor(
        [[{entry["label"]: entry["score"] for entry in row}[name] for name in names] for row in results]
    )


def write_clouds(folder, clouds):
    files = []
    for index, cloud in enumerate(clouds):
        rows = "\n".join(" ".join(f"{value:.9g}" for value in point) for point in cloud)
        if index % 2:
            file, text = folder / f"{index}.xyz", rows
        else:
            header = f"ply\nformat ascii 1.0\nelement vertex {len(cloud)}\n"
            file = folder / f"{index}.ply"
            text = header + "".join(f"property float {axis}\n" for axis in "xyz") + f"end_header\n{rows}"
        file.write_text(text + "\n")
        files.append(file)
    return files


def test_the_processor_comes_with_the_model(classify, extract, adapter):
    saved = Any2PointProcessor.from_pretrained(adapter)
    for pipe, kind in ((classify, Any2PointForPointCloudClassification), (extract, Any2PointModel)):
        assert type(pipe.model) is kind
        assert pipe.feature_extractor.to_dict() == saved.to_dict()


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_results_are_the_models_own_for_any_batch_size(classify, extract, clouds, expected, batch_size):
    results = classify(clouds, batch_size=batch_size, top_k=None)
    torch.testing.assert_close(scores(results), expected[0], atol=1e-5, rtol=0)
    features = torch.tensor(extract(clouds, batch_size=batch_size))
    torch.testing.assert_close(features, expected[1], atol=1e-5, rtol=0)


def test_one_cloud_in_every_form(classify, clouds, expected, tmp_path):
    cloud = clouds[0]
    (file,) = write_clouds(tmp_path, [cloud])
    forms = [cloud, cloud.astype(np.float64), torch.tensor(cloud), cloud.tolist(), str(file), file, {"points": cloud}]
    for form in forms:
        result = classify(form)
        assert [entry["label"] for entry in result] == ["ball", "disc"]
        torch.testing.assert_close(scores([result]), expected[0][:1], atol=1e-5, rtol=0)


def test_several_clouds_in_every_form(classify, clouds, expected, tmp_path):
    files = write_clouds(tmp_path, clouds)
    rows = {"points": [cloud.tolist() for cloud in clouds], "label": list(range(len(clouds)))}
    features = Features(points=List(List(Value("float32"))), label=Value("int64"))
    dataset = Dataset.from_dict(rows, features=features)
    in_memory = [clouds, tuple(clouds), list(map(torch.tensor, clouds)), files, [*files[:3], *clouds[3:]]]
    in_memory += [dataset["points"], [{"points": cloud} for cloud in clouds], np.array([*clouds, None], object)[:-1]]
    for inputs in in_memory:
        results = classify(inputs, batch_size=3)
        assert type(results) is list
        torch.testing.assert_close(scores(results), expected[0], atol=1e-5, rtol=0)
    streams = [lambda: (cloud for cloud in clouds), lambda: iter(files), lambda: map(torch.tensor, clouds)]
    streams += [lambda: dataset, lambda: KeyDataset(dataset, "points"), dataset.to_iterable_dataset]
    streams += [lambda: dataset.rename_column("points", "cloud").map(lambda row: {"points": row["cloud"]})]
    other = dataset.rename_column("points", "cloud")
    streams += [lambda: other, other.to_iterable_dataset]
    for make in streams:
        results = classify(make(), batch_size=3)
        assert type(results) is not list
        torch.testing.assert_close(scores(list(results)), expected[0], atol=1e-5, rtol=0)


def test_a_column_of_meshes(extract, tmp_path):
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "box.ply")
    file = tmp_path / "box.ply"
    dataset = Dataset.from_dict({"mesh": [{"bytes": file.read_bytes(), "path": file.name}]})
    for column in (dataset, dataset.cast_column("mesh", Mesh())):
        assert list(extract(column)) == extract([file])


def test_an_array_of_clouds_and_nested_lists(classify, clouds, expected):
    equal = [clouds[index] for index in (0, 3)]
    for batch in (np.stack(equal), torch.tensor(np.stack(equal)), np.stack(equal).tolist()):
        torch.testing.assert_close(scores(classify(batch)), expected[0][[0, 3]], atol=1e-5, rtol=0)
    nested = classify([clouds[:2], [], clouds[2:5]])
    assert [len(group) for group in nested] == [2, 0, 3]
    torch.testing.assert_close(scores([*nested[0], *nested[2]]), expected[0][:5], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores(classify(np.stack([equal]))[0]), expected[0][[0, 3]], atol=1e-5, rtol=0)
    assert classify([]) == []
    assert list(classify(cloud for cloud in [])) == []


def test_a_stream_keeps_the_precision_of_map_coordinates(classify, clouds, expected):
    types = Features(points=List(List(Value("float64"))))
    far = [{"points": (cloud + np.array([5e5, 5.3e6, 100])).tolist()} for cloud in clouds]
    rows = Dataset.from_list(far, features=types)
    for inputs in (rows, rows.to_iterable_dataset()):
        assert (scores(classify(inputs)) - expected[0]).abs().max() < 1e-4


def test_a_stream_is_read_no_further_than_asked(classify, clouds):
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield clouds[0]

    results = iter(classify(endless()))
    assert next(results) == next(results)
    assert len(read) == 2


@pytest.mark.parametrize("kind", ["list", "dataset"])
def test_processes_that_prepare_clouds(classify, clouds, expected, kind):
    inputs = clouds if kind == "list" else Dataset.from_dict({"points": clouds})
    results = list(classify(inputs, num_workers=2, batch_size=2))
    torch.testing.assert_close(scores(results), expected[0], atol=1e-5, rtol=0)


def test_top_k(classify, clouds, expected, adapter):
    assert [len(classify(clouds[0], top_k=count)) for count in (1, 2, 9, None)] == [1, 2, 2, 2]
    (best,) = classify(clouds[1], top_k=1)
    assert best == {"label": "disc", "score": pytest.approx(float(expected[0][1, 1]), abs=1e-5)}
    both = classify(clouds[1])
    assert [entry["label"] for entry in both] == ["disc", "ball"]
    assert both[0]["score"] > both[1]["score"]
    only_best = pipeline("point-cloud-classification", model=str(adapter), device="cpu", top_k=1)
    assert len(only_best(clouds[0])) == 1
    assert len(only_best(clouds[0], top_k=None)) == 2


def test_five_classes_unless_told_otherwise(bert, clouds):
    from any2point_hf import Any2PointConfig

    config = Any2PointConfig(backbone=str(bert), num_points=64, num_neighbors=8, num_labels=7)
    model = Any2PointForPointCloudClassification(config)
    pipe = pipeline("point-cloud-classification", model=model, processor=Any2PointProcessor(64), device="cpu")
    assert len(pipe(clouds[0])) == 5
    everything = pipe(clouds[0], top_k=None)
    assert sum(entry["score"] for entry in everything) == pytest.approx(1, abs=1e-6)
    assert everything == sorted(everything, key=lambda entry: -entry["score"])


def test_features_of_tokens(extract, clouds):
    result = extract(clouds[0], return_tensors=True, return_tokens=True)
    points = extract.feature_extractor(clouds[0])["points"]
    with torch.no_grad():
        outputs = extract.model(points)
    assert torch.equal(result["features"], outputs.pooler_output[0])
    assert torch.equal(result["tokens"], outputs.last_hidden_state[0, 1:])
    assert torch.equal(result["centers"], outputs.point_centers[0])
    assert len(result["tokens"]) == len(result["centers"])
    maximum = result["tokens"].max(dim=0).values  # half of the pooled feature is the tokens' maximum
    assert any(torch.equal(half, maximum) for half in result["features"].chunk(2))
    listed = extract([clouds[0]], return_tokens=True)[0]
    assert json.loads(json.dumps(listed))["centers"] == result["centers"].tolist()


def test_a_model_object(adapter, clouds, expected, bert):
    model = Any2PointForPointCloudClassification.from_pretrained(adapter)  # knows its folder, and so its processor
    torch.testing.assert_close(
        scores(pipeline("point-cloud-classification", model=model, device="cpu")(clouds)),
        expected[0],
        atol=1e-5,
        rtol=0,
    )
    features = pipeline("point-cloud-feature-extraction", model=model, device="cpu")(clouds, return_tensors=True)
    torch.testing.assert_close(torch.stack(features), expected[1], atol=1e-5, rtol=0)
    new = Any2PointForPointCloudClassification(model.config, backbone=BertModel.from_pretrained(bert))
    new.config.name_or_path = ""
    with pytest.raises(CheckpointError, match=r"Pass processor=Any2PointProcessor\(num_points=…, scale_to_unit"):
        pipeline("point-cloud-classification", model=new, device="cpu")
    processor = Any2PointProcessor(128, scale_to_unit_sphere=False)
    for name in ("processor", "feature_extractor"):
        pipe = pipeline("point-cloud-classification", model=new, device="cpu", **{name: processor})
        assert pipe.feature_extractor is processor
    pipe = pipeline("point-cloud-classification", model=new, device="cpu", processor=str(adapter))
    assert pipe.feature_extractor.num_points == 64


def test_a_model_in_training_gives_the_same_and_stays_in_training(adapter, clouds, expected):
    model = Any2PointForPointCloudClassification.from_pretrained(adapter).train()
    results = pipeline("point-cloud-classification", model=model, device="cpu")(clouds)
    torch.testing.assert_close(scores(results), expected[0], atol=1e-5, rtol=0)
    assert model.training
    assert not model.backbone.training


def test_another_backbone(adapter, clouds, expected, bert):
    module = BertModel.from_pretrained(bert)
    with torch.no_grad():
        module.encoder.layer[0].output.dense.weight.mul_(20)
    for backbone, same in ((str(bert), True), (module, False)):
        pipe = pipeline(
            "point-cloud-classification", model=str(adapter), device="cpu", model_kwargs={"backbone": backbone}
        )
        assert torch.allclose(scores(pipe(clouds)), expected[0], atol=1e-5) == same


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_other_number_formats(adapter, clouds, expected, dtype):
    pipe = pipeline("point-cloud-classification", model=str(adapter), device="cpu", dtype=dtype)
    assert pipe.model.dtype in (torch.bfloat16, torch.float16)
    assert torch.equal(scores(pipe(clouds)).argmax(dim=1), expected[0].argmax(dim=1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(adapter, clouds, expected):
    pipe = pipeline("point-cloud-classification", model=str(adapter), device="cuda")
    torch.testing.assert_close(scores(pipe(clouds, batch_size=4)), expected[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_cloud_is_refused_before_the_model_runs(classify, clouds, monkeypatch, num_workers, tmp_path):
    monkeypatch.setattr(classify, "run_model", lambda points: pytest.fail("the model ran"))
    not_finite = np.where(np.arange(80)[:, None] == 5, np.nan, clouds[0])
    for bad, message in (
        (clouds[0][:5], r"^inputs\[7\] must have at least 8 distinct points, got 5"),
        (not_finite, r"^inputs\[7\] must be finite: 1 of 80 points"),
        (clouds[0][:, :2], r"^inputs\[7\] must have the shape \[N, 3\]"),
        (tmp_path / "none.ply", r"none\.ply does not exist\. Check the path"),
        (None, r"^inputs\[7\] must hold real numbers"),
        ({"cloud": clouds[0]}, r"^inputs\[7\] must have the points \[N, 3\] under the name 'points', got the names cl"),
    ):
        with pytest.raises(PointCloudError, match=message):
            classify([*clouds, bad], num_workers=num_workers)
    with pytest.raises(PointCloudError, match=r"^inputs\[1\]\[0\] must have at least 8 distinct"):
        classify([clouds, [clouds[0][:5]]], num_workers=num_workers)


def test_a_processor_that_drops_invalid_points(adapter, clouds, expected):
    spoiled = [np.concatenate([cloud, np.full((3, 3), np.nan, np.float32)]) for cloud in clouds]
    processor = Any2PointProcessor.from_pretrained(adapter, drop_invalid=True)
    pipe = pipeline("point-cloud-classification", model=str(adapter), processor=processor, device="cpu")
    with pytest.warns(UserWarning, match="7 of 7 clouds had invalid points: 21 points are dropped"):
        results = pipe(spoiled)
    torch.testing.assert_close(scores(results), expected[0], atol=1e-5, rtol=0)


def test_a_bad_cloud_of_a_stream_is_named(classify, clouds):
    results = iter(classify(cloud for cloud in [clouds[0], clouds[0][:5]]))
    assert len(next(results)) == 2
    with pytest.raises(PointCloudError, match=r"^inputs\[1\] must have at least 8"):
        next(results)
    with pytest.raises(PointCloudError, match=r"^inputs\[0\] must have the shape \[N, 3\].* got \[2, 80, 3\]"):
        list(classify(batch for batch in [np.stack([clouds[0], clouds[3]])]))
    split = Dataset.from_dict({"points": [clouds[0]]})
    with pytest.raises(PointCloudError, match=r"got the names train, test\. Choose a split, or another column by"):
        list(classify(DatasetDict(train=split, test=split)))
    with pytest.raises(DatasetError, match=r"inputs must have a column 'points'.*, its columns are label \(int64\)"):
        list(classify(Dataset.from_dict({"label": [1]})))


def test_options_out_of_range(classify, clouds, adapter):
    for options in ({"top_k": 0}, {"top_k": "two"}, {"batch_size": 0}, {"num_workers": -1}):
        with pytest.raises(ConfigurationError, match=f"^{next(iter(options))} must be an integer of at least"):
            classify(clouds[0], **options)
        with pytest.raises(ConfigurationError, match=f"^{next(iter(options))} must be"):
            pipeline("point-cloud-classification", model=str(adapter), device="cpu", **options)(clouds[0])


def test_a_model_of_the_wrong_kind(extract):
    with pytest.raises(Any2PointError, match="class Any2PointForPointCloudClassification, got Any2PointModel"):
        PointCloudClassificationPipeline(extract.model)


def test_a_saved_pipeline_holds_no_code_and_loads_again(classify, clouds, tmp_path):
    classify.save_pretrained(tmp_path)
    written = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert written == {"config.json", "model.safetensors", "preprocessor_config.json"}
    again = pipeline("point-cloud-classification", model=str(tmp_path), device="cpu", local_files_only=True)
    assert again(clouds) == classify(clouds)


def test_small_clouds_are_repeated_with_a_warning(classify, two_classes):
    small = two_classes.cloud(0, np.random.default_rng(0), 40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classify([small])
    assert "inputs[0] has 40 points, fewer than num_points=64" in str(caught[0].message)
