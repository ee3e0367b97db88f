"""`pytest tests/parity --golden-dir DIR`: a test per case in DIR, default `tests/golden`."""

from pathlib import Path

import pytest

from parity.loading import Case, find_cases

DEFAULT_FOLDER = Path(__file__).parents[1] / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", type=Path, help="folder tree of golden cases")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    # Known to pytest only if this folder is named on the command line.
    folder = metafunc.config.getoption("--golden-dir", default=None) or DEFAULT_FOLDER
    cases = find_cases(folder)
    if not cases:  # an empty list would be a skipped test
        raise pytest.UsageError(f"no golden case in {folder}")
    metafunc.parametrize("case", cases, ids=Case.__str__)
