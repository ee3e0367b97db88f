"""ZSCL and its baselines: encoders, loss terms, training, class-incremental training, memory."""

import re
from typing import Any

import torch
import torch.nn.functional as F
from tiny import one_process
from torch import Tensor

from parity.loading import (
    Case,
    assert_close,
    assert_same,
    bare_task,
    build_clip,
    runner,
)
from parity.zscl_settings import class_incremental_settings, training_settings
from vlcl_toolkit.clip.model import Clip, encode_tokens, normalize
from vlcl_toolkit.methods import Method, make_method
from vlcl_toolkit.methods.batch import Batch, ImageSet
from vlcl_toolkit.methods.schedules import cosine_with_warmup
from vlcl_toolkit.methods.zscl.averaging import extend_mean, interpolate, squared_distance
from vlcl_toolkit.methods.zscl.icarl import Icarl
from vlcl_toolkit.methods.zscl.losses import soft_cross_entropy
from vlcl_toolkit.methods.zscl.zscl import REFERENCE, Zscl
from vlcl_toolkit.streams import ImageData, Task, TaskStream
from vlcl_toolkit.streams.base import Reference
from vlcl_toolkit.training.loop import train_step

TERMS = {
    "step_loss": "loss",
    "step_lr": "learning_rate",
    "step_loss_l2": "consolidation",
    "step_loss_ZSCL": "image_distillation",
    "step_loss_lwa": "image_distillation",
    "step_loss_ZSCL_2": "text_distillation",
    "step_loss_lwa_2": "text_distillation",
    "step_loss_ZSCL_3": "image_image",
    "step_loss_lwa_3": "image_image",
}


def close(
    case: Case, name: str, found: Any, *, keep: Tensor | None = None, travelled: float | None = None
) -> None:
    """Compare with a recorded tensor at its own tolerance.

    Args:
        keep: where.
        travelled: for parameters after optimiser steps: the sum of their learning rates. The cases
            state such parameters for at least 99 % of the entries: where a gradient all but
            vanishes, Adam turns its rounding into a step. The others may be two such steps apart.
    """
    expected = case.tensors[name]
    rounding = case.record["tensors"][name].get("max_abs_diff_float32_vs_float64") or 0.0
    found = torch.as_tensor(found).detach()
    assert found.shape == expected.shape, f"{name}: {found.shape} instead of {expected.shape}"
    if keep is not None:
        found, expected = found[keep], expected[keep]
    atol = max(2e-5, 20 * rounding)
    if travelled is not None:
        far = ~torch.isclose(found, expected, rtol=1e-4, atol=atol)
        near_enough = (found - expected).abs().max() <= 2 * travelled
        if near_enough and far.double().mean() <= 1 - _required_share(case):
            found = torch.where(far, expected, found)
    assert_close(found, expected, name, rtol=1e-4, atol=atol)


def _required_share(case: Case) -> float:
    """Share of a parameter's entries that must agree after optimiser steps, as the case says."""
    stated = case.record.get("tolerance", {}).get("parameters_after_steps", "")
    percent = re.search(r"at least (\d+) %", stated)
    return int(percent[1]) / 100 if percent else 1.0


