"""Checkpoints of the official MoE-Adapters code: `{"state_dict": CLIP's weights + experts}`.

Read without pickle. Left out by name are the copies and leftovers that the official code saves
along; every other entry has to be known and has to fit. Which experts are frozen is not in the
checkpoint but in a text file beside it.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlcl_toolkit.clip.weights import read_state
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.moe_adapters.moe_adapters import MoEAdapters

# A second name of the last expert; constants 0 and 1; a layer norm that is never used.
_LEFTOVERS = re.compile(
    r"((visual\.)?transformer\.resblocks\.\d+\.)?"
    r"(adaptmlp\.(down|up)_proj\.(weight|bias)|mean|std|ln_3\.(weight|bias))"
)
_DOWN = re.compile(
    r"(visual\.)?transformer\.resblocks\.\d+\.adaptmlp_list\.(\d+)\.down_proj\.weight"
)
_EXPERT = re.compile(r"(?:visual\.)?transformer\.resblocks\.\d+\.adaptmlp_list\.\d+")


def load_official(
    method: MoEAdapters,
    experts: str | Path,
    selector: str | Path | None = None,
    *,
    tasks: int | None = None,
    frozen: str | Path | None = None,
) -> None:
    """Load the state of an official run after a task into an attached method.

    Args:
        method: with the checkpoint's numbers of experts and hidden units, on its backbone.
        experts: `.pth` of the experts.
        selector: `.pth` of the autoencoders; needed unless the method has no selector.
        tasks: how many tasks were learned; None: as many as have routers that are not 0.
        frozen: text file with the names of frozen parameters; None: none is frozen.

    Raises:
        UserError: unreadable, of another backbone or shape, an entry that is not known, more tasks
            than the file has routers.
    """
    path = Path(experts)
    state = {k: v.float() for k, v in read_state(path).items() if not _LEFTOVERS.fullmatch(k)}
    _check_backbone(method, state, path)
    own = {name: value for name, value in state.items() if name not in _backbone(method)}
    learned = _learned_tasks(own) if tasks is None else tasks
    total = 1 + max((_router(name) for name in own), default=-1)
    if not 1 <= learned <= total:
        raise UserError(f"{path} knows {total} tasks; found tasks={learned}; choose 1..{total}")
    kept = {name: value for name, value in own.items() if _router(name) < learned}
    for name, value in method.towers.named().items():
        if name.endswith(".count") or name.endswith(".frozen"):
            kept[name] = torch.zeros_like(value)
    if frozen is not None:
        _mark_frozen(kept, Path(frozen))
    method.towers.load(kept)
    if method.selector is not None:
        if selector is None:
            raise UserError("give the official autoencoders too, or a method with selector='none'")
        _load_selector(method, Path(selector), learned)
    method.forget_class_features()


def shape_settings(path: str | Path) -> dict[str, Any]:
    """Settings of a method that can hold this `.pth`: experts, bottleneck, towers.

    Raises:
        UserError: unreadable, or without experts.
    """
    state = read_state(Path(path))
    found = {m: v for k, v in state.items() if (m := _DOWN.fullmatch(k))}
    if not found or any(value.ndim != 2 for value in found.values()):
        raise UserError(f"{path} holds no experts; give a checkpoint of MoE-Adapters")
    return {
        "experts": 1 + max(int(match[2]) for match in found),
        "bottleneck": len(next(iter(found.values()))),
        "towers": "image" if all(match[1] for match in found) else "both",
    }


def _backbone(method: MoEAdapters) -> dict[str, Tensor]:
    return method.clip.model.state_dict()


def _check_backbone(method: MoEAdapters, state: dict[str, Tensor], path: Path) -> None:
    for name, value in _backbone(method).items():
        if name not in state:
            raise UserError(f"{path} lacks {name!r}; give a checkpoint of MoE-Adapters")
        if not torch.equal(state[name], value.float().cpu()):
            raise UserError(
                f"{path} belongs to another backbone than {method.clip.name!r} ({name} differs); "
                "load the backbone that it was trained on"
            )


def _router(name: str) -> int:
    # number of the router that an entry belongs to; -1 for an expert
    match = re.search(r"\.(?:router|w_noise)_list\.(\d+)$", name)
    return int(match[1]) if match else -1


def _learned_tasks(own: dict[str, Tensor]) -> int:
    trained = [_router(name) for name, value in own.items() if bool(value.any())]
    return 1 + max(trained, default=-1)


def _mark_frozen(state: dict[str, Tensor], path: Path) -> None:
    try:
        names = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    for name in names:
        match = _EXPERT.match(name)
        block, _, index = match[0].rpartition(".adaptmlp_list.") if match else ("", "", "")
        flags = state.get(f"{block}.frozen")
        if flags is None or int(index) >= len(flags):
            raise UserError(
                f"{path} names {name!r}, which is not an expert of this model; give the right file"
            )
        flags[int(index)] = True


def _load_selector(method: MoEAdapters, path: Path, tasks: int) -> None:
    assert method.selector is not None
    if method.config.selector_features == "clip":
        raise UserError("official autoencoders look at AlexNet; set selector_features='alexnet'")
    state = read_state(path)
    count = tasks + 1
    names = ("encoder.0.weight", "encoder.0.bias", "decoder.0.weight", "decoder.0.bias")
    known = {int(name.split(".")[0]) for name in state if name.split(".")[0].isdecimal()}
    expected = {f"{index}.{name}" for index in known for name in names}
    if expected != state.keys():
        odd = sorted(expected ^ state.keys())[0]
        raise UserError(f"{path} does not hold autoencoders (see {odd!r}); give the right file")
    if len(known) < count:
        raise UserError(f"{path} holds {len(known)} autoencoders; {tasks} tasks need {count}")
    own = {f"{index}.{name}": state[f"{index}.{name}"] for index in range(count) for name in names}
    thresholds = torch.full((count,), method.config.threshold, dtype=torch.float64)
    method.selector.load_state_dict(own | {"thresholds": thresholds})
