"""The files of probes, and the names of the arrays in them.

A stage is a flat mapping of names to arrays, one file `probes/step_<k>.npz`; stage 0 is the frozen
CLIP, stage k comes after the k-th task. D is the dimension of the joint space, L the blocks of a
tower, E its experts, R the routes of a method (a task's router or prompts; the last is the frozen
network), S the scores it chooses a route by.

    labels/<domain>                   [n]       int
    image_features/<domain>           [n, D]    unit-norm, of the route that each image takes
    class_features/<domain>           [C, D]    unit-norm, of the route that most images take
    logits/<domain>                   [n, C]    what the method predicts from
    frozen_image_logits/<domain>      [n, C]    frozen images against the classes that each image
                                                is compared with now; only where these differ
    drift/<tower>/<domain>            [L+1, 2, 3]  block 0 = embedding; class token, rest;
                                                relative_norm, cosine, cka
    attention/<tower>/<domain>        [L]       share that prompts take, nan: block without prompts
    choices, gate_mass/<tower>/<domain>  [L, E] rows that chose an expert; sum of its gates
    expert_change/<tower>             [L, E]    L2 distance to the stage before
    parameters/<tower>                [L+2, 2]  embedding, blocks, head; from_frozen, from_previous
    routes, score_names               [R], [S]  names
    route/<domain>                    [n]       index of the route taken
    route_strength/<domain>           [n]       calibration weight in (0, 1]
    route_scores/<domain>             [n, S]    what decided: errors or log densities
    route_logits/<domain>             [n, R, C] logits under every route
    thresholds                        [S]       scores above are rejected
"""

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import make_folder, read_bytes, write_atomic

COMMAND = "vlcl run --probes"
# What numpy and zipfile raise on archives that are none.
_DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, RuntimeError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, struct.error, SyntaxError),
)
_MARK, _HASH = b"sha256:", 64
Arrays = Mapping[str, np.ndarray]


def stage_path(folder: Path, stage: int) -> Path:
    """File of a stage in a run's folder."""
    return folder / "probes" / f"step_{stage:02d}.npz"


def stage_files(folder: Path) -> dict[int, Callable[[], Arrays]]:
    """The stages that a run's folder has, each with a function that reads it."""
    found = sorted(folder.glob("probes/step_*.npz"))
    numbers = [(path.stem.removeprefix("step_"), path) for path in found]
    return {
        int(number): partial(read_stage, path) for number, path in numbers if number.isdecimal()
    }


def write_stage(folder: Path, stage: int, arrays: Arrays) -> None:
    """Write a stage so that a crash leaves the whole file or none.

    Raises:
        UserError: the disk is full, the place is read-only.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    path = stage_path(folder, stage)
    make_folder(path.parent)
    write_atomic(path, _sealed(buffer, path.name))


def read_stage(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a stage.

    Raises:
        UserError: the file is damaged.
    """
    content = read_bytes(path)
    try:
        _check_seal(content, path.name)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except _DAMAGED as error:
        raise UserError(
            f"{path} is damaged ({error}); record it again in another folder: {COMMAND} --out DIR"
        ) from error


def _sealed(archive: io.BytesIO, name: str) -> bytes:
    # The archive's comment is a hash of its name and all before it: zip's own checksums cover the arrays
    # alone, and another stage is whole, too.
    with zipfile.ZipFile(archive, "a") as file:
        file.comment = _MARK + bytes(_HASH)
    content = archive.getvalue()[:-_HASH]
    return content + _hash_of(name, content)


def _check_seal(content: bytes, name: str) -> None:
    body, seal = content[:-_HASH], content[-_HASH:]
    if body.endswith(_MARK) and _hash_of(name, body) == seal:
        return
    end = content[-22:]  # an archive without a comment, as older versions wrote them
    if not (end.startswith(b"PK\5\6") and end.endswith(b"\0\0")):
        raise ValueError("it is not what the run wrote")


def _hash_of(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + content).hexdigest().encode()


def missing_probe(what: str, source: str, method: str) -> UserError:
    """The error of a view that needs what was not recorded."""
    command = f"{COMMAND} --method {method}" if method else COMMAND
    return UserError(f"{what} is missing in {source}; record it with: {command}")
