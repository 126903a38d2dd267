"""Points that were never measured: finding them, dropping them, counting them."""

import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.checks import check_cloud, check_points
from any2point_hf.point_clouds.files import read_point_cloud
from any2point_hf.point_clouds.invalid import (
    SMALLEST_CROWDED,
    Dropped,
    DroppedPoints,
    crowded_places,
    invalid_points,
)

COORDINATES = st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, 1e-30])
CLOUDS = st.lists(st.tuples(*[COORDINATES] * 3), max_size=60)
BROKEN = st.sampled_from([np.nan, np.inf, -np.inf, 2e38])


def naive_crowds(rows):
    """Counts every place."""
    counts = Counter(rows) if len(rows) >= SMALLEST_CROWDED else {}
    return {place for place, count in counts.items() if 4 * count > len(rows)}


def naive_valid(rows):
    rows = [row for row in rows if all(abs(value) <= 1e38 for value in row)]
    while crowds := naive_crowds(rows):
        rows = [row for row in rows if row not in crowds]
    return rows


@settings(max_examples=300, deadline=None)
@given(CLOUDS)
def test_crowded_places_are_those_that_counting_finds(rows):
    places = crowded_places(np.array(rows).reshape(-1, 3))
    assert len(places) <= 3
    assert {tuple(place) for place in places.tolist()} == naive_crowds(rows)
    assert len(places) == len(naive_crowds(rows))


@settings(max_examples=300, deadline=None)
@given(CLOUDS, st.lists(st.tuples(st.integers(0, 59), st.integers(0, 2), BROKEN), max_size=10))
def test_invalid_points_are_those_of_the_naive_loop_and_none_are_left(rows, broken):
    points = np.array(rows).reshape(-1, 3)
    for row, axis, value in broken:
        points[row % max(len(points), 1) : row % max(len(points), 1) + 1, axis] = value
    invalid = invalid_points(points)
    expected = naive_valid([tuple(row) for row in points.tolist()])
    assert [tuple(row) for row in points[~invalid].tolist()] == expected
    assert not invalid_points(points[~invalid]).any()


def test_a_crowd_is_found_in_a_large_cloud_wherever_its_value_lies():
    generator = np.random.default_rng(0)
    for place in ((0, 0, 0), (9, 9, 9), (-9, 0.5, 9)):
        points = generator.normal(size=(100_001, 3)).astype(np.float32)
        chosen = generator.permutation(len(points))
        points[chosen[:25_000]] = place
        assert not len(crowded_places(points))
        points[chosen[25_000]] = place
        np.testing.assert_array_equal(crowded_places(points), [place])


def test_points_that_are_repeated_to_fill_a_cloud_are_no_crowd():
    points = np.random.default_rng(0).normal(size=(8, 3))
    for size in range(8, 100):
        assert not len(crowded_places(points[np.arange(size) % 8]))


def test_a_plane_and_a_line_are_no_crowd():
    points = np.random.default_rng(0).normal(size=(200, 3))
    points[:, 2] = 0
    assert not len(crowded_places(points))
    points[:, 0] = 5
    assert not len(crowded_places(points))


def depth_image(size=100, zeros=40, broken=0, seed=0):
    points = np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)
    points[:zeros] = 0
    points[zeros : zeros + broken, 1] = np.nan
    return points


def test_without_the_option_a_crowd_is_an_error_that_says_where_it_is():
    with pytest.raises(
        PointCloudError,
        match=r"^scan must not have more than a quarter of its points at one place: 40 of 100 are at \(0, 0, 0\), .*"
        r"drop them by --drop-invalid \(in Python drop_invalid=True\)\.$",
    ):
        check_cloud(depth_image(), "scan")
    with pytest.raises(PointCloudError, match=r"must be finite: 30 of 100 points .* --drop-invalid"):
        check_cloud(depth_image(broken=30), "scan")
    assert len(check_points(depth_image(), "scan")) == 100  # as a file may hold them


def test_what_is_dropped_is_counted_once():
    dropped = DroppedPoints()
    points = check_cloud(depth_image(broken=10), "scan", dropped)
    assert np.array_equal(points, depth_image()[50:])
    assert np.array_equal(check_cloud(points, "scan", dropped), points)
    assert len(check_cloud(depth_image(zeros=0), "clean", dropped)) == 100
    assert dropped.clouds == {"scan": Dropped(not_finite=10, crowded=40, total=100)}
    assert dropped.report() == (
        "scan: 50 of 100 points are dropped as invalid, 10 that are not finite and 40 of very many at one place."
    )
    check_cloud(depth_image(5000, zeros=2000), "large", dropped)
    assert dropped.report(1200) == (
        "2 of 1,200 clouds had invalid points: 2,050 points are dropped, the most in large (2,000 of 5,000)."
    )
    assert DroppedPoints().report(7) == ""


