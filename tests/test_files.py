"""Writes that a crash or a full disk cannot tear, and where data lies."""

import contextlib
import resource

import pytest

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.files import (
    data_path,
    make_folder,
    remove_temporary_files,
    sha256_of,
    write_atomic,
)


@contextlib.contextmanager
def full_disk(limit: int):
    """No file may grow beyond `limit` bytes: the closest to a full disk without being root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, b"old")
    with full_disk(100), pytest.raises(UserError, match=r"cannot write .*a\.txt: File too large"):
        write_atomic(path, bytes(1000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_read_only_place_is_named():
    with pytest.raises(UserError, match="cannot write /proc/vlcl-test"):
        make_folder("/proc/vlcl-test")
    with pytest.raises(UserError, match=r"cannot write /proc/a\.txt"):
        write_atomic("/proc/a.txt", b"")


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="runs/a"):
        make_folder(tmp_path / "runs" / "a")


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    (tmp_path / ".a.txt.123.tmp").write_text("torn")
    (tmp_path / "kept.tmp").write_text("someone else's")
    remove_temporary_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.tmp"]


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_data_lies_beside_or_inside_the_package():
    assert data_path("mini", "weights").parts[-2:] == ("mini", "weights")
    assert data_path().name in ("data", "_data")


def test_unknown_names_are_listed_with_the_closest():
    assert str(unknown_name("method", "finetun", ["zero_shot", "finetune"])) == (
        "unknown method 'finetun'; did you mean 'finetune'?; known: finetune, zero_shot"
    )
    assert str(unknown_name("method", "xyz", [])) == "unknown method 'xyz'; known: none"


@pytest.mark.parametrize(
    ("found", "meant"), [("MTIL", "mtil"), ("vit-b-16", "ViT-B-16"), ("ViT-B/16", "ViT-B-16")]
)
def test_capitals_are_no_difference_to_the_closest_name(found, meant):
    known = ["mtil", "ViT-S-16", "ViT-M-16", "ViT-L-16", "ViT-B-16"]
    assert f"did you mean {meant!r}" in str(unknown_name("name", found, known))
