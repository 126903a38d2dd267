import pytest

from any2point_hf.modeling.errors import Any2PointError


def test_the_extension_names_the_format(picture, tmp_path):
    png = picture().save(tmp_path / "new folder" / "a.PNG")
    html = picture().save(str(tmp_path / "new folder" / "a.html"))
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_another_format_is_refused_before_anything_is_written(picture, tmp_path):
    with pytest.raises(Any2PointError, match=r"\.png or \.html, got .*a\.jpg"):
        picture().save(tmp_path / "new folder" / "a.jpg")
    assert not (tmp_path / "new folder").exists()
