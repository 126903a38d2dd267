"""What the tests of the web demo share."""

import os

import pytest


@pytest.fixture
def vanishing_folder(tmp_path, monkeypatch):
    """A folder that is listed, and gone when it is looked into."""
    (tmp_path / "gone").mkdir()
    scandir = os.scandir

    def vanish(path):
        if os.fspath(path).endswith("gone"):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
