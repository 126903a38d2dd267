"""What the check of a zip's checksums notices, and what it never unpacks."""

import zipfile

import pytest

from any2point_hf.modeling.zip_damage import zip_damage


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("first", b"1234567890" * 50)
        made.writestr("second", b"abcdefghij" * 50)
    return path


def test_a_whole_zip(archive):
    assert zip_damage(archive) is None


def test_every_flipped_bit_of_the_content_is_noticed(archive):
    content = archive.read_bytes()
    start = content.index(b"abcdefghij")
    for place in range(start, start + 500, 7):
        archive.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert zip_damage(archive) == "second differs from its checksum"


def test_every_cut_is_noticed(archive):
    content = archive.read_bytes()
    for length in range(0, len(content), 50):
        archive.write_bytes(content[:length])
        assert zip_damage(archive)


def test_compressed_entries_are_not_unpacked(tmp_path):
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("zeros", bytes(1 << 20))
    assert zip_damage(path) == "zeros is compressed"
