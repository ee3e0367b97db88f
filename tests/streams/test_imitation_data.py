"""`python tests/imitation_data`, which writes imitations of the data sets for tests and dry runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from imitation_data.write import write_imitations

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.streams.full_size.reference import reference_source

SCRIPT = Path(__file__).parents[1] / "imitation_data"


def test_command_writes_sets_whose_streams_are_called_unverified(tmp_path):
    root = tmp_path / "data"
    command = [sys.executable, SCRIPT, root, "--sets", "EuroSAT", "MNIST"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert str(root) in output
    options = {"root": root, "sets": ["EuroSAT", "MNIST"]}
    assert "-unverified-" in load_stream("mtil", verify=False, **options).split_id
    with pytest.raises(UserError, match="EuroSAT"):
        load_stream("mtil", **options)


def test_reference_data_are_there(tmp_path):
    write_imitations(tmp_path, ["ImageNet", "ConceptualCaptions"])
    reference = reference_source("imagenet", tmp_path)()
    assert (len(reference.images), len(reference.class_names)) == (1000, 1000)
    assert len(reference.sentences) == 4


def test_a_second_call_completes_and_changes_nothing(tmp_path):
    write_imitations(tmp_path, ["EuroSAT"])
    image = tmp_path / "eurosat/2750/River/River_1.jpg"
    before = image.stat().st_mtime_ns
    write_imitations(tmp_path, ["EuroSAT", "MNIST"])
    assert image.stat().st_mtime_ns == before
    assert (tmp_path / "MNIST").is_dir()


def test_real_data_are_never_mixed_with_imitations(tmp_path):
    (tmp_path / "SUN397").mkdir()
    with pytest.raises(
        UserError, match=r"holds other files; imitations need a folder of their own"
    ):
        write_imitations(tmp_path, ["MNIST"])
    assert [path.name for path in tmp_path.iterdir()] == ["SUN397"]


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="unknown imitation 'MNST'; did you mean 'MNIST'"):
        write_imitations(tmp_path, ["MNST"])
