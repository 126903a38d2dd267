"""Meshes: letter case, comments, indices that count back, scenes."""

import json

import numpy as np
import pytest
import trimesh

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.files import MESH_SAMPLES, read_point_cloud
from any2point_hf.point_clouds.meshes import read_obj, read_scene, read_stl

SQUARE = [[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]
OBJS = {
    "plain": "v 0 0 0\nv 2 0 0\nv 2 2 0\nv 0 2 0\nf 1 2 3 4\n",
    "slashes": "v 0 0 0\nv 2 0 0\nvt 0 0\nv 2 2 0\nv 0 2 0\nvn 0 0 1\nf 1/1/1 2/1/1 3//1 4/1\n",
    "backwards": "v 0 0 0\nv 2 0 0\nv 2 2 0\nv 0 2 0\nf -4 -3 -2 -1\n",
    "capitals and tabs": "V\t0\t0 0\nV 2 0 0 1 0 0\nV 2 2 0\nV 0 2 0 # corner\nusemtl a\nF 1 2 3 4 # side\n",
    "a folder of Windows": "mtllib C:\\tmp\\\n# C:\\tmp\\\nv 0 0 0\nv 2 0 0\nv 2 2 0\nv 0 2 0\nf 1 2 3 4\n",
    "faces first": "f 1 2 3 4\nv 0 0 0\nv 2 0 0\nv 2 2 0\nv 0 2 0\n",
    "continued": "v 0 0 0\nv 2 0 0\nv 2 2 0\nv 0 2 0\nf 1 2 \\\n3 4\n",
}


@pytest.mark.parametrize("name", OBJS)
def test_obj(tmp_path, name):
    (tmp_path / "a.obj").write_text(OBJS[name])
    found = read_obj(tmp_path / "a.obj")
    assert found.points.tolist() == SQUARE
    assert sorted(map(sorted, found.triangles.tolist())) == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 0\nf 1 2 3\n", "a face names vertex 3, but there are 1 vertices, from 1 on"),
        ("v 0 0 0\nf 0 1 1\n", "line 2: a face names vertex 0; vertices are counted from 1"),
        ("v 0 0 0\nf -1 -2 -1\n", "line 2: a face names vertex -2, but 1 vertices come before it"),
        ("v 0 0 up\n", "line 1: 'up' is no number"),
    ],
)
def test_bad_obj(tmp_path, text, message):
    (tmp_path / "a.obj").write_text(text)
    with pytest.raises(PointCloudError, match=message):
        read_point_cloud(tmp_path / "a.obj")


def test_binary_stl_whose_header_says_solid(tmp_path):
    sphere = trimesh.creation.icosphere(subdivisions=1)
    data = bytearray(sphere.export(file_type="stl"))
    data[:5] = b"solid"
    (tmp_path / "a.stl").write_bytes(data)
    found = read_stl(tmp_path / "a.stl")
    np.testing.assert_allclose(found.points[found.triangles], sphere.triangles, atol=1e-6)
    (tmp_path / "b.stl").write_text(sphere.export(file_type="stl_ascii"))
    found = read_stl(tmp_path / "b.stl")
    np.testing.assert_allclose(found.points[found.triangles], sphere.triangles, atol=1e-6)


