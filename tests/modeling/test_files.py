import os

import pytest

from any2point_hf.modeling import files as whole_files


def test_a_file_and_its_folder_are_made(tmp_path):
    file = tmp_path / "new" / "file.txt"
    whole_files.write_whole(file, "Fläche\n")
    assert file.read_text(encoding="utf-8") == "Fläche\n"
    assert [path.name for path in file.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "file.txt"
    file.write_text("old")

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        whole_files.write_whole(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
