"""KeepLoRA and KeepLoRA+ against the numbers of the official code."""

from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from tiny import one_process
from torch import Tensor

from parity.loading import Case, assert_close, assert_same, build_clip, runner
from parity.run_diki import FloatImages, official_metrics, part
from vlcl_toolkit.methods.batch import Batch
from vlcl_toolkit.methods.diki.towers import class_prompts
from vlcl_toolkit.methods.low_rank.branches import MODULES, Branch
from vlcl_toolkit.methods.low_rank.keeplora import KeepLora
from vlcl_toolkit.methods.low_rank.subspaces import (
    BatchMean,
    SecondMoment,
    extended_basis,
    first_basis,
    gram,
)
from vlcl_toolkit.methods.schedules import one_cycle
from vlcl_toolkit.streams import Task, TaskStream
from vlcl_toolkit.training.loop import train_step
from vlcl_toolkit.training.metrics import accuracy

WEIGHTS = ("in_proj_weight", "out_proj.weight")


class InOrder(KeepLora):
    """KeepLoRA whose passes take the images in file order, as the cases do."""

    def passes(self, task: Task, generator: torch.Generator | None) -> list[Tensor]:
        return [indices.sort()[0] for indices in torch.arange(len(task.train)).split(8)][
            : len(task.train) // 8
        ]


class Golden:
    """A case, the attached method with its settings, and its tasks."""

    def __init__(self, case: Case, **settings: Any):
        self.case, record = case, case.record
        self.tensors, self.record = case.tensors, record
        clip = build_clip(case.shared_tensors(record["weights"]))
        clip.train_transform = clip.eval_transform = torch.clone
        config = KeepLora.Config(
            rank=record["rank_vision"],
            rank_text=record["rank_text"],
            alpha=float(record["lora_alpha"]),
            weight_share=record["weight_threshold_vision"],
            weight_share_text=record["weight_threshold_text"],
            feature_share=record["feature_threshold_vision"],
            feature_share_text=record["feature_threshold_text"],
            batch_size=record.get("batch_size", 8),
            **settings,
        )
        assert config.batch_size == 8
        assert tuple(record["modules"]) == MODULES
        self.tasks = [self._task(clip.image_size, i) for i in range(len(record["tasks"]))]
        self.method = InOrder(clip, config)
        self.method.attach()
        self.method.enter_stream(TaskStream("golden", tuple(self.tasks), "golden"))
        for index, task in enumerate(self.tasks):
            name = f"tokens.task{index}"
            if name in self.tensors:
                tokens = clip.tokenize(class_prompts(task, "first"))
                assert_same(tokens, self.tensors[name], name)

    def _task(self, size: int, index: int) -> Task:
        entry = self.record["tasks"][index]
        nothing = FloatImages(torch.zeros(0, 3, size, size))

        def images(prefix: str) -> FloatImages:
            name = f"image.task{index}"
            if (
                prefix + name not in self.tensors
                or f"{prefix}label.task{index}" not in self.tensors
            ):
                return nothing
            labels = self.tensors[f"{prefix}label.task{index}"]
            return FloatImages(self.tensors[prefix + name], labels)

        names, templates = tuple(entry["class_names"]), (entry["template"],)
        return Task(str(index), names, templates, images(""), nothing, images("test_"))

    def branches(self) -> dict[str, Branch]:
        """By "vision.0", "text.1", ..."""
        return {
            ("vision." if place.startswith("visual.") else "text.")
            + place.rpartition(".")[2]: found
            for place, found in self.method.branches.places.items()
        }

    def place(self, short: str) -> str:
        """The name of a branch in our state."""
        tower, _, block = short.partition(".")
        return f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{block}"

    def close(self, found: Any, name: str, expected: Tensor | None = None) -> None:
        """Compare with a tensor of the case by its rule."""
        expected = self.tensors[name] if expected is None else expected
        least = 2e-5
        for pattern, value in self.record.get("tighter_atol", {}).items():
            if fnmatch(name, pattern) or fnmatch(name, f"task?.{pattern}"):
                least = value
            if pattern.startswith("grad_stepN") and ".grad_step" in f".{name}":
                least = value
        rounding = self.record["max_abs_diff_float32_vs_float64"].get(name, 0.0)
        assert_close(found, expected, name, rtol=1e-4, atol=max(least, 20 * rounding))

    def inject(self, prefix: str = "", b: str = "B0") -> None:
        """Recorded A and B."""
        for short, branch in self.branches().items():
            for module, letter in enumerate(MODULES):
                branch.a.data[module] = self.tensors[f"{prefix}A.{short}.{letter}"]
                branch.b.data[module] = self.tensors[f"{prefix}{b}.{short}.{letter}"]

    def close_factor(self, name: str, stacked: dict[str, Tensor]) -> None:
        """A value per module, e.g. B."""
        for short, value in stacked.items():
            for module, letter in enumerate(MODULES):
                self.close(value[module], f"{name}.{short}.{letter}")

    def close_weights(self, prefix: str) -> None:
        """The attention's weights."""
        for place, branch in self.method.branches.places.items():
            for name, value in branch.weights.items():
                self.close(value, f"{prefix}.{place}.attn.{name}")

    def close_bases(self, prefix: str, ranks: dict[str, list[int]]) -> None:
        """Counts exactly, subspaces as projectors."""
        for short in self.branches():
            tower, _, block = short.partition(".")
            for letter, basis in zip(MODULES, self.method.bases[self.place(short)], strict=True):
                assert basis.shape[1] == ranks[f"{tower}.{letter}"][int(block)], (short, letter)
                name = f"{prefix}.{short}.{letter}"
                self.close(basis @ basis.T, name, self.tensors[name] @ self.tensors[name].T)

    def set_bases(self, prefix: str) -> None:
        """Recorded bases."""
        self.method.bases = {
            self.place(short): [self.tensors[f"{prefix}.{short}.{letter}"] for letter in MODULES]
            for short in self.branches()
        }

    def start(self, index: int) -> None:
        """A task from its recorded A and B0: our own are compared, then replaced."""
        task, prefix = self.tasks[index], f"task{index}."
        self.method.enter_task(index, task)
        self.method.begin_task(index, task, torch.Generator())
        for branch in self.branches().values():
            branch.merge()  # takes our own start back
        for short, branch in self.branches().items():
            for module, letter in enumerate(MODULES):
                name = f"{prefix}B0.{short}.{letter}"
                a, b = self.tensors[f"{prefix}A.{short}.{letter}"], self.tensors[name]
                compare_start(branch, module, a, b, name)
        self.inject(prefix)
        for branch in self.branches().values():
            branch.merge(-1)

    def train(self, index: int, each: Any = lambda step: None) -> list[float]:
        """All steps; `each` is called with the number of steps taken."""
        task, losses = self.tasks[index], []
        optimizer = self.method.optimizer(list(self.method.trainable().values()))
        batches = torch.arange(len(task.train)).split(8)
        for step in range(self.method.steps(task)):
            rows = batches[step % len(batches)]
            batch = Batch(task.train.images[rows], task.train.labels[rows], step)
            losses.append(train_step(self.method, optimizer, batch, one_process())["loss"])
            each(step + 1)
        return losses

    def test(self, index: int) -> list[float]:
        """A row of the accuracy matrix."""
        for tested, other in enumerate(self.tasks):
            found = self.method.predict(other.test.images, other)
            self.close(found, f"task{index}.test_logits.task{tested}")
        return [accuracy(self.method, other.test, other) / 100 for other in self.tasks]