def test_the_other_rules_hold_for_what_is_left():
    message = r"scan must have at least 8 distinct points, got 7 \(of 100 points, 93 of them invalid and dropped\)"
    with pytest.raises(PointCloudError, match=message):
        check_cloud(depth_image(zeros=93), "scan", DroppedPoints())
    with pytest.raises(PointCloudError, match=r"at least 1 distinct points, got 0 \(of 9 points, 9 of them"):
        check_points(np.full((9, 3), np.nan), "scan", dropped=DroppedPoints())
    with pytest.raises(PointCloudError, match=r"must have the shape \[N, 3\]"):
        check_cloud(np.zeros((9, 2)), "scan", DroppedPoints())


def test_too_few_distinct_points_are_said_first_where_dropping_would_not_help():
    with pytest.raises(PointCloudError, match="at least 8 distinct points, got 3"):
        check_cloud(np.eye(3)[np.arange(64) % 3], "scan")


def organized_pcd(points, width):
    rows = "\n".join(" ".join(f"{value:.9g}" for value in point) for point in points)
    return (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
        f"WIDTH {width}\nHEIGHT {len(points) // width}\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {len(points)}\nDATA ascii\n{rows}\n"
    )


def ply(points, faces=()):
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += f"element face {len(faces)}\nproperty list uchar int vertex_indices\n" if len(faces) else ""
    body = points.astype("<f4").tobytes()
    body += b"".join(b"\3" + np.array(face, "<i4").tobytes() for face in faces)
    return (header + "end_header\n").encode() + body


def test_an_organized_pcd_with_rows_of_nan(tmp_path):
    points = depth_image(zeros=0)
    points[::3] = np.nan
    path = tmp_path / "kinect.pcd"
    path.write_text(organized_pcd(points, width=10))
    with pytest.raises(PointCloudError, match=r"kinect\.pcd must be finite: 34 of 100 points .*--drop-invalid"):
        read_point_cloud(path)
    with pytest.warns(
        UserWarning, match=r"kinect\.pcd: 34 of 100 points are dropped as invalid, 34 that are not finite"
    ):
        read = read_point_cloud(path, drop_invalid=True)
    np.testing.assert_array_equal(read, points[np.isfinite(points).all(axis=1)])


@pytest.mark.parametrize("extension", ["txt", "xyz", "csv", "npy"])
def test_rows_of_nan_in_other_files(tmp_path, extension):
    points, path = depth_image(zeros=0, broken=3), tmp_path / f"scan.{extension}"
    if extension == "npy":
        np.save(path, points)
    else:
        np.savetxt(path, points, fmt="%.9g", delimiter="," if extension == "csv" else " ")
    with pytest.raises(PointCloudError, match=r"must be finite: 3 of 100 points .*--drop-invalid"):
        read_point_cloud(path)
    with pytest.warns(UserWarning, match="3 of 100 points are dropped"):
        assert np.array_equal(read_point_cloud(path, drop_invalid=True), points[3:])


def test_a_ply_of_a_depth_camera_with_points_at_the_origin(tmp_path):
    path = tmp_path / "depth.ply"
    path.write_bytes(ply(depth_image()))
    assert np.array_equal(read_point_cloud(path), depth_image())
    with pytest.warns(UserWarning, match="40 of 100 points are dropped as invalid, 0 .* and 40 of very many"):
        assert np.array_equal(read_point_cloud(path, drop_invalid=True), depth_image()[40:])


def test_a_clean_file_is_read_without_a_warning(tmp_path):
    (tmp_path / "scan.ply").write_bytes(ply(depth_image(zeros=25)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_point_cloud(tmp_path / "scan.ply", drop_invalid=True), depth_image(zeros=25))


@pytest.mark.parametrize("drop_invalid", [False, True])
def test_a_mesh_may_have_many_vertices_at_one_place_but_none_that_is_not_finite(tmp_path, drop_invalid):
    vertices = np.concatenate([np.zeros((9, 3)), np.eye(3)])
    (tmp_path / "fan.ply").write_bytes(ply(vertices, [[9, 10, 11], [0, 9, 10]]))
    read = read_point_cloud(tmp_path / "fan.ply", drop_invalid=drop_invalid)
    assert not len(crowded_places(read))
    vertices[0] = np.nan
    (tmp_path / "broken.ply").write_bytes(ply(vertices, [[9, 10, 11]]))
    with pytest.raises(PointCloudError, match=r"must be finite: 1 of 12 points .*Mend the mesh; of a file with faces"):
        read_point_cloud(tmp_path / "broken.ply", drop_invalid=drop_invalid)


def test_features_go_with_the_points_that_stay():
    dropped, points = DroppedPoints(), depth_image()
    points[50] = np.nan
    numbers = {"number": np.arange(len(points))}
    check_cloud(points, "the cloud", dropped)
    assert dropped.along(numbers)["number"].tolist() == [*range(40, 50), *range(51, 100)]
