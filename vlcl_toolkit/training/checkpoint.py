"""Checkpoints that survive a crash at any moment and notice every damaged byte.

1. `step_<k>.safetensors` is written to a temporary file of the same folder, synced, renamed.
2. The old manifest is kept as `manifest.previous.json`.
3. `manifest.json`, with the SHA-256 of each file, is written last, the same way.
4. Generations older than the newest two are removed.

Loading verifies the hashes and goes back to the previous good generation, naming the bad file.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load, save
from torch import Tensor

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import make_folder, write_atomic

_MANIFESTS = ("manifest.json", "manifest.previous.json")
_KEPT = 2


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was found and an older good one is used."""


class Checkpoint(NamedTuple):
    """One saved state: its position, its tensors, and values that JSON holds."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run; the caller holds the run's lock."""

    def __init__(self, folder: str | Path):
        """Open or create `folder`.

        Raises:
            UserError: the folder cannot be made.
        """
        self.folder = make_folder(folder)
        self._generations: list[dict[str, Any]] = []  # newest first, known to be good

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Add a generation.

        Args:
            step: larger than that of every generation before.
            tensors: of any device; saved from a contiguous copy on the CPU.
            state: what `json.dumps` takes.

        Raises:
            UserError: the disk is full or read-only; earlier generations stay as they are.
        """
        on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        content = save(_unshare(on_cpu), metadata={"state": json.dumps(state)})
        file = f"step_{step}.safetensors"
        write_atomic(self.folder / file, content)
        entry = {"step": step, "file": file, "sha256": hashlib.sha256(content).hexdigest()}
        if self._generations:
            self._write_manifest("manifest.previous.json", self._generations)
        self._generations = [entry, *self._generations][:_KEPT]
        self._write_manifest("manifest.json", self._generations)
        self._remove_old()

    def load(self) -> Checkpoint | None:
        """The newest good generation, or None if nothing was saved yet.

        Warns:
            CheckpointWarning: names each damaged or missing file that was passed over.

        Raises:
            UserError: something was saved, and nothing of it is intact.
        """
        problems: list[str] = []
        for entry in self._read_manifest(problems):
            path = self.folder / entry["file"]
            content = path.read_bytes() if path.is_file() else None
            if content is not None and hashlib.sha256(content).hexdigest() == entry["sha256"]:
                for problem in problems:
                    message = f"{problem}; going on from step {entry['step']}"
                    warnings.warn(message, CheckpointWarning, stacklevel=2)
                self._generations.append(entry)
                return Checkpoint(entry["step"], load(content), _state_of(content))
            problems.append(f"{path} is {'missing' if content is None else 'damaged'}")
        # A first save that was killed leaves one file without a manifest: nothing was promised yet.
        if problems or len(list(self.folder.glob("step_*.safetensors"))) > 1:
            problems = problems or [f"{self.folder / 'manifest.json'} is missing"]
            advice = "restore it, or choose another output folder to start anew"
            raise UserError(f"no intact checkpoint left: {'; '.join(problems)}; {advice}")
        return None

    def _read_manifest(self, problems: list[str]) -> list[dict[str, Any]]:
        for name in _MANIFESTS:
            path = self.folder / name
            if not path.is_file():
                continue
            try:
                manifest = json.loads(path.read_bytes())
                generations = manifest["generations"]
                intact = manifest["sha256"] == _hash_of(generations)
            except (ValueError, KeyError, TypeError):
                intact = False
            if intact:
                if name != _MANIFESTS[0] and not problems:
                    problems.append(f"{self.folder / _MANIFESTS[0]} is missing")
                return generations
            problems.append(f"{path} is damaged")
        return []

    def _write_manifest(self, name: str, generations: list[dict[str, Any]]) -> None:
        manifest = {"generations": generations, "sha256": _hash_of(generations)}
        write_atomic(self.folder / name, json.dumps(manifest, indent=1).encode())

    def _remove_old(self) -> None:
        kept = {entry["file"] for entry in self._generations}
        for path in self.folder.glob("step_*.safetensors"):
            if path.name not in kept:
                path.unlink()


class RunLock:
    """Context that holds a run's folder: one process, one run.

    Raises:
        UserError: another process or run holds it, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path):
        self.folder = make_folder(folder)
        self._lock = FileLock(self.folder / ".lock")

    def __enter__(self) -> "RunLock":
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            advice = "wait for it, or choose another output folder"
            raise UserError(f"another run is writing to {self.folder}; {advice}") from error
        except OSError as error:
            cause = error.strerror or str(error)
            advice = "choose a place that can be written"
            raise UserError(f"cannot lock {self.folder}: {cause}; {advice}") from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors, named "<parameter index>.<key>", and JSON values."""
    content = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entry in content["state"].items():
        for key, value in entry.items():
            (tensors if torch.is_tensor(value) else values)[f"{index}.{key}"] = value
    return tensors, {"values": values, "param_groups": content["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Inverse of `pack_optimizer`, on a fresh optimiser of the same parameters."""
    entries: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **state["values"]}.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})


def _hash_of(generations: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(generations, sort_keys=True).encode()).hexdigest()


def _state_of(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")  # the safetensors header
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["state"])


def _unshare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses views of one storage; slices of a pool may be such views
    seen: set[int] = set()
    separate = {}
    for name, value in tensors.items():
        storage = value.untyped_storage()
        whole = storage.nbytes() == value.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        separate[name] = value if whole else value.clone()
    return separate