def compare_start(branch: Branch, module: int, a: Tensor, b: Tensor, name: str) -> None:
    """Own A and B0, whose signs are free; columns that are rounding alone may be missing."""
    largest = float(torch.linalg.matrix_norm(b, 2))
    near = {"rtol": 0.0, "atol": max(1e-7, 1e-4 * largest)}
    assert_close(branch.a[module] @ branch.b[module], a @ b, f"A {name}", **near)
    own = branch.a[module].any(dim=0)
    if own.all():
        projector = branch.a[module] @ branch.a[module].T
        assert_close(projector, a @ a.T, f"projector {name}", rtol=0, atol=1e-4)


@runner("keeplora_weight_subspace")
def run_weight_subspace(case: Case) -> None:
    """Bases of the pre-trained weights."""
    for number, shares in enumerate(case.record["threshold_pairs_vision_text"]):
        golden = Golden(case)
        settings = dict(zip(("weight_share", "weight_share_text"), shares, strict=True))
        golden.method.config = replace(golden.method.config, **settings)
        golden.method.bases = golden.method.weight_bases()
        golden.close_bases(f"basis{number}", case.record["ranks"][number])


@runner("keeplora_subspace_rules")
def run_subspace_rules(case: Case) -> None:
    """The first update and the later ones, on plain matrices."""
    for name, sequence in case.record["sequences"].items():
        basis = torch.zeros(case.record["width"], 0)
        steps = zip(sequence["thresholds"], sequence["columns_after"], strict=True)
        for step, (share, count) in enumerate(steps):
            moments = gram(case.tensors[f"matrix.{name}.{step}"])
            basis = extended_basis(basis, moments, share) if step else first_basis(moments, share)
            if share < 1:
                assert basis.shape[1] == count, (name, step)
            if count:
                key = f"basis.{name}.{step}"
                expected = case.tensors[key] @ case.tensors[key].T
                rounding = case.record["max_abs_diff_float32_vs_float64"][key]
                atol = max(2e-5, 20 * rounding)
                assert_close(basis @ basis.T, expected, key, rtol=1e-4, atol=atol)


