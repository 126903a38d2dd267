"""The wheel under every Python that is found, with the lowest and the newest versions of what it depends on.

python benchmarks/compatibility.py [--python 3.10 3.12] [--versions lowest newest pinned] [--extras las hdf5] [--tests]

Needs `uv`, and its variables (UV_FIND_LINKS, UV_CONSTRAINT, …) say where packages come from. For each interpreter and
each choice of versions: a new environment with the wheel of this checkout, then what a user does with the installed
command: train, evaluate, predict, index, search, export, load in Python. `--tests` runs the checks of numbers and the
test files of the extras as well. Prints a row of a table for each; what failed is shown on standard error.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
VERSIONS = {
    "lowest": ["--resolution", "lowest-direct"],
    "newest": ["--upgrade"],
    "pinned": ["--constraint", str(ROOT / "constraints.txt")],
}
SHOWN = ("torch", "transformers", "numpy", "datasets")
LIMIT = 900  # seconds, for one command

INPUTS = """
import pathlib

import numpy as np
from transformers import BertConfig, BertModel

sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BertModel(BertConfig(**sizes, vocab_size=50, max_position_embeddings=24)).save_pretrained("bert")
points = np.random.default_rng(0).normal(size=(24, 80, 3)).astype(np.float32)
labels = np.arange(24) % 2
points[labels == 1, :, 2] *= 0.05  # balls and discs
both = {"points": points, "split": (np.arange(24) >= 16).astype(np.int64)}
np.savez("clouds.npz", labels=labels, class_names=np.array(["ball", "disc"]), **both)
pathlib.Path("clouds").mkdir()
for name, cloud in zip("ab", points, strict=False):
    np.savetxt(f"clouds/{name}.xyz", cloud)
"""
RELOADED = """
import torch
from any2point_hf import Any2PointForPointCloudClassification, Any2PointProcessor

