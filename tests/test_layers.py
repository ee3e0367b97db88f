"""Imports inside the package point one way, and never in a circle."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import vlcl_toolkit

PACKAGE = Path(vlcl_toolkit.__file__).parent
# From the bottom to the top: a module imports from its own layer and from those before it.
LAYERS = [
    {"errors", "files", "seeds", "settings", "sharding"},
    {"clip"},
    {"streams"},
    {"mini"},
    {"load"},
    {"methods"},
    {"probes"},
    {"training"},
    {"experiments"},
    {"analysis"},
    {"plotting"},
    {"widgets", "cli", "__init__"},
]
LAYER_OF = {name: index for index, names in enumerate(LAYERS) for name in names}


def module_of(path: Path) -> str:
    """Dotted name below the package; of a folder's __init__, the folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts)


MODULES = {module_of(path): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}


def imported(tree: ast.AST) -> set[str]:
    """Modules of the package that a piece of code imports, inside its functions too."""
    named = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if name.removeprefix("vlcl_toolkit.") in MODULES}
            named |= modules or {module}
    return {n.removeprefix("vlcl_toolkit.") for n in named if n.startswith("vlcl_toolkit.")}


def when_loaded(tree: ast.Module) -> ast.Module:
    """What runs while a module is imported: no function bodies, nothing for type checkers alone."""

    def kept(node: ast.stmt) -> bool:
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        return not typing and not isinstance(node, ast.FunctionDef | ast.ClassDef)

    return ast.Module([node for node in tree.body if kept(node)], [])


def test_the_root_is_small_and_every_module_has_a_layer():
    parts = {name.split(".")[0] for name in MODULES}
    assert parts <= LAYER_OF.keys(), "give the new module a layer"
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert files == {"errors", "files", "load", "seeds", "settings", "sharding"}


def test_imports_point_to_lower_layers():
    wrong = [
        f"{name} imports {other}"
        for name, tree in MODULES.items()
        for other in imported(tree)
        if LAYER_OF[other.split(".")[0]] > LAYER_OF[name.split(".")[0]]
    ]
    assert not wrong


def test_no_module_imports_itself_through_others():
    graph = {name: imported(when_loaded(tree)) - {name} for name, tree in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_importing_the_package_imports_no_library():
    code = "import sys, vlcl_toolkit; print('torch' in sys.modules, len(vlcl_toolkit.__all__))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["False", str(len(vlcl_toolkit.__all__))]


def test_public_names_resolve():
    for name in vlcl_toolkit.__all__:
        assert getattr(vlcl_toolkit, name) is not None
