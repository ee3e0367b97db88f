"""The documents say what the code knows, and what they point to is there."""

import math
import re
from pathlib import Path

import pytest

from vlcl_toolkit.analysis.published import SCORES, published_for
from vlcl_toolkit.experiments.published_runs import find_recipe, recipes, training_steps
from vlcl_toolkit.load import stream_names
from vlcl_toolkit.streams.full_size.reference import CAPTIONS
from vlcl_toolkit.streams.full_size.sources import COOP_FILES, SOURCES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_every_data_set_has_its_folder_and_its_way():
    rows = [line for line in read("data.md").splitlines() if line.startswith("| ")]
    for name, source in SOURCES.items():
        (row,) = [row for row in rows if row.startswith(f"| {name} |")][:1]
        assert f"`{source.folder}" in row
        assert ("**by hand**" in row) == (not source.downloads)
    for name, (file, _) in COOP_FILES.items():
        assert any(row.startswith(f"| {name} |") and f"`{file}`" in row for row in rows)
    assert CAPTIONS in read("data.md")


def test_every_protocol_is_in_the_table():
    text = read("reproducing.md")
    named = set(re.findall(r"`((?:mtil|xtail|odcl|cifar|tiny|imagenet)[\w-]+)/(?:\w+|…)`", text))
    assert named == {recipe.protocol for recipe in recipes().values()}
    assert {name for name in named if "-order-" not in name} <= set(stream_names())


@pytest.mark.parametrize(
    "row",
    re.findall(
        r"^\|[^|]*\| `((?:mtil|xtail|odcl)[\w-]+/\w+)`[^|]* \|[^|]*\| ([\d,]+) \| (.*) \|$",
        read("reproducing.md"),
        re.M,
    ),
)
def test_steps_and_published_scores_are_those_of_the_recipes(row):
    name, steps, scores = row
    recipe = find_recipe(name)
    assert int(steps.replace(",", "")) == training_steps(recipe)
    entries = published_for(recipe.protocol, recipe.variant)
    if not entries:
        assert scores == "not known here"
        return
    mark = "" if entries[0].verified else "?"
    published = [entries[0].scores[score] for score in SCORES]
    assert scores == " / ".join("–" if math.isnan(x) else f"{x:.1f}{mark}" for x in published)


MARKDOWN = [path for path in ROOT.rglob("*.md") if not {".venv", "runs"} & set(path.parts)]


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize(
    "path", [*MARKDOWN, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_the_benchmarks_and_scripts_that_the_docs_name_are_there():
    named = set()
    for path in MARKDOWN:
        named |= set(re.findall(r"python ((?:tests|data)/[\w/.]+)", path.read_text("utf-8")))
    assert len(named) > 2
    assert [name for name in named if not (ROOT / name).exists()] == []
