"""Reading `task_<i>.pt` of the official DIKI code.

1. The file is read without pickle; a prefix `module.` of multi-GPU runs is removed.
2. `image_encoder.` is open_clip's `visual.`, `text_encoder.` is its text tower. Number of tasks,
   depths, prompt lengths and widths follow from the shapes and must fit the backbone.
3. Slots of tasks that were not learned yet hold start values (prompts) and uninitialised memory
   (Gaussians): the latter become nan. Slots in use must be finite.

A slot's number is the position in the stream that the file was trained on, which it does not name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.clip.weights import read_state
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.diki.config import PromptConfig
from vlcl_toolkit.methods.diki.diki import Diki

_POOL = re.compile(r"(image|text)_encoder\.transformer\.resblocks\.(\d+)\.attn\.prefix_pool")
_TOWERS = {"image": "visual.transformer", "text": "transformer"}


@dataclass(frozen=True)
class DikiCheckpoint:
    """What an official file holds.

    Attributes:
        pools: float32 `[T, 2, P, W]` (0 = keys, 1 = values) by "visual.transformer.resblocks.<i>"
            or "transformer.resblocks.<i>".
        means, covariances: float32 `[T, D]` and `[T, D, D]`; nan for tasks not learned.
        tasks_learned: number of slots in use, the first ones.
    """

    pools: dict[str, Tensor]
    means: Tensor
    covariances: Tensor
    tasks_learned: int

    def config(self, config: PromptConfig | None = None) -> PromptConfig:
        """`config` (default: the paper's) with the depths and lengths of this file."""
        vision = [pool.shape[2] for name, pool in self.pools.items() if name.startswith("visual.")]
        text = [
            pool.shape[2] for name, pool in self.pools.items() if not name.startswith("visual.")
        ]
        config = config or PromptConfig()
        return replace(
            config,
            depth_vision=len(vision),
            depth_text=len(text),
            length_vision=vision[0] if vision else config.length_vision,
            length_text=text[0] if text else config.length_text,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """For `Diki.load_state_dict`: the tasks learned."""
        state = {
            f"prompts.{task}.{name}": pool[task]
            for task in range(self.tasks_learned)
            for name, pool in self.pools.items()
        }
        count = self.tasks_learned
        state |= {
            "best.epochs": torch.full((count,), -1),
            "best.accuracies": torch.full((count,), -1.0, dtype=torch.float64),
        }
        return state | {
            "gaussians.means": self.means[:count],
            "gaussians.covariances": self.covariances[:count],
        }

    def method(self, clip: Clip, config: PromptConfig | None = None) -> Diki:
        """An attached DIKI that has learned these tasks; other settings from `config`."""
        method = Diki(clip, self.config(config))
        method.attach()
        method.load_state_dict(self.state_dict())
        return method


def read_official_checkpoint(
    path: str | Path, clip: Clip, tasks: Sequence[str] | None = None
) -> DikiCheckpoint:
    """Read an official file and check it against a backbone.

    Args:
        clip: the backbone that the prompts are for.
        tasks: names of the tasks to work with, in the order in which the file learned them.

    Raises:
        UserError: unreadable, other keys, shapes of another backbone, numbers that are not finite,
            no task learned, or fewer tasks than `tasks`.
    """
    path = Path(path)
    state = read_state(path)
    names = {key: _place(key) for key in state}
    expected = {"means", "covars", "task_learnt"}
    strange = sorted(key for key, name in names.items() if name is None and key not in expected)
    missing = sorted(expected - state.keys())
    if missing or strange or not any(names.values()):
        raise UserError(
            f"{path} is not a DIKI checkpoint; missing: {', '.join(missing) or 'none'}; unknown: "
            f"{', '.join(strange[:3]) or 'none'}; prompt pools: {sum(map(bool, names.values()))}; "
            "give a task_<i>.pt of the official code"
        )
    pools = {name: state[key].float() for key, name in names.items() if name}
    means, covariances = state["means"].float(), state["covars"].float()
    learned = int(state["task_learnt"])
    _check_shapes(path, pools, means, covariances, clip)
    slots = len(means)
    if not 1 <= learned <= slots:
        raise UserError(
            f"{path} has {slots} slots but claims {learned} learned tasks; it is damaged"
        )
    if tasks is not None and len(tasks) > learned:
        raise UserError(
            f"{path} has learned {learned} tasks; found {len(tasks)} names ({', '.join(tasks)}); "
            "name only those, or give the checkpoint of a later task"
        )
    used = {**pools, "means": means, "covars": covariances}
    broken = sorted(name for name, value in used.items() if not value[:learned].isfinite().all())
    if broken:
        raise UserError(
            f"{path} contains NaN or Inf in tasks it has learned ({broken[0]}); fetch it again"
        )
    means, covariances = means.clone(), covariances.clone()
    means[learned:], covariances[learned:] = torch.nan, torch.nan
    return DikiCheckpoint(pools, means, covariances, learned)


def _place(key: str) -> str | None:
    found = _POOL.fullmatch(key)
    return f"{_TOWERS[found[1]]}.resblocks.{found[2]}" if found else None


def _check_shapes(
    path: Path, pools: dict[str, Tensor], means: Tensor, covariances: Tensor, clip: Clip
) -> None:
    slots, dim = len(means) if means.ndim else 0, clip.embed_dim
    wanted: dict[str, Any] = {"means": (slots, dim), "covars": (slots, dim, dim)}
    found: dict[str, Any] = {"means": tuple(means.shape), "covars": tuple(covariances.shape)}
    towers = (
        ("visual.transformer", clip.model.visual.transformer),
        ("transformer", clip.model.transformer),
    )
    for tower, module in towers:
        mine = {name: pool for name, pool in pools.items() if name.startswith(f"{tower}.")}
        length = next(iter(mine.values())).shape[2:3] if mine else ()
        for index in range(len(mine)):  # from the first block on, without a gap
            name = f"{tower}.resblocks.{index}"
            found[name] = tuple(mine[name].shape) if name in mine else None
            fits = index < len(module.resblocks)
            width = module.resblocks[0].attn.embed_dim
            wanted[name] = (slots, 2, *length, width) if fits else "no such block"
    wrong = [name for name in wanted if found[name] != wanted[name]]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path} does not fit the backbone {clip.name}; {name} has shape {found[name]}, "
            f"expected {wanted[name]}; load the backbone that it was trained on"
        )
