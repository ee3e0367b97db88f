"""What every notebook promises, besides that it runs: clean in git, short cells, the same parts."""

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


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return read(request.param)


@pytest.fixture(
    params=[path for path in NOTEBOOKS if path.stem != OWN_METHOD], ids=lambda p: p.stem
)
def calling_notebook(request):
    return read(request.param)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def sources(notebook, kind):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_numbers_have_no_gap():
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{n:02d}_" for n in range(len(NOTEBOOKS))]


@pytest.mark.parametrize(
    ("path", "following"),
    list(itertools.pairwise(NOTEBOOKS)),
    ids=[path.stem for path in NOTEBOOKS[:-1]],
)
def test_next_leads_to_the_following_notebook(path, following):
    text = "\n".join(sources(read(path), "markdown"))
    links = re.findall(r"^\*\*Next:\*\* \[`(\w+)`\]\((\w+)\.ipynb\)", text, re.MULTILINE)
    assert links[-1:] == [(following.stem, following.stem)]


def test_opens_without_asking_for_a_kernel(notebook):
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_is_stripped(notebook):
    assert "widgets" not in notebook["metadata"]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_cells_are_short(calling_notebook):
    lengths = [len(source.splitlines()) for source in sources(calling_notebook, "code")]
    assert max(lengths) <= LINES


def test_code_only_calls_the_library(calling_notebook):
    code = "\n".join(sources(calling_notebook, "code"))
    assert not re.search(r"^\s*(def|class|while|try|lambda)\b", code, re.MULTILINE)
    assert "warnings" not in code


def test_a_method_of_your_own_is_forty_lines():
    path = next(path for path in NOTEBOOKS if path.stem == OWN_METHOD)
    own = [source for source in sources(read(path), "code") if "@vlcl.register" in source]
    assert len(own) == 1
    assert len([line for line in own[0].splitlines() if line.strip()]) <= 42


def test_has_the_parts_of_a_lesson(notebook):
    text, code = "\n".join(sources(notebook, "markdown")), sources(notebook, "code")
    assert text.startswith("# ")
    assert "**The question.**" in text
    assert re.search("predict|guess", text, re.IGNORECASE)
    assert "## What to remember" in text
    assert text.count("<details><summary>Solution</summary>") == 2
    assert text.count("</details>") == 2
    assert "\nassert " in code[-1], "the last cell checks the claims"


def test_links_lead_somewhere(notebook):
    for target in re.findall(r"\]\((\w+\.ipynb)\)", "\n".join(sources(notebook, "markdown"))):
        assert target in {path.name for path in NOTEBOOKS}


def test_a_page_shows_figures_that_are_made_outside_pyplot():
    code = "from vlcl_toolkit import plotting\nplotting.use_style()\nplotting.new_figure()[0]"
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(page).execute()
    assert "image/png" in page.cells[0].outputs[0]["data"]
