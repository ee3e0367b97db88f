"""Checkpoints that survive a crash at any moment and notice every damaged byte.

1. `step_<k>.safetensors` is written to a temporary file of the same folder, synced, renamed. It is
   written and hashed one tensor at a time, so that no second copy of the state is in memory.
2. The old manifest is kept as `manifest.previous.json`.
3. `manifest.json`, with the SHA-256 of each file, is written last, the same way.
4. Generations older than the newest two are removed.

Loading verifies the hashes and goes back to the previous good generation, naming the bad file.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from torch import Tensor

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import atomic_file, make_folder, sha256_of, write_atomic

_DTYPES = {  # names in the safetensors format
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
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
            tensors: of any device and layout; views of one storage are saved apart.
            state: what `json.dumps` takes.

        Raises:
            UserError: the disk is full or read-only; earlier generations are kept.
        """
        name = f"step_{step}.safetensors"
        if (self.folder / name).is_dir():  # not ours (loading has told of it), and left where it is
            name = f"step_{step}-again.safetensors"
        with atomic_file(self.folder / name) as file:
            sha256 = _write_hashed(file, _safetensors(tensors, {"state": json.dumps(state)}))
        entry = {"step": step, "file": name, "sha256": sha256}
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
            missing = not path.is_file()
            if not missing and sha256_of(path) == entry["sha256"]:
                for problem in problems:
                    message = f"{problem}; going on from step {entry['step']}"
                    warnings.warn(message, CheckpointWarning, stacklevel=2)
                self._generations.append(entry)
                # pread: tensors of their own, so that nothing hangs on a mapped file
                with safe_open(path, "pt", backend="pread") as file:
                    state = json.loads(file.metadata()["state"])
                    return Checkpoint(entry["step"], file.get_tensors(), state)
            problems.append(f"{path} is {'missing' if missing else 'damaged'}")
        # A first save that was killed leaves one file without a manifest: nothing was promised yet.
        if problems or len(list(self.folder.glob("step_*.safetensors"))) > 1:
            problems = problems or [f"{self.folder / 'manifest.json'} is missing"]
            advice = "restore it, or choose another output folder to start from scratch"
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
            if path.name not in kept and not path.is_dir():
                path.unlink(missing_ok=True)


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


def _safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[memoryview]:
    # The bytes of a safetensors file. The library's writer hashes nothing and needs all tensors on
    # the CPU at once. Wide types go first, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, value in ordered:
        begin, end = end, end + value.nbytes
        entry = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape)}
        header[name] = entry | {"data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    yield memoryview(len(content).to_bytes(8, "little") + content)
    for _, value in ordered:
        flat = value.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def _write_hashed(file: BinaryIO, parts: Iterable[memoryview]) -> str:
    # A second thread hashes while this one writes: both release the GIL.
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as thread:
        for part in parts:
            hashing = thread.submit(digest.update, part)
            file.write(part)
            hashing.result()
    return digest.hexdigest()
