"""The fidelity tables name functions, tests and settings that exist.

Rows are read from the Markdown tables of `docs/fidelity_*.md` by the titles of their columns: "Ours"
names functions below `vlcl_toolkit`, "Proved by" tests (and runners of parity cases) below `tests`,
"Switch" settings of the document's methods, each with a value that can be given to it.
"""

import ast
import importlib
import re
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import pytest

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_config, method_class

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted((ROOT / "docs").glob("fidelity_*.md"))
# The methods whose settings a document speaks of.
METHODS = {
    "fidelity_diki": ("diki", "prefix_tuning"),
    "fidelity_dpw": ("dpw",),
    "fidelity_low_rank": ("lora", "keeplora", "nusa_cl"),
    "fidelity_moe_adapters": ("moe_adapters",),
    "fidelity_rail": ("rail",),
    "fidelity_zscl": ("zscl", "icarl", "lwf", "lwf_vr", "wise_ft", "finetune"),
}
# Settings on which others depend.
TOGETHER = {("selector", "none"): {"shared_router": True}}
DOTTED = re.compile(r"[a-z_]\w*(\.\w+)+")


@dataclass(frozen=True)
class Row:
    """A row of a table by the titles of its columns."""

    document: str
    cells: dict[str, str]

    def __str__(self) -> str:
        return f"{self.document}: {' | '.join(self.cells.values())[:60]}"

    def named(self, column: str) -> list[str]:
        """What a cell sets in code font."""
        return re.findall(r"`([^`]+)`", self.cells.get(column, ""))


def rows_of(document: str, text: str) -> list[Row]:
    """All rows of all tables that have a column "Ours"."""
    found, titles = [], list[str]()
    for line in text.splitlines():
        if not line.startswith("|"):
            titles = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not titles:
            titles = cells
        elif not all(set(cell) <= set("-:") for cell in cells):
            assert len(cells) == len(titles), f"{document}: {len(cells)} cells in {line}"
            found.append(Row(document, dict(zip(titles, cells, strict=True))))
    return [row for row in found if "Ours" in row.cells]


def wrong_functions(row: Row) -> list[str]:
    """Dotted names in "Ours" that are not importable from the package."""
    dotted = [name for name in row.named("Ours") if DOTTED.fullmatch(name)]
    return [name for name in dotted if not resolves(f"vlcl_toolkit.{name}")]


@cache
def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something inside one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            target = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not module.startswith(str(error.name)):
                raise  # of another package: the module itself is broken
            continue
        for part in parts[length:]:
            if not hasattr(target, part):
                return False
            target = getattr(target, part)
        return True
    return False


def wrong_tests(row: Row) -> list[str]:
    """Names in "Proved by" that are no test and no runner of parity cases."""
    return [name for name in row.named("Proved by") if not is_test(name)]


@cache
def functions_in(path: Path) -> dict[str, str]:
    """Decorators, as text, of the functions at the top of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {f.name: " ".join(ast.unparse(d) for d in f.decorator_list) for f in functions}


def is_test(name: str) -> bool:
    """Whether `folder.module.function` below `tests` is a test that runs, or a parity runner."""
    module, _, function = name.rpartition(".")
    path = (ROOT / "tests" / module.replace(".", "/")).with_suffix(".py")
    decorators = functions_in(path).get(function) if path.is_file() else None
    if decorators is None or re.search(r"mark\.(skip|xfail)", decorators):
        return False
    if module.startswith("parity."):
        return decorators.startswith("runner(")
    return function.startswith("test_") and path.name.startswith("test_")


def wrong_switches(row: Row) -> list[str]:
    """Settings in "Switch" that no method of the document has, or that do not take the value."""
    methods = METHODS[row.document]
    wrong = []
    for part, after in re.findall(r"`([^`]+)`(?:\s*\(([^)]*)\))?", row.cells.get("Switch", "")):
        if DOTTED.fullmatch(part):  # settings that have a name together
            wrong += [] if resolves(f"vlcl_toolkit.{part}") else [part]
            continue
        name, _, given = part.partition("=")
        owners = [m for m in methods if name in {f.name for f in fields(method_class(m).Config)}]
        # `name=value`, or a value at the start of the brackets; anything else there is prose
        start = re.match(r'"[^"]*"|True|False|None|-?[\d.]+(?:e-?\d+)?(?=$|;|,)', after)
        value = given or (start[0] if start else "")
        if not owners or (value and not any(takes(m, name, value) for m in owners)):
            wrong.append(f"{part} {after}".strip())
    return wrong


def takes(method: str, name: str, text: str) -> bool:
    value = ast.literal_eval(text)
    try:
        make_config(method, {name: value} | TOGETHER.get((name, value), {}))
    except UserError:
        return False
    return True


ROWS = [row for path in DOCUMENTS for row in rows_of(path.stem, path.read_text(encoding="utf-8"))]


def test_every_method_has_its_tables():
    assert {path.stem for path in DOCUMENTS} == METHODS.keys()
    for document in METHODS:
        rows = [row for row in ROWS if row.document == document]
        assert len(rows) > 20, document
        assert sum(bool(row.named("Proved by")) for row in rows) > 0.7 * len(rows), document
        assert sum(bool(row.named("Switch")) for row in rows) > 5, document


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_a_row_names_exists(row):
    assert not wrong_functions(row), "no such function"
    assert not wrong_tests(row), "no such test"
    assert not wrong_switches(row), "no such setting, or not with this value"
