import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest

from any2point_hf.modeling import files as whole_files
from any2point_hf.modeling.errors import Any2PointError, CheckpointError


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


NAMES = ("a.txt", "b.txt", "inner/c.txt")


def write_files(folder, content, last=None):
    with whole_files.folder_written_whole(folder, last) as beside:
        for name in NAMES:
            (beside / name).parent.mkdir(exist_ok=True)
            (beside / name).write_text(content)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_appears_in_one_step(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", None)
    folder = tmp_path / "new" / "folder"
    write_files(folder, "new")
    assert contents(folder) == dict.fromkeys(NAMES, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert folder.stat().st_mode == folder.parent.stat().st_mode


def test_a_folder_gets_its_files_when_all_are_written(tmp_path, monkeypatch):
    placed, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (placed.append(target.name), replace(source, target)))
    (tmp_path / "notes.txt").write_text("mine")
    write_files(tmp_path, "new", last="b.txt")
    assert placed == ["a.txt", "c.txt", "b.txt"]
    assert contents(tmp_path) == dict.fromkeys(NAMES, "new") | {"notes.txt": "mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.txt", "inner", "notes.txt"}


@pytest.mark.parametrize("moved", range(4))
def test_what_a_kill_left_between_the_moves_is_finished(tmp_path, monkeypatch, moved):
    write_files(tmp_path, "old")
    replace, calls = os.replace, []

    def replace_some(source, target):
        calls.append(target)
        if len(calls) > moved:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_some)
        with contextlib.suppress(KeyboardInterrupt):
            write_files(tmp_path, "new")
    whole_files.finish_saving(tmp_path)
    assert contents(tmp_path) == dict.fromkeys(NAMES, "new")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.txt", "inner"}


def test_the_next_saving_finishes_the_last(tmp_path):
    (tmp_path / ".saved").mkdir()
    (tmp_path / ".saved" / "d.txt").write_text("of the last")
    write_files(tmp_path, "new")
    assert contents(tmp_path) == dict.fromkeys(NAMES, "new") | {"d.txt": "of the last"}


def test_folders_that_killed_processes_left_are_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host, day_ago = socket.gethostname(), time.time() - 90000
    dead, alive, elsewhere, old = (
        tmp_path / name
        for name in (
            f".writing-{process.pid}-1f-{host}",
            f".writing-{os.getpid()}-1f-{host}",
            f".writing-{process.pid}-1f-other.host",
            ".saving-abc",
        )
    )
    for folder in (dead, alive, elsewhere, old):
        folder.mkdir()
        (folder / "file").write_text("half")
    os.utime(old, (day_ago, day_ago))
    write_files(tmp_path, "new")
    assert [folder.exists() for folder in (dead, alive, elsewhere, old)] == [False, True, True, False]


def test_a_folder_in_the_place_of_a_file_is_told_before_anything_moves(tmp_path):
    write_files(tmp_path, "old")
    (tmp_path / "b.txt").unlink()
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(IsADirectoryError, match=r"b\.txt must be a file"):
        write_files(tmp_path, "new")
    assert contents(tmp_path) == {"a.txt": "old", "inner/c.txt": "old"}
    assert not (tmp_path / ".saved").exists()


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "lora/adapter_config.json"])
def test_a_pipe_among_the_files_is_refused_instead_of_waited_for(tmp_path, name):
    (tmp_path / "lora").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    whole_files.check_plain_files(tmp_path)
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"must hold plain files, and \S+{name} is a pipe, a socket or a device"):
        whole_files.check_plain_files(tmp_path)
