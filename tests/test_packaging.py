"""pyproject.toml, requirements.lock and environment.yml agree; a wheel works anywhere."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLING = ["pyproject.toml", "requirements.lock", "environment.yml", "Makefile", ".ci/run"]
# What ties a file to one machine or one host: an address, an index option, somebody's folder.
MACHINE = re.compile(r"\w+://|index-url|find-links|--hash|/(?:home|root|Users|work|opt|tmp|mnt)/")


def lock_pins() -> dict[str, str]:
    """Name -> version of every line of the lock, each of which must be one exact pin."""
    pins = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        assert "*" not in specifier.version, line
        assert requirement.url is None, line
        name = canonicalize_name(requirement.name)
        assert name not in pins, f"{name} is pinned twice"
        pins[name] = specifier.version
    return pins


def direct_requirements() -> list[Requirement]:
    groups = [PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"].values()]
    return [Requirement(line) for lines in groups for line in lines]


@pytest.mark.parametrize("requirement", direct_requirements(), ids=lambda r: r.name)
def test_lock_satisfies_every_direct_dependency(requirement):
    pin = lock_pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin, prereleases=True)


def test_torch_excludes_the_release_that_machines_rebuild():
    (torch,) = [r for r in direct_requirements() if r.name == "torch"]
    assert torch.specifier == SpecifierSet(">=2.11,!=2.13.0")


def test_conda_reads_its_pins_from_the_lock():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge"]
    # The lock is the only list of packages: an entry beside it could carry another pin.
    python, pip, through_pip = conda["dependencies"]
    assert pip == "pip"
    assert through_pip == {"pip": ["-r requirements.lock", "-e ."]}
    name, version = python.split("=")
    assert name == "python"
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(version)


def test_environment_is_what_the_lock_says():
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
    )
    installed = {canonicalize_name(p["name"]): p["version"] for p in json.loads(listed.stdout)}
    pins = lock_pins()
    for requirement in direct_requirements():
        name = canonicalize_name(requirement.name)
        assert installed[name] == pins[name], name


@pytest.mark.parametrize("name", TOOLING)
def test_tooling_names_no_machine_and_no_host(name):
    lines = (ROOT / name).read_text().splitlines()
    found = [line for line in lines if MACHINE.search(line)]
    assert found == []


def packaged_files(folder: str) -> dict[str, bytes]:
    """Relative path -> content of what git would ship of a folder of the checkout."""
    files = (p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(ROOT / folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory) -> Path:
    """The folder into which a freshly built wheel is installed, with no index to fetch from."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--isolated", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-cache-dir"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True
    )
    (wheel,) = folder.glob("vlcl_toolkit-*.whl")
    subprocess.run(
        [*pip, "install", *offline, "--target", folder / "site", "--no-compile", wheel], check=True
    )
    return folder / "site"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "inside"), [("vlcl_toolkit", "vlcl_toolkit"), ("data", "vlcl_toolkit/_data")]
)
def test_wheel_holds_the_package_and_its_data(installed_wheel, folder, inside):
    expected = packaged_files(folder)
    assert expected, f"the checkout has no {folder}/"
    for name, content in expected.items():
        assert (installed_wheel / inside / name).read_bytes() == content, name


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(installed_wheel, tmp_path):
    program = """
import vlcl_toolkit
from vlcl_toolkit.files import data_path
clip = vlcl_toolkit.load_clip("mini")
stream = vlcl_toolkit.load_stream("mini")
assert len(stream) == 6, stream
print(vlcl_toolkit.__file__, data_path().resolve(), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed_wheel)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    package = installed_wheel / "vlcl_toolkit"
    assert done.stdout.splitlines() == [str(package / "__init__.py"), str(package / "_data")]
