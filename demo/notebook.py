"""Makes walkthrough.ipynb of walkthrough.py: runs its cells, and keeps what they print and draw."""

from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).resolve().with_name("walkthrough.py")
NOTEBOOK = TOUR.with_suffix(".ipynb")


def make_notebook() -> nbformat.NotebookNode:
    """The notebook, executed; nothing in it depends on when or by which Python."""
    notebook = jupytext.read(TOUR)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", {}
    where = {"metadata": {"path": TOUR.parent}}
    NotebookClient(notebook, coalesce_streams=True, record_timing=False, resources=where).execute()
    del notebook.metadata["language_info"]
    return notebook


if __name__ == "__main__":
    nbformat.write(make_notebook(), NOTEBOOK)
    print(NOTEBOOK)
