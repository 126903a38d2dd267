"""What of the folder for uploads is deleted, and when."""

import os
import time

from any2point_hf.web_demo.upload_folder import Sweeper, delete_old, delete_soon

NOW = 1e9


def put(path, age):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"0 0 0\n")
    os.utime(path, (NOW - age, NOW - age))
    return path


def test_old_and_broken_off_uploads_are_deleted(tmp_path):
    whole, old = put(tmp_path / "a" / "new.xyz", 800), put(tmp_path / "b" / "old.xyz", 1000)
    arriving, broken_off = put(tmp_path / "tmp1", 5), put(tmp_path / "tmp2", 100)
    delete_old(tmp_path, NOW)
    assert whole.exists()
    assert not old.parent.exists()
    assert arriving.exists()
    assert not broken_off.exists()


def test_an_upload_that_was_read_is_deleted_a_minute_later(tmp_path):
    path = put(tmp_path / "a" / "read.xyz", 0)
    delete_soon(path)
    delete_old(tmp_path, time.time() + 30)
    assert path.exists()
    delete_old(tmp_path, time.time() + 61)
    assert not path.exists()
    delete_soon(path)  # which is gone


def test_files_that_go_meanwhile(tmp_path, vanishing_folder):
    old = put(tmp_path / "tmp1", 100)
    delete_old(tmp_path, NOW)
    assert not old.exists()


def test_the_sweeper_does_so(tmp_path, monkeypatch):
    monkeypatch.setattr("any2point_hf.web_demo.upload_folder.EVERY_SECONDS", 0.01)
    path = put(tmp_path / "tmp2", 100)
    sweeper = Sweeper(tmp_path)
    sweeper.start()
    deadline = time.monotonic() + 30
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    sweeper.stop()
    assert not path.exists()
    assert not sweeper.is_alive()
