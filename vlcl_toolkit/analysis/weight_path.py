"""The straight line from the frozen weights to the trained ones, and how accurate the model is along it.

Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022 (WiSE-FT): weights
(1 - a) w_frozen + a w_trained, tested on the task that was learned and on others.
"""

import copy
from collections.abc import Sequence

import pandas as pd
import torch

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.streams.base import TaskStream
from vlcl_toolkit.training.checkpoint import CheckpointStore
from vlcl_toolkit.training.metrics import accuracy
from vlcl_toolkit.training.results import RunResult

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def weight_path(
    result: RunResult, stream: TaskStream, clip: Clip, shares: Sequence[float | int] = SHARES
) -> pd.DataFrame:
    """Test the model on the line between the frozen backbone (share 0) and the end of a run (share 1).

    Args:
        result: a run of a method that trains the backbone's own weights (fine-tuning, LwF, ZSCL, ...).
        stream: tasks to test, the run's or others; held-out ones are tested too.
        clip: the frozen backbone of that run; it is not changed.
        shares: of the trained weights, e.g. in [0, 1].

    Returns:
        columns share, task, status ("learned", "unseen" or "held-out"), accuracy (percent); a row per share and task.

    Raises:
        UserError: another backbone, no checkpoint, or weights that are not the backbone's.
    """
    trained = _trained_weights(result, clip)
    frozen = dict(clip.model.named_parameters())
    probe = copy.deepcopy(clip)
    probe.holder = None
    rows = []
    for share in shares:
        with torch.no_grad():
            for name, parameter in probe.model.named_parameters():
                if name in trained:
                    parameter.copy_(frozen[name].lerp(trained[name].to(parameter.device), share))
        with make_method("zero_shot", probe) as method:
            for task in (*stream.tasks, *stream.held_out):
                held_out = "held-out" if task in stream.held_out else "unseen"
                status = "learned" if task.name in result.order else held_out
                row = {"share": float(share), "task": task.name, "status": status}
                rows.append(row | {"accuracy": accuracy(method, task.test, task)})
    return pd.DataFrame(rows)


def _trained_weights(result: RunResult, clip: Clip) -> dict[str, torch.Tensor]:
    there = result.config["backbone"]["weights_sha256"]
    if there != clip.weights_sha256:
        raise UserError(
            f"{result.folder} is a run of another backbone: {there[:12]} there, {clip.weights_sha256[:12]} here; "
            "load the backbone of that run"
        )
    checkpoint = CheckpointStore(result.folder / "checkpoints").load()
    if checkpoint is None:
        raise UserError(f"{result.folder} has no checkpoint; run the method again")
    state = {name.removeprefix("method."): value for name, value in checkpoint.tensors.items()}
    own = {name: state[name] for name, _ in clip.model.named_parameters() if name in state}
    if not own:
        raise UserError(
            f"{result.method} leaves the backbone's weights as they are, so there is no line between two of them; "
            "choose a method that trains them, e.g. finetune or zscl"
        )
    return own