class Inputs:
    """What the cases of a folder share, and the checks that several kinds need."""

    def __init__(self, case: Case):
        self.case = case
        self.record, self.tensors = case.shared_record("inputs"), case.shared_tensors("inputs")
        self.hyper, self.keys = self.record["hyper"], self.record["param_keys_sorted"]
        self.zero_shot = case.shared_tensors("weights_zeroshot")
        self.travelled = 0.0  # sum of all learning rates so far
        self.embedding_ids = self.zero_shot["token_embedding.ids"]

    def clip(self, name: str = "zeroshot") -> Clip:
        return build_clip(self.case.shared_tensors(f"weights_{name}"))

    def task(self, key: str, image_size: int) -> Task:
        names, templates = self.record["classes"][key], self.record["templates"][key]
        return bare_task(key, names, templates, image_size)

    def reference(self, image_size: int) -> Reference:
        """Texts; the images of the cases are floats and come in batches of their own."""
        images = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
        return Reference(images, tuple(self.record["captions"]), tuple(self.record["inet"]))

    def compare_parts(
        self,
        prefix: str,
        values: dict[str, Tensor],
        start: dict[str, Tensor] | None = None,
    ) -> None:
        """Compare every recorded part of named tensors.

        Args:
            start: of weights: where the optimiser steps of this task began.
        """
        travelled = None if start is None else self.travelled
        for full in self.case.tensors:
            if not full.startswith(prefix):
                continue
            name = full.removeprefix(prefix)
            if name.startswith("task"):
                continue  # heads and logits
            if name in ("norms", "delta_norms"):
                self._compare_norms(full, values, start)
                continue
            part, keep = self._part(name, values, after_steps=start is not None)
            close(self.case, full, part, keep=keep, travelled=travelled)

    def _part(
        self, name: str, values: dict[str, Tensor], *, after_steps: bool
    ) -> tuple[Tensor, Tensor | None]:
        rows = re.fullmatch(r"token_embedding\.rows(?:_first(\d+)_last(\d+))?", name)
        if rows:
            own = values["token_embedding.weight"][self.embedding_ids]
            first, last = rows.groups()
            part = own if first is None else torch.cat([own[: int(first)], own[-int(last) :]])
            return part, None
        key, _, cut = name.rpartition(".first")
        key, count = (key, int(cut)) if key else (name, None)
        found = values[key]
        keep = None
        if after_steps and key.endswith("attn.in_proj_bias"):  # key third: true gradient 0
            width = len(found) // 3
            keep = torch.ones(len(found), dtype=torch.bool)
            keep[width : 2 * width] = False
            keep = keep[:count]
        return found[:count], keep

    def _compare_norms(self, full: str, values: dict[str, Tensor], start: dict | None) -> None:
        if start is not None:
            values = {name: value - start[name] for name, value in values.items()}
        found = [values.get(self._ours(key), torch.zeros(())).norm() for key in self.keys]
        # Not trained: logit_scale. True gradient 0 in part: in_proj_bias.
        unreliable = ["attn.in_proj_bias"] if start is not None else ["logit_scale"]
        keep = torch.tensor([not key.endswith(tuple(unreliable)) for key in self.keys])
        close(self.case, full, torch.stack(found), keep=keep)

    @staticmethod
    def _ours(key: str) -> str:
        return key.removeprefix("module.")

    def compare_head(self, prefix: str, method: Method, task: Task) -> None:
        """Classifier weights, test logits and accuracies of a task."""
        names = (f"{prefix}.zs_weights", f"{prefix}.test_logits")
        head = method.class_features(task).T
        logits = method.predict(self.tensors[f"{task.name}.test_images"], task)
        for name, found in zip(names, (head, logits), strict=True):
            if name in self.case.tensors:
                close(self.case, name, found)
        accuracies = self.case.record.get("accuracy_top1_top5", {})
        labels = self.tensors[f"{task.name}.test_labels"][:, None]
        for k, expected in zip((1, 5), accuracies.get(prefix, ()), strict=False):
            hits = (logits.topk(min(k, logits.shape[1])).indices == labels).any(dim=1)
            assert_close(
                100 * hits.double().mean(), expected, f"{prefix} top{k}", rtol=0, atol=1e-4
            )


def parameters(clip: Clip) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in clip.model.named_parameters()}


def full_weights(clip: Clip) -> dict[str, Tensor]:
    """All of them but the scale, which methods of this family do not hold."""
    return {name: value for name, value in parameters(clip).items() if name != "logit_scale"}


