"""Small files that people meet, of ../shared/cases, and what reading them must give."""

import json
from pathlib import Path

import numpy as np
import pytest

from any2point_hf.modeling.errors import PointCloudError
from any2point_hf.point_clouds.files import read_point_cloud

FOLDER = Path(__file__).parents[4] / "shared" / "cases" / "files"
CASES = json.loads((FOLDER / "expected.json").read_text()) if FOLDER.is_dir() else {}


@pytest.mark.skipif(not CASES, reason=f"the shared cases are not at {FOLDER}")
@pytest.mark.parametrize("name", CASES or ["none"])
def test_cases(name):
    case = CASES[name]
    if "error" in case:
        with pytest.raises(PointCloudError, match=r"names a, b, c, d"):
            read_point_cloud(FOLDER / name)
        return
    found = read_point_cloud(FOLDER / name)
    if "points" in case:
        expected = np.array(case["points"])
        tolerance = case.get("tolerance", 1e-4)
        np.testing.assert_allclose(found - found.mean(axis=0), expected - expected.mean(axis=0), atol=tolerance, rtol=0)
        return
    low, high = case["bounds"]
    np.testing.assert_allclose(found.min(axis=0), low, atol=0.02)
    np.testing.assert_allclose(found.max(axis=0), high, atol=0.02)
    if "area_shares" in case:
        shares = [np.isclose(found[:, axis], side, atol=1e-6).mean() for axis in range(3) for side in (0, 1)]
        assert shares == pytest.approx([1 / 6] * 6, abs=0.03)
    if "outside" in case:
        assert not ((found[:, 0] > 1) & (found[:, 1] > 1)).any()
