import re

import numpy as np

from any2point_hf.search.thumbnails import thumbnail, thumbnail_page


def places(picture):
    return np.array([[float(value) for value in match] for match in re.findall(r'cx="(.*?)" cy="(.*?)"', picture)])


def test_a_cloud_lies_inside_its_picture_and_up_is_up():
    points = np.random.default_rng(0).uniform(-1, 1, size=(2000, 3)) * [1, 1, 1e-6]
    points[:, 2] += 1e6  # map coordinates
    found = places(thumbnail(points))
    assert len(found) == 600
    assert found.min() >= 0
    assert found.max() <= 120
    pole = np.column_stack([np.zeros((9, 2)), np.arange(9.0)])
    found = places(thumbnail(pole))
    assert np.ptp(found[:, 0]) == 0
    assert found[:, 1].min() < 10 < 110 < found[:, 1].max()


def test_a_single_place_and_no_cloud():
    assert (places(thumbnail(np.full((5, 3), 7.0))) == 60).all()
    assert "cannot be read" in thumbnail(None)


def test_names_are_text_and_never_markup():
    page = thumbnail_page([[("<script>alert(1)</script>\nclass & more", np.eye(3))]], "<b>title</b>")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;<br>class &amp; more" in page
