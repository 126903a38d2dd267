"""Makes the package importable from the source tree, on a machine where nothing can be installed.

`setup.cfg` maps two folders of the top level to subpackages; an import does the same here.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = {f"any2point_hf.{name}": ROOT / name for name in ("modeling", "conversion_scripts")}


class SourceTreeFinder:
    """Finds the two subpackages where the package is not installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """The module's spec; None for every other module."""
        folder = _FOLDERS.get(name)
        if folder is None:
            return None
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def make_importable() -> None:
    """Lets `import any2point_hf` find the source tree, if it is not installed."""
    if importlib.util.find_spec("any2point_hf") is None:
        sys.path.insert(0, str(ROOT))
    if not any(isinstance(finder, SourceTreeFinder) for finder in sys.meta_path):
        sys.meta_path.append(SourceTreeFinder())
