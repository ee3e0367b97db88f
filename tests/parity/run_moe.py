"""Cases of MoE-Adapters: forward, task chains, the class-incremental variant, the auto-selector.

One forward and backward pass is compared for the library's method and for the same in the official
order of sums (official_order.py). Chains of optimiser steps keep to that order: Adam divides each
gradient by its own size, so that what float32 rounds away decides where an element goes whose
gradient all but vanishes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from tiny import one_process
from torch import Tensor, nn

from parity.loading import (
    Case,
    add_rounding,
    assert_close,
    assert_same,
    bare_task,
    build_clip,
    runner,
    up_to_rounding,
)
from parity.official_order import OfficialOrder
from vlcl_toolkit.clip.model import Clip, encode_tokens
from vlcl_toolkit.methods.batch import Batch
from vlcl_toolkit.methods.moe_adapters.config import MoEAdaptersConfig
from vlcl_toolkit.methods.moe_adapters.experts import Place, Routing, Sampler, balance, load
from vlcl_toolkit.methods.moe_adapters.moe_adapters import BALANCE_FACTOR, MoEAdapters
from vlcl_toolkit.methods.moe_adapters.selector import (
    Autoencoder,
    AutoSelector,
    decide,
    selector_learning_rate,
    train_autoencoder,
)
from vlcl_toolkit.methods.moe_adapters.selector_features import ConvolutionFeatures
from vlcl_toolkit.methods.presets import preset_settings
from vlcl_toolkit.streams import Task
from vlcl_toolkit.training.loop import train_step

CLASS_INCREMENTAL = preset_settings("moe_adapters", "ViT-B-16-quickgelu", "cifar100-10")
FEATURES = {"rtol": 1e-4, "atol": 2e-5}
LOGITS = {"rtol": 1e-4, "atol": 1e-3}
LOSSES = {"rtol": 2e-4, "atol": 1e-5}
PARAMETERS = {"rtol": 2e-3, "atol": 1e-4}
GRADIENTS = {"rtol": 1e-3, "atol": 1e-6}
AFTER_A_CHAIN = {"rtol": 1e-3, "atol": 2e-3}
PROBABILITIES = {"rtol": 1e-3, "atol": 2e-4}
PLAIN = -1


# What a case says.


class Recorded(Sampler):
    """Replays the recorded numbers below the first of some prefixes that has any."""

    def __init__(self, tensors: dict[str, Tensor], *prefixes: str):
        self.tensors = tensors
        self.prefix = next(p for p in prefixes if below(tensors, f"{p}noise."))

    def noise(self, place: Place, like: Tensor) -> Tensor:
        found = self.tensors[f"{self.prefix}noise.{place.tower}.{place.layer}"]
        assert found.shape == like.shape, f"{place}: {found.shape} for {like.shape}"
        return found

    def keep(self, place: Place, like: Tensor, p: float) -> Tensor:
        found = self.tensors[f"{self.prefix}keep.{place.tower}.{place.layer}"]
        return found[:, :, : like.shape[2]].bool()  # texts run only up to their last end


class RecordedTokens:
    """A tokenizer that knows the recorded prompts."""

    def __init__(self) -> None:
        self.rows: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        return torch.stack([self.rows[text] for text in texts])

    def task(self, name: str, tokens: Tensor, image_size: int) -> Task:
        """A task with the prompts `tokens` `[classes, templates, length]`."""
        classes, templates, _ = tokens.shape
        class_names = [f"{name} class {index}" for index in range(classes)]
        forms = [f"template {index} of {{}}" for index in range(templates)]
        for row, word in zip(tokens, class_names, strict=True):
            for prompt, form in zip(row, forms, strict=True):
                self.rows[form.format(word)] = prompt
        return bare_task(name, class_names, forms, image_size)


def case_clip(case: Case) -> Clip:
    """The backbone in the file that the case names, with the token rows of a second one."""
    stored: dict[str, Tensor] = {}
    for name in re.findall(r"[\w.-]+?\.safetensors", case.record["weights_file"]):
        stored |= case.shared_tensors(name)
    clip = build_clip(stored)
    clip.tokenizer = RecordedTokens()
    return clip


def case_config(case: Case, **more: Any) -> MoEAdaptersConfig:
    """Settings that every case gives."""
    record, tensors = case.record, case.tensors
    where = record.get("where", "AdapterDoubleEncoder")
    settings: dict[str, Any] = {
        "experts": record["E"],
        "top_k": record["k"],
        "bottleneck": next(len(tensors[k]) for k in tensors if k.endswith(".0.down_proj.weight")),
        "towers": "both" if "Double" in where else "image",
        "label_smoothing": record.get("label_smoothing", 0.0),
        "dropout": record.get("dropout", 0.0),
        "selector_features": "clip",  # asks for no second network
        "eval_scale": 100.0,
    }
    return MoEAdaptersConfig(**(settings | more))


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def put(method: MoEAdapters, weights: dict[str, Tensor], routers: int) -> None:
    """Give the method recorded experts and routers; those that are not recorded are 0."""
    method.towers.add_routers(routers)
    state = method.state_dict()
    unknown = weights.keys() - state.keys()
    assert not unknown, f"not of this model: {sorted(unknown)[:3]}"
    experts = {k: torch.zeros_like(v) for k, v in state.items() if ".resblocks." in k}
    method.load_state_dict(state | experts | weights)


def numbers(pattern: str, names: Any) -> list[int]:
    """The sorted numbers that the group of `pattern` finds at the start of names."""
    return sorted({int(m[1]) for name in names if (m := re.match(pattern, name))})


def routers_in(names: Any) -> int:
    """How many routers parameter names speak of."""
    return 1 + max([int(n) for name in names for n in re.findall(r"router_list\.(\d+)$", name)])


def raw_features(clip: Clip, images: Tensor) -> Tensor:
    """Image features, not normalised."""
    with torch.no_grad():
        return clip.model.visual(images)


@contextmanager
def watching(method: MoEAdapters) -> Iterator[dict[str, Routing]]:
    """Context: gathers the routing of every block by "<tower>.<layer>"."""
    seen: dict[str, Routing] = {}

    def note(place: Place, routing: Routing) -> None:
        seen[f"{place.tower}.{place.layer}"] = routing

    method.towers.mode.observer = note
    try:
        yield seen
    finally:
        method.towers.mode.observer = None


def check_gates(seen: dict[str, Routing], expected: dict[str, Tensor], name: str) -> None:
    """Same experts, same weights. Texts may have been routed once for all prompts."""
    for place, gates in expected.items():
        found = seen[place].gates().expand_as(gates)
        assert_same(found != 0, gates != 0, f"{name}{place} support")
        assert_close(found, gates, f"{name}{place}", rtol=1e-3, atol=1e-4)


def check_fingerprints(
    values: dict[str, Tensor], expected: Tensor, names: list[str], title: str, **tolerance: float
) -> None:
    """Norm and largest absolute value of named tensors (what is not there counts as 0)."""
    nothing = torch.zeros(1)
    found = [values.get(name, nothing).detach() for name in names]
    norms = torch.stack([value.norm() for value in found])
    largest = torch.stack([value.abs().max() for value in found])
    assert_close(norms, expected[:, 0], f"{title} norm", **tolerance)
    assert_close(largest, expected[:, 2], f"{title} absmax", **tolerance)


# Forward and gradients of one step.


@runner("moe_forward")
def run_forward(case: Case) -> None:
    tensors = case.tensors
    weights = below(tensors, "weights.")
    for part in ("eval", "train", "train_drop"):
        if not below(tensors, f"{part}."):
            continue
        dropout = 0.1 if below(tensors, f"{part}.keep.") else 0.0
        for cls in (MoEAdapters, OfficialOrder):
            config = case_config(case, dropout=dropout)
            with cls(case_clip(case), config) as method:
                put(method, weights, max(routers_in(weights), last_route(tensors) + 1))
                if part == "eval":
                    check_evaluation(method, tensors)
                else:
                    check_training_step(method, case, part)


def last_route(tensors: dict[str, Tensor]) -> int:
    return max(numbers(r"eval\.task(-?\d+)\.", tensors), default=0)


def check_evaluation(method: MoEAdapters, tensors: dict[str, Tensor]) -> None:
    images, tokens = tensors["in.images"], tensors["in.text_tokens"]
    task = method.clip.tokenizer.task("eval", tokens[:, None], method.clip.image_size)
    for route in numbers(r"eval\.task(-?\d+)\.", tensors):
        name = f"eval.task{route}."
        expected = below(tensors, name)
        with watching(method) as seen, torch.no_grad(), method.towers.routed(route):
            whole = tokens.shape[1] if isinstance(method, OfficialOrder) else None
            text = encode_tokens(method.clip.model, tokens, length=whole)
            assert_close(text, expected["text_features"], f"{name}text", **FEATURES)
            found = raw_features(method.clip, images)
            assert_close(found, expected["image_features"], f"{name}image", **FEATURES)
        check_gates(seen, below(expected, "gates."), f"{name}gates.")
        head = method.text_head(task, route)
        cosine = method.image_features(images, route) @ head.T
        assert_close(100 * cosine, expected["logits100"], f"{name}logits100", **LOGITS)


def check_training_step(method: MoEAdapters, case: Case, part: str) -> None:
    tensors, record = case.tensors, case.record
    images, labels, tokens = (tensors[f"in.{x}"] for x in ("images", "labels", "text_tokens"))
    task = method.clip.tokenizer.task("train", tokens[:, None], method.clip.image_size)
    expected, names = below(tensors, f"{part}."), record[f"{part}.grad_fp.names"]
    method.enter_task(routers_in(names) - 1, task)
    method.towers.mode.sampler = Recorded(tensors, f"{part}.")

    logits = method.training_logits(images)[0].detach()
    assert_close(logits, expected["logits"], f"{part}.logits", **LOGITS)
    method.begin_experts(method.task_index, torch.Generator())  # the counters begin at 0
    with watching(method) as seen:
        loss = method.loss(Batch(images, labels, 0))["loss"]
    loss.backward()
    assert_close(loss, expected["loss"], f"{part}.loss", **FEATURES)
    check_gates(seen, below(expected, "gates."), f"{part}.gates.")
    for place, value in below(expected, "load.").items():
        assert_close(load(seen[place]), value, f"{part}.load.{place}", rtol=1e-3, atol=1e-3)
    for place, value in below(expected, "balance.").items():
        found = BALANCE_FACTOR * balance(seen[place])
        assert_close(found, value, f"{part}.balance.{place}", rtol=1e-3, atol=1e-4)
    counts = {f"{m.place.tower}.{m.place.layer}": m.count for m in method.towers.mixtures.values()}
    for place, value in below(expected, "count.").items():
        assert_same(counts[place], value, f"{part}.count.{place}")

    named = method.towers.named()
    gradients = {k: v.grad for k, v in named.items() if isinstance(v, nn.Parameter)}
    for name in record[f"{part}.grad_none"]:
        assert gradients.get(name) is None, f"{part}: {name} has a gradient"
    missing = [name for name in names if gradients[name] is None]
    assert not missing, f"{part}: no gradient of {missing[:3]}"
    check_fingerprints(gradients, expected["grad_fp"], names, f"{part}.grad_fp", **GRADIENTS)
    for name, value in below(expected, "grad.").items():
        assert_close(gradients[name], value, f"{part}.grad.{name}", **GRADIENTS)


# Chains of tasks.


def give_other_rounding(method: MoEAdapters, seed: int | None) -> None:
    """`add_rounding` to every gradient of the steps to come; None: leave them."""
    if seed is None:
        return
    rule, generator = method.after_backward, torch.Generator().manual_seed(seed)

    def after_backward(step: int) -> None:
        add_rounding(method.trainable().values(), generator)
        rule(step)

    method.after_backward = after_backward


@runner("moe_train")
def run_chain(case: Case) -> None:
    up_to_rounding(lambda seed: run_task_chain(case, seed))


def run_task_chain(case: Case, seed: int | None) -> None:
    tensors, record = case.tensors, case.record
    for variant in ("skip", "zero"):
        if not below(tensors, f"{variant}."):
            continue
        rates = {f"task{t}": rate for t, rate in enumerate(record["peak_lrs"])}
        config = case_config(
            case,
            unused_expert_grad=variant,
            iterations=record["iterations_N"],
            warmup=record["warmup"],
            task_learning_rates=rates,
        )
        clip = case_clip(case)
        tasks = [
            clip.tokenizer.task(f"task{t}", tensors[f"in.task{t}.eval_tokens"], clip.image_size)
            for t in range(record["tasks"])
        ]
        with OfficialOrder(clip, config) as method:
            for index, task in enumerate(tasks):
                train_task(method, case, variant, index, task, seed)
            if variant == "skip":
                check_after_chain(method, tensors, tasks)


def train_task(
    method: MoEAdapters, case: Case, variant: str, index: int, task: Task, seed: int | None
) -> None:
    tensors, record = case.tensors, case.record
    title = f"{variant}.task{index}."
    expected = below(tensors, title)
    names: list[str] = record["fp_names"]
    method.enter_task(index, task)
    method.tokens = tensors[f"in.task{index}.train_tokens"]
    method.begin_experts(index, torch.Generator())
    if index == 0:
        put(method, below(tensors, "init."), 1)
    per_epoch = record["batches_per_epoch"]

    def batch(step: int) -> tuple[Tensor, Tensor]:
        found = below(tensors, f"in.task{index}.batch{step % per_epoch}.")
        return found["images"], found["labels"]

    give_other_rounding(method, seed)
    unused_routers = 2 * len(method.towers.mixtures) * (routers_in(names) - 1)
    without = run_steps(method, tensors, expected, names, title, batch)
    wanted = record[f"{title}none_grads_per_step"]
    assert_same([n + unused_routers for n in without], wanted, f"{title}none_grads_per_step")

    mixtures = method.towers.mixtures
    for tower in ("image", "text"):
        counts = [m.count for m in mixtures.values() if m.place.tower == tower]
        if counts:
            assert_same(torch.stack(counts), expected[f"count.{tower}"], f"{title}count.{tower}")
    method.end_task(index, task)
    feed_frozen(method, record, variant, index)


def run_steps(
    method: MoEAdapters,
    tensors: dict[str, Tensor],
    expected: dict[str, Tensor],
    names: list[str],
    title: str,
    batch: Any,
) -> list[int]:
    """All steps of a task; returns how many parameters had no gradient in each of them."""
    task, without = method.task, list[int]()
    optimizer = method.optimizer(list(method.trainable().values()))
    rule = method.after_backward

    def after_backward(step: int) -> None:
        without.append(sum(p.grad is None for p in method.trainable().values()))
        rule(step)

    method.after_backward = after_backward
    steps = method.steps(task)
    assert steps == len(expected["losses"])
    for step in range(steps):
        # the variants of a chain share the draws of the first
        same = title.replace("zero.", "skip.")
        names_of_draws = (f"{title}step{step}.", f"{same}step{step}.")
        method.towers.mode.sampler = Recorded(tensors, *names_of_draws)
        images, labels = batch(step)
        if step in (0, steps - 1):
            kept = method.state_dict()
            kept = {name: value.clone() for name, value in kept.items()}
            with torch.no_grad():
                logits = method.training_logits(images)[0]
            method.load_state_dict(kept)  # the counters
            key = "logits_step0" if step == 0 else "logits_last"
            assert_close(logits, expected[key], f"{title}{key}", **AFTER_A_CHAIN)
        terms = train_step(method, optimizer, Batch(images, labels, step), one_process())
        assert_close(terms["loss"], expected["losses"][step], f"{title}losses[{step}]", **LOSSES)
        rate = expected["lrs"][step]
        assert_close(terms["learning_rate"], rate, f"{title}lrs[{step}]", rtol=1e-5, atol=1e-9)
        after = below(expected, f"after{step + 1}.")
        if "fp" in after:
            now = method.towers.named()
            check_fingerprints(now, after["fp"], names, f"{title}after{step + 1}", **PARAMETERS)
            for name, value in below(after, "full.").items():
                assert_close(now[name], value, f"{title}after{step + 1}.{name}", **PARAMETERS)
    for name, value in below(expected, "final.").items():
        assert_close(method.towers.named()[name], value, f"{title}final.{name}", **PARAMETERS)
    del method.after_backward
    return without


def feed_frozen(method: MoEAdapters, record: dict[str, Any], variant: str, index: int) -> None:
    """Compare the frozen experts, but for ties; go on with the recorded ones."""
    recorded = set(record[f"{variant}.task{index}.frozen_set_after"])
    ties = {tuple(tie) for tie in record.get("boundary_ties", [])}
    state = method.state_dict()
    for path, mixture in method.towers.mixtures.items():
        flags = [f"{path}.adaptmlp_list.{e}" in recorded for e in range(len(mixture.frozen))]
        if (variant, index, *mixture.place) not in ties:
            assert_same(mixture.frozen, flags, f"{variant}.task{index} frozen {path}")
        state[f"{path}.frozen"] = torch.tensor(flags)
    method.load_state_dict(state)


def check_after_chain(method: MoEAdapters, tensors: dict[str, Tensor], tasks: list[Task]) -> None:
    for index, task in enumerate(tasks):
        heads = tensors.get(f"eval.task{index}.text_heads", [])
        for route, head in enumerate(heads, start=PLAIN):
            found = method.text_head(task, route).T
            assert_close(found, head, f"eval.task{index}.text_heads {route}", **AFTER_A_CHAIN)
    for name, expected in below(tensors, "eval.image_features.router").items():
        with method.towers.routed(int(name)):
            found = raw_features(method.clip, tensors["in.test_images"])
        assert_close(found, expected, f"eval.image_features.router{name}", **AFTER_A_CHAIN)


# The class-incremental variant.


@runner("moe_cil")
def run_class_incremental(case: Case) -> None:
    up_to_rounding(lambda seed: run_class_incremental_chain(case, seed))


def run_class_incremental_chain(case: Case, seed: int | None) -> None:
    tensors, record = case.tensors, case.record
    config = case_config(
        case,
        **{
            **CLASS_INCREMENTAL,
            "experts": record["E"],
            "label_smoothing": record["label_smoothing"],
            "epochs": None,
            "iterations": record["batches_per_epoch_N"],
            "warmup": record["warmup"],
            "learning_rate": record["peak_lr"],
            "eval_scale": None,
        },
    )
    clip = case_clip(case)
    earlier = 0
    with OfficialOrder(clip, config) as method:
        for index in numbers(r"task(\d+)\.", tensors):
            expected = below(tensors, f"task{index}.")
            tokens = expected["step_tokens"]
            task = clip.tokenizer.task(f"task{index}", tokens[:, None], clip.image_size)
            method.enter_task(index, task)
            method.begin_experts(index, torch.Generator())
            if index == 0:
                put(method, below(tensors, "init."), 1)

            def batch(step: int, index: int = index, earlier: int = earlier):
                number = step % record["batches_per_epoch_N"] % record["distinct_batches_stored"]
                found = below(tensors, f"in.task{index}.batch{number}.")
                return found["images"], found["labels_global"] - earlier

            give_other_rounding(method, seed)
            run_steps(method, tensors, expected, record["fp_names"], f"task{index}.", batch)
            method.end_task(index, task)
            earlier += len(tokens)
            seen = clip.tokenizer.task(
                f"seen{index}", expected["seen_tokens"][:, None], clip.image_size
            )
            for noisy, part in ((True, "eval_noisy"), (False, "eval_clean")):
                title = f"task{index}.{part}."
                method.config = replace(config, eval_noise=noisy)
                method.forget_class_features()
                if noisy:
                    method.towers.mode.sampler = Recorded(tensors, title)
                with watching(method) as routing:
                    found = method.predict(tensors["in.test_images"], seen).softmax(dim=1)
                assert_close(found, expected[f"{part}.probs"], f"{title}probs", **PROBABILITIES)
                check_gates(routing, below(expected, f"{part}.gates."), f"{title}gates.")
            method.config = config


# The auto-selector.


def stand_in(record: dict[str, Any], weights: dict[str, Tensor], wanted: int, images: Tensor):
    """The small stand-in for AlexNet: convolution, ReLU, pooling, convolution, ReLU, pooling."""
    first, second = sorted({name.rsplit(".", 1)[0] for name in weights})
    description = record.get("feature_extractor", "")
    strides = [int(s) for s in re.findall(r"k\d+,s(\d+)", description)] or [4, 1, 2, 3, 5]
    for stride in strides:
        convolutions = []
        for name, step in ((first, stride), (second, 1)):
            weight = weights[f"{name}.weight"]
            outputs, inputs, kernel, _ = weight.shape
            layer = nn.Conv2d(inputs, outputs, kernel, stride=step)
            layer.load_state_dict({"weight": weight, "bias": weights[f"{name}.bias"]})
            convolutions.append(layer)
        one, two = convolutions
        network = nn.Sequential(one, nn.ReLU(), nn.MaxPool2d(2), two, nn.ReLU(), nn.MaxPool2d(2))
        features = ConvolutionFeatures(network)
        if features.extract(images).shape[1] == wanted:
            return features
    raise AssertionError(f"no stride gives {wanted} features")


@runner("selector_train")
def run_selector_training(case: Case) -> None:
    tensors, record = case.tensors, case.record
    expected, per_epoch = below(tensors, "expected."), record["batches_per_epoch"]
    start = below(tensors, "init.")
    code, dim = start["encoder.0.weight"].shape
    autoencoder = Autoencoder(dim, code)
    autoencoder.load_state_dict(start)
    defaults = MoEAdaptersConfig()
    features: Any = None

    def inputs(step: int) -> Tensor:
        nonlocal features
        check_autoencoder(autoencoder, expected, step, record["fp_names"])
        if f"in.step{step}.features" in tensors:
            return tensors[f"in.step{step}.features"]
        images = tensors[f"in.batch{step % per_epoch}.images"]
        features = features or stand_in(record, below(tensors, "fe."), dim, images)
        found = features.finish(features.extract(images))
        if step == 0 and "features_step0" in expected:
            assert_close(found, expected["features_step0"], "features_step0", **FEATURES)
        return found

    losses = train_autoencoder(
        autoencoder,
        inputs,
        last_step=record["iterations_N"],
        batches_per_epoch=per_epoch,
        learning_rate=record["lr0"],
        weight_decay=defaults.selector_weight_decay,
    )
    assert_close(losses, expected["losses"], "losses", rtol=1e-4, atol=1e-6)
    steps = range(record["iterations_N"] + 1)
    rates = [selector_learning_rate(step, per_epoch, record["lr0"]) for step in steps]
    assert_close(rates, expected["lrs"], "lrs", rtol=1e-5, atol=1e-12)
    check_autoencoder(autoencoder, expected, len(losses), record["fp_names"])


def check_autoencoder(
    autoencoder: Autoencoder, expected: dict[str, Tensor], steps: int, names: list[str]
) -> None:
    after, title = below(expected, f"after{steps}."), f"after{steps}"
    if not after:
        return
    now = autoencoder.state_dict()
    check_fingerprints(now, after.pop("fp"), names, title, rtol=2e-3, atol=2e-5)
    for name, value in after.items():
        assert_close(now[name], value, f"{title}.{name}", rtol=2e-3, atol=2e-5)


@runner("selector_decide")
def run_selector_decisions(case: Case) -> None:
    tensors, record = case.tensors, case.record
    expected, weights = below(tensors, "expected."), below(tensors, "weights.")
    batches = [tensors[f"in.batch{i}.images"] for i in numbers(r"in\.batch(\d+)\.", tensors)]
    clip = case_clip(case)
    task = clip.tokenizer.task("data", tensors["in.eval_tokens"], clip.image_size)
    config = case_config(case, decision="batch", threshold=record["threshold"])
    with OfficialOrder(clip, config) as method:
        put(method, weights, max(routers_in(weights), len(expected["text_heads"]) - 1))
        dim = tensors["ae.0.encoder.0.weight"].shape[1]
        features = stand_in(record, below(tensors, "fe."), dim, batches[0])
        method.selector = selector = AutoSelector(clip, features, config)
        count = 1 + max(numbers(r"ae\.(\d+)\.", tensors))
        thresholds = torch.full((count,), record["threshold"], dtype=torch.float64)
        selector.load_state_dict(below(tensors, "ae.") | {"thresholds": thresholds})
        single = [selector.errors(features.finish(features.extract(images))) for images in batches]
        together = torch.stack([errors.mean(dim=0) for errors in single])

        assert_close(together, expected["errors"], "errors", rtol=1e-5, atol=1e-8)
        for errors in (together, expected["errors"]):
            assert_same(selector.decide(errors), expected["task_id"], "task_id")
            others = zip(
                tensors.get("in.other_thresholds", []),
                expected.get("task_id_other_thresholds", []),
                strict=True,
            )
            for threshold, wanted in others:
                found = decide(errors, threshold.expand(count))
                assert_same(found, wanted, f"task_id at {float(threshold)}")
        if "errors_batch_of_one" in expected:
            recorded = expected["errors_batch_of_one"]
            assert_close(torch.cat(single), recorded, "errors_batch_of_one", rtol=1e-5, atol=1e-8)
            alone = MoEAdapters(clip, replace(config, decision="sample"))
            assert alone.decision == "sample"
            found = torch.cat([selector.decide(errors) for errors in single])
            assert_same(found, selector.decide(recorded), "decisions of single images")
        for route, head in enumerate(expected["text_heads"], start=PLAIN):
            found = method.text_head(task, route).T
            assert_close(found, head, f"text_heads {route}", **FEATURES)
        for index, (images, route) in enumerate(zip(batches, expected["task_id"], strict=True)):
            assert_same(method.select(images), route.expand(len(images)), f"batch{index} task")
            with method.towers.routed(int(route)):
                found = raw_features(clip, images)
            name = f"batch{index}."
            assert_close(found, expected[f"{name}image_features"], f"{name}image", **FEATURES)
            logits = method.predict(images, task)
            tolerance = {"rtol": 1e-4, "atol": 2e-3}
            assert_close(logits, expected[f"{name}logits"], f"{name}logits", **tolerance)
