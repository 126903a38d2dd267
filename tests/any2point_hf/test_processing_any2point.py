import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from any2point_hf.modeling.errors import Any2PointError, CheckpointError, PointCloudError
from any2point_hf.point_clouds.invalid import crowded_places
from any2point_hf.processing_any2point import Any2PointProcessor


def random_cloud(seed, size):
    return np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)


@pytest.fixture
def processor():
    return Any2PointProcessor(num_points=64)


def points_of(processor, cloud):
    return processor(cloud, return_tensors="np")["points"]


def test_output_is_a_float32_batch_centred_and_in_the_unit_sphere():
    processor = Any2PointProcessor(64, sampling_start="first")
    cloud = 7 + 3 * random_cloud(0, 64)
    batch = processor(cloud)
    assert list(batch) == processor.model_input_names == ["points"]
    points = batch["points"]
    assert isinstance(points, torch.Tensor)
    assert (points.dtype, points.shape) == (torch.float32, (1, 64, 3))
    torch.testing.assert_close(points.mean(dim=1), torch.zeros(1, 3), atol=1e-6, rtol=0)
    assert points.norm(dim=-1).max().item() == pytest.approx(1, abs=1e-6)
    centred = cloud - cloud.mean(axis=0)  # as many points as asked for: the order stays
    np.testing.assert_allclose(points[0], centred / np.linalg.norm(centred, axis=1).max(), atol=1e-6)


def test_without_scaling_the_unit_stays():
    cloud = 100 + 3 * random_cloud(0, 64)
    points = points_of(Any2PointProcessor(64, scale_to_unit_sphere=False, sampling_start="first"), cloud)
    np.testing.assert_allclose(points[0], cloud - cloud.mean(axis=0, dtype=np.float64), atol=1e-5)


def test_more_points_are_reduced_by_farthest_point_sampling_from_the_first():
    # a grid of 64 corners 1 apart, each with a second point beside it: one of each pair is chosen
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
    processor = Any2PointProcessor(64, scale_to_unit_sphere=False, sampling_start="first")
    points = points_of(processor, np.concatenate([grid, grid + 0.01]))[0]
    assert points[0].tolist() == pytest.approx([-1.505] * 3, abs=1e-6)
    assert points[1].tolist() == pytest.approx([1.505] * 3, abs=1e-6)
    assert len(np.unique(np.round(points + 1.5).astype(int), axis=0)) == 64


def test_sampling_starts_at_the_point_farthest_from_the_mean():
    cloud = np.concatenate([random_cloud(0, 200), [[3, -9, 1]]])
    points = points_of(Any2PointProcessor(64), cloud)[0]
    np.testing.assert_allclose(np.linalg.norm(points[0]), 1, atol=1e-6)
    assert points[0, 1] < -0.9
    with pytest.raises(Any2PointError, match="sampling_start must be one of first, farthest, got 'nearest'"):
        Any2PointProcessor(64, sampling_start="nearest")


