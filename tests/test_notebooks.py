"""What every notebook promises, besides that it runs: clean in git, short cells, claims that are checked."""

import itertools
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LINES = 15  # a cell fits on a slide
OWN_METHOD = "09_your_own_method"  # whose subject is a class, in one cell
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def sources(path, kind):
    return ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == kind]


def test_each_leads_to_the_next():
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{n:02d}_" for n in range(len(NOTEBOOKS))]
    for path, following in itertools.pairwise(NOTEBOOKS):
        links = re.findall(r"\]\((\w+)\.ipynb\)", "\n".join(sources(path, "markdown")))
        assert links[-1] == following.stem, path
        assert set(links) <= {known.stem for known in NOTEBOOKS}


@each_notebook
def test_is_stripped_and_opens_without_asking_for_a_kernel(path):
    notebook = read(path)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in notebook["metadata"]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@each_notebook
def test_short_cells_that_call_the_library_and_check_their_claims_at_the_end(path):
    code = sources(path, "code")
    assert "\nassert " in code[-1]
    if path.stem == OWN_METHOD:
        (own,) = [source for source in code if "@vlcl.register" in source]
        assert len([line for line in own.splitlines() if line.strip()]) <= 42  # "forty lines"
        return
    assert max(len(source.splitlines()) for source in code) <= LINES
    text = "\n".join(code)
    assert not re.search(r"^\s*(def|class|while|try|lambda)\b", text, re.MULTILINE)
    assert "warnings" not in text


def test_a_page_shows_figures_that_are_made_outside_pyplot():
    code = "from vlcl_toolkit import plotting\nplotting.use_style()\nplotting.new_figure()[0]"
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(page).execute()
    assert "image/png" in page.cells[0].outputs[0]["data"]
