"""DPW against the numbers of its official code."""

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import one_process
from torch import Tensor, nn

from parity.loading import Case, assert_close, assert_same, build_clip, runner
from parity.run_diki import FloatImages, official_metrics, part
from vlcl_toolkit.clip.model import Clip, normalize
from vlcl_toolkit.methods.batch import Batch
from vlcl_toolkit.methods.diki.gaussians import TaskGaussians
from vlcl_toolkit.methods.dpw import prefixes
from vlcl_toolkit.methods.dpw.dpw import Dpw, class_fingerprint
from vlcl_toolkit.methods.dpw.heads import difficulty, head_count
from vlcl_toolkit.methods.dpw.pool import PrefixPool
from vlcl_toolkit.streams import ImageData, Task
from vlcl_toolkit.streams.label_space import union
from vlcl_toolkit.training.loop import train_step

OFFICIAL_PARTS = {
    "values": "prefix",
    "score_weight": "score_weight",
    "score_bias": "score_bias",
    "up": "adapter_up_weight",
    "up_bias": "adapter_up_bias",
}


def official(case: Case, **settings: Any) -> tuple[Clip, Dpw, list[Task]]:
    """The case's backbone, an attached DPW with the official settings, tasks without images."""
    record, stored = case.record, case.shared_tensors(case.record["weights"])
    clip = build_clip(
        stored, vision_heads=record["vision"]["heads"], text_heads=record["text"]["heads"]
    )
    clip.train_transform = clip.eval_transform = torch.clone
    config = Dpw.Config(
        depth_vision=record["depth_vision"],
        depth_text=record["depth_text"],
        length_vision=record["prompt_len_vision"],
        length_text=record["prompt_len_text"],
        calibration_divisor=float(record["calibration_divisor"]),
        variant=record["variant"],
        adapter_rank=record["adapter_rank"],
        adapter_dropout=record["adapter_dropout"],
        cutoff_threshold=record["cutoff_threshold"],
        decision="batch",
        allow_singular=True,
    )
    method = Dpw(clip, replace(config, **settings))
    method.attach()
    size = record["vision"]["image"]
    nothing = ImageData(
        torch.zeros(0, 3, size, size, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    )
    tasks = [
        Task(str(i), tuple(t["class_names"]), (t["template"],), nothing, nothing, nothing)
        for i, t in enumerate(record["tasks"])
    ]
    return clip, method, tasks


def near(case: Case, group: str) -> dict[str, float]:
    """Tolerance of a group of numbers."""
    tolerance = case.record["tolerance"]
    return {"rtol": tolerance.get("rtol", 0.0), "atol": tolerance["atol"][group]}


def tensor_of(state: dict[str, Tensor], place: str, name: str, task: int) -> Tensor:
    """A tensor of a task in official names."""
    key = f"{place}.{name}"
    return state[f"{key}.task{task}"] if f"{key}.task{task}" in state else state[key][task]


def load(method: Dpw, tasks: list[Task], state: dict[str, Tensor], count: int, **gaussians: Tensor):
    """Take up the first `count` slots of an official state."""
    ours: dict[str, Tensor] = {}
    for place in method.pool.places:
        ours[f"prompts.down.{place}"] = state[f"{place}.adapter_down"]
        for task in range(count):
            for name, theirs in OFFICIAL_PARTS.items():
                ours[f"prompts.{task}.{place}.{name}"] = tensor_of(state, place, theirs, task)
            statistics = [
                tensor_of(state, place, f"cls_{kind}", task).float() for kind in ("mean", "var")
            ]
            ours[f"prompts.{task}.{place}.statistics"] = torch.stack(statistics)
    dim = method.clip.embed_dim
    ours["gaussians.means"] = gaussians.get("means", torch.zeros(count, dim))[:count]
    eye = torch.eye(dim).expand(count, dim, dim)
    ours["gaussians.covariances"] = gaussians.get("covars", eye)[:count]
    ours["best.epochs"] = torch.full((count,), -1)
    ours["best.accuracies"] = torch.full((count,), -1.0).double()
    if count:
        method.load_state_dict(ours)
    else:
        for place in method.pool.places:
            method.pool.down[place] = state[f"{place}.adapter_down"]
    method.learned = [class_fingerprint(task) for task in tasks[:count]]


def set_start(method: Dpw, start: dict[str, Tensor], task: int) -> None:
    """Give a task that has begun the recorded start (its signs are the machine's)."""
    for place in method.pool.places:
        for name, theirs in OFFICIAL_PARTS.items():
            parameter = method.pool.tasks[task][f"{place}.{name}"]
            parameter.data = tensor_of(start, place, theirs, task).clone()
        heads, prompts = (
            len(method.pool.tasks[task][f"{place}.score_weight"]),
            parameter.new_zeros(method.pool.tasks[task][f"{place}.score_bias"].shape[::2]),
        )
        assert len(prompts) == heads
        method.pool.score_statistics[task][place] = torch.stack((prompts, prompts + 1))


@contextmanager
def listening(pool: PrefixPool, seen: dict[str, list[tuple[Tensor, ...]]]):
    """Collects what every attention weighs its prompts by."""

    def listen(name: str, attention: nn.Module, plain, query, prompts, weights, mask) -> None:
        scores = prompts.scores(attention, query)
        found, residual = prompts.weights(scores)
        if weights is not None:
            found = prompts.kept(scores, found, weights)
        adapted = prompts.adapted(query)
        seen.setdefault(name, []).append(
            (found.transpose(1, 2), residual.transpose(1, 2), adapted, scores[:, 0])
        )

    pool.listener = listen
    try:
        yield
    finally:
        pool.listener = None


@runner("dpw_head_count")
def run_head_count(case: Case) -> None:
    """The factor and the rule."""
    clip, method, tasks = official(case)
    tensors, record = case.tensors, case.record
    for index, task in enumerate(tasks):
        images = clip.encode_image(tensors[f"image.task{index}"])
        expected = normalize(tensors[f"frozen_image_features.task{index}"])
        assert_close(images, expected, f"image features {index}", **near(case, "features"))
        texts = clip.encode_text(method.towers.tokens(task))
        expected = normalize(tensors[f"frozen_text_features.task{index}"])
        assert_close(texts, expected, f"text features {index}", **near(case, "features"))
        found = difficulty(images, tensors[f"label.task{index}"], texts)
        rtol = record["tolerance"]["factor_rtol"]
        assert_close(found, record["factor_per_task"][index], f"F {index}", rtol=rtol, atol=0)
    for row in record["rule"]["table"]:
        heads = [head_count(row["heads"], f, 10**6, 1) for f in record["rule"]["factors"]]
        for found, expected in zip(heads, row["prefix_heads"], strict=True):
            assert found == min(expected, 64), "10^6 has 64 for its largest power of two"


def assert_up_to_sign(found: Tensor, expected: Tensor, name: str, atol: float) -> None:
    """Rows, each up to its sign."""
    signs = (found * expected).sum(dim=-1, keepdim=True).sign()
    assert_close(signs * found, expected, name, rtol=0, atol=atol)


@runner("dpw_init")
def run_init(case: Case) -> None:
    """The start of three tasks."""
    record, tensors = case.record, part(case.tensors, "dpw")
    _, method, _ = official(case)
    atol = record["tolerance"]["atol"]
    generator = torch.Generator().manual_seed(0)
    heads = record["prefix_heads"]
    for image, text in zip(heads["vision"], heads["text"], strict=True):
        method.pool.grow_heads(generator, image, text)
    for place in method.pool.places:
        gaps = case.tensors[f"spectrum.{place}.query_key"].diff().abs()
        for task, ours in enumerate(method.pool.tasks):
            label = f"{place}.task{task}"
            values = tensor_of(tensors, place, "prefix", task)
            assert_up_to_sign(ours[f"{place}.values"], values, f"{label}.values", atol)
            bias = tensor_of(tensors, place, "score_bias", task)
            assert_same(ours[f"{place}.score_bias"], bias, f"{label}.bias")
            assert not ours[f"{place}.up_bias"].any()
            assert (
                ours[f"{place}.up"].shape
                == tensor_of(tensors, place, "adapter_up_weight", task).shape
            )
            assert_same(ours[f"{place}.up"], method.pool.tasks[0][f"{place}.up"], "same for all")
            found = ours[f"{place}.score_weight"]
            expected = tensor_of(tensors, place, "score_weight", task)
            assert found.shape == expected.shape
            eye = torch.eye(found.shape[-1]).expand(len(found), -1, -1)
            assert_close(found.mT @ found, eye, f"{label}: orthonormal", rtol=0, atol=atol)
            if record["variant"] == "full":
                flat, theirs = (v.transpose(1, 2).flatten(0, 1) for v in (found, expected))
                apart = torch.cat((torch.ones(1), gaps))[: len(flat)].minimum(gaps[: len(flat)])
                clear = apart > 1e-3 * case.tensors[f"spectrum.{place}.query_key"][0]
                assert clear.any()
                assert_up_to_sign(flat[clear], theirs[clear], f"{label}.score_weight", 10 * atol)


@runner("dpw_forward")
def run_forward(case: Case) -> None:
    """Prompted towers with the task given."""
    clip, method, tasks = official(case)
    tensors = case.tensors
    images = tensors["image"]
    frozen = clip.encode_image(images)
    expected = normalize(tensors["frozen_image_features"])
    assert_close(frozen, expected, "frozen_image_features", **near(case, "features"))
    load(method, tasks, part(tensors, "dpw"), len(tasks))
    for index, task in enumerate(tasks):
        logits = method.logits(images, task, index)
        assert_close(
            logits, tensors[f"logits.task{index}"], f"logits {index}", **near(case, "logits")
        )
        seen: dict[str, list[tuple[Tensor, ...]]] = {}
        outputs: dict[str, Tensor] = {}
        with torch.no_grad(), listening(method.pool, seen), method.pool.use(index):
            watch(method, outputs, images, method.towers.tokens(task))
        for place, found in seen.items():
            ((weights, residual, adapted, _),) = found
            suffix = f"{place}.task{index}"
            compare = {"weights": weights, "residual": residual, "adapter": adapted}
            groups = {"weights": "prefix_weights", "residual": "residual", "adapter": "residual"}
            for name, value in compare.items():
                if f"{name}.{suffix}" not in tensors:
                    continue
                expected = tensors[f"{name}.{suffix}"]
                value = value[tuple(slice(size) for size in expected.shape)]
                assert_close(value, expected, f"{name}.{suffix}", **near(case, groups[name]))
            expected = tensors[f"attn_out.{suffix}"]
            found_output = outputs[place].transpose(0, 1)[: len(expected), : expected.shape[1]]
            tolerance = near(case, "attention_output")
            assert_close(found_output, expected, f"attn_out.{suffix}", **tolerance)


def watch(method: Dpw, outputs: dict[str, Tensor], images: Tensor, tokens: Tensor) -> None:
    """Outputs of all places, the text tower at its full length."""
    model = method.clip.model
    handles = [
        place.register_forward_hook(
            lambda module, args, output, name=name: outputs.__setitem__(name, output[0])
        )
        for name, place in method.pool.places.items()
    ]
    model.visual(images)
    embedded = model.token_embedding(tokens) + model.positional_embedding
    model.transformer(embedded, attn_mask=model.attn_mask)
    for handle in handles:
        handle.remove()


@runner("dpw_cutoff")
def run_cutoff(case: Case) -> None:
    """Single attention modules with sequence weights on both sides of the threshold."""
    clip, method, tasks = official(case)
    tensors = case.tensors
    load(method, tasks, part(tensors, "dpw"), len(tasks))
    for tower, place in case.record["modules"].items():
        attention = method.pool.places[place]
        inputs = tensors[f"{tower}.input"].transpose(0, 1)
        mask = clip.model.attn_mask if tower == "text" else None
        for level in ("low", "high", "equal"):
            for index in range(len(tasks)):
                name = f"{tower}.{level}.task{index}"
                strength = tensors[f"{name}.sequence_weight"]
                seen: dict[str, list[tuple[Tensor, ...]]] = {}
                with (
                    torch.no_grad(),
                    listening(method.pool, seen),
                    method.pool.use(index, strength),
                ):
                    output = attention(inputs, inputs, inputs, attn_mask=mask, need_weights=False)[
                        0
                    ]
                ((weights, residual, *_),) = seen[place]
                for kind, group, value in (
                    ("weights", "prefix_weights", weights),
                    ("residual", "residual", residual),
                    ("output", "attention_output", output.transpose(0, 1)),
                ):
                    expected = tensors[f"{name}.{kind}"]
                    value = value[tuple(slice(size) for size in expected.shape)]
                    assert_close(value, expected, f"{name}.{kind}", **near(case, group))


@contextmanager
def recorded_dropout(masks: list[Tensor]):
    """The adapters drop what the official run dropped, in its order."""
    remaining = list(masks)

    def sample(function, like: Tensor) -> Tensor:
        mask = remaining.pop(0)
        return mask[: len(like), : like.shape[1]].to(like.dtype)  # 1 (kept) is above any share

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "local_random", sample)
        yield remaining


