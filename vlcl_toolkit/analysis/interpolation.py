"""How accurate a trained model is between the frozen CLIP and the end of its run.

`weight_path` goes along the straight line from the frozen weights to the trained ones: weights
(1 - alpha) w_frozen + alpha w_trained (Wortsman et al., "Robust fine-tuning of zero-shot models",
CVPR 2022: WiSE-FT). `prompt_strength` leaves the weights as they are and lets the prompts act more
or less strongly. DIKI weighs the prompts of an image by how familiar it looks (Tang et al., ECCV
2024, section 3.3); here every image keeps the prompts it would get, but the weight is given.
"""

import copy
from collections.abc import Iterator, Sequence

import pandas as pd
import torch

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.diki.diki import Diki
from vlcl_toolkit.probes.config import probe_images
from vlcl_toolkit.streams.base import Task, TaskStream, load_batch
from vlcl_toolkit.training.checkpoint import CheckpointStore
from vlcl_toolkit.training.metrics import accuracy
from vlcl_toolkit.training.results import RunResult

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def weight_path(
    result: RunResult, stream: TaskStream, clip: Clip, alphas: Sequence[float | int] = ALPHAS
) -> pd.DataFrame:
    """Test the model on the line between the frozen CLIP (alpha 0) and the end of a run (alpha 1).

    Args:
        result: a run of a method that trains CLIP's own weights (fine-tuning, LwF, ZSCL, ...).
        stream: tasks to test, the run's or others; held-out ones are tested too.
        clip: the frozen CLIP of that run; it is not changed.
        alphas: the weights of the trained model, e.g. in [0, 1].

    Returns:
        columns alpha, domain, status ("learned", "unseen" or "held-out"), accuracy (percent).

    Raises:
        UserError: another backbone, no checkpoint, or a method that leaves CLIP's weights as they are.
    """
    state = trained_state(result, clip)
    frozen = dict(clip.model.named_parameters())
    trained = {name: state[name] for name in frozen if name in state}
    if not trained:
        raise UserError(
            f"{result.method} does not train CLIP's own weights, so there is no line from the "
            "frozen weights to trained ones; choose a method that does, e.g. finetune or zscl"
        )
    between = copy.deepcopy(clip)
    between.holder = None
    rows = []
    for alpha in alphas:
        with torch.no_grad():
            for name, parameter in between.model.named_parameters():
                if name in trained:
                    parameter.copy_(frozen[name].lerp(trained[name].to(parameter.device), alpha))
        with make_method("zero_shot", between) as method:
            for task, status in _tasks(stream, result):
                place = {"alpha": float(alpha), "domain": task.name, "status": status}
                rows.append(place | {"accuracy": accuracy(method, task.test, task)})
    return pd.DataFrame(rows)


@torch.no_grad()
def prompt_strength(
    result: RunResult,
    stream: TaskStream,
    clip: Clip,
    strengths: Sequence[float | int] = STRENGTHS,
    *,
    images_per_domain: int = 100,
) -> pd.DataFrame:
    """Test the end of a run with one weight for all images, in both towers.

    Args:
        result: a run of DIKI or prefix tuning.
        stream: tasks to test, the run's or others; held-out ones are tested too.
        clip: the frozen CLIP of that run; it is not changed.
        strengths: weights of the prompts, >= 0. 0: the frozen CLIP; 1: as the prompts were trained.
        images_per_domain: test images, spread over the classes.

    Returns:
        columns strength, domain, status ("learned", "unseen" or "held-out"), accuracy (percent),
        and own (the mean weight that the method itself gives the domain's images).

    Raises:
        UserError: another backbone, no checkpoint, or a method without prompts.
    """
    state = trained_state(result, clip)
    method = make_method(result.method, clip, result.config["method_config"])
    if not isinstance(method, Diki):
        raise UserError(f"{result.method} has no prompts to weigh; choose diki or prefix_tuning")
    rows = []
    with method:
        method.load_state_dict(state)
        for task, status in _tasks(stream, result):
            data = probe_images(task, images_per_domain)
            images, labels = load_batch(data, torch.arange(len(data)), clip.eval_transform)
            images, labels = images.to(clip.device), labels.to(clip.device)
            features = clip.encode_image(images)
            decision = method.decide(method.gaussians.log_probs(features))
            own = float(decision.image_weight.mean())
            place = {"domain": task.name, "status": status, "own": own}
            for strength in strengths:
                weight = torch.full_like(decision.image_weight, strength)
                given = decision._replace(image_weight=weight, text_weight=weight)
                logits = method.decided_logits(images, task, given, features)
                right = (logits.argmax(dim=1) == labels).float().mean()
                rows.append({"strength": float(strength), **place, "accuracy": 100 * float(right)})
    return pd.DataFrame(rows)


def trained_state(result: RunResult, clip: Clip) -> dict[str, torch.Tensor]:
    """The method's state at the end of a run of this backbone."""
    there = result.config["backbone"]["weights_sha256"]
    if there != clip.weights_sha256:
        raise UserError(
            f"{result.folder} is a run of another backbone: {there[:12]} there, "
            f"{clip.weights_sha256[:12]} here; load the backbone of that run"
        )
    checkpoint = CheckpointStore(result.folder / "checkpoints").load()
    if checkpoint is None:
        raise UserError(f"{result.folder} has no checkpoint; run the method again")
    own = {k: v for k, v in checkpoint.tensors.items() if k.startswith("method.")}
    return {name.removeprefix("method."): value for name, value in own.items()}


def _tasks(stream: TaskStream, result: RunResult) -> Iterator[tuple[Task, str]]:
    """Every task of a stream, and what it is to a run: "learned", "unseen" or "held-out"."""
    for task in (*stream.tasks, *stream.held_out):
        other = "held-out" if task in stream.held_out else "unseen"
        yield task, "learned" if task.name in result.order else other
