"""DIKI against the numbers of its official code."""

import hashlib
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import open_clip
import torch
from tiny import one_process
from torch import Tensor

from parity.loading import Case, assert_close, assert_same, build_clip, runner
from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.methods.batch import Batch
from vlcl_toolkit.methods.diki.diki import Diki
from vlcl_toolkit.methods.diki.gaussians import TaskGaussians
from vlcl_toolkit.methods.diki.official import read_official_checkpoint
from vlcl_toolkit.methods.diki.towers import class_prompts
from vlcl_toolkit.methods.schedules import cosine_to_floor
from vlcl_toolkit.streams import ImageData, Task
from vlcl_toolkit.streams.full_size.coop import split_80_20
from vlcl_toolkit.streams.splits import facts
from vlcl_toolkit.training.loop import train_step
from vlcl_toolkit.training.metrics import accuracy, metric_vectors, metrics


class FloatImages(ImageData):
    """Images that are normalised floats already; the cases bring no others."""

    def __init__(self, images: Tensor, labels: Tensor | None = None):
        labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
        self.images, self.labels = images, labels


def official(case: Case) -> tuple[Clip, Diki, list[Task]]:
    """The case's backbone, an attached DIKI with the official settings, and tasks without images."""
    record, stored = case.record, case.shared_tensors(case.record["weights"])
    clip = build_clip(
        stored, vision_heads=record["vision"]["heads"], text_heads=record["text"]["heads"]
    )
    clip.train_transform = clip.eval_transform = torch.clone
    config = Diki.Config(
        depth_vision=record["depth_vision"],
        depth_text=record["depth_text"],
        length_vision=record["prompt_len_vision"],
        length_text=record["prompt_len_text"],
        calibration_divisor=float(record["calibration_divisor"]),
        decision="batch",
        allow_singular=True,
    )
    size = record["vision"]["image"]
    nothing = FloatImages(torch.zeros(0, 3, size, size))
    tasks = [
        Task(str(i), tuple(t["class_names"]), (t["template"],), nothing, nothing, nothing)
        for i, t in enumerate(record["tasks"])
    ]
    method = Diki(clip, config)
    method.attach()
    for index, task in enumerate(tasks):
        if f"tokens.task{index}" in stored:
            tokens = method.towers.tokens(task)
            assert_same(tokens, stored[f"tokens.task{index}"], f"tokens.task{index}")
    return clip, method, tasks


def with_settings(method: Diki, **settings: Any) -> Diki:
    """The same backbone under a DIKI with other settings."""
    method.detach()
    method = Diki(method.clip, replace(method.config, **settings))
    method.attach()
    return method


