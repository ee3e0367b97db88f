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

import io
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import make_folder, write_atomic

COMMAND = "vlcl run --probes"
Arrays = Mapping[str, np.ndarray]


def stage_path(folder: Path, stage: int) -> Path:
    """File of a stage in a run's folder."""
    return folder / "probes" / f"step_{stage:02d}.npz"


def stage_files(folder: Path) -> dict[int, Callable[[], Arrays]]:
    """The stages that a run's folder has, each with a function that reads it."""
    return {
        int(path.stem.removeprefix("step_")): partial(read_stage, path)
        for path in sorted(folder.glob("probes/step_*.npz"))
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
    write_atomic(path, buffer.getvalue())


def read_stage(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a stage.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            return dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({error}); record it again in another folder: {COMMAND} --out DIR"
        ) from error


def missing_probe(what: str, source: str, method: str) -> UserError:
    """The error of a view that needs what was not recorded."""
    command = f"{COMMAND} --method {method}" if method else COMMAND
    return UserError(f"{what} is missing in {source}; record it with: {command}")
