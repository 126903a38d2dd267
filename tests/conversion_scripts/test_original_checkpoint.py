"""Original .pth files that are damaged without being cut."""

import re
import zipfile

import pytest
import torch

from any2point_hf.conversion_scripts.original_checkpoint import read_original_checkpoint
from any2point_hf.modeling.errors import CheckpointError


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "original.pth"
    torch.save({"model": {"first": torch.arange(64.0), "second": torch.ones(8)}}, path)
    return path


def test_a_whole_file_is_read(checkpoint):
    tensors = read_original_checkpoint(checkpoint).tensors
    assert torch.equal(tensors["first"], torch.arange(64.0))


@pytest.mark.parametrize("number", [1.0, 63.0])
def test_a_flipped_bit_in_the_weights_is_refused(checkpoint, number):
    content = bytearray(checkpoint.read_bytes())
    (place,) = (match.start() for match in re.finditer(re.escape(torch.arange(64.0).numpy().tobytes()), content))
    content[place + 4 * int(number)] ^= 1
    checkpoint.write_bytes(content)
    assert torch.load(checkpoint, weights_only=True)["model"]["first"][int(number)] != number
    with pytest.raises(CheckpointError, match=r"data/0 differs from its checksum\. Copy or download it again"):
        read_original_checkpoint(checkpoint)


def test_a_file_of_the_format_without_checksums_is_read(checkpoint):
    torch.save({"first": torch.ones(2)}, checkpoint, _use_new_zipfile_serialization=False)
    assert torch.equal(read_original_checkpoint(checkpoint).tensors["first"], torch.ones(2))


def test_compressed_entries_are_refused_unread(checkpoint, tmp_path):
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="is compressed"):
        read_original_checkpoint(tmp_path / "packed.pth")
