"""Static tools see the package as one tree, as an installed copy is; a checkout has `modeling/` beside it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def whole_tree(tmp_path):
    """A folder with the package and its mapped parts inside it, and pyproject.toml."""
    leave = shutil.ignore_patterns("__pycache__", "modeling", "conversion_scripts")
    shutil.copytree(ROOT / "any2point_hf", tmp_path / "any2point_hf", ignore=leave)
    for part in ("modeling", "conversion_scripts"):
        shutil.copytree(ROOT / part, tmp_path / "any2point_hf" / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_mypy_finds_no_error_and_knows_the_classes(whole_tree):
    pytest.importorskip("mypy")
    lines = ["import any2point_hf", "reveal_type(any2point_hf.Any2PointModel)", "unknown: int = any2point_hf.__name__"]
    (whole_tree / "user.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--cache-dir", "cache", "any2point_hf", "user.py"]
    told = subprocess.run(command, cwd=whole_tree, capture_output=True, encoding="utf-8").stdout
    revealed, mistake, summary = told.splitlines()
    assert "def (config: any2point_hf.modeling.configuration_any2point.Any2PointConfig" in revealed
    assert revealed.endswith('any2point_hf.modeling.modeling_any2point.Any2PointModel"')
    assert mistake.startswith("user.py:3: error")  # what mypy does find, it tells
    assert summary.startswith("Found 1 error in 1 file")
