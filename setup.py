"""README.md as the package index shows it, where links within the repository need its address; all else is declared."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
address = re.search(r'^Source = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
readme = (ROOT / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"(!\[[^]]*\]\()(?!\w+:|#)", rf"\1{address}/raw/main/", readme)  # pictures
readme = re.sub(r"(?<!!)(\[[^]]*\]\()(?!\w+:|#)", rf"\1{address}/blob/main/", readme)
setup(long_description=readme, long_description_content_type="text/markdown")