def enter(method: Method, stream: TaskStream, index: int, random_tokens: Tensor | None) -> None:
    method.enter_task(index, stream[index])
    method.begin_task(index, stream[index], torch.Generator().manual_seed(0))
    if random_tokens is not None:
        method.load_state_dict(method.state_dict() | {"random_tokens": random_tokens})


def train_task(
    inputs: Inputs,
    method: Method,
    task: Task,
    prefix: str,
    batches: list[tuple[Tensor, Tensor]],
    reference: list[Tensor],
) -> None:
    """All steps of a task, compared with the recorded ones."""
    case, clip = inputs.case, method.clip
    start = parameters(clip)
    optimizer = method.optimizer(list(method.trainable().values()))
    log: dict[str, list[float]] = {}
    for step in range(method.steps(task)):
        others = {}
        if isinstance(method, Zscl) and method.distils:
            images = reference[step % len(reference)]
            others[REFERENCE] = ImageSet(images, torch.arange(len(images)))
            method.worth_caching = lambda data: False  # these images are in no data set
        batch = Batch(*batches[step % len(batches)], step, others=others)
        terms = train_step(method, optimizer, batch, one_process())
        for name, value in terms.items():
            log.setdefault(name, []).append(value)
        trained = method.trainable().items()
        gradients = {name: p.grad for name, p in trained if p.grad is not None}
        inputs.compare_parts(f"{prefix}grad_step{step}.", gradients)
        inputs.travelled += terms["learning_rate"]
        inputs.compare_parts(f"{prefix}after_step{step + 1}.", parameters(clip), start)
    for name, ours in TERMS.items():
        if prefix + name in case.tensors:
            close(case, prefix + name, torch.tensor(log[ours]))
    method.end_task(method.task_index, task)
    inputs.compare_parts(f"{prefix}saved.", parameters(clip), start)


def recorded_tokens(case: Case, prefix: str) -> Tensor | None:
    """Random reference texts, if the case stores token ids."""
    for name, value in case.tensors.items():
        if name.startswith(prefix) and value.dtype == torch.int64 and value.shape[1:] == (77,):
            return value
    return None


@runner("zscl_train")
def run_training(case: Case) -> None:
    inputs = Inputs(case)
    settings = training_settings(case.record, inputs.hyper)
    clip = inputs.clip()
    keys = [name[0].lower() + name[1:] for name in settings.tasks]
    tasks = [inputs.task(key, clip.image_size) for key in keys]
    stream = TaskStream(
        "golden", tuple(tasks), "golden", reference=lambda: inputs.reference(clip.image_size)
    )
    several = any(name.startswith("task1.") for name in case.tensors)
    with make_method(settings.method, clip, settings.config) as method:
        if settings.start == "prev":
            previous = inputs.clip("prev")
            method.load_state_dict(full_weights(previous))
        method.enter_stream(stream)
        for index, task in enumerate(stream):
            prefix = f"task{index + 1}." if several else ""
            size = settings.batch_size
            images = inputs.tensors[f"{task.name}.images"].split(size)
            labels = inputs.tensors[f"{task.name}.labels"].split(size)
            reference = inputs.tensors["ref.images"].split(settings.reference_batch_size)
            own = method.config.reference_images == "task" if isinstance(method, Zscl) else False
            enter(method, stream, index, recorded_tokens(case, prefix))
            train_task(
                inputs,
                method,
                task,
                prefix,
                list(zip(images, labels, strict=True)),
                list(images if own else reference),
            )
            for name in {n.split(".")[-2] for n in case.tensors if n.endswith(".test_logits")}:
                head = f"{prefix}saved.{name}"
                inputs.compare_head(head, method, inputs.task(name, clip.image_size))


def memory_batches(inputs: Inputs, method: Icarl, index: int) -> list[Tensor]:
    """The class-incremental memory, which takes in a task before it is learned, 64 at a time."""
    names = method.stream.names
    images = [inputs.tensors[f"{name}.images"] for name in names]
    with torch.no_grad():
        features = method.clip.encode_image(images[index]) if index else None
    method.remember(index, method.task.train.labels, features)
    return list(torch.cat([images[t][chosen] for t, chosen in method.memory.items()]).split(64))