def close_features(golden: Golden, index: int, prefix: str) -> None:
    """What step 6 accumulates, on the merged model."""
    task, method = golden.tasks[index], golden.method
    method.enter_task(index, task)
    method.branches.active = False
    found, texts = method.feature_moments(task), {}

    def texts_pass(place: str, query: Tensor, joined: Tensor) -> None:
        texts[place] = {"qkv": query, "o": joined}

    with torch.no_grad(), method.branches.listening(texts_pass):
        method.clip.model.encode_text(method.tokens)
    for short in golden.branches():
        for name, moments in found[golden.place(short)].items():
            key = f"{prefix}features.{short}.{name}"
            if isinstance(moments, BatchMean):
                golden.close(moments.matrix(), key)
                continue
            assert isinstance(moments, SecondMoment)
            x = texts[golden.place(short)][name]
            columns = x.permute(2, 1, 0).flatten(1)
            golden.close(columns / columns.shape[1], key)
            recorded = gram(golden.tensors[key]) * columns.shape[1] ** 2
            atol = 1e-5 * float(recorded.abs().max())
            assert_close(moments.moments(), recorded, f"moments {key}", rtol=1e-4, atol=atol)


@runner("keeplora_features")
def run_features(case: Case) -> None:
    """Feature matrices, and bases extended by them."""
    golden, index = Golden(case), case.record["task"]
    golden.method.bases = golden.method.weight_bases()
    close_features(golden, index, "")
    golden.method.end_task(index, golden.tasks[index])
    golden.close_bases("basis_end", case.record["ranks_after"])


@runner("keeplora_init")
def run_init(case: Case) -> None:
    """The gradient, its part outside the bases, A and B0."""
    golden, index = Golden(case), case.record["task"]
    method, start = golden.method, part(case.tensors, "start_weights")
    for place, branch in method.branches.places.items():
        for name, weight in branch.weights.items():
            weight.data.copy_(start.get(f"{place}.attn.{name}", weight.data))
    golden.set_bases("basis_start")
    task = golden.tasks[index]
    method.enter_task(index, task)
    method.accumulate_gradients(task, method.passes(task, None))
    for place, branch in method.branches.places.items():
        for name, weight in branch.weights.items():
            golden.close(weight.grad, f"gradient.{place}.attn.{name}")
            weight.grad = None
    method.begin_task(index, task, torch.Generator())
    for short, branch in golden.branches().items():
        for module, letter in enumerate(MODULES):
            a, b = (case.tensors[f"{name}.{short}.{letter}"] for name in ("A", "B0"))
            compare_start(branch, module, a, b, f"{short}.{letter}")
    golden.close_weights("weights_minus_init")


@runner("keeplora_init_rank_deficient")
def run_rank_deficient(case: Case) -> None:
    """Fewer directions than the rank: those of rounding are left out, or stay outside the bases."""
    golden = Golden(case)
    tensors, block = case.tensors, "transformer.resblocks.1"
    branch = golden.method.branches.places[block]
    packed, output = (tensors[f"gradient.{block}.attn.{name}"] for name in WEIGHTS)
    gradients = torch.cat((packed.unflatten(0, (3, -1)), output[None]))
    bases = [tensors[f"basis_start.text.1.{letter}"] for letter in MODULES]
    golden.method.start(branch, gradients, bases, torch.Generator())
    for module, letter in enumerate(MODULES):
        inside = bases[module].T @ branch.a[module]
        assert float(inside.abs().max()) < 1e-5
        singular = case.record["exact"][f"text.1.{letter}"]["singular_values"]
        kept = sum(value > 1e-5 * singular[0] for value in singular)
        assert int(branch.a[module].any(dim=0).sum()) == min(kept, case.record["rank_text"])
        a, b = (tensors[f"{name}.text.1.{letter}"] for name in ("A", "B0"))
        compare_start(branch, module, a, b, letter)


