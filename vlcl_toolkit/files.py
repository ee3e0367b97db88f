"""Files: where the packaged data lies, writes that a crash cannot tear, hashes."""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vlcl_toolkit.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
_SEAL = "sha256"


def data_path(*parts: str) -> Path:
    """Path of a packaged data file: `_data/` inside an installed wheel, `data/` of a checkout.

    The file itself need not exist.
    """
    installed = _PACKAGE / "_data"
    root = installed if installed.is_dir() else _PACKAGE.parent / "data"
    return root.joinpath(*parts)


def make_folder(path: str | Path) -> Path:
    """Create `path` and its parents.

    Raises:
        UserError: the folder cannot be made (read-only place, a file in the way).
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def read_bytes(path: Path) -> bytes:
    """Content of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        cause = error.strerror or str(error)
        raise UserError(f"cannot read {path}: {cause}; make it readable or restore it") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a run's folder.

    Raises:
        UserError: the file is missing or is not a JSON object.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file; restore it, or choose another folder")
    if not path.is_file():
        raise UserError(f"no run in {path.parent}: {path.name} is missing; check the path")
    try:
        content = json.loads(read_bytes(path).decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it or run again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object; restore it or run again")
    return content


def write_sealed(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON object together with a hash of it, which `read_sealed` compares."""
    sealed = record | {_SEAL: _hash_of(record)}
    write_atomic(path, json.dumps(sealed, indent=1).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON object; one without a hash is taken as it is (older versions wrote none).

    Raises:
        UserError: it is missing, is no JSON object, or not what was written.
    """
    record = read_json(path)
    # The seal is the last entry; its own name can be damaged, too.
    name, value = next(reversed(record.items()), ("", None))
    lost = name != _SEAL and len(name) == len(_SEAL) and len(str(value)) == 64
    if lost or record.pop(_SEAL, None) not in (None, _hash_of(record)):
        raise UserError(f"{path} is damaged: it is not what the run wrote; restore it or run again")
    return record


def _hash_of(record: dict[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != _SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / "config.json"
    config = read_sealed(path)
    if "backbone" not in config:
        raise UserError(f"{path} describes no run; restore it, or choose another output folder")
    return config


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and result.json of a run; history.jsonl is compared with what result.json knows of it.

    Raises:
        UserError: one of the three is missing or damaged.
    """
    config, record = read_config(folder), read_sealed(folder / "result.json")
    check_files(folder, record.get("files", {}), "config.json", "history.jsonl")
    mark, history = record.get("history"), folder / "history.jsonl"
    if mark and history.is_file() and not begins_as_marked(read_bytes(history), mark):
        raise UserError(
            f"{history} is damaged: it is not what the run wrote; restore it, or run again in "
            "another folder"
        )
    return config, record


def begins_as_marked(content: bytes, mark: Mapping[str, int]) -> bool:
    """Whether a file that grows still begins with what it held at a mark: that many bytes, of that crc32."""
    kept = content[: mark["bytes"]]
    return len(kept) == mark["bytes"] and zlib.crc32(kept) == mark["crc32"]


def check_files(folder: Path, known: Mapping[str, str], *names: str) -> None:
    """Compare files of a folder with their hashes.

    Args:
        known: file -> SHA-256. names: those to look at; one that ends in "/" stands for all in that
            folder; what is not known is passed over.

    Raises:
        UserError: one is missing, or not what was written.
    """
    for name, digest in known.items():
        if name not in names and f"{name.rpartition('/')[0]}/" not in names:
            continue
        path = folder / name
        fault = "is missing"
        if path.is_file():
            found = hashlib.sha256(read_bytes(path)).hexdigest()
            fault = "" if found == digest else "is damaged: it is not what the run wrote"
        if fault:
            raise UserError(f"{path} {fault}; restore it, or run again in another folder")


def write_atomic(path: str | Path, content: bytes) -> None:
    """Replace `path` by `content`, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Context that replaces `path` so that a crash at any moment leaves the old file or the new one.

    A temporary file in the same folder (a rename across file systems is not atomic) is written,
    flushed and synced, then renamed over `path`; the folder is synced so that the new name itself
    survives a power cut. An exception inside leaves the old file.

    Raises:
        UserError: the disk is full, the place is read-only, ...; the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed writers left in `folder`; only the holder of its lock may do so."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cannot_write(path: Path, error: OSError) -> UserError:
    cause = error.strerror or str(error)
    return UserError(f"cannot write {path}: {cause}; choose another place or make room")