@runner("zscl_cil")
def run_class_incremental(case: Case) -> None:
    inputs = Inputs(case)
    settings = class_incremental_settings(case.record, inputs.hyper)
    clip = inputs.clip()
    start = full_weights(inputs.clip("prev"))  # what these cases start from
    size, increment = clip.image_size, len(inputs.record["classes"]["taskA"])
    tasks = []
    count = max(int(m[1]) for name in case.tensors if (m := re.match(r"task(\d+)\.", name)))
    for key in sorted(inputs.record["classes"])[:count]:
        labels = inputs.tensors[f"{key}.labels"] % increment
        images = torch.zeros(len(labels), 3, size, size, dtype=torch.uint8)
        names = tuple(inputs.record["classes"][key][:increment])
        nothing = ImageData(images[:0], labels[:0])
        data = ImageData(images, labels)
        tasks.append(Task(key, names, (settings.template,), data, nothing, nothing))
    stream = TaskStream("golden", tuple(tasks), "golden", reference=lambda: inputs.reference(size))
    tests = torch.cat([v for k, v in sorted(inputs.tensors.items()) if k.endswith(".test_images")])
    with make_method(settings.method, clip, settings.config) as method:
        method.load_state_dict(start)
        method.enter_stream(stream)
        seen: list[str] = []
        for index, task in enumerate(stream):
            prefix = f"task{index + 1}."
            images = inputs.tensors[f"{task.name}.images"].split(settings.batch_size)
            labels = task.train.labels.split(settings.batch_size)
            own = method.config.reference_images == "task" if isinstance(method, Zscl) else False
            reference = inputs.tensors["ref.images"].split(settings.reference_batch_size)
            enter(method, stream, index, recorded_tokens(case, prefix))
            if isinstance(method, Icarl):
                reference = memory_batches(inputs, method, index)
            train_task(
                inputs,
                method,
                task,
                prefix,
                list(zip(images, labels, strict=True)),
                list(images if own else reference),
            )
            seen += task.class_names
            everything = bare_task("seen", seen, [settings.template], size)
            if f"{prefix}probs_all_seen" in case.tensors:
                tested = tests[: len(case.tensors[f"{prefix}probs_all_seen"])]  # A's, then B's
                probabilities = method.predict(tested, everything).softmax(dim=1)
                close(case, f"{prefix}probs_all_seen", probabilities)


@runner("zscl_forward")
def run_forward(case: Case) -> None:
    inputs = Inputs(case)
    for weights in sorted({name.split(".")[0] for name in case.tensors if "." in name}):
        clip = inputs.clip(weights)
        prompts = clip.tokenize(inputs.task("taskA", clip.image_size).prompts(0))
        if "tokens" in case.tensors:
            assert_same(prompts, case.tensors["tokens"], "tokens")
        zero_shot = make_method("finetune", clip, {"eval_scale": 100.0})
        for full in case.tensors:
            if not full.startswith(f"{weights}."):
                continue
            _, mode, what = full.split(".")
            if mode.startswith("task"):
                task = inputs.task(mode, clip.image_size)
                inputs.compare_head(f"{weights}.{mode}", zero_shot, task)
                continue
            clip.model.train(mode == "train")
            with torch.no_grad():
                text = encode_tokens(clip.model, prompts)
                image = clip.model.visual(inputs.tensors["taskA.images"])
            logits = clip.logits(normalize(image), normalize(text))
            found = {
                "text_features": text,
                "image_features": image,
                "logits_per_image": logits,
                "logits_per_text": logits.T,
            }
            close(case, full, found[what])


