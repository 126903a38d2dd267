import os

import pytest

from any2point_hf.modeling import files as whole_files
from any2point_hf.modeling.errors import Any2PointError


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


def test_a_folder_gets_its_files_when_all_are_written(tmp_path, monkeypatch):
    folder, placed, replace = tmp_path / "new" / "folder", [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (placed.append(target.name), replace(source, target)))
    with whole_files.folder_written_whole(folder, last="b.txt") as beside:
        for name in ("a.txt", "b.txt", "inner/c.txt"):
            (beside / name).parent.mkdir(exist_ok=True)
            (beside / name).write_text(name)
        assert not folder.exists()
    assert placed == ["a.txt", "c.txt", "b.txt"]
    assert (folder / "inner" / "c.txt").read_text() == "inner/c.txt"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # nothing is left of the folder beside


def test_a_folder_stays_as_it_was_where_the_writing_fails(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write():
        with whole_files.folder_written_whole(tmp_path) as beside:
            (beside / "a.txt").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_record_is_read_back(tmp_path):
    whole_files.write_whole(tmp_path / "run.json", '{"seed": 3}')
    assert whole_files.read_record(tmp_path / "run.json") == {"seed": 3}


@pytest.mark.parametrize("text", [None, "", '{"seed"', "[1]", "null", "{}", '{"runs": []}'])
def test_a_damaged_record_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(Any2PointError, match=r"run\.json must be a JSON object .* is damaged: .*\. Measure again"):
        whole_files.read_record(tmp_path / "run.json", "runs", fix="Measure again.")