model = Any2PointForPointCloudClassification.from_pretrained("adapter")
inputs = Any2PointProcessor.from_pretrained("adapter")(["clouds/a.xyz", "clouds/b.xyz"])
model.save_pretrained("again")
again = Any2PointForPointCloudClassification.from_pretrained("again")
with torch.no_grad():
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)
"""
TRAIN = "train --data clouds.npz --backbone bert --epochs 2 --batch-size 8 --set num_points=64 --set num_neighbors=8"
COMMANDS = (  # of `any2point`
    "--help",
    "info --preset clip-text-scan",
    f"{TRAIN} --output adapter",
    "evaluate --model adapter --data clouds.npz --json",
    "predict clouds/a.xyz clouds/b.xyz --model adapter --json",
    "index clouds --model adapter --out clouds.index",
    "search clouds/a.xyz --index clouds.index --model adapter",
    "export --model adapter --format torch --output adapter.pt2",
)
NUMBERS = [
    "tests/test_frozen_checkpoint.py",
    "tests/any2point_hf/test_cli.py",
    "tests/any2point_hf/training/test_trainer.py",
]
EXTRAS = {  # and the tests that use them
    "dae": "tests/any2point_hf/point_clouds/test_meshes.py",
    "e57": "tests/any2point_hf/point_clouds/test_scans.py",
    "export": "tests/any2point_hf/test_export.py",
    "hdf5": "tests/any2point_hf/data/test_scanobjectnn.py",
    "las": "tests/any2point_hf/point_clouds/test_scans.py",
    "lora": "tests/modeling/several_adapters/test_lora.py",
    "pictures": "tests/any2point_hf/pictures",
    "ray": "tests/any2point_hf/large_collections/test_ray_engine.py",
    "timm": "tests/modeling/backbones/test_timm.py",
    "web": "tests/any2point_hf/web_demo/test_inference.py",
}


class CommandError(Exception):
    """Ends the work in one environment."""


def run(arguments: list[str], folder: Path, environment: dict[str, str]) -> str:
    """The standard output of a command; its errors are shown if it fails."""
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        print(*arguments, done.stdout[-3000:], done.stderr[-3000:], sep="\n", file=sys.stderr)
        told = (done.stderr or done.stdout).strip().splitlines()
        raise CommandError(f"{Path(arguments[0]).name} {arguments[1]}: {told[-1] if told else ''}")
    return done.stdout


def build_wheel(uv: str, folder: Path) -> Path:
    """Builds from a copy, so that nothing is left in the checkout."""
    source = folder / "source"
    for name in ("any2point_hf", "modeling", "conversion_scripts"):
        links = ["modeling", "conversion_scripts"] if name == "any2point_hf" else []  # that a developer may have made
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", *links))
    for name in ("pyproject.toml", "setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run([uv, "build", "--wheel", "--out-dir", str(folder)], source, {**os.environ})
    return next(folder.glob("*.whl"))


def try_environment(uv: str, wheel: Path, python: str, versions: str, options: argparse.Namespace, folder: Path) -> str:
    """Installs and works in one environment; returns the row of the table."""
    home, work = folder / "environment", folder / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"VIRTUAL_ENV": str(home), "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    binaries = home / ("Scripts" if os.name == "nt" else "bin")
    start, passed = time.monotonic(), []
    try:
        run([uv, "venv", "--quiet", "--python", python, str(home)], folder, environment)
        extras = [word for name in options.extras for word in ("--extra", name)]
        from_project = [uv, "pip", "install", "--quiet", *VERSIONS[versions], "-r", "pyproject.toml", *extras]
        run(from_project, ROOT, environment)  # of these, and not of what they need, it takes the lowest
        run([uv, "pip", "install", "--quiet", "--no-deps", str(wheel)], folder, environment)
        run([str(binaries / "python"), "-c", INPUTS], work, environment)
        for command in COMMANDS:
            run([str(binaries / "any2point"), *command.split()], work, environment)
        run([str(binaries / "python"), "-c", RELOADED], work, environment)
        passed.append(f"{len(COMMANDS) + 1} commands")
        if options.tests:
            run([uv, "pip", "install", "--quiet", "pytest>=8", "hypothesis>=6.100"], folder, environment)
            files = [*NUMBERS, *dict.fromkeys(EXTRAS[name] for name in options.extras if name in EXTRAS)]
            ours = ["-o", "filterwarnings=", "-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}"]
            told = run([str(binaries / "pytest"), *ours, *files], ROOT, environment)
            passed.append(told.strip().splitlines()[-1].split(" in ")[0])
        result = ", ".join(passed)
    except (CommandError, subprocess.TimeoutExpired) as error:
        result = f"FAILED: {error}"
    shown = versions_of(binaries / "python", environment) if binaries.exists() else "none"
    return f"| {python} | {versions} | {shown} | {result} | {time.monotonic() - start:.0f} s |"


def versions_of(python: Path, environment: dict[str, str]) -> str:
    """The versions of the main dependencies that are installed."""
    program = f"""
import importlib.metadata as metadata, sys
installed = {{found.name: found.version for found in metadata.distributions()}}
print(sys.version.split()[0], *(f"{{name}} {{installed.get(name)}}" for name in {SHOWN!r}), sep=", ")
"""
    return run([str(python), "-c", program], python.parent, environment).strip()


def main() -> int:
    """Prints the table; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, help="versions or paths; one that is missing fails")
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=["lowest", "newest"])
    parser.add_argument("--extras", nargs="+", default=[], metavar="EXTRA", help="to install as well")
    parser.add_argument("--tests", action="store_true", help="run tests of numbers and of the extras, too")
    options = parser.parse_args()
    uv = shutil.which("uv")
    if uv is None:
        parser.error("needs uv: pip install uv")
    print("| Python | versions | installed | worked | time |\n|---|---|---|---|---|", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as built:
        wheel = build_wheel(uv, Path(built))
        for python in options.python:
            for versions in options.versions:
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(try_environment(uv, wheel, python, versions, options, Path(folder)))
                print(rows[-1], flush=True)
    return int(any("FAILED" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
