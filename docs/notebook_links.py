"""A hook of mkdocs.yml: links of notebooks to pages (`../data.md`) lead to the built pages, as those of pages do."""

import re
from typing import Any


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """The page's HTML; mkdocs itself follows the links of Markdown files alone."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    return re.sub(r'href="([\w./-]+)\.md(["#])', r'href="\1.html\2', html)