def in_our_order(case: Case) -> list[Tensor]:
    """Masks step by step: ours runs the texts of a step before its images."""
    masks = list(enumerate(case.record["dropout_masks"]))
    masks.sort(key=lambda entry: (entry[1]["step"], entry[1]["place"].startswith("visual.")))
    return [case.tensors[f"dropout.{number}"] for number, _ in masks]


@runner("dpw_train")
def run_train(case: Case) -> None:
    """Three steps of a task and what is measured in them."""
    record, tensors = case.record, case.tensors
    sizes, index = record["batch_sizes"], record["task"]
    clip, method, tasks = official(
        case,
        learning_rate=record["lr"],
        epochs=record["epochs"],
        batch_size=max(sizes),
        select_epoch=False,
    )
    used = sum(sizes)
    images, labels = tensors["image"], tensors["label"]
    task = replace(tasks[index], train=FloatImages(images[:used], labels[:used]))
    start = part(tensors, "start")
    load(method, tasks, start, index)
    whole = clip.encode_image(images)
    texts = clip.encode_text(method.towers.tokens(task))
    assert_close(difficulty(whole, labels, texts), record["factor"], "F", rtol=1e-4, atol=0)
    heads = [counts[index] for counts in record["prefix_heads"].values()]
    counts = method.head_counts(replace(task, train=FloatImages(images, labels)), whole)
    assert list(counts) == heads
    method.enter_task(index, task)
    method.begin_task(index, task, torch.Generator())
    mean, covariance = method.gaussians.means[index], method.gaussians.covariances[index]
    assert_close(mean, tensors["mean"], "mean", **near(case, "mean"))
    assert_close(covariance, tensors["covar"], "covar", **near(case, "covar"))
    set_start(method, start, index)
    assert method.steps(task) == record["steps"]

    optimizer = method.optimizer(list(method.trainable().values()))
    ends = np.cumsum(sizes)
    running = RunningScores(method)
    with recorded_dropout(in_our_order(case)) as left:
        for step in range(record["steps"]):
            rows = slice(ends[step] - sizes[step], ends[step])
            batch = Batch(images[rows], labels[rows], step)
            compare_step(case, method, optimizer, batch, step)
            for prefix, group in (("gradient_step", "gradients"), ("after_step", "parameters")):
                expected = part(tensors, f"{prefix}{step}")
                if expected:
                    compare_state(case, method, index, expected, f"{prefix}{step}", group)
        assert not left, "every recorded mask was used"
    running.end_epoch()
    end = part(tensors, "end")
    for place, found in running.epochs[0].items():
        for row, kind in enumerate(("mean", "var")):
            expected = end[f"{place}.cls_{kind}.task{index}"]
            assert_close(found[row], expected, place, **near(case, f"cls_{kind}"))
    assert len(running.epochs[0]) == record["depth_vision"]


