"""Imports inside the package point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import vlcl_toolkit

PACKAGE = Path(vlcl_toolkit.__file__).parent
LAYERS = [
    {"errors", "files", "seeds", "checkpoint", "division", "processes", "execution"},
    {"weights", "transforms", "random_backbone", "clip", "streams"},
    {"methods", "recipes"},
    {
        "evaluation",
        "memory",
        "results",
        "events",
        "interrupts",
        "run_folder",
        "session",
        "devices",
        "computing",
        "loading",
        "training",
        "probes",
    },
    {"bench", "cluster", "experiments", "jobs", "prompt_strength", "reproduce", "weight_path"},
    {"analysis"},
    {"plotting"},
    {"widgets", "cli", "__main__", "__init__"},
]
LAYER_OF = {name: index for index, names in enumerate(LAYERS) for name in names}


def part_of(path: Path) -> str:
    """First name below the package: the module, or the folder that it lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Parts of the package that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            module = node.module or ""
            named = [f"{module}.{alias.name}" for alias in node.names]
            modules = named if module == "vlcl_toolkit" else [module]
        else:
            continue
        found |= {m.split(".")[1] for m in modules if m.startswith("vlcl_toolkit.")}
    return found


def test_every_module_has_a_layer():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts <= LAYER_OF.keys(), "give the new module a layer"


def test_imports_point_to_lower_layers():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {part}"
        for path in PACKAGE.rglob("*.py")
        for part in imported_parts(path)
        if LAYER_OF[part] > LAYER_OF[part_of(path)]
    ]
    assert not wrong


def test_importing_the_package_imports_no_library():
    code = "import sys, vlcl_toolkit; print('torch' in sys.modules, len(vlcl_toolkit.__all__))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["False", str(len(vlcl_toolkit.__all__))]


def test_public_names_resolve():
    for name in vlcl_toolkit.__all__:
        assert getattr(vlcl_toolkit, name) is not None
