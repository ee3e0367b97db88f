"""`vlcl data replica`, and how replicas are known."""

import pytest

from vlcl_toolkit.cli import main
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.streams import load_stream
from vlcl_toolkit.streams.reference import reference_source
from vlcl_toolkit.streams.replicas import is_replica, write_replicas


def test_command_writes_sets_that_are_known_as_replicas(tmp_path, capsys, monkeypatch):
    root = tmp_path / "data"
    assert main(["data", "replica", "--root", str(root), "--sets", "EuroSAT", "MNIST"]) == 0
    assert str(root) in capsys.readouterr().out
    stream = load_stream("mtil", root=root, sets=["EuroSAT", "MNIST"])  # no word about sizes
    assert "-replica-" in stream.split_id
    monkeypatch.setenv("VLCL_DATA", str(root))
    assert is_replica(None)
    assert "-replica-" in load_stream("mtil", sets=["EuroSAT"]).split_id


def test_reference_material_is_there(tmp_path):
    write_replicas(tmp_path, ["ImageNet", "ConceptualCaptions"])
    reference = reference_source("imagenet", tmp_path)()
    assert (len(reference.images), len(reference.class_names)) == (1000, 1000)
    assert len(reference.sentences) == 4


def test_a_second_call_completes_and_changes_nothing(tmp_path):
    write_replicas(tmp_path, ["EuroSAT"])
    image = tmp_path / "eurosat/2750/River/River_1.jpg"
    before = image.stat().st_mtime_ns
    write_replicas(tmp_path, ["EuroSAT", "MNIST"])
    assert image.stat().st_mtime_ns == before
    assert (tmp_path / "MNIST").is_dir()


def test_real_data_are_never_mixed_with_replicas(tmp_path):
    (tmp_path / "SUN397").mkdir()
    with pytest.raises(UserError, match=r"holds other files; replicas want a folder of their own"):
        write_replicas(tmp_path, ["MNIST"])
    assert [path.name for path in tmp_path.iterdir()] == ["SUN397"]
    assert not is_replica(tmp_path)


def test_mistakes(tmp_path, capsys):
    with pytest.raises(UserError, match="unknown replica 'MNST'; did you mean 'MNIST'"):
        write_replicas(tmp_path, ["MNST"])
    assert main(["data", "replica"]) == 2
    assert "give --root DIR" in capsys.readouterr().err
