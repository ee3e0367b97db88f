"""Contrastive pre-training of the miniature CLIP on its world of captioned pictures.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 2.3:

1. Draw a batch of images with their sentences.
2. Encode and normalise both; multiply the cosine similarities of all pairs by the learned scale.
3. Cross-entropy from images to sentences and back, averaged. Sentences of the batch with the same meaning are all
   right answers (in a world this small they are too frequent to be called negatives).

The world is drawn in rounds, each from a generator seeded by (seed, round), and every round is read ``reuse`` times.
A checkpoint is kept after every round, so an interrupted pre-training goes on to the identical weights.
"""

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.model import CLIP
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm
from world import World, draw_world

from vlcl_toolkit.clip.model import Clip, encode_tokens, normalize
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import make_folder, sha256_of, write_atomic
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.mini.clip import CONFIG_FILE, WEIGHTS_FILE, MiniTokenizer, new_model
from vlcl_toolkit.mini.stream import mini_stream
from vlcl_toolkit.seeds import derive_seed, generator
from vlcl_toolkit.streams.base import Task
from vlcl_toolkit.training.checkpoint import (
    CheckpointStore,
    RunLock,
    pack_optimizer,
    unpack_optimizer,
)
from vlcl_toolkit.training.metrics import accuracy

LOG_FILE = "pretraining.csv"
MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of the pre-training."""

    samples: int = 1_700_000
    """Images shown, repetitions counted."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 1.2e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """On matrices and embeddings, not on biases, norms and the scale."""
    warmup: int = 200
    """Steps of linear warm-up before the cosine to zero."""
    round_size: int = 8192
    """Images drawn at a time."""
    reuse: int = 2
    """Times that each image is shown."""
    vocabulary_rounds: int = 8
    """Draws of 4,096 captions from which the vocabulary is gathered."""
    evaluate_every: int = 8
    """Rounds between two measurements of zero-shot accuracy (validation images of the downstream domains)."""
    seed: int = 0
    """Seeds weights, world and order."""

    @property
    def rounds(self) -> int:
        return math.ceil(self.samples / (self.round_size * self.reuse))

    @property
    def steps_per_round(self) -> int:
        return self.reuse * (self.round_size // self.batch_size)


def contrastive_loss(
    image_features: Float[Tensor, "b dim"],
    text_features: Float[Tensor, "b dim"],
    scale: Float[Tensor, ""],
    meanings: Int[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy over unit-norm features; rows of one meaning share their targets evenly."""
    logits = scale * image_features @ text_features.T
    same = (meanings[:, None] == meanings[None]).float()
    targets = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to zero, by step (never by the clock)."""
    total = config.rounds * config.steps_per_round
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    return (
        config.learning_rate
        / 2
        * (1 + math.cos(math.pi * (step - config.warmup) / (total - config.warmup)))
    )


def build_tokenizer(config: PretrainConfig, tasks: Sequence[Task]) -> MiniTokenizer:
    """The tokenizer that knows the captions of a sample of the world, and the prompts of the downstream tasks."""
    rng = np.random.default_rng(derive_seed("vocabulary", config.seed))
    texts = [
        caption
        for _ in range(config.vocabulary_rounds)
        for caption in draw_world(rng, 4096).captions
    ]
    texts += [
        prompt
        for task in tasks
        for template in range(len(task.templates))
        for prompt in task.prompts(template)
    ]
    return MiniTokenizer.from_texts(texts)


def draw_round(config: PretrainConfig, index: int) -> World:
    """The images and captions of one round; independent of every other round."""
    return draw_world(
        np.random.default_rng(derive_seed("world", config.seed, index)), config.round_size
    )


class Pretraining:
    """Model, optimiser and log; one method per numbered step of the module's head."""

    def __init__(self, config: PretrainConfig, device: str) -> None:
        stream = mini_stream()
        self.config = config
        self.tasks = (*stream.tasks, *stream.held_out)
        self.tokenizer = build_tokenizer(config, self.tasks)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model: CLIP = new_model(self.tokenizer)
        self.clip = Clip(self.model, self.tokenizer, name="mini", device=device)
        self.model.requires_grad_(True)
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for p in parameters if p.ndim > 1],
                    "weight_decay": config.weight_decay,
                },
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            eps=1e-6,
            fused=True,
        )
        self.log: list[dict[str, float]] = []

    def train_round(self, index: int) -> float:
        """Draw a round and read it ``reuse`` times; the mean loss."""
        config = self.config
        world = draw_round(config, index)
        tokens = self.clip.tokenize(world.captions)
        numbers = {meaning: number for number, meaning in enumerate(dict.fromkeys(world.meanings))}
        meanings = torch.tensor([numbers[meaning] for meaning in world.meanings])
        losses: list[float] = []
        for repetition in range(config.reuse):
            order = torch.randperm(
                config.round_size, generator=generator("order", config.seed, index, repetition)
            )
            for batch in order.split(config.batch_size)[: config.round_size // config.batch_size]:
                step = index * config.steps_per_round + len(losses)
                losses.append(
                    self.train_step(step, world.images[batch], tokens[batch], meanings[batch])
                )
        return float(np.mean(losses))

    def train_step(self, step: int, images: Tensor, tokens: Tensor, meanings: Tensor) -> float:
        """One optimiser step on one batch; the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        image_features = normalize(
            self.model.visual(self.clip.eval_transform(images).to(self.clip.device))
        )
        text_features = normalize(encode_tokens(self.model, tokens))
        scale = self.model.logit_scale.exp()
        loss = contrastive_loss(image_features, text_features, scale, meanings.to(self.clip.device))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        return loss.item()

    def record(self, index: int, loss: float) -> dict[str, float]:
        """Append a line of the log: samples seen, loss, scale, and zero-shot accuracy where it is due."""
        config = self.config
        line = {
            "samples": float(index + 1) * config.round_size * config.reuse,
            "loss": loss,
            "learning_rate": learning_rate(config, (index + 1) * config.steps_per_round - 1),
            "logit_scale": self.clip.logit_scale,
        }
        if (index + 1) % config.evaluate_every == 0 or index + 1 == config.rounds:
            zero_shot = make_method("zero_shot", self.clip)
            line |= {task.name: accuracy(zero_shot, task.validation, task) for task in self.tasks}
        self.log.append(line)
        return line

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and optimiser as tensors, and what JSON holds."""
        moments, optimizer = pack_optimizer(self.optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
        return tensors, {"config": asdict(self.config), "log": self.log, "optimizer": optimizer}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        unpack_optimizer(self.optimizer, part("optimizer."), state["optimizer"])
        self.log = state["log"]


def write_csv(path: Path, log: list[dict[str, float]], columns: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["samples", "loss", "learning_rate", "logit_scale", *columns], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in line.items()} for line in log)
    write_atomic(path, text.getvalue().encode())


def pretrain_mini(
    config: PretrainConfig, out: str | Path, *, device: str = "auto", progress: bool = True
) -> Path:
    """Pre-train the miniature CLIP; return the folder with its weights (float16), settings and log.

    Interrupt it at any time: the same call goes on after the last finished round, to the identical weights.
    Raises UserError if ``out`` holds a pre-training with other settings, or another process works there.
    """
    folder = make_folder(out)
    with RunLock(folder):
        training = Pretraining(config, device)
        store = CheckpointStore(folder / "checkpoints")
        first = 0
        if (saved := store.load()) is not None:
            if saved.state["config"] != asdict(config):
                raise UserError(
                    f"{folder} holds a pre-training with other settings; choose another --out or remove it"
                )
            first = saved.step
            training.restore(saved.tensors, saved.state)
        names = [task.name for task in training.tasks]
        with tqdm(
            total=config.rounds,
            initial=first,
            disable=not progress,
            unit="round",
            desc="pre-training",
        ) as bar:
            for index in range(first, config.rounds):
                line = training.record(index, training.train_round(index))
                store.save(index + 1, *training.state())
                write_csv(folder / LOG_FILE, training.log, names)
                if names[0] in line:
                    mean = float(np.mean([line[name] for name in names]))
                    bar.set_postfix(loss=f"{line['loss']:.2f}", zero_shot=f"{mean:.1f} %")
                bar.update()
        half = {
            name: tensor.half().contiguous().cpu()
            for name, tensor in training.model.state_dict().items()
        }
        write_atomic(folder / WEIGHTS_FILE, save(half))
        settings = {
            "sha256": sha256_of(folder / WEIGHTS_FILE),
            "token_ids": training.tokenizer.known_ids,
            "pretraining": asdict(config),
            "versions": {
                "torch": torch.__version__.partition("+")[0],
                "open_clip": open_clip.__version__,
            },
        }
        write_atomic(folder / CONFIG_FILE, (json.dumps(settings, indent=1) + "\n").encode())
    return folder


def main(
    samples: int = 1_700_000,
    seed: int = 0,
    out: Path = Path("runs/pretrain-mini"),
    device: str = "auto",
) -> None:
    """Pre-train the miniature CLIP from scratch on its drawn world (about an hour on two CPU cores).

    Interrupt it at any time: the same command goes on after the last finished round. To use the result, copy
    mini_clip.safetensors, mini_clip.json and pretraining.csv into data/mini.

    Args:
        samples: Captioned images shown, repetitions counted.
        seed: Of weights, world and order.
        out: Folder of weights, log and checkpoints.
        device: auto, cpu or cuda.
    """
    config = PretrainConfig(samples=samples, seed=seed)
    print(f"weights, settings and log: {pretrain_mini(config, out, device=device)}")


if __name__ == "__main__":
    from vlcl_toolkit.cli import run_command

    sys.exit(run_command(main))