def compare_step(
    case: Case, method: Dpw, optimizer: torch.optim.Optimizer, batch: Batch, number: int
) -> None:
    """A step of the optimiser, the `number`-th of the case: its rate and loss."""
    terms = train_step(method, optimizer, batch, one_process())
    for name, group in (("learning_rate", "learning_rates"), ("loss", "losses")):
        expected = case.tensors[group][number]
        assert_close(terms[name], expected, f"{name} {number}", **near(case, group))


def compare_state(
    case: Case, method: Dpw, index: int, expected: dict[str, Tensor], label: str, group: str
) -> None:
    """Parameters (or their gradients) of the running task; other slots have none."""
    compared = 0
    for key, parameter in method.trainable().items():
        place, name = key.rsplit(".", 1)
        found = parameter.grad if group == "gradients" else parameter
        value = tensor_of(expected, place, OFFICIAL_PARTS[name], index)
        assert_close(found, value, f"{label}.{key}", **near(case, group))
        compared += 1
    assert compared == 5 * len(method.pool.places)


@runner("dpw_decide_batch")
def run_decide_batch(case: Case) -> None:
    """Densities, weights, the vote, the cut-off, and the logits that follow."""
    clip, method, tasks = official(case)
    record, tensors = case.record, case.tensors
    count = record["task_learnt"]
    fitted = TaskGaussians(allow_singular=True)
    for index in range(count):
        fitted.add(clip.encode_image(tensors[f"fit_image.task{index}"]), str(index))
    for index in range(count):
        assert_close(fitted.means[index], tensors["means"][index], "means", **near(case, "mean"))
        found, expected = fitted.covariances[index], tensors["covars"][index]
        assert_close(found, expected, "covars", **near(case, "covar"))
    gaussians = {"means": tensors["means"], "covars": tensors["covars"]}
    load(method, tasks, part(tensors, "dpw"), count, **gaussians)
    for name in record["batches"]:
        batch, expected = part(tensors, name), record["decisions"][name]
        log_probs = method.gaussians.log_probs(clip.encode_image(batch["image"]))
        tolerance = record["tolerance"]["atol"]
        rtol, atol = tolerance["log_prob_rtol"], tolerance["log_prob"]
        assert_close(log_probs, batch["log_prob"], f"{name}.log_prob", rtol=rtol, atol=atol)
        assert_same(log_probs.argmax(dim=1), batch["raw_indices"], f"{name}.raw_indices")
        decision = method.decide(log_probs)
        close = near(case, "sequence_weight")
        assert_close(decision.image_weight, batch["weight"], f"{name}.weight", **close)
        assert_same(decision.task, [expected["task"]] * len(decision.task), f"{name}: the vote")
        text_weight = decision.text_weight[0]
        assert_close(text_weight, expected["text_weight"], f"{name}.text_weight", **close)
        cut = method.pool.cut(decision.image_weight)
        assert cut is not None
        assert_same(cut, [expected["cutoff"]] * len(cut), f"{name}: cut off")
        for index, task in enumerate(tasks):
            logits = method.predict(batch["image"], task)
            label = f"logits.classes{index}"
            assert_close(logits, batch[label], f"{name}.{label}", **near(case, "logits"))