@runner("zscl_losses")
def run_losses(case: Case) -> None:
    readme = case.path.with_name("README.md").read_text(encoding="utf-8")
    tensors = case.tensors
    for index, (_, _, temperature, _) in enumerate(_listed(readme, "temperature and shapes")):
        prefix = f"d{index}."
        student = tensors[f"{prefix}student_logits"].clone().requires_grad_(True)
        teacher = tensors[f"{prefix}teacher_logits"]
        for side, (t, u) in {
            "image": (teacher, student),
            "text": (teacher.T, student.T),
        }.items():
            loss = soft_cross_entropy(t, u, float(temperature))
            (gradient,) = torch.autograd.grad(loss, student)
            close(case, f"{prefix}{side}_loss", loss)
            close(case, f"{prefix}grad_{side}_loss", gradient)
        for name in tensors:
            if name.startswith(f"{prefix}ce_ls"):
                smoothing = float(name.removeprefix(f"{prefix}ce_ls"))
                labels = tensors[f"{prefix}labels"]
                close(case, name, F.cross_entropy(student, labels, label_smoothing=smoothing))
    for index, (peak, warmup, last) in enumerate(_listed(readme, "sched{i}")):
        rates = [cosine_with_warmup(n, last, warmup, peak) for n in range(last + 1)]
        close(case, f"sched{index}.lr", torch.tensor(rates, dtype=torch.float64).float())
    _run_averages(case)


def _listed(readme: str, what: str) -> list[tuple[float, ...]]:
    """The list of tuples that the README states after `what`."""
    match = re.search(re.escape(what) + r".*?(\[\(.*?\)\])", readme, re.DOTALL)
    assert match, f"the README does not list {what}"
    groups = re.findall(r"\(([^()]*)\)", match[1])
    return [tuple(_number(part) for part in group.split(",")) for group in groups]


def _number(text: str) -> float:
    value = float(text)
    return int(value) if value.is_integer() and "." not in text and "e" not in text else value


def _run_averages(case: Case) -> None:
    tensors = case.tensors

    def snapshot(index: int) -> Tensor:
        return tensors[f"avg.snapshot{index}"]

    for name in tensors:
        what = name.removeprefix("avg.")
        if match := re.fullmatch(r"l2_(\d+)_vs_(\d+)", what):
            a, b = (snapshot(int(i)) for i in match.groups())
            close(case, name, squared_distance({"w": a}, {"w": b}))
        elif match := re.fullmatch(r"we(?:_wise([\d.]+))?_after(\d+)", what):
            mean = snapshot(0)
            for k in range(1, int(match[2]) + 1):
                mean = extend_mean(mean, snapshot(k), k)
                if match[1]:
                    mean = interpolate(mean, snapshot(0), float(match[1]))
            close(case, name, mean)
        elif match := re.fullmatch(r"moving_avg_student([\d.]+)_m(\d+)", what):
            other = int(match[2])
            close(case, name, interpolate(snapshot(other + 1), snapshot(other), float(match[1])))
        else:
            assert not what.startswith(("l2", "we", "moving")), f"unknown number {name}"


@runner("icarl_memory")
def run_memory(case: Case) -> None:
    inputs = Inputs(case)
    clip = inputs.clip("prev")  # the model that was just trained
    size = case.record["command_flags"]["K"]
    config = {"memory_size": size, "faithful_memory": True}
    found = re.findall(r"after(\d+)\.(\w+)\.indices", " ".join(case.tensors))
    keys = sorted({name for _, name in found})
    with make_method("icarl", clip, config) as method:
        assert isinstance(method, Icarl)
        for index, key in enumerate(keys):
            data = key[0].lower() + key[1:]
            with torch.no_grad():
                features = clip.encode_image(inputs.tensors[f"{data}.images"])
            labels = inputs.tensors[f"{data}.labels"]
            method.remember(index, labels, features if index else None)
            for old, name in enumerate(keys[: index + 1]):
                recorded = case.tensors[f"after{index + 1}.{name}.indices"]
                assert_same(method.memory[old], recorded, f"after{index + 1}.{name}")