@given(st.integers(8, 90), st.integers(2, 30), st.floats(-1e6, 1e6), st.integers(0, 2**32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_from_the_farthest_point_the_result_does_not_depend_on_the_order_of_the_points(
    size, steps, offset, seed, scaled
):
    generator = np.random.default_rng(seed)
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * 3), axis=-1).reshape(-1, 3)
    points = np.concatenate([corners, generator.integers(0, steps, size=(size, 3)) / steps]) + offset
    assume(not len(crowded_places(points)))  # such clouds are refused, in any order
    rows = np.column_stack([points, generator.integers(0, 2, size=len(points))])
    processor = Any2PointProcessor(64, scaled, point_feature_names=["intensity"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = processor.rows(rows), processor.rows(generator.permutation(rows))
    assert torch.equal(found, expected)


def test_fewer_points_are_repeated_in_order_with_one_warning_a_cloud(processor, tmp_path):
    np.save(tmp_path / "small.npy", random_cloud(1, 20))
    clouds = [random_cloud(0, 50), random_cloud(2, 64), tmp_path / "small.npy"]
    with pytest.warns(UserWarning, match="num_points=64") as record:
        points = points_of(processor, clouds)
    assert [str(warning.message) for warning in record] == [
        "point_clouds[0] has 50 points, fewer than num_points=64: 14 repeats are added.",
        f"{tmp_path / 'small.npy'} has 20 points, fewer than num_points=64: 44 repeats are added.",
    ]
    assert record[0].filename == __file__
    np.testing.assert_array_equal(points[0, 50:], points[0, :14])
    np.testing.assert_array_equal(points[2, 40:60], points[2, :20])
    assert np.linalg.norm(points[2], axis=1).max() == pytest.approx(1)


def test_every_kind_of_cloud_gives_the_same(processor, tmp_path):
    cloud = random_cloud(0, 80)
    np.save(tmp_path / "cloud.npy", cloud)
    path = tmp_path / "cloud.npy"
    kinds = [
        cloud,
        cloud.astype(np.float64),
        torch.from_numpy(cloud),
        torch.from_numpy(cloud).double().requires_grad_(),
        cloud.tolist(),
        tuple(map(tuple, cloud.tolist())),
        list(cloud),
        list(torch.from_numpy(cloud)),
        path,
        str(path),
    ]
    expected = points_of(processor, cloud)
    for kind in kinds:
        np.testing.assert_array_equal(points_of(processor, kind), expected)
    np.testing.assert_array_equal(points_of(processor, kinds), np.repeat(expected, len(kinds), axis=0))


def test_batches_of_arrays_tensors_and_nested_lists(processor):
    clouds = np.stack([random_cloud(seed, 70) for seed in range(3)])
    expected = np.concatenate([points_of(processor, cloud) for cloud in clouds])
    batches = [
        clouds,
        torch.from_numpy(clouds),
        clouds.tolist(),
        list(clouds),
        list(torch.from_numpy(clouds)),
    ]
    for batch in batches:
        np.testing.assert_array_equal(points_of(processor, batch), expected)


def test_half_precision_and_integers_are_read(processor):
    cloud = np.arange(192).reshape(64, 3) % 17
    expected = points_of(processor, cloud.astype(np.float32))
    for kind in (cloud, torch.from_numpy(cloud).to(torch.bfloat16), cloud.astype(np.float16), cloud.tolist()):
        np.testing.assert_array_equal(points_of(processor, kind), expected)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([8, 40, 64, 65, 100, 150]), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_a_cloud_alone_equals_the_cloud_in_a_batch(sizes, seed):
    processor = Any2PointProcessor(num_points=64)
    clouds = [random_cloud(seed + index, size) for index, size in enumerate(sizes)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        together = points_of(processor, clouds)
        alone = np.concatenate([points_of(processor, cloud) for cloud in clouds])
    np.testing.assert_array_equal(together, alone)


def test_groups_split_for_the_cache_keep_every_cloud_in_its_row(processor, monkeypatch):
    clouds = [random_cloud(seed, 100 + seed % 2) for seed in range(7)]
    expected = points_of(processor, clouds)
    monkeypatch.setattr("any2point_hf.processing_any2point._SAMPLED_TOGETHER", 200)
    np.testing.assert_array_equal(points_of(processor, clouds), expected)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    exponent=st.integers(-20, 20),
    shift=st.tuples(*[st.integers(-8, 8)] * 3),
    size=st.sampled_from([64, 90]),
)
def test_moving_and_scaling_a_cloud_changes_nothing(seed, exponent, shift, size):
    processor = Any2PointProcessor(num_points=64)
    cloud = np.random.default_rng(seed).integers(-1000, 1000, size=(size, 3))
    # integers and powers of two, so that the moved cloud itself is exact in float32
    moved = ((cloud + np.array(shift) * 1000) * 2.0**exponent).astype(np.float32)
    np.testing.assert_allclose(points_of(processor, moved), points_of(processor, cloud), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-36, 1e37])
@pytest.mark.parametrize("scale_to_unit_sphere", [True, False])
def test_very_small_and_very_large_clouds(scale, scale_to_unit_sphere):
    processor = Any2PointProcessor(num_points=64, scale_to_unit_sphere=scale_to_unit_sphere)
    cloud = np.clip(random_cloud(0, 90), -5, 5)
    points = points_of(processor, cloud * np.float32(scale))
    assert np.isfinite(points).all()
    expected = points_of(processor, cloud)
    if not scale_to_unit_sphere:
        points = points.astype(np.float64) / scale
    np.testing.assert_allclose(points, expected, atol=1e-5)


def test_a_very_large_cloud_takes_memory_linear_in_its_points(processor):
    points = points_of(processor, random_cloud(0, 400_000))
    assert len(np.unique(points[0], axis=0)) == 64


def test_meshes_are_sampled_with_the_seed(tmp_path):
    path = tmp_path / "mesh.off"
    path.write_text("OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    first = points_of(Any2PointProcessor(64, seed=1), path)
    np.testing.assert_array_equal(points_of(Any2PointProcessor(64, seed=1), path), first)
    assert not np.array_equal(points_of(Any2PointProcessor(64, seed=2), path), first)


def test_real_files_of_every_kind_make_one_batch(shared_data):
    samples = shared_data / "samples"
    files = [
        samples / "modelnet_off/ModelNet10/chair/train/chair_0001.off",
        samples / "modelnet10_pcd/chair/train/chair_0001.pcd",
        samples / "modelnet40_normal_resampled/chair/chair_0391.txt",
        samples / "shapedb_obj/Bicycle/D00016.obj",
    ]
    points = Any2PointProcessor(num_points=256)(files)["points"]
    assert points.shape == (4, 256, 3)
    assert points.norm(dim=-1).amax(dim=1).tolist() == pytest.approx([1] * 4, abs=0.01)


GOOD = random_cloud(0, 64)


def spoiled(value):
    cloud = GOOD.copy()
    cloud[3, 1] = value
    return cloud


BAD_CLOUDS = {
    "no clouds": ([], "point_clouds is empty"),
    "no clouds in an array": (np.zeros((0, 64, 3)), "point_clouds is empty"),
    "two columns": (GOOD[:, :2], r"point_clouds\[0\] must have the shape \[N, 3\] .*got \[64, 2\]"),
    "normals": (np.hstack([GOOD, GOOD]), r"got \[64, 6\].*select the three coordinate columns"),
    "one point": (GOOD[0], r"got \[3\]"),
    "four dimensions": (GOOD[None, None], r"got \[1, 1, 64, 3\]"),
    "empty": (GOOD[:0], r"point_clouds\[0\] holds no points"),
    "empty in a batch": ([GOOD, GOOD[:0]], r"point_clouds\[1\] holds no points"),
    "ragged": ([[1, 2, 3], [4, 5]], r"point_clouds\[0\] must have three numbers in every row"),
    "words": ([["a", "b", "c"]], r"point_clouds\[0\] must hold real numbers"),
    "nothing": (None, "must hold real numbers, got dtype object"),
    "nothing in a batch": ([GOOD, None], r"point_clouds\[1\] must hold real numbers"),
    "a number": (5.0, r"got \[\]"),
    "truth values": (GOOD > 0, "must hold real numbers, got dtype bool"),
    "complex": (GOOD.astype(complex), "must hold real numbers"),
    "bytes": (b"cloud.ply", "must hold real numbers"),
    "NaN": (
        [GOOD, spoiled(np.nan)],
        r"point_clouds\[1\] must be finite: 1 of 64 points",
    ),
    "infinite": (spoiled(np.inf), "must be finite: 1 of 64 points"),
    "infinite in float32": (GOOD.astype(np.float64) * 1e300, "must be finite: 64 of 64 points"),
    "NaN tensor": (torch.full((64, 3), torch.nan), "must be finite: 64 of 64 points"),
    "seven points": (GOOD[:7], r"at least 8 distinct points, got 7 \(of 7 points\)"),
    "seven distinct points": (GOOD[np.arange(64) % 7], r"at least 8 distinct points, got 7 \(of 64 points\)"),
    "one place": (np.ones((64, 3)), r"at least 8 distinct points, got 1 \(of 64 points\)"),
    "missing file": ("none.ply", "none.ply does not exist"),
    "missing file in a batch": ([GOOD, Path("none.ply")], "none.ply does not exist"),
}


@pytest.mark.parametrize("name", BAD_CLOUDS)
def test_bad_clouds_are_named_and_explained(processor, name):
    cloud, message = BAD_CLOUDS[name]
    with pytest.raises(PointCloudError, match=message):
        processor(cloud)


def test_a_file_of_too_few_points_is_named(processor, tmp_path):
    np.save(tmp_path / "few.npy", GOOD[:7])
    with pytest.raises(PointCloudError, match=r"few\.npy must have at least 8 distinct points, got 7"):
        processor(tmp_path / "few.npy")


def test_the_smallest_cloud_is_accepted(processor):
    with pytest.warns(UserWarning, match="8 points, fewer than num_points=64: 56 repeats"):
        assert processor(GOOD[:8])["points"].shape == (1, 64, 3)


@pytest.mark.parametrize("num_points", [63, 0, -1, 64.0, "64", True, None])
def test_num_points_is_checked(num_points):
    with pytest.raises(Any2PointError, match="num_points must be at most 16,777,216, got 1,000,000,000"):
        Any2PointProcessor(10**9)
    with pytest.raises(Any2PointError, match="num_points must be an integer of at least 64, got"):
        Any2PointProcessor(num_points=num_points)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_seed_is_checked(seed):
    with pytest.raises(Any2PointError, match="seed must be an integer of at least 0, got"):
        Any2PointProcessor(seed=seed)


def test_the_input_is_not_changed(processor):
    cloud = GOOD.copy()
    tensor = torch.from_numpy(GOOD.copy())
    processor([cloud, tensor])
    np.testing.assert_array_equal(cloud, GOOD)
    np.testing.assert_array_equal(tensor.numpy(), GOOD)


def test_saved_settings_load_again(tmp_path):
    saved = Any2PointProcessor(num_points=np.int64(128), scale_to_unit_sphere=False, seed=3)
    assert saved.save_pretrained(tmp_path / "new" / "folder") == [
        str(tmp_path / "new" / "folder" / "preprocessor_config.json")
    ]
    folder = tmp_path / "new" / "folder"
    assert json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8")) == {
        "feature_extractor_type": "Any2PointProcessor",
        "num_points": 128,
        "point_feature_names": [],
        "scale_to_unit_sphere": False,
        "seed": 3,
        "drop_invalid": False,
        "sampling_start": "farthest",
    }
    loaded = Any2PointProcessor.from_pretrained(folder)
    assert loaded.to_dict() == saved.to_dict()
    assert Any2PointProcessor.from_pretrained(folder, num_points=256).num_points == 256
    assert pickle.loads(pickle.dumps(loaded)).to_dict() == saved.to_dict()
    loaded.save_pretrained(folder)
    assert Any2PointProcessor.from_pretrained(folder).to_dict() == saved.to_dict()
    assert sorted(os.listdir(folder)) == [".gitignore", "preprocessor_config.json"]


def test_a_file_of_before_there_was_drop_invalid_is_loaded(tmp_path):
    old = {"feature_extractor_type": "Any2PointProcessor", "num_points": 128, "scale_to_unit_sphere": False, "seed": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert (
        Any2PointProcessor.from_pretrained(tmp_path).to_dict()
        == Any2PointProcessor(128, False, 3, sampling_start="first").to_dict()
    )
    Any2PointProcessor(128, drop_invalid=True).save_pretrained(tmp_path)
    assert Any2PointProcessor.from_pretrained(tmp_path).drop_invalid is True


def depth_image(seed, zeros=40, broken=10):
    points = random_cloud(seed, 150)
    points[:zeros] = 0
    points[zeros : zeros + broken, 2] = np.nan
    return points


def test_many_points_at_one_place_are_refused(processor):
    with pytest.raises(
        PointCloudError, match=r"point_clouds\[1\] must not have more than a quarter .*: 40 of 150 .*--drop"
    ):
        processor([GOOD, depth_image(0, broken=0)])


def test_invalid_points_are_dropped_as_if_they_had_never_been_there(tmp_path):
    processor = Any2PointProcessor(64, drop_invalid=True)
    np.save(tmp_path / "scan.npy", depth_image(2))
    clouds = [depth_image(0), GOOD, torch.from_numpy(depth_image(1)), tmp_path / "scan.npy", depth_image(3).tolist()]
    with pytest.warns(UserWarning, match="had invalid points") as caught:
        points = points_of(processor, clouds)
    assert [str(warning.message) for warning in caught] == [
        "4 of 5 clouds had invalid points: 200 points are dropped, the most in point_clouds[0] (50 of 150)."
    ]
    clean = [depth_image(0)[50:], GOOD, *(depth_image(seed)[50:] for seed in (1, 2, 3))]
    np.testing.assert_array_equal(points, points_of(Any2PointProcessor(64), clean))


def test_one_cloud_is_reported_by_its_name(tmp_path):
    np.save(tmp_path / "scan.npy", depth_image(2))
    with pytest.warns(
        UserWarning, match=r"scan\.npy: 50 of 150 points are dropped as invalid, 10 .* and 40 "
    ) as caught:
        Any2PointProcessor(64, drop_invalid=True)(tmp_path / "scan.npy")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Any2PointProcessor(64, drop_invalid=True)(GOOD)


def test_a_gitignore_of_ones_own_is_kept(tmp_path):
    (tmp_path / ".gitignore").write_text("mine")
    Any2PointProcessor(num_points=64).save_pretrained(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "mine"


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    Any2PointProcessor(num_points=64).save_pretrained(tmp_path)

    def full_disk(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        Any2PointProcessor(num_points=128).save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".gitignore", "preprocessor_config.json"]
    assert Any2PointProcessor.from_pretrained(tmp_path).num_points == 64


def test_a_folder_without_settings_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        Any2PointProcessor.from_pretrained(tmp_path)