def load(method: Diki, pools: dict[str, Tensor], count: int, **gaussians: Tensor) -> None:
    """Take up the first `count` slots of official pools [T, 2, P, W]; others of the case stay."""
    dim = method.clip.embed_dim
    means = gaussians.get("means", torch.zeros(count, dim))[:count]
    covariances = gaussians.get("covars", torch.eye(dim).expand(count, dim, dim))[:count]
    state = {
        f"prompts.{task}.{name}": pools[name][task]
        for task in range(count)
        for name in method.pool.places
    }
    bookkeeping = {
        "best.epochs": torch.full((count,), -1),
        "best.accuracies": torch.full((count,), -1.0).double(),
    }
    statistics = {"gaussians.means": means, "gaussians.covariances": covariances}
    method.load_state_dict(state | bookkeeping | (statistics if count else {}))


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors "<prefix>.<name>" by name."""
    prefix += "."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def set_prompts(method: Diki, pools: dict[str, Tensor], task: int) -> None:
    """Give a task that has begun the recorded start instead of our own random keys."""
    assert not any(prompts[1].any() for prompts in method.pool.tasks[task].values())
    for name, prompts in method.pool.tasks[task].items():
        prompts.data.copy_(pools[name][task])


def compare_pools(
    method: Diki,
    expected: dict[str, Tensor],
    start: dict[str, Tensor],
    label: str,
    *,
    rtol: float,
    atol: float,
) -> None:
    """All slots: ours where a task has begun, the recorded start where not."""
    assert expected.keys() == method.pool.places.keys()
    for name, pool in expected.items():
        ours = [prompts[name] for prompts in method.pool.tasks]
        found = torch.stack([*ours, *start[name][len(ours) :]])
        assert_close(found, pool, f"{label}.{name}", rtol=rtol, atol=atol)


@runner("diki_forward")
def run_forward(case: Case) -> None:
    """Prompted towers with the task given."""
    clip, method, tasks = official(case)
    tensors, tolerance = case.tensors, case.record["tolerance"]
    near = {"rtol": tolerance["rtol"], "atol": tolerance["atol"]}
    images = tensors["image"]
    frozen = clip.encode_image(images)
    assert_close(frozen, tensors["frozen_image_features"], "frozen_image_features", **near)

    load(method, part(tensors, "init_pool"), len(tasks))
    for index, task in enumerate(tasks):
        name = f"init_logits.task{index}"
        found = method.logits(images, task, index)
        assert_close(found, tensors[name], name, **near)
        text = clip.encode_text(method.towers.tokens(task))
        assert_same(found, clip.logits(frozen, text), f"{name}: the frozen CLIP exactly")

    load(method, part(tensors, "pool"), len(tasks))
    for index, task in enumerate(tasks):
        text = method.towers.text_features(task, index)[0]
        image = method.towers.image_features(images, index)
        logits = method.logits(images, task, index)
        found = {"text_features": text, "image_features": image, "logits": logits}
        for name, value in found.items():
            assert_close(value, tensors[f"{name}.task{index}"], f"{name}.task{index}", **near)
        compare_attention(method, task, index, tensors, near)


def compare_attention(
    method: Diki, task: Task, index: int, tensors: dict[str, Tensor], near: dict[str, float]
) -> None:
    """Recorded outputs of single attention modules; the text tower at its full length."""
    model, seen = method.clip.model, {}
    blocks = {"vision": model.visual.transformer.resblocks, "text": model.transformer.resblocks}
    handles = [
        block.attn.register_forward_hook(
            lambda module, args, output, name=f"attn_out_{tower}_block{number}.task{index}": (
                seen.__setitem__(name, output[0])
            )
        )
        for tower, stack in blocks.items()
        for number, block in enumerate(stack)
    ]
    tokens = method.towers.tokens(task)
    with torch.no_grad(), method.pool.use(index):
        model.visual(tensors["image"])
        embedded = model.token_embedding(tokens) + model.positional_embedding
        model.transformer(embedded, attn_mask=model.attn_mask)
    for handle in handles:
        handle.remove()
    for name, expected in tensors.items():
        if name.startswith("attn_out_") and name.endswith(f".task{index}"):
            assert_close(seen[name][: len(expected)], expected, name, **near)


@runner("diki_train")
def run_train(case: Case) -> None:
    """The statistics pass and the first steps of a task."""
    _, method, tasks = official(case)
    record, tensors, tolerance = case.record, case.tensors, case.record["tolerance"]
    images, labels = tensors["image"], tensors["label"]
    index, sizes = record["task"], record["batch_sizes"]
    method = with_settings(
        method,
        learning_rate=record["lr"],
        epochs=record["epochs"],
        batch_size=max(sizes),
        select_epoch=False,
    )
    task = replace(tasks[index], train=FloatImages(images, labels))
    start = part(tensors, "init_pool")
    load(method, start, index)
    learned_before = len(method.gaussians)
    method.enter_task(index, task)
    method.begin_task(index, task, torch.Generator())
    assert len(method.gaussians) == learned_before + 1
    assert_close(method.gaussians.means[index], tensors["mean"], "mean", rtol=0, atol=1e-6)
    assert_close(method.gaussians.covariances[index], tensors["cov"], "cov", rtol=0, atol=1e-7)
    set_prompts(method, start, index)
    assert method.steps(task) == record["total_steps"]

    optimizer = method.optimizer(list(method.trainable().values()))
    ends = np.cumsum(sizes)
    for step in range(record["steps"]):
        end = ends[step % len(sizes)]
        rows = slice(end - sizes[step % len(sizes)], end)
        terms = train_step(
            method, optimizer, Batch(images[rows], labels[rows], step), one_process()
        )
        rate, loss = tensors["lrs"][step], tensors["losses"][step]
        assert_close(terms["learning_rate"], rate, f"lrs[{step}]", rtol=1e-6, atol=0)
        rtol, atol = tolerance["rtol"], tolerance["loss_atol"]
        assert_close(terms["loss"], loss, f"losses[{step}]", rtol=rtol, atol=atol)
        near = {"rtol": tolerance["rtol"], "atol": tolerance["pool_atol"]}
        name = f"pool_after_step{step + 1}"
        if part(tensors, name):
            compare_pools(method, part(tensors, name), start, name, **near)
        name = f"grad_step{step + 1}"
        for place, expected in part(tensors, name).items():
            gradient = torch.zeros_like(expected)  # of other tasks
            gradient[index] = method.trainable()[place].grad
            assert_close(gradient, expected, f"{name}.{place}", **near)
            if step == 0:
                assert not gradient[:, 0].any(), "keys have no gradient at the first step"
    method.end_task(index, task)


@runner("diki_decide_batch")
def run_decide_batch(case: Case) -> None:
    """Statistics, densities, weights, the vote, and the logits that follow."""
    clip, method, tasks = official(case)
    record, tensors, tolerance = case.record, case.tensors, case.record["tolerance"]
    count = record["task_learnt"]
    fitted = TaskGaussians(allow_singular=True)
    for index in range(count):
        fitted.add(tensors[f"fit_features.task{index}"], str(index))
    statistics = fitted.state_dict()
    assert_close(statistics["means"], tensors["means"][:count], "means", rtol=0, atol=1e-6)
    found, expected = statistics["covariances"], tensors["covars"][:count]
    assert_close(found, expected, "covars", rtol=0, atol=1e-7)

    load(method, part(tensors, "pool"), count, means=tensors["means"], covars=tensors["covars"])
    for name in record["batches"]:
        batch = part(tensors, name)
        log_probs = method.gaussians.log_probs(clip.encode_image(batch["image"]))
        rtol, atol = tolerance["log_prob_rtol"], tolerance["log_prob_atol"]
        assert_close(log_probs, batch["log_prob"], f"{name}.log_prob", rtol=rtol, atol=atol)
        assert_same(log_probs.argmax(dim=1), batch["raw_indices"], f"{name}.raw_indices")
        decision = method.decide(log_probs)
        near = {"rtol": 0.0, "atol": tolerance["weight_atol"]}
        assert_close(decision.image_weight, batch["weights"], f"{name}.weights", **near)
        text_weight = batch["text_weight"].expand(len(log_probs))
        assert_close(decision.text_weight, text_weight, f"{name}.text_weight", **near)
        assert_same(decision.task, batch["selected"].expand(len(log_probs)), f"{name}.selected")
        for classes, expected in part(batch, "logits").items():
            task = tasks[int(classes.removeprefix("classes"))]
            found = method.predict(batch["image"], task)
            atol = tolerance["logit_atol"]
            assert_close(found, expected, f"{name}.logits.{classes}", rtol=0, atol=atol)


@runner("diki_decide_sample", "diki_decide_per_image_no_text_prompts")
def run_decide_sample(case: Case) -> None:
    """Each image alone."""
    clip, method, tasks = official(case)
    record, tensors, tolerance = case.record, case.tensors, case.record["tolerance"]
    inputs = case.shared_tensors(record["inputs_from"]) | tensors
    method = with_settings(method, decision="sample")
    pools, count = part(inputs, "pool"), record["task_learnt"]
    load(method, pools, count, means=inputs["means"], covars=inputs["covars"])
    images, task = inputs["mixed.image"], tasks[record["class_list"]]
    decision = method.decide(method.gaussians.log_probs(clip.encode_image(images)))
    assert_same(decision.task, tensors["selected"], "selected")
    if "text_weight" in tensors:
        atol = tolerance["weight_atol"]
        expected = tensors["text_weight"]
        assert_close(decision.text_weight, expected, "text_weight", rtol=0, atol=atol)
    found = method.predict(images, task)
    assert_close(found, tensors["logits"], "logits", rtol=0, atol=tolerance["logit_atol"])


@runner("diki_stream")
def run_stream(case: Case) -> None:
    """The whole loop: train, keep the best epoch, test every task."""
    _, method, tasks = official(case)
    record, tensors, tolerance = case.record, case.tensors, case.record["tolerance"]
    method = with_settings(
        method,
        learning_rate=record["lr"],
        epochs=record["epochs"],
        batch_size=record["train_batch"],
        eval_batch_size=record["test_batch"],
    )
    ends = np.cumsum([0, record["n_train"], record["n_val"], record["n_test"]])
    for index in range(len(tasks)):
        images, labels = tensors[f"image.task{index}"], tensors[f"label.task{index}"]
        parts = [slice(a, b) for a, b in pairwise(ends)]
        sets = [FloatImages(images[rows], labels[rows]) for rows in parts]
        splits = dict(zip(("train", "validation", "test"), sets, strict=True))
        tasks[index] = replace(tasks[index], **splits)

    start, losses, matrix = part(tensors, "init_pool"), [], []
    for index, task in enumerate(tasks):
        method.enter_task(index, task)
        method.begin_task(index, task, torch.Generator())
        set_prompts(method, start, index)
        optimizer = method.optimizer(list(method.trainable().values()))
        batches = torch.arange(len(task.train)).split(record["train_batch"])
        for step in range(method.steps(task)):
            rows = batches[step % len(batches)]
            images, labels = task.train.images[rows], task.train.labels[rows]
            terms = train_step(method, optimizer, Batch(images, labels, step), one_process())
            losses.append(terms["loss"])
        method.end_task(index, task)
        name, atol = f"pool_after_task{index}", tolerance["pool_after"]
        compare_pools(method, part(tensors, name), start, name, rtol=0, atol=atol)
        for tested, other in enumerate(tasks):
            compare_test(method, other, tensors, f"after{index}.test{tested}", tolerance)
        matrix.append([accuracy(method, other.test, other) / 100 for other in tasks])

    assert_close(losses, tensors["losses"], "losses", rtol=0, atol=tolerance["losses"])
    assert_same(method.best.epochs, record["best_epoch"], "best_epoch")
    found = np.array(method.best.accuracies) / 100
    assert_close(found, record["best_val_acc"], "best_val_acc", rtol=0, atol=1e-6)
    statistics = method.gaussians.state_dict()
    assert_close(statistics["means"], tensors["means"], "means", rtol=0, atol=1e-6)
    found, atol = statistics["covariances"], tolerance["covars"]
    assert_close(found, tensors["covars"], "covars", rtol=0, atol=atol)
    atol = tolerance["acc_matrix"]
    assert_close(matrix, tensors["acc_matrix"], "acc_matrix", rtol=0, atol=atol)
    assert official_metrics(np.array(matrix)) == record["metrics_json_lines"]


def compare_test(
    method: Diki, task: Task, tensors: dict[str, Tensor], name: str, tolerance: dict[str, Any]
) -> None:
    """One cell of the accuracy matrix, batch by batch."""
    batches = task.test.images.split(method.eval_batch_size)
    logits = torch.cat([method.predict(images, task) for images in batches])
    features = [method.clip.encode_image(images) for images in batches]
    decisions = [method.decide(method.gaussians.log_probs(part)) for part in features]
    atol = tolerance["logits"]
    assert_close(logits, tensors[f"logits.{name}"], f"logits.{name}", rtol=0, atol=atol)
    selected = [int(decision.task[0]) for decision in decisions]
    assert_same(selected, tensors[f"selected.{name}"], f"selected.{name}")
    weights = [float(decision.text_weight[0]) for decision in decisions]
    expected, atol = tensors[f"text_weight.{name}"], tolerance["text_weight"]
    assert_close(weights, expected, f"text_weight.{name}", rtol=0, atol=atol)
    predicted = method.classify(task.test, task)
    assert_same(predicted, logits.argmax(dim=1), f"classify {name}")


def rounded(values: Any, decimals: int = 1) -> Any:
    """As the official report prints numbers."""
    return np.round(values, decimals).tolist()


def official_scores(matrix: np.ndarray) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Vectors and means in the official names; a single task has Transfer -1."""
    vectors, means = metric_vectors(100 * matrix), metrics(100 * matrix)
    names = {"transfer": "transfer", "avg": "average", "last": "last"}
    if len(matrix) == 1:
        means["transfer"] = -1.0
    return (
        {official: rounded(vectors[ours]) for official, ours in names.items()},
        {official: rounded(means[ours]) for official, ours in names.items()},
    )


