"""PCD headers that contradict themselves or their points; cases that read well are in test_files.py."""

import struct

import numpy as np
import pytest

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.files import read_point_cloud

CLOUD = np.arange(12, dtype="<f4").reshape(4, 3)


def pcd(body, data="binary", **changes):
    header = {"FIELDS": "x y z", "SIZE": "4 4 4", "TYPE": "F F F", "COUNT": "1 1 1", "WIDTH": "4", "HEIGHT": "1"}
    header |= {"POINTS": "4"} | changes
    lines = [f"{key} {value}" for key, value in header.items() if value is not None]
    return "\n".join([*lines, f"DATA {data}\n"]).encode() + body


def packed(unpacked, stated):
    """All bytes as literal runs of liblzf."""
    runs = b"".join(bytes([len(unpacked[i : i + 32]) - 1]) + unpacked[i : i + 32] for i in range(0, len(unpacked), 32))
    return struct.pack("<II", len(runs), stated) + runs


GOOD = {
    "organised": pcd(CLOUD.tobytes(), WIDTH="2", HEIGHT="2"),
    "no_points": pcd(CLOUD.tobytes(), POINTS=None),
    "no_size": pcd(CLOUD.tobytes(), WIDTH=None, HEIGHT=None),
    "no_count": pcd(CLOUD.tobytes(), COUNT=None),
    "columns": pcd(CLOUD.tobytes()).replace(b"FIELDS", b"COLUMNS"),
    "capitals": pcd(CLOUD.tobytes(), FIELDS="X Y Z"),
    "compressed": pcd(packed(CLOUD.T.tobytes(), 48), "binary_compressed"),
}
BAD = {
    "nothing_of_each": (pcd(b"", COUNT="0 0 0", POINTS="4", WIDTH="4"), "the field x must be one number once"),
    "nothing_of_one": (pcd(CLOUD.tobytes(), COUNT="1 1 0"), "the field z must be one number once"),
    "other_size": (pcd(CLOUD.tobytes(), WIDTH="3"), "POINTS must be WIDTH times HEIGHT, got 4 and 3"),
    "negative": (pcd(CLOUD.tobytes(), WIDTH=None, POINTS="-4"), "POINTS must be WIDTH times HEIGHT, got -4"),
    "unlike": (pcd(CLOUD.tobytes(), SIZE="4 4"), "3 FIELDS, 2 SIZE, 3 TYPE, 3 COUNT"),
    "type": (pcd(CLOUD.tobytes(), TYPE="F F X"), "the field z must be one number once, got TYPE x"),
    "twice": (pcd(bytes(64), FIELDS="x y z x", SIZE="4 4 4 4", TYPE="F F F F", COUNT="1 1 1 1"), "one number once"),
    "more_lines": (pcd(b"1 2 3\n" * 5, "ascii"), "says 4 points, 5 lines follow: which is more"),
    "more_bytes": (pcd(bytes(60)), "4 points take 48 bytes, it has 60: which is more"),
    "cut_reference": (pcd(struct.pack("<II", 1, 48) + b"\xe0", "binary_compressed"), "they end in the middle"),
    "ragged": (pcd(b"1 2 3\n" * 3 + b"1 2\n", "ascii"), "point 4 has 2 numbers, the header names 3"),
    "unpacks_to_more": (pcd(packed(CLOUD.tobytes(), 4800), "binary_compressed"), "hold 4800"),
    "unpacks_to_less": (pcd(packed(CLOUD.tobytes()[:-4], 48), "binary_compressed"), "they give 44 of 48 bytes"),
    "unpacks_for_ever": (pcd(packed(bytes(9000), 48), "binary_compressed"), "they give 64 of 48 bytes"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_read(tmp_path, name):
    (tmp_path / "a.pcd").write_bytes(GOOD[name])
    np.testing.assert_array_equal(read_point_cloud(tmp_path / "a.pcd"), CLOUD)


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / "a.pcd").write_bytes(content)
    with pytest.raises(PointCloudError, match=message):
        read_point_cloud(tmp_path / "a.pcd")