@runner("keeplora_forward")
def run_forward(case: Case) -> None:
    """Branches in the towers, without them, and merged."""
    golden, index = Golden(case), case.record["task"]
    method, task = golden.method, golden.tasks[index]
    images = case.tensors[f"test_image.task{index}"]
    golden.close(method.predict(images, task), "logits_without")
    golden.inject(b="B")
    method.enter_task(index, task)
    golden.close(method.predict(images, task), "logits")
    with torch.no_grad():
        golden.close(method.clip.encode_image(images), "image_features")
    golden.close(method.class_features(task), "text_features")
    for branch in golden.branches().values():
        branch.merge()
        branch.reset()
    method.branches.active = False
    method.forget_class_features()
    golden.close(method.predict(images, task), "logits_merged")
    golden.close_weights("weights_merged")


@runner("keeplora_train")
def run_train(case: Case) -> None:
    """Optimiser steps from recorded A and B0."""
    record, index = case.record, case.record["task"]
    peak = {"learning_rate": record["max_lr"], "weight_decay": record["weight_decay"]}
    golden = Golden(case, epochs=record["epochs"][index], **peak)
    method, task = golden.method, golden.tasks[index]
    golden.inject()
    for branch in golden.branches().values():
        branch.merge(-1)
    method.enter_task(index, task)

    def each(step: int) -> None:
        branches = golden.branches()
        group = method._optimizer.param_groups[0]
        assert_close(group["lr"], record["learning_rates"][step - 1], "lr", rtol=1e-6, atol=0)
        assert_close(group["betas"][0], record["beta1"][step - 1], "beta1", rtol=1e-6, atol=0)
        if f"grad_step{step}.vision.0.q" in case.tensors:
            gradients = {short: branch.b.grad for short, branch in branches.items()}
            golden.close_factor(f"grad_step{step}", gradients)
        if f"B_after_step{step}.vision.0.q" in case.tensors:
            values = {short: branch.b.detach() for short, branch in branches.items()}
            golden.close_factor(f"B_after_step{step}", values)

    golden.close(golden.train(index, each), "losses")
    golden.close_factor("B_final", {s: b.b.detach() for s, b in golden.branches().items()})


@runner("keeplora_chain", "keeplora_plus")
def run_chain(case: Case) -> None:
    """The whole stream, from the recorded A and B0 of each task."""
    record, matrix, plus = case.record, [], case.kind == "keeplora_plus"
    peak = {"learning_rate": record["max_lr"], "weight_decay": record["weight_decay"]}
    epochs = {str(index): count for index, count in enumerate(record["epochs"])}
    scale = {"classifier_scale": float(record["classifier_scale"])} if plus else {}
    golden = Golden(case, task_epochs=epochs, classifier=plus, **peak, **scale)
    method = golden.method
    for index, task in enumerate(golden.tasks):
        prefix = f"task{index}."
        golden.start(index)
        if plus:
            head = method.classifiers[task.name]
            golden.close(head.detach(), f"{prefix}classifier_init")
        else:
            golden.close_bases(f"{prefix}basis_start", record["ranks_start"][index])

        def each(step: int, prefix: str = prefix, index: int = index) -> None:
            if f"{prefix}classifier_after_step{step}" in case.tensors:
                head = method.classifiers[golden.tasks[index].name]
                golden.close(head.grad, f"{prefix}grad_step{step}.classifier")
                golden.close(head.detach(), f"{prefix}classifier_after_step{step}")

        golden.close(golden.train(index, each), f"{prefix}losses")
        final = {short: branch.b.detach().clone() for short, branch in golden.branches().items()}
        golden.close_factor(f"{prefix}B_final", final)
        method.end_task(index, task)
        if not plus:
            golden.close_weights(f"{prefix}weights_merged")
            close_features(golden, index, prefix)
            method.branches.active = False
            golden.close_bases(f"{prefix}basis_end", record["ranks_end"][index])
        matrix.append(golden.test(index))
    assert_close(matrix, record["accuracy"], "accuracy", rtol=1e-6, atol=0)
    assert official_metrics(np.array(matrix)) == record["metrics_json_lines"]


@runner("keeplora_schedule")
def run_schedule(case: Case) -> None:
    """Learning rate and beta1."""
    for steps, entry in case.record["schedules"].items():
        found = [one_cycle(step, int(steps), entry["max_lr"]) for step in range(int(steps))]
        for values, name in zip(zip(*found, strict=True), ("lr", "beta1"), strict=True):
            np.testing.assert_allclose(values, entry[name], rtol=case.record["rtol"])
