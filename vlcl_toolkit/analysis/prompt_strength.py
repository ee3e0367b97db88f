"""How accurate a trained method with prompts is if its prompts act more or less strongly.

DIKI weighs the prompts of an image by how familiar it looks (Tang et al., ECCV 2024, section 3.3).
Here every image keeps the prompts it would get, but the weight is given: 0 is the frozen CLIP, 1 is
what the prompts were trained with.
"""

import contextlib
from collections.abc import Iterator, Sequence

import pandas as pd
import torch

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.diki.diki import Diki
from vlcl_toolkit.probes.config import probe_images
from vlcl_toolkit.streams.base import TaskStream, load_batch
from vlcl_toolkit.training.checkpoint import CheckpointStore
from vlcl_toolkit.training.results import RunResult

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


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
        clip: the frozen backbone of that run; it is not changed.
        strengths: weights of the prompts, >= 0.
        images_per_domain: test images, spread over the classes.

    Returns:
        columns strength, domain, status ("learned", "unseen" or "held-out"), accuracy (percent),
        and own (the mean weight that the method itself gives the domain's images).

    Raises:
        UserError: another backbone, no checkpoint, a method without prompts.
    """
    rows = []
    with _trained(result, clip) as method:
        for task in (*stream.tasks, *stream.held_out):
            data = probe_images(task, images_per_domain)
            images, labels = load_batch(data, torch.arange(len(data)), clip.eval_transform)
            images, labels = images.to(clip.device), labels.to(clip.device)
            features = clip.encode_image(images)
            decision = method.decide(method.gaussians.log_probs(features))
            unseen = "held-out" if task in stream.held_out else "unseen"
            place = {
                "domain": task.name,
                "status": "learned" if task.name in result.order else unseen,
                "own": float(decision.image_weight.mean()),
            }
            for strength in strengths:
                weight = torch.full_like(decision.image_weight, strength)
                given = decision._replace(image_weight=weight, text_weight=weight)
                logits = method.decided_logits(images, task, given, features)
                right = (logits.argmax(dim=1) == labels).float().mean()
                rows.append({"strength": float(strength), **place, "accuracy": 100 * float(right)})
    return pd.DataFrame(rows)


@contextlib.contextmanager
def _trained(result: RunResult, clip: Clip) -> Iterator[Diki]:
    # attached, as the run left it
    there = result.config["backbone"]["weights_sha256"]
    if there != clip.weights_sha256:
        raise UserError(
            f"{result.folder} is a run of another backbone: {there[:12]} there, "
            f"{clip.weights_sha256[:12]} here; load the backbone of that run"
        )
    method = make_method(result.method, clip, result.config["method_config"])
    if not isinstance(method, Diki):
        raise UserError(f"{result.method} has no prompts to weigh; choose diki or prefix_tuning")
    checkpoint = CheckpointStore(result.folder / "checkpoints").load() if result.folder else None
    if checkpoint is None:
        raise UserError(f"{result.folder} has no checkpoint; run the method again")
    state = checkpoint.tensors.items()
    with method:
        method.load_state_dict(
            {k.removeprefix("method."): v for k, v in state if k.startswith("method.")}
        )
        yield method