@runner("dpw_decide_cil")
def run_decide_cil(case: Case) -> None:
    """One image at a time, over the classes of all learned tasks."""
    _, method, tasks = official(case, decision="sample")
    record, tensors = case.record, case.tensors
    count = record["task_learnt"]
    gaussians = {"means": tensors["means"], "covars": tensors["covars"]}
    load(method, tasks, part(tensors, "dpw"), count, **gaussians)
    learned = union(tuple(tasks[:count]))
    for name in record["batches"]:
        batch = part(tensors, name)
        frozen = method.clip.encode_image(batch["image"])
        log_probs = method.gaussians.log_probs(frozen)
        weights = method.task_weights(log_probs)
        close = near(case, "sequence_weight")
        assert_close(weights, batch["task_weight"], f"{name}.task_weight", **close)
        assert_same(method.decide(log_probs).task, batch["task"], f"{name}.task")
        logits = method.predict(batch["image"], learned)
        assert_close(logits, batch["logits"], f"{name}.logits", **near(case, "logits"))
        assert_same(logits.argmax(dim=1), batch["prediction"], f"{name}.prediction")


class RunningScores:
    """The class token's scores as the official code sums them: over every forward without sequence
    weights since the last epoch's end, dropout and validation images included."""

    def __init__(self, method: Dpw):
        self.method = method
        self.scores: dict[str, list[Tensor]] = {}
        self.epochs: list[dict[str, Tensor]] = []
        method.pool.listener = self
        validate = method._validate

        def end_epoch_and_validate() -> float:
            self.end_epoch()
            return validate()

        method._validate = end_epoch_and_validate

    def __call__(self, name: str, *arguments: Any) -> None:
        attention, _, query, prompts, weights = arguments[:5]
        if weights is None and name.startswith("visual."):
            self.scores.setdefault(name, []).append(prompts.scores(attention, query)[:, 0].detach())

    def end_epoch(self) -> None:
        """After the last training batch of an epoch."""
        joined = {name: torch.cat(found) for name, found in self.scores.items()}
        self.epochs.append(
            {
                name: torch.stack((scores.mean(dim=0), scores.var(dim=0, unbiased=False)))
                for name, scores in joined.items()
            }
        )
        self.scores = {}

    def use_epoch(self, epoch: int, task: int) -> None:
        """The statistics of the best epoch are the task's."""
        self.method.pool.listener = None
        del self.method._validate
        self.method.pool.score_statistics[task] |= self.epochs[epoch]


