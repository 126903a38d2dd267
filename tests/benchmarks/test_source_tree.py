"""The package is found in the source tree where it is not installed."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
sys.path.append(sys.argv[2])  # without the files there that say where an editable package is
for name in ("datasets", "trimesh", "matplotlib"):
    sys.modules[name] = None  # as on a machine without them
import source_tree
source_tree.make_importable()
source_tree.make_importable()
import any2point_hf.modeling.presets, any2point_hf.conversion_scripts
from gpu_run import inputs, paired, plans, queue, ratios, training
print(any2point_hf.__file__, any2point_hf.modeling.__file__, any2point_hf.modeling.presets.__file__, sep="\\n")
print(sum(isinstance(finder, source_tree.SourceTreeFinder) for finder in sys.meta_path))
"""


def copy_tree(folder):
    """The source as a checkout has it, without links that a developer may have made."""
    for name in ("any2point_hf", "modeling", "conversion_scripts", "benchmarks"):
        left_out = ["__pycache__"] + (["modeling", "conversion_scripts"] if name == "any2point_hf" else [])
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*left_out))
    return folder


def test_a_process_without_the_installed_package_finds_the_source(tmp_path, subprocess_environment):
    folder = copy_tree(tmp_path / "tree")
    environment = {name: value for name, value in subprocess_environment.items() if name != "PYTHONPATH"}
    arguments = (str(folder / "benchmarks"), sysconfig.get_paths()["purelib"])
    process = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        str(folder / "any2point_hf" / "__init__.py"),
        str(folder / "modeling" / "__init__.py"),
        str(folder / "modeling" / "presets.py"),
        "1",
    ]


def test_an_installed_package_stays_the_one_that_is_found(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    import source_tree

    import any2point_hf.modeling

    path = list(sys.path)
    source_tree.make_importable()
    assert sys.path == path
    assert sys.modules["any2point_hf.modeling"] is any2point_hf.modeling
    assert source_tree.SourceTreeFinder.find_spec("any2point_hf.data") is None
    assert source_tree.SourceTreeFinder.find_spec("numpy") is None
