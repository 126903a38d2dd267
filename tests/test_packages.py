"""What is installed: every folder of code or data, which setup.cfg lists one by one, and what the index shows."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("any2point_hf", "modeling", "conversion_scripts")
DATA = {"any2point_hf.training.recipes"}  # folders without code


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """What a build needs, without links that a developer may have made."""
    folder = tmp_path_factory.mktemp("source")
    for name in TOPS:
        left_out = ["__pycache__"] + (["modeling", "conversion_scripts"] if name == "any2point_hf" else [])
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*left_out))
    for name in ("pyproject.toml", "setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> tuple[zipfile.ZipFile, str]:
    """The wheel, and what its build printed. It needs no network: setuptools comes with torch."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-build-isolation", "--no-deps", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", folder, source], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as file:
        yield file, done.stdout + done.stderr


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    name = next(name for name in wheel[0].namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel[0].read(name).decode())


def test_every_package_is_installed():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    installed = set(settings["options"]["packages"].split())
    folders = {
        folder.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in TOPS
        for folder in (ROOT / top).rglob("__init__.py")
    }
    mapped = ("modeling", "conversion_scripts")  # these stand at the top, and are installed inside
    ours = {f"any2point_hf.{name}" if name.split(".")[0] in mapped else name for name in folders}
    assert installed == ours | DATA


def test_the_wheel_has_every_file(source, wheel):
    files = {path.relative_to(source) for top in TOPS for path in (source / top).rglob("*") if path.is_file()}
    ours = {path if path.parts[0] == "any2point_hf" else Path("any2point_hf", path) for path in files}
    built = {Path(name) for name in wheel[0].namelist() if ".dist-info/" not in name}
    assert built == ours


def test_the_build_warns_of_no_package(wheel):
    assert re.findall(r"Package '.*' is absent|Package would be ignored|SetuptoolsWarning.*", wheel[1]) == []
    assert "adding 'any2point_hf/training/recipes/modelnet.yaml'" in wheel[1]  # its warnings would be seen


def test_the_index_shows_where_the_project_is(metadata):
    links = dict(entry.split(", ") for entry in metadata.get_all("Project-URL"))
    assert set(links) == {"Homepage", "Documentation", "Source", "Changelog", "Paper"}
    for name in ("Documentation", "Changelog"):
        assert (ROOT / links[name].removeprefix(links["Source"] + "/blob/main/")).is_file()


def test_the_links_of_the_readme_lead_from_the_index_to_files_that_are_there(metadata):
    shown = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    targets = re.findall(r"\[[^]]*\]\(([^)]+)\)", shown)
    assert [target for target in targets if not target.startswith("https://")] == []
    source = dict(entry.split(", ") for entry in metadata.get_all("Project-URL"))["Source"]
    within = [target.removeprefix(source).partition("#")[0] for target in targets if target.startswith(source)]
    pictures = [target for target in within if target.startswith("/raw/main/docs/images/")]
    pages = [target for target in within if target.startswith("/blob/main/docs/")]
    assert len(pictures) == 2
    assert len(pages) > 20
    assert len(within) == len(pictures) + len(pages)
    assert [target for target in within if not ROOT.joinpath(*target.split("/")[3:]).is_file()] == []
    as_written = re.sub(rf"{re.escape(source)}/(?:raw|blob)/main/", "", shown)
    assert as_written.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_what_is_told_to_be_installed_is_an_extra(metadata):
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "any2point_hf").rglob("*.py")]
    named = [found for file in files for found in re.findall(r".any2point.hf\[[^]]+\].?", file.read_text("utf-8"))]
    assert [
        found for found in named if not re.fullmatch(r'"any2point-hf\[.*\]"', found)
    ] == []  # a shell's [ needs them
    extras = {found.removeprefix('"any2point-hf[').removesuffix(']"') for found in named} - {"{extra}"}
    assert {"pictures", "web", "ray"} <= extras <= set(metadata.get_all("Provides-Extra"))


def test_the_classifiers_name_the_pythons_that_were_tried(metadata):
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    tried = set(re.findall(r"(?:^\| |^Python )(3\.\d+)\.\d+ ", page, re.MULTILINE))
    named = {name.rpartition(" ")[2] for name in metadata.get_all("Classifier") if ":: Python :: 3." in name}
    assert named == tried
