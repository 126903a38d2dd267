"""Clouds a million units from the origin, where float32 steps by a sixteenth: no way in changes a prediction."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import pipeline

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.large_collections.clouds import DatasetOfClouds, FolderOfClouds
from any2point_hf.large_collections.sources import open_collection
from any2point_hf.pictures.kinds import prepare
from any2point_hf.processing_any2point import Any2PointProcessor
from any2point_hf.web_demo.upload_reader import read_upload

SHIFT = np.array([1e6, -1e6, 1e6])

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clouds():
    """100 clouds of 80 points about the origin, on a grid that is exact in float64 after the shift too."""
    return (np.random.default_rng(0).normal(size=(100, 80, 3)) * 2**12).round() / 2**12


@pytest.fixture
def processor():
    return Any2PointProcessor(64)


def test_processor_and_logits(clouds, processor, tiny_adapter):
    near = processor(clouds)["points"]
    shifted = clouds + SHIFT
    for given in (shifted, torch.from_numpy(shifted), shifted.tolist()):
        torch.testing.assert_close(processor(given)["points"], near, atol=1e-6, rtol=0)
    with torch.no_grad():
        expected, found = (tiny_adapter.model(processor(points)["points"]).logits for points in (clouds, shifted))
    assert torch.equal(expected.argmax(dim=-1), found.argmax(dim=-1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    rounded = processor(shifted.astype(np.float32))["points"]
    assert (rounded - near).abs().max() > 1e-2  # what would be lost


@pytest.mark.parametrize("extension", [".xyz", ".csv", ".npy", ".ply", ".pcd"])
def test_files(clouds, processor, tmp_path, extension):
    points, path = clouds[0] + SHIFT, tmp_path / f"a{extension}"
    if extension == ".npy":
        np.save(path, points)
    elif extension == ".ply":
        header = "ply\nformat binary_little_endian 1.0\nelement vertex 80\n"
        header += "".join(f"property double {axis}\n" for axis in "xyz") + "end_header\n"
        path.write_bytes(header.encode() + points.tobytes())
    elif extension == ".pcd":
        header = "FIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nWIDTH 80\nHEIGHT 1\nPOINTS 80\nDATA binary\n"
        path.write_bytes(header.encode() + points.tobytes())
    else:
        np.savetxt(path, points, fmt="%.12f", delimiter="," if extension == ".csv" else " ")
    near = processor(clouds[0])["points"]
    for given in (path, read_upload(path, (), processor.seed)):
        torch.testing.assert_close(processor(given)["points"], near, atol=1e-6, rtol=0)
    np.testing.assert_allclose(prepare(processor, path).shown, prepare(processor, clouds[0]).shown, atol=1e-6)


def test_pipelines(clouds, tiny_adapter, processor):
    classify = pipeline("point-cloud-classification", model=tiny_adapter.model, processor=processor)
    for near, far in zip(classify(list(clouds[:5])), classify(list(clouds[:5] + SHIFT)), strict=True):
        assert [entry["label"] for entry in near] == [entry["label"] for entry in far]
        assert [entry["score"] for entry in near] == pytest.approx([entry["score"] for entry in far], abs=1e-5)


def test_data_sets(clouds, processor, tmp_path):
    arrays = {"labels": np.arange(100) % 2, "split": (np.arange(100) >= 50).astype(int), "class_names": ["a", "b"]}
    np.savez(tmp_path / "far.npz", points=clouds + SHIFT, **arrays)
    for split, start in (("train", 0), ("test", 50)):
        for index in range(50):
            folder = tmp_path / "far" / "ab"[index % 2] / split
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{index:02}.npy", clouds[start + index] + SHIFT)
    for source in ("far.npz", "far"):
        dataset = load_point_cloud_dataset(tmp_path / source)["train"].with_format("numpy")
        order = np.argsort(np.arange(50) % 2, kind="stable") if source == "far" else np.arange(50)
        for row, index in zip(dataset, order, strict=True):
            near = processor(clouds[index])["points"]
            torch.testing.assert_close(processor(row["points"])["points"], near, atol=1e-6, rtol=0)


def test_large_collections(clouds, processor, tmp_path):
    (tmp_path / "scans").mkdir()
    for index, cloud in enumerate(clouds[:3]):
        np.save(tmp_path / "scans" / f"{index}.npy", cloud + SHIFT)
    rows = Dataset.from_dict({"points": list(clouds[:3] + SHIFT)})
    collections = (open_collection(str(tmp_path / "scans"), None), DatasetOfClouds(rows, "rows", None, "none"))
    assert isinstance(collections[0], FolderOfClouds)
    for collection in collections:
        for index in range(3):
            near = processor(clouds[index])["points"]
            torch.testing.assert_close(processor(collection.read(index))["points"], near, atol=1e-6, rtol=0)
