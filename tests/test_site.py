"""The static site: pages of executed notebooks that need no kernel."""

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "docs" / "make_site.py"
TEXT = "# First things\n\n**The question.** Is *one* less than two?\n\nSee [`02_b`](02_b.ipynb)."
PANEL = "import ipywidgets\nbar = ipywidgets.IntProgress()\ndisplay(bar)\nipywidgets.IntSlider()"
FIGURE = "import os\nprint('ran in', os.environ['VLCL_PROJECT'])\n6 * 7"


def older_site(place):
    (place / "site").mkdir()
    for name in ("index.html", "old.html"):
        (place / "site" / name).touch()


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_site", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(maker, tmp_path_factory):
    """A site of two notebooks."""
    place = tmp_path_factory.mktemp("site")
    first = [new_markdown_cell(TEXT), new_code_cell(PANEL), new_code_cell(FIGURE)]
    for name, cells in {"01_a": first, "02_b": [new_markdown_cell("# Second")]}.items():
        nbformat.write(new_notebook(cells=cells), place / f"{name}.ipynb")
    older_site(place)
    maker.write_site(place / "site", sorted(place.glob("*.ipynb")))
    return place / "site"


def test_pages_show_what_cells_returned(site):
    page = (site / "01_a.html").read_text(encoding="utf-8")
    assert "42" in page
    assert "ran in" in page


def test_controls_become_a_remark_and_progress_bars_go(maker, site):
    page = (site / "01_a.html").read_text(encoding="utf-8")
    assert page.count(maker.CONTROLS) == 1
    assert maker.WIDGET not in page
    assert "IntProgress(" not in page


def test_what_plays_without_a_kernel_is_kept(maker):
    data = {maker.WIDGET: {"model_id": "1"}, "text/html": "<iframe></iframe>"}
    output = new_output("execute_result", data)
    notebook = new_notebook(cells=[new_code_cell("player", outputs=[output])])
    (kept,) = maker.for_readers(notebook).cells[0].outputs
    assert kept.data == {"text/html": "<iframe></iframe>"}


def test_links_lead_to_pages(site):
    first, second = ((site / f"{n}.html").read_text(encoding="utf-8") for n in ("01_a", "02_b"))
    assert '<a href="02_b.html">' in first
    assert "<a href='02_b.html'>02_b →</a>" in first
    assert "<a href='01_a.html'>← 01_a</a>" in second
    assert ".ipynb" not in first


def test_index_has_questions_and_figures(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "01 First things</a><br>Is one less than two?" in index
    assert index.count("<figcaption>") >= 3
    for line in index.split("<img src='")[1:]:
        assert (site / line.split("'")[0]).is_file()


def test_older_pages_are_gone(site):
    assert not (site / "old.html").exists()


def test_failing_cell_leaves_the_older_site(maker, tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), tmp_path / "01_a.ipynb")
    older_site(tmp_path)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        maker.write_site(tmp_path / "site", [tmp_path / "01_a.ipynb"])
    assert (tmp_path / "site" / "old.html").exists()


def test_folder_of_something_else_is_left_alone(maker, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SystemExit, match="something else"):
        maker.write_site(tmp_path, [])
    assert (tmp_path / "thesis.tex").exists()
