"""Runs the notebooks of docs/notebooks/ and writes them with what they print; a test runs them too.

python docs/run_notebooks.py
"""

import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).with_name("notebooks")


def run(path: Path, folder: Path, seconds: int = 600) -> nbformat.NotebookNode:
    """The notebook as it is after every cell ran in an empty folder; a cell's error is raised.

    Progress bars, warnings and times are left out of it, so that a second run changes little.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.record_timing = False
    client.execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_without_progress(output) for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in cell.outputs if output.get("data") != {}]
    return notebook


def _without_progress(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Takes the Trainer's bar, which tells times, from its table; no data are left where there is no table."""
    html = output.get("data", {}).get("text/html", "")
    if "<progress" in html:
        table = re.search("<table.*</table>", html, re.DOTALL)
        output.data = {"text/html": table[0]} if table else {}
    return output


if __name__ == "__main__":
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(run(path, Path(folder)), path)
