"""A tiny random CLIP and a tiny random stream: no test of the engine needs trained weights."""

import itertools
import os
from collections.abc import Callable
from functools import lru_cache

import open_clip
import torch
from open_clip.model import CLIP

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.streams import ImageData, Task, TaskStream
from vlcl_toolkit.training.devices import Devices

CLASSES = {
    "pets": ("cat", "dog", "bird"),
    "food": ("apple", "bread"),
    "land": ("river", "forest", "road", "sea"),
}


def tiny_clip(seed: int = 0, **options: object) -> Clip:
    """A random CLIP of 32 x 32 pixels, with two blocks per tower; on VLCL_TEST_DEVICE, if that is set."""
    options = {"device": os.environ.get("VLCL_TEST_DEVICE", "cpu")} | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(
            embed_dim=16,
            vision_cfg={"image_size": 32, "patch_size": 16, "width": 64, "layers": 2},
            text_cfg={
                "context_length": 77,
                "vocab_size": 49408,
                "width": 8,
                "heads": 2,
                "layers": 2,
            },
            quick_gelu=True,
        )
    return Clip(model, _tokenizer(), name="tiny", **options)


@lru_cache(maxsize=1)  # building it takes longer than a tiny run
def _tokenizer() -> open_clip.tokenizer.SimpleTokenizer:
    return open_clip.get_tokenizer("ViT-B-32")


def random_images(n: int, classes: int, seed: int, size: int = 32) -> ImageData:
    """Noise whose mean tells the class, so that something can be learned."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    noise = torch.randint(-60, 60, (n, 3, size, size), generator=generator)
    level = (40 + 170 * labels / classes)[:, None, None, None]
    return ImageData((level + noise).clamp(0, 255).to(torch.uint8), labels)


def tiny_task(name: str, classes: tuple[str, ...], seed: int) -> Task:
    """20 training, 9 validation and 12 test images."""
    splits = [random_images(n, len(classes), 10 * seed + i) for i, n in enumerate((20, 9, 12))]
    return Task(name, classes, ("a photo of a {}.", "art of the {}."), *splits)


def tiny_stream() -> TaskStream:
    """Two tasks, and one that is held out."""
    tasks = [tiny_task(name, words, i) for i, (name, words) in enumerate(CLASSES.items())]
    return TaskStream("tiny", tuple(tasks[:2]), "random-1", held_out=(tasks[2],))


# Fine-tuning that finishes in moments: 7 steps per task.
SETTINGS = {"iterations": 6, "warmup": 2, "batch_size": 8, "learning_rate": 1e-3}


def ticking_clock() -> Callable[[], float]:
    """A clock that moves 100 seconds whenever it is read: a checkpoint is due after every third step."""
    return itertools.count(step=100.0).__next__


@lru_cache(maxsize=1)
def one_process() -> Devices:
    """What `train_step` computes on: this process, in float32."""
    return Devices(tiny_clip())
