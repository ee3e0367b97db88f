"""The table of what notebooks cost: true with workers, and for a notebook that fails."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "notebooks" / "conftest.py"
HUNGRY = "import time\nheld = bytearray(b'1') * 300_000_000\ntime.sleep(1)"


def write(path, source):
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": []}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": [cell | {"source": source}], "metadata": kernel}
    path.write_text(json.dumps(notebook | {"nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows of the table by notebook, as numbers."""
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copy(CONFTEST, folder)
    (folder / "pytest.ini").write_text("[pytest]\n")
    write(folder / "hungry.ipynb", HUNGRY)
    write(folder / "failing.ipynb", "1 / 0")
    command = [sys.executable, "-m", "pytest", "--nbmake", "-n", "2", "-p", "no:cacheprovider", "."]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
    assert "1 failed, 1 passed" in output, output
    rows = re.findall(r"^(\w+\.ipynb) +([\d.]+) +([\d.]+) +(\d+)$", output, re.MULTILINE)
    return {name: tuple(map(float, numbers)) for name, *numbers in rows}


def test_every_notebook_has_a_row(table):
    assert set(table) == {"hungry.ipynb", "failing.ipynb"}


def test_numbers_are_those_of_the_kernel(table):
    seconds, cpu, mib = table["hungry.ipynb"]
    assert seconds > 1
    assert cpu > 0
    assert mib > 300_000_000 / 2**20


@pytest.mark.parametrize(
    ("seconds", "mib", "over"), [(90, 3072, False), (90.1, 10, True), (1, 3073, True)]
)
def test_rows_above_the_budget_are_marked(seconds, mib, over):
    spec = importlib.util.spec_from_file_location("notebooks_conftest", CONFTEST)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.row("a.ipynb", seconds, 1.0, mib).endswith("over") == over
