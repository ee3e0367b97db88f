"""MoE-Adapters: experts beside every MLP, one router per task, and a selector that finds the task.

Paper: Yu et al., "Boosting Continual Learning of Vision-Language Models via Mixture-of-Experts
Adapters", CVPR 2024.

1. Beside the MLP of every block of both towers: E experts (bottleneck adapters) and one router per
   task. CLIP itself stays frozen. (`experts.py`, `towers.py`)
2. Begin a task: a new router, zero; an autoencoder of the task's images (`selector.py`).
3. Train for n = 0 .. N (N + 1 steps, the last with learning rate 0) the experts that are not frozen
   and the task's router, whose choice is noisy: text features of all classes in the first template,
   image features of the batch, cross-entropy with label smoothing 0.2, AdamW. Count how many rows
   chose each expert.
4. End a task: in every block freeze the 2 experts that were chosen most, for good.
5. Classify: the selector names the task of an image, its router leads image and class prompts; an
   image of no task goes through the plain CLIP. Routers are not noisy then.

Class-incremental variant (preset cifar100): 2 experts, both always at work; one router for all
steps; nothing frozen; no selector.

Deviations and switches: `decision="sample"` (default) selects for each image alone, "batch" for a
test batch by its mean error, as the official code does. An expert that no row chose gets no
gradient (`unused_expert_grad="skip"`: one GPU) or a zero gradient, with which Adam goes on moving
it ("zero": several GPUs). `text_route="end"` routes prompts by the end-of-text token, because the
start-of-text token knows nothing of the prompt. `selector="gaussian"` has Gaussians in the place of the
autoencoders (`selector_gaussians.py`; not the paper's). `balance_weight` adds the load-balance term that
the official code computes and drops. `eval_noise` keeps routers noisy at test time, as the official
class-incremental code does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.base import Method
from vlcl_toolkit.methods.batch import Batch
from vlcl_toolkit.methods.caches import FeatureCache
from vlcl_toolkit.methods.inference import class_features, run_batch
from vlcl_toolkit.methods.moe_adapters.config import MoEAdaptersConfig
from vlcl_toolkit.methods.moe_adapters.introspection import ExpertIntrospection
from vlcl_toolkit.methods.moe_adapters.selector import NO_TASK, AutoSelector
from vlcl_toolkit.methods.moe_adapters.selector_features import ClipFeatures, alexnet_features
from vlcl_toolkit.methods.moe_adapters.selector_gaussians import GaussianSelector
from vlcl_toolkit.methods.moe_adapters.towers import ExpertTowers
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.schedules import cosine_with_warmup
from vlcl_toolkit.streams.base import ImageData, Reference, Task, TaskStream

BALANCE_FACTOR = 0.01  # of the official load-balance term


@register
class MoEAdapters(Method):
    """Mixture-of-experts adapters with an auto-selector."""

    name = "moe_adapters"

    Config = MoEAdaptersConfig
    config: MoEAdaptersConfig

    def __init__(self, clip: Clip, config: MoEAdaptersConfig):
        super().__init__(clip, config)
        self.decision, self.eval_batch_size = config.decision, config.eval_batch_size
        if config.selector != "none":
            self.task_found_by = f"the auto-selector's {config.selector}s, or none of them"
            self.uses_reference = config.selector_reference

    # Attaching to the backbone: step 1.

    def on_attach(self) -> None:
        """Put experts beside every block, all zero, and make an empty selector."""
        config = self.config
        self.selector = None if config.selector == "none" else self._new_selector()
        self.plain = FeatureCache.of_backbone(self.clip, config.feature_cache_mib)
        self.towers = ExpertTowers(
            self.clip.model,
            text=config.towers == "both",
            route_by_end=config.text_route == "end",
            experts=config.experts,
            top_k=config.top_k,
            bottleneck=config.bottleneck,
            dropout=config.dropout,
            scale=config.adapter_scale,
        )
        self._reference: Callable[[], Reference] | None = None
        self._heads: dict[tuple[Task, int], Tensor] = {}
        self._plain_heads: dict[Task, Tensor] = {}  # they never change

    def on_detach(self) -> None:
        """Take the experts away; CLIP's own weights were never touched."""
        self.towers.detach()
        self._plain_heads.clear()

    def _new_selector(self) -> AutoSelector:
        config = self.config
        if config.selector == "gaussian":
            return GaussianSelector(self.clip, ClipFeatures(self.clip), config)
        if config.selector_features == "clip":
            return AutoSelector(self.clip, ClipFeatures(self.clip), config)
        features = alexnet_features(self.clip, config.selector_weights)
        return AutoSelector(self.clip, features, config)

    # Training.

    def enter_stream(self, stream: TaskStream) -> None:
        """Note the reference images."""
        if self.uses_reference:
            if stream.reference is None:
                raise UserError(
                    f"stream {stream.id!r} has no reference images, which the auto-selector learns "
                    'as "none of the tasks"; set selector_reference=False'
                )
            self._reference = stream.reference

    def enter_task(self, task_index: int, task: Task) -> None:
        """Step 2: the router of the task; prompts in the first template."""
        super().enter_task(task_index, task)
        self.tokens = self.clip.tokenize(task.prompts(0))
        self._fixed_text: Tensor | None = None
        self.router = 0 if self.config.shared_router else task_index
        self.towers.add_routers(self.router + 1)
        trained = {id(parameter) for parameter in self.trainable().values()}
        for value in self.towers.named().values():
            if isinstance(value, nn.Parameter):
                value.requires_grad_(id(value) in trained)

    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Step 2: initial experts before the first task, counters at 0; an autoencoder."""
        self.begin_experts(task_index, generator)
        if self.selector is not None:
            self.learn_selector(task_index, task, generator)

    def begin_experts(self, task_index: int, generator: torch.Generator) -> None:
        """Step 2 without the selector."""
        if task_index == 0:
            self.towers.reset_parameters(generator)
        self.towers.reset_counts()
        self.forget_class_features()

    def learn_selector(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Step 2, the selector alone: autoencoders of the reference set (once) and of the task."""
        assert self.selector is not None
        if task_index == 0 and self.config.selector_reference:
            if self._reference is None:
                raise UserError(
                    "the auto-selector needs reference images; call enter_stream first, or set "
                    "selector_reference=False"
                )
            data = self._reference().unlabelled
            self.selector.learn(data, self.config.selector_reference_iterations, generator)
        self.selector.learn(task.train, self.config.selector_iterations, generator)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Step 3: experts that are not frozen, and the router of the task."""
        return self.towers.trainable(self.router)

    def _last_step(self, task: Task) -> int:
        if self.config.epochs is None:
            return self.config.iterations
        return self.config.epochs * -(-len(task.train) // self.config.batch_size)

    def steps(self, task: Task) -> int:
        """Step 3: n = 0 .. N."""
        return self._last_step(task) + 1

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Step 3. Every expert has moments and a step counter of its own."""
        decay = self.config.weight_decay
        return torch.optim.AdamW(parameters, lr=0.0, weight_decay=decay, fused=True)

    def learning_rate(self, step: int, task: Task) -> float:
        """Step 3."""
        peak = self.config.task_learning_rates.get(task.name, self.config.learning_rate)
        return cosine_with_warmup(step, self._last_step(task), self.config.warmup, peak)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Step 3."""
        logits, balance = self.training_logits(batch.images)
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        if not balance:
            return {"loss": loss}
        term = BALANCE_FACTOR * torch.stack(balance).sum()
        return {"loss": loss + self.config.balance_weight * term, "balance": term}

    def training_logits(
        self, images: Float[Tensor, "part 3 h w"]
    ) -> tuple[Float[Tensor, "b classes"], list[Tensor]]:
        """Logits over the task's classes with noise and dropout, and the load-balance terms."""
        balance = self.config.balance_weight > 0
        with self.towers.routed(self.router, training=True, noise=True, balance=balance) as terms:
            text = self._training_text()
            return self.clip.logits(self.clip.encode_image(images), text), terms

    def _training_text(self) -> Tensor:
        if self.towers.text:
            return self.clip.encode_text(self.tokens)
        if self._fixed_text is None:  # the text tower is CLIP's own
            with torch.no_grad():
                self._fixed_text = self.clip.encode_text(self.tokens)
        return self._fixed_text

    def after_backward(self, step: int) -> None:
        """The rule for experts that no row chose; they have no gradient so far."""
        if self.config.unused_expert_grad == "zero":
            for parameter in self.trainable().values():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def end_task(self, task_index: int, task: Task) -> None:
        """Step 4."""
        self.towers.freeze_most_chosen(self.config.freeze_top)

    # Classifying: step 5.

    @property
    def tasks(self) -> int:
        """How many tasks have begun (1 with a shared router)."""
        return self.towers.routers

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "b 3 h w"], task: Task) -> Float[Tensor, "b classes"]:
        """Logits of each image by the router that the selector finds for it (or for the batch)."""
        self._check_ready()
        images = images.to(self.clip.device)
        routes = self.select(images)
        logits = images.new_empty(len(images), len(task.class_names))
        for route in routes.unique().tolist():
            rows = (routes == route).nonzero().squeeze(1)
            features = self.image_features(images[rows], route)
            logits[rows] = self._logits(features, task, route)
        return logits

    @torch.no_grad()
    def classify(self, data: ImageData, task: Task) -> Int64[Tensor, " n"]:
        """As `predict`, with the frozen parts (selector, plain CLIP) computed once per data set."""
        self._check_ready()
        if self.selector is None:
            return super().classify(data, task)
        routes = self._routes(data)
        labels = torch.empty(len(data), dtype=torch.int64)
        for route in routes.unique().tolist():
            rows = (routes == route).nonzero().squeeze(1)
            by_route = partial(self.image_features, route=route)
            plain = self.plain.features(data) if route == NO_TASK else None
            for part in rows.split(self.eval_batch_size):
                if plain is not None:
                    features = plain[part.to(plain.device)]
                else:
                    features = run_batch(by_route, self.clip, data, part)
                labels[part] = self._logits(features, task, route).argmax(dim=1).cpu()
        return labels

    def select(self, images: Float[Tensor, "b 3 h w"]) -> Int64[Tensor, " b"]:
        """Task of each image, from 0, or -1 for none of them."""
        if self.selector is None:
            return torch.zeros(len(images), dtype=torch.int64, device=images.device)
        features = self.selector.features
        errors = self.selector.errors(features.finish(features.extract(images)))
        return self.decide_routes(errors)

    def image_features(
        self, images: Float[Tensor, "b 3 h w"], route: int
    ) -> Float[Tensor, "b dim"]:
        """Unit-norm, by the router of task `route`; -1: of the plain CLIP.

        Raises:
            UserError: there is no such task.
        """
        with self.towers.routed(self._router_of(route), noise=self._noise_of(route)):
            return self.clip.encode_image(images)

    def text_head(self, task: Task, route: int) -> Float[Tensor, "classes dim"]:
        """Class vectors of `task` by the router of task `route`; -1: of the plain CLIP.

        Computed when first needed, and once until weights change.
        """
        plain = route == NO_TASK or not self.towers.text
        cache: dict[Any, Tensor] = self._plain_heads if plain else self._heads
        key = task if plain else (task, route)
        if key in cache:
            return cache[key]
        head = self.compute_head(task, route)
        if plain or not self.config.eval_noise:
            cache[key] = head
        return head

    @torch.no_grad()
    def compute_head(self, task: Task, route: int) -> Float[Tensor, "classes dim"]:
        """As `text_head`, computed for every call."""
        with self.towers.routed(self._router_of(route), noise=self._noise_of(route)):
            return class_features(self.clip, task)

    def _logits(self, features: Tensor, task: Task, route: int) -> Tensor:
        return self.logit_scale * features @ self.text_head(task, route).T

    @property
    def logit_scale(self) -> float:
        """`eval_scale`, or the model's own."""
        scale = self.config.eval_scale
        return self.clip.logit_scale if scale is None else scale

    def _router_of(self, route: int) -> int:
        return min(route, 0) if self.config.shared_router else route

    def _noise_of(self, route: int) -> bool:
        return self.config.eval_noise and route != NO_TASK

    def _check_ready(self) -> None:
        if not self.tasks:
            raise UserError("no task was learned yet; train a task or load a checkpoint first")

    def decide_routes(self, errors: Float[Tensor, "n autoencoders"]) -> Int64[Tensor, " n"]:
        """Task of each image of a test batch, from 0, or -1 for none of them."""
        assert self.selector is not None
        if self.decision == "batch":
            errors = errors.mean(dim=0, keepdim=True).expand(len(errors), -1)
        return self.selector.decide(errors)

    def _routes(self, data: ImageData) -> Int64[Tensor, " n"]:
        assert self.selector is not None
        errors = self.selector.errors_of(data).split(self.eval_batch_size)
        return torch.cat([self.decide_routes(part) for part in errors]).cpu()

    def forget_class_features(self) -> None:
        """The text tower may have changed; the plain CLIP has not."""
        super().forget_class_features()
        self._heads.clear()

    def introspection(self) -> ExpertIntrospection:
        """Routes are the routers of tasks."""
        return ExpertIntrospection(self)

    # Saving.

    def state_dict(self) -> dict[str, Tensor]:
        """Experts, routers, counters, frozen flags, selector, and the backbone they belong to."""
        state = {name: value.detach() for name, value in self.towers.named().items()}
        if self.selector:
            state |= {f"selector.{k}": value for k, value in self.selector.state_dict().items()}
        return state | {"backbone": self._fingerprint()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            UserError: the state belongs to another backbone, or to other settings.
        """
        if not torch.equal(state["backbone"].cpu(), self._fingerprint()):
            raise UserError(
                "this checkpoint of moe_adapters belongs to another backbone than "
                f"{self.clip.name!r}; load the backbone that it was trained on"
            )
        prefix = "selector."
        own = {name: value for name, value in state.items() if not name.startswith(prefix)}
        self.towers.load({name: value for name, value in own.items() if name != "backbone"})
        if self.selector:
            self.selector.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
        self.forget_class_features()

    def _fingerprint(self) -> Tensor:
        return torch.frombuffer(bytearray.fromhex(self.clip.weights_sha256), dtype=torch.uint8)