@runner("dpw_stream")
def run_stream(case: Case) -> None:
    """The official loop over two tasks, with its order of batches and its statistics."""
    record, tensors = case.record, case.tensors
    size, count = record["batch_size"], record["n_tasks_used"]
    clip, method, tasks = official(
        case, learning_rate=record["lr"], epochs=record["epochs"], batch_size=size
    )
    matrix, decisions, step_of_run = np.zeros((count, count)), iter(record["decisions"]), 0
    with recorded_dropout(in_our_order(case)) as left:
        for index in range(count):
            images, labels = (tensors[f"train.{kind}.task{index}"] for kind in ("image", "label"))
            used = len(labels) // size * size
            validation = FloatImages(
                *(tensors[f"val.{kind}.task{index}"] for kind in ("image", "label"))
            )
            train = FloatImages(images[:used], labels[:used])
            task = replace(tasks[index], train=train, validation=validation)
            whole = clip.encode_image(images)
            texts = clip.encode_text(method.towers.tokens(task))
            factor = difficulty(whole, labels, texts)
            assert_close(factor, record["factors"][index], "F", rtol=1e-4, atol=0)
            start = part(tensors, f"start{index}")
            for place in method.pool.places:
                method.pool.down[place] = start[f"{place}.adapter_down"]
            method.enter_task(index, task)
            method.begin_task(index, task, torch.Generator())
            set_start(method, start, index)
            running = RunningScores(method)
            optimizer = method.optimizer(list(method.trainable().values()))
            per_epoch = used // size
            for step in range(method.steps(task)):
                rows = slice(step % per_epoch * size, (step % per_epoch + 1) * size)
                batch = Batch(images[rows], labels[rows], step)
                compare_step(case, method, optimizer, batch, step_of_run)
                step_of_run += 1
            method.end_task(index, task)
            best = record["best_epoch"][index]
            running.use_epoch(best, index)
            assert method.best.epochs[index] == best
            accuracy = 100 * record["best_accuracy"][index]
            assert_close(method.best.accuracies[index], accuracy, "best", rtol=1e-6, atol=0)
            for column in range(count):
                matrix[index, column] = compare_test(case, method, tasks, column, next(decisions))
    assert not left, "every recorded mask was used"
    assert next(decisions, None) is None
    found, rows = official_metrics(matrix), record["metrics_file"]
    assert found == rows, f"metrics: {found} instead of {rows}"
    compare_end(case, method, count)


