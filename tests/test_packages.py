"""What is installed: every folder of code, which setup.cfg lists one by one."""

import configparser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_installed():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    installed = set(settings["options"]["packages"].split())
    folders = {
        folder.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in ("any2point_hf", "modeling", "conversion_scripts")
        for folder in (ROOT / top).rglob("__init__.py")
    }
    mapped = ("modeling", "conversion_scripts")  # these stand at the top, and are installed inside
    ours = {f"any2point_hf.{name}" if name.split(".")[0] in mapped else name for name in folders}
    assert installed == ours