def official_metrics(matrix: np.ndarray) -> list[dict[str, Any]]:
    """The lines of the official metrics file."""
    vectors, means = official_scores(matrix)
    rows: list[dict[str, Any]] = [{"acc_per_task": rounded(100 * row, 2)} for row in matrix]
    return [*rows, *({name: vector} for name, vector in vectors.items()), means]


@runner("diki_checkpoint")
def run_checkpoint(case: Case) -> None:
    """A file that the official code saved."""
    clip, method, _ = official(case)
    method.detach()
    record, expected = case.record, part(case.tensors, "expected")
    path = case.path.with_name(record["file"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
    found = read_official_checkpoint(path, clip)
    assert found.tasks_learned == record["task_learnt"]
    count, slots = found.tasks_learned, record["n_tasks"]
    names = {"image_encoder.": "visual.", "text_encoder.": ""}
    for key, value in expected.items():
        if key in ("means", "covars"):
            ours = {"means": found.means, "covars": found.covariances}[key]
            assert ours.shape == (slots, *value.shape[1:])
            assert ours[count:].isnan().all()
            ours = ours[:count]
        else:
            prefix = next(name for name in names if key.startswith(name))
            place = names[prefix] + key.removeprefix(prefix).removesuffix(".attn.prefix_pool")
            ours = found.pools[place]
        assert_close(ours, value, key, rtol=0, atol=record["tolerance"]["atol"])
    assert len(expected) == len(found.pools) + 2

    loaded = found.method(clip)  # usable as it is
    assert len(loaded.pool) == len(loaded.gaussians) == count
    for key in ("depth_vision", "depth_text"):
        assert getattr(loaded.config, key) == record[key]
    for name, pool in found.pools.items():
        ours = torch.stack([prompts[name] for prompts in loaded.pool.tasks])
        assert_same(ours, pool[:count], name)


@runner("metrics")
def run_metrics(case: Case) -> None:
    """Transfer, Average and Last."""
    record = case.record
    vectors, means = official_scores(np.array(record["acc_matrix"]))
    near = {"rtol": 0.0, "atol": record["tolerance"]}
    for name, vector in vectors.items():
        assert_close(np.array(vector), np.array(record[name]), name, **near)
        mean = np.array(record["means"][name])
        assert_close(np.array(means[name]), mean, f"means.{name}", **near)


@runner("schedule")
def run_schedule(case: Case) -> None:
    """Learning rates."""
    for entry in case.record["cases"]:
        peak, steps, warmup = entry["lr"], entry["total_steps"], entry["warmup"]
        rates = [
            cosine_to_floor(step, steps, peak, floor=peak / 1000, warmup=warmup)
            for step in range(steps)
        ]
        atol = case.record["tolerance"]
        expected = torch.tensor(entry["lrs"], dtype=torch.float64)
        found = torch.tensor(rates, dtype=torch.float64)
        assert_close(found, expected, f"lr {peak}, warm-up {warmup}", rtol=0, atol=atol)


@runner("split")
def run_split(case: Case) -> None:
    """Run-time splits, three passes over all sets with one generator."""
    record = case.record
    rng = random.Random(record["seed"])
    for expected in record["passes"]:
        for name in record["set_order"]:
            train, validation = split_80_20(record["labels"][name], rng)
            assert {"train": train, "val": validation} == expected["sets"][name], name


OUR_NAMES = {
    "OxfordPets": "OxfordPet",
    "OxfordFlowers": "Flowers",
    "Food101": "Food",
    "DescribableTextures": "DTD",
    "FGVCAircraft": "Aircraft",
}
"""Of the data sets that the official code calls otherwise."""


@runner("text")
def run_text(case: Case) -> None:
    """Class names to prompts to token ids."""
    tokenizer = open_clip.get_tokenizer("ViT-B-16-quickgelu")
    nothing = FloatImages(torch.zeros(0, 3, 1, 1))
    for entry in case.record["datasets"]:
        name = OUR_NAMES.get(entry["dataset"], entry["dataset"])
        templates = tuple(facts("mtil")["data_sets"][name]["templates"])
        task = Task(name, tuple(entry["class_names"]), templates, nothing, nothing, nothing)
        prompts = class_prompts(task, "first")
        assert prompts == entry["prompts"]
        tokens = tokenizer(prompts)
        for row, expected in zip(tokens, entry["token_ids"], strict=True):
            padded = expected + [0] * (len(row) - len(expected))
            assert_same(row, padded, entry["dataset"])
