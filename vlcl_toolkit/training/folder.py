"""A run's folder: which run it belongs to, its history, its results."""

import hashlib
import json
import os
import zlib
from dataclasses import fields
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import (
    begins_as_marked,
    read_config,
    read_sealed,
    remove_temporary_files,
    sha256_of,
    write_atomic,
    write_sealed,
)
from vlcl_toolkit.methods.registry import config_class
from vlcl_toolkit.training.checkpoint import CheckpointStore, RunLock

# What may differ between two calls that are the same run.
_NOT_IDENTITY = ("versions", "backbone.pretrained", "settings_from", "left_out_files")
# Of what a run reads. Records of older versions have none, nor the activation.
_FINGERPRINTS = ("pictures", "reference", "method_source")
_NEWER = (*_FINGERPRINTS, "backbone.activation")
_LIBRARIES = ("vlcl_toolkit", "torch", "torchvision", "open_clip_torch", "numpy")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a number."""

    def find(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            return "not installed"

    return {name: find(name) for name in _LIBRARIES}


def _defaults(method: str) -> dict[str, Any]:
    return {f"method_config.{field.name}": field.default for field in fields(config_class(method))}


def default_folder(config: dict[str, Any]) -> Path:
    """`runs/<stream>/<method>/<hash of the order>-<hash of the rest>`."""
    identity = _identity(config)
    order = identity.pop("order")
    identity.pop("backbone.activation", None)  # the backbone's name tells it, too
    name = f"{_short_hash(order)}-{_short_hash(identity)}"
    return Path("runs", config["stream"], config["method"], name)


class RunFolder:
    """Context: the locked folder of one run, new or to be continued.

    Attributes:
        path: the folder.
        finished: a complete run of this configuration lies in it.
        store: its checkpoints. `history`: its history.jsonl.
    """

    def __init__(self, path: str | Path, config: dict[str, Any], *, resume: bool = True):
        self.path, self.resume = Path(path), resume
        self.config = json.loads(json.dumps(config))  # as it will be read back
        self._lock = RunLock(self.path)

    def __enter__(self) -> "RunFolder":
        """Lock the folder and check that it belongs to this run.

        Raises:
            UserError: it is in use, cannot be written, or holds another run.
        """
        self._lock.__enter__()
        try:
            self._open()
        except BaseException:
            self._lock.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if not self.finished:
                self.history.close()
        except UserError:
            if exception[0] is None:  # else the first error is the one to tell
                raise
        finally:
            self._lock.__exit__()

    def _open(self) -> None:
        for folder in (self.path, self.path / "probes"):
            remove_temporary_files(folder)
        self._claim()
        self.finished = self._is_finished()
        if not self.finished:
            remove_temporary_files(self.path / "checkpoints")
            self.store = CheckpointStore(self.path / "checkpoints")
            self.history = History(self.path / "history.jsonl")

    def follow(self) -> None:
        """Only read what another process of the same run has opened."""
        self.finished = self._is_finished()
        self.store = CheckpointStore(self.path / "checkpoints")

    def _is_finished(self) -> bool:
        result = self.path / "result.json"
        return result.exists() and read_sealed(result).get("complete") is True

    def rows(self) -> int:
        """How many rows of the accuracy table result.json has."""
        path = self.path / "result.json"
        if not path.is_file():
            return 0
        record = read_sealed(path)
        try:
            table = [record["zero_shot"], *record["accuracy"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is not a run's result ({error!r}); run it again") from error
        return sum(any(value is not None for value in row) for row in table)

    def _claim(self) -> None:
        path = self.path / "config.json"
        if path.is_file():
            if not self.resume:
                raise UserError(f"{self.path} holds a run already; choose another output folder")
            self._compare(read_config(self.path))
            return
        for name in ("result.json", "history.jsonl", "accuracy.csv", "checkpoints"):
            if (self.path / name).exists():
                advice = "choose another output folder"
                raise UserError(f"{self.path} has a {name} but no config.json; {advice}")
        write_sealed(path, self.config)

    def check_owner(self, owner: str | None) -> None:
        """Compare what a checkpoint says of its run; None: an older version wrote it.

        Raises:
            UserError: it is another run.
        """
        if owner not in (None, self.identity):
            raise UserError(
                f"{self.path / 'checkpoints'} are of another run than {self.path / 'config.json'}; "
                "restore them, or choose another output folder to start from scratch"
            )

    @cached_property
    def identity(self) -> str:
        """Hash of what config.json in the folder says of the run; a resumed run leaves it as it is."""
        return _short_hash(_identity(read_config(self.path)))

    def _compare(self, found: dict[str, Any]) -> None:
        there, here = _identity(found), _identity(self.config)
        for key in [key for key in here if key.startswith(_NEWER) and key not in there]:
            del here[key]  # the run is older than such records
        for key, value in _defaults(self.config["method"]).items():
            if key not in there and here.get(key) == value:
                del here[key]  # older than this setting, which leaves the method as it was
        differing = sorted(
            key for key in here.keys() | there.keys() if here.get(key) != there.get(key)
        )
        if differing:
            key = differing[0]
            if key.startswith(_FINGERPRINTS):
                raise UserError(_changed(self.path, key))
            more = f" (and {len(differing) - 1} more keys)" if len(differing) > 1 else ""
            raise UserError(
                f"{self.path} belongs to a run with another {key}{more}: "
                f"{there.get(key)!r} there, {here.get(key)!r} here; choose another output folder"
            )

    def faults_in_results(self, table: str) -> list[str]:
        """What is wrong with the files that an unfinished run leaves and a resumed one writes again.

        Args:
            table: accuracy.csv as it ought to be. It may have fewer rows: a kill can come between a
                checkpoint and the table.
        """
        path, faults = self.path / "accuracy.csv", []
        known = (self.path / "result.json").exists()
        if not known:
            faults.append(f"{self.path / 'result.json'} was missing")
        content = path.read_bytes() if path.is_file() else b""
        whole = content.endswith(b"\n") and table.encode().startswith(content)
        if not whole and (known or path.exists()):
            faults.append(f"{path} was lost or damaged")
        return faults

    def write_results(self, record: dict[str, Any], table: str) -> None:
        """Write accuracy.csv, then result.json, whose `complete` marks the end of a run."""
        write_atomic(self.path / "accuracy.csv", table.encode())
        if record["complete"]:
            kept = [self.path / name for name in ("config.json", "history.jsonl", "accuracy.csv")]
            kept += sorted(self.path.glob("probes/*.npz"))
            files = {path.relative_to(self.path).as_posix(): sha256_of(path) for path in kept}
            record = record | {"files": files}
        write_sealed(self.path / "result.json", record)


class History:
    """history.jsonl: appended to while a run goes on, cut back to a checkpoint when it resumes."""

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO | None = None

    def rewind(self, mark: dict[str, int]) -> None:
        """Keep only what was there at `mark`, an empty file for {"bytes": 0, "crc32": 0}.

        Raises:
            UserError: those bytes are no longer in the file, or it cannot be written.
        """
        try:
            content = self.path.read_bytes() if self.path.is_file() else b""
            if not begins_as_marked(content, mark):
                advice = "restore it, or choose another output folder to start from scratch"
                raise UserError(f"{self.path} is damaged or shorter than its checkpoint; {advice}")
            self._file = open(self.path, "ab")  # noqa: SIM115 (closed by the run's folder)
            self._file.truncate(mark["bytes"])
        except OSError as error:
            raise self._cannot_write(error) from error
        self._bytes, self._crc = mark["bytes"], mark["crc32"]

    def append(self, record: dict[str, Any]) -> None:
        """Add one line."""
        line = json.dumps(record).encode() + b"\n"
        assert self._file is not None, "rewind opens the history"
        try:
            self._file.write(line)
            self._file.flush()  # a second terminal can follow the run
        except OSError as error:
            raise self._cannot_write(error) from error
        self._bytes += len(line)
        self._crc = zlib.crc32(line, self._crc)

    def mark(self) -> dict[str, int]:
        """Make every line durable; says where the file ends now."""
        assert self._file is not None, "rewind opens the history"
        os.fsync(self._file.fileno())
        return {"bytes": self._bytes, "crc32": self._crc}

    def close(self) -> None:
        """Close the file.

        Raises:
            UserError: what was still to be written could not be.
        """
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> UserError:
        cause = error.strerror or str(error)
        return UserError(f"cannot write {self.path}: {cause}; choose another place or make room")


def _changed(path: Path, key: str) -> str:
    kind, _, task = key.partition(".")
    what = {
        "pictures": f"the pictures of {task!r} (names, sizes or times of files)",
        "reference": "the reference images or sentences",
        "method_source": "the method's code",
    }[kind]
    return f"{what} changed since the run in {path} was made; choose another output folder"


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    flat = _flatten(config)
    return {key: value for key, value in flat.items() if not key.startswith(_NOT_IDENTITY)}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= _flatten(entry, f"{prefix}.{key}" if prefix else key)
    return flat


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
