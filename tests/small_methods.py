"""Every method on tiny material: small settings, and a task learned step by step."""

from dataclasses import replace

import torch
from tiny import SETTINGS, one_process, random_images, tiny_clip, tiny_stream

from vlcl_toolkit.methods import make_method
from vlcl_toolkit.streams import TaskStream
from vlcl_toolkit.streams.base import Reference
from vlcl_toolkit.training.loader import load_step
from vlcl_toolkit.training.loop import train_step

FAMILY = [
    "zscl",
    "lwf",
    "lwf_vr",
    "icarl",
    "wise_ft",
    "weight_ensemble",
    "weight_consolidation",
]
# Settings with which each method learns a tiny task in moments.
SMALL: dict[str, dict[str, object]] = {
    "zero_shot": {},
    "finetune": SETTINGS,
    "zscl": SETTINGS | {"average_every": 2},
    "lwf": SETTINGS,
    "lwf_vr": SETTINGS | {"random_sentences": 7},
    "icarl": SETTINGS | {"memory_size": 9},
    "wise_ft": SETTINGS,
    "weight_ensemble": SETTINGS | {"average_every": 3},
    "weight_consolidation": SETTINGS,
    "diki": {"epochs": 3, "batch_size": 8, "length_vision": 3, "length_text": 2},
    "prefix_tuning": {"epochs": 3, "batch_size": 8, "length_vision": 3, "length_text": 2},
    "dpw": {
        "epochs": 3,
        "batch_size": 8,
        "length_vision": 3,
        "length_text": 2,
        "heads": 2,
        "adapter_rank": 3,
        "learning_rate": 0.05,
    },
    "rail": {"width": 40},
    "lora": SETTINGS | {"rank": 3},
    "keeplora": {"epochs": 2, "batch_size": 8, "rank": 3, "learning_rate": 1e-2},
    "nusa_cl": SETTINGS | {"rank": 3, "cutoff": 0.6},
    "moe_adapters": {
        "experts": 4,
        "bottleneck": 5,
        "iterations": 6,
        "warmup": 2,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "selector_features": "clip",
        "selector_code": 4,
        "selector_iterations": 20,
        "selector_reference_iterations": 20,
        "selector_batch_size": 8,
        "threshold": 0.5,
    },
}
REFERENCE = Reference(
    random_images(21, 1, seed=7).images,
    ("a dog in the rain", "two cats", "a red car by the sea on a long and cloudy day"),
    ("tench", "goldfish"),
)


def reference_stream() -> TaskStream:
    """The tiny stream with reference material."""
    return replace(tiny_stream(), reference=lambda: REFERENCE)


def attached(name, clip=None, stream=None, **settings):
    """A method on a tiny backbone, in a stream."""
    method = make_method(name, clip or tiny_clip(), SMALL[name] | settings)
    method.attach()
    method.enter_stream(stream or reference_stream())
    return method


def begin(method, index=0, task=None, seed=0):
    """Everything before the first step of a task; None: the one of the method's stream."""
    if task is None:
        task = method.stream[index] if hasattr(method, "stream") else tiny_stream()[index]
    method.enter_task(index, task)
    method.begin_task(index, task, torch.Generator().manual_seed(seed))
    return task


def learn(method, index=0, task=None, seed=0, each=lambda step: None):
    """One task, as the loop does it; `each` is called after each step."""
    task = begin(method, index, task, seed)
    torch.manual_seed(seed)
    steps = method.steps(task)
    optimizer = method.optimizer(list(method.trainable().values())) if steps else None
    for step in range(steps):
        batch = load_step(method, task, step, seed)
        train_step(method, optimizer, batch, one_process())
        each(step)
    method.end_task(index, task)


@torch.no_grad()
def prepared_batch(method, task, step=0, seed=0):
    """The batch of a step, as `loss` gets it."""
    return method.prepare(load_step(method, task, step, seed))


def weights(method):
    """Copies of the trained weights."""
    return {name: value.detach().clone() for name, value in method.trainable().items()}


def gradients(method, loss):
    """Gradients of a loss by name, zeros where there is none; the closed-form ones are added."""
    method.clip.model.zero_grad(set_to_none=False)
    loss.backward()
    for parameter in method.trainable().values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    method.after_backward(0)
    return {name: p.grad.clone() for name, p in method.trainable().items()}


def disturb(method, seed=3, amount=1e-2):
    """Move the student away from where it is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=amount)
