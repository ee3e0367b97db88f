"""How far weights moved, by tower and block."""

import hashlib
import re
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import make_folder, read_bytes, write_atomic
from vlcl_toolkit.methods import Method

_BLOCK = re.compile(r"resblocks\.(\d+)")
_HEAD = ("visual.ln_post", "visual.proj", "ln_final", "text_projection")
Weights = dict[str, Tensor]


def current_weights(method: Method) -> Weights:
    """All weights of the towers, and what the method added ("added." before the name)."""
    model = dict(method.clip.model.named_parameters())
    model.pop("logit_scale")
    added = {
        f"added.{name}": value for name, value in method.introspection().added_parameters().items()
    }
    return {name: value.detach() for name, value in (model | added).items()}


def distances(now: Weights, frozen: Weights, previous: Weights, blocks: dict[str, int]) -> Weights:
    """L2 distances by tower: `[blocks + 2, 2]`, from frozen and from the stage before.

    What was not there before counts from zero.

    Args:
        blocks: number of blocks by tower.
    """
    squares = {tower: torch.zeros(count + 2, 2).double() for tower, count in blocks.items()}
    for name, value in now.items():
        tower, block = place_of(name, blocks)
        for column, before in enumerate((frozen, previous)):
            change = value - before[name].to(value.device) if name in before else value
            squares[tower][block, column] += float(change.double().square().sum())
    return {tower: values.sqrt() for tower, values in squares.items()}


def expert_changes(
    method: Method, now: Weights, previous: Weights, blocks: dict[str, int]
) -> dict[str, np.ndarray]:
    """L2 distance of every expert to the stage before by tower: `[blocks, experts]`; {}: no expert."""
    found: dict[str, dict[tuple[int, int], float]] = {}
    introspection = method.introspection()
    for name, value in now.items():
        expert = introspection.expert_of(name)
        if expert is not None:
            tower, block = place_of(name, blocks)
            before = previous.get(name, torch.zeros_like(value)).to(value.device)
            squares = found.setdefault(tower, {})
            square = float((value - before).double().square().sum())
            squares[block - 1, expert] = squares.get((block - 1, expert), 0.0) + square
    changes = {}
    for tower, squares in found.items():
        shape = (blocks[tower], 1 + max(expert for _, expert in squares))
        changes[tower] = np.zeros(shape, dtype=np.float32)
        for place, square in squares.items():
            changes[tower][place] = square**0.5
    return changes


def place_of(name: str, blocks: dict[str, int]) -> tuple[str, int]:
    """Tower and block (0 = embedding, 1 .. L, L + 1 = head) of a weight."""
    tower = "image" if "visual." in name else "text"
    found = _BLOCK.search(name)
    if found:
        return tower, int(found.group(1)) + 1
    return tower, blocks[tower] + 1 if name.startswith(_HEAD) else 0


class PreviousWeights:
    """The weights that changed, after the last two stages, on disk: what a resumed run compares with."""

    def __init__(self, folder: Path):
        self.folder = folder / "probes"

    def _path(self, stage: int) -> Path:
        return self.folder / f"weights_{stage:02d}.bin"

    def save(self, stage: int, now: Weights, frozen: Weights) -> None:
        """Keep what differs from the frozen weights, of this stage and the one before, behind a hash."""
        changed = {
            name: value.cpu().contiguous()
            for name, value in now.items()
            if name not in frozen or not torch.equal(value, frozen[name])
        }
        make_folder(self.folder)
        content = safetensors.torch.save(changed)
        path = self._path(stage)
        write_atomic(path, hashlib.sha256(path.name.encode() + content).digest() + content)
        self._path(stage - 2).unlink(missing_ok=True)

    def load(self, stage: int, frozen: Weights) -> Weights:
        """Weights after a stage; 0: the frozen ones.

        Raises:
            UserError: the file is missing or damaged.
        """
        if stage == 0:
            return frozen
        path = self._path(stage)
        if not path.is_file():
            raise UserError(
                f"{path} is missing, so probes cannot be continued; record them again in another "
                "folder: vlcl run --probes --out DIR"
            )
        content = read_bytes(path)
        named = path.name.encode() + content[32:]
        # Older versions left the name out.
        if content[:32] not in (hashlib.sha256(c).digest() for c in (named, content[32:])):
            raise UserError(
                f"{path} is damaged, so probes cannot be continued; record them again in another "
                "folder: vlcl run --probes --out DIR"
            )
        return frozen | safetensors.torch.load(content[32:])

    def clear(self) -> None:
        """Delete the files, once the run is complete."""
        for path in self.folder.glob("weights_*.bin"):
            path.unlink()