def compare_test(
    case: Case, method: Dpw, tasks: list[Task], column: int, expected: dict[str, Any]
) -> float:
    """One batch of test images: the decision and the predictions; the accuracy in [0, 1]."""
    images, labels = (case.tensors[f"test.{kind}.task{column}"] for kind in ("image", "label"))
    assert len(labels) == expected["n"]
    decision = method.decide(method.gaussians.log_probs(method.clip.encode_image(images)))
    assert decision.task.unique().tolist() == expected["task"]
    weight = decision.image_weight.mean()
    assert_close(weight, expected["mean_weight"], "mean_weight", rtol=1e-3, atol=1e-5)
    predicted = method.predict(images, tasks[column]).argmax(dim=1)
    assert_same(predicted, expected["prediction"], f"predictions of {column}")
    return float((predicted == labels).double().mean())


def compare_end(case: Case, method: Dpw, count: int) -> None:
    """The state after the last task, and that a checkpoint holds what the official one does."""
    tensors, end = case.tensors, part(case.tensors, "end")
    for index in range(count):
        mean, covariance = method.gaussians.means[index], method.gaussians.covariances[index]
        assert_close(mean, tensors["means"][index], "means", **near(case, "mean"))
        assert_close(covariance, tensors["covars"][index], "covars", **near(case, "covar"))
        for place in method.pool.places:
            for name, theirs in OFFICIAL_PARTS.items():
                found = method.pool.tasks[index][f"{place}.{name}"]
                expected = tensor_of(end, place, theirs, index)
                assert_close(found, expected, f"{place}.{name}", **near(case, "parameters"))
            for row, kind in enumerate(("mean", "var")):
                found = method.pool.score_statistics[index][place][row]
                expected = tensor_of(end, place, f"cls_{kind}", index)
                assert_close(found, expected, f"{place}.{kind}", **near(case, f"cls_{kind}"))
    theirs = sum(
        int(np.prod(shape))
        for name, shape in case.record["checkpoint_keys"].items()
        if ".attn." in name
    )
    ours = sum(v.numel() for k, v in method.pool.state_dict().items() if not k.startswith("down."))
    assert ours == theirs, "numbers in a checkpoint, D apart"