def test_a_text_stl_of_several_solids(tmp_path):
    facet = "facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\n"
    (tmp_path / "a.stl").write_text(f"solid my vertex a b c\n{facet}endsolid\nsolid b\n{facet}end solid\n")
    assert len(read_stl(tmp_path / "a.stl").triangles) == 2
    (tmp_path / "b.stl").write_text(f"solid a\n{facet}endsolid\nsolid b\n{facet}")
    with pytest.raises(PointCloudError, match="ends in 'endsolid'"):
        read_point_cloud(tmp_path / "b.stl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 300_000_000}, "an array of 300000000 entries takes"),
        ({"count": -1}, "an array of -1 entries takes"),
        ({"bufferView": None}, "sparse or empty array"),
        ({"sparse": {"count": 1}}, "sparse or empty array"),
    ],
)
def test_arrays_of_a_scene_that_are_not_there(tmp_path, change, message):
    for name, data in trimesh.Scene([trimesh.creation.box()]).export(file_type="gltf").items():
        (tmp_path / name).write_bytes(data)
    tree = json.loads((tmp_path / "model.gltf").read_text())
    tree["accessors"][0] = {k: v for k, v in {**tree["accessors"][0], **change}.items() if v is not None}
    (tmp_path / "model.gltf").write_text(json.dumps(tree))
    with pytest.raises(PointCloudError, match=message):
        read_point_cloud(tmp_path / "model.gltf")
    tree["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    (tmp_path / "model.gltf").write_text(json.dumps(tree))
    with pytest.raises(PointCloudError, match="packed by KHR_draco_mesh_compression, which is not supported"):
        read_point_cloud(tmp_path / "model.gltf")


def test_a_scene_names_its_buffer_by_a_uri_and_only_in_its_folder(tmp_path):
    (folder := tmp_path / "scene").mkdir()
    for name, data in trimesh.Scene([trimesh.creation.box()]).export(file_type="gltf").items():
        (folder / name).write_bytes(data)
    tree = json.loads((folder / "model.gltf").read_text())
    expected = read_point_cloud(folder / "model.gltf")
    (folder / tree["buffers"][0]["uri"]).rename(folder / "my m\xe9sh.bin")
    for uri in ("my%20m%C3%A9sh.bin", "my m\xe9sh.bin", "./my%20m%c3%a9sh.bin"):
        tree["buffers"][0]["uri"] = uri
        (folder / "model.gltf").write_text(json.dumps(tree))
        np.testing.assert_array_equal(read_point_cloud(folder / "model.gltf"), expected)
    (folder / "my m\xe9sh.bin").rename(tmp_path / "outside.bin")
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    outside = ("../outside.bin", "%2e%2e/outside.bin", "..%2Foutside.bin", str(tmp_path / "outside.bin"), "link.bin")
    for uri in (*outside, "none.bin"):
        tree["buffers"][0]["uri"] = uri
        (folder / "model.gltf").write_text(json.dumps(tree))
        with pytest.raises(PointCloudError, match=r"names the file .*, which is not in its folder"):
            read_point_cloud(folder / "model.gltf")


def test_a_text_stl_with_half_a_facet(tmp_path):
    text = "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nendloop\nendfacet\nendsolid a\n"
    (tmp_path / "a.stl").write_text(text)
    with pytest.raises(PointCloudError, match="its 1 facets have 2 corners, not 3"):
        read_point_cloud(tmp_path / "a.stl")


@pytest.mark.parametrize("extension", ["glb", "gltf", "dae"])
def test_parts_of_a_scene_stand_where_the_scene_puts_them(tmp_path, extension):
    if extension == "dae":
        pytest.importorskip("collada")
    box = trimesh.creation.box()
    moved = trimesh.transformations.translation_matrix([10, 0, 0])
    scene = trimesh.Scene([box])
    scene.add_geometry(box, transform=moved)
    if extension == "gltf":
        for name, data in scene.export(file_type="gltf").items():
            (tmp_path / name).write_bytes(data)
        path = tmp_path / "model.gltf"
    else:
        path = tmp_path / f"a.{extension}"
        mesh = scene.to_mesh() if extension == "dae" else scene
        path.write_bytes(mesh.export(file_type=extension))
    points = read_scene(path).points
    np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], [[-0.5] * 3, [10.5, 0.5, 0.5]], atol=1e-6)
    sampled = read_point_cloud(path)
    assert len(sampled) == MESH_SAMPLES
    assert (sampled[:, 0] > 5).mean() == pytest.approx(0.5, abs=0.03)
