"""What ZSCL and its baselines do in parameter space: stay near the start of a task, and average.

Papers: Zheng et al., "Preventing Zero-Shot Transfer Degradation in Continual Learning of
Vision-Language Models" (ZSCL), ICCV 2023, section 3.3; Wortsman et al., "Robust fine-tuning of
zero-shot models" (WiSE-FT), CVPR 2022. With the student's weights w, their values w0 at the start
of the task, those of the frozen CLIP wZ, and an average m that starts at w0:

1. Consolidation: the loss gains c sum (w - w0)^2 over every trained parameter.
2. After steps n = 0, f, 2f, ..., for the k-th time:
   ensemble       m <- (k m + w) / (k + 1), so that m is the mean of w0 and k snapshots
   ensemble_wise  m <- a (k m + w) / (k + 1) + (1 - a) w0
   moving         w <- a w + (1 - a) m, m being w0, wZ or the weights before the last such step
3. After the task: ensembles make m the model; wise_ft makes it a w + (1 - a) w0 (or wZ).

Savings: the gradient 2 c (w - w0) of step 1 is added in closed form; its value needs no graph.

Deviation: the official flags allow WiSE-FT and an ensemble at once and then lose the former; here
there is one `averaging`.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from vlcl_toolkit.methods.batch import Batch
from vlcl_toolkit.methods.zscl.config import AveragingConfig
from vlcl_toolkit.methods.zscl.finetune import Finetune
from vlcl_toolkit.streams.base import Task

OFFICIAL_ALPHA = {"ensemble_wise": 0.98, "moving": 0.999, "wise_ft": 0.8}
_ENSEMBLES = ("ensemble", "ensemble_wise")

Weights = Mapping[str, Tensor]


def interpolate(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], alpha: float
) -> Float[Tensor, "*shape"]:
    """alpha a + (1 - alpha) b (WiSE-FT, equation 1)."""
    return a * alpha + b * (1 - alpha)


def extend_mean(
    mean: Float[Tensor, "*shape"], new: Float[Tensor, "*shape"], count: int
) -> Float[Tensor, "*shape"]:
    """Mean of `count + 1` tensors from the mean of `count` and one more (ZSCL, weight ensemble)."""
    return (mean * count + new) / (count + 1)


@torch.no_grad()
def squared_distance(weights: Weights, start: Weights) -> Float[Tensor, ""]:
    """Sum of squared differences over all entries of all tensors."""
    return torch.stack([(w - start[name]).square().sum() for name, w in weights.items()]).sum()


class ParameterSpace(Finetune):
    """Fine-tuning with consolidation and averaging; a base for methods, not one itself."""

    Config = AveragingConfig
    config: AveragingConfig
    start: dict[str, Tensor]  # w0, while a task is learned
    average: dict[str, Tensor]  # m, likewise
    averaged: int  # k

    def on_attach(self) -> None:
        """As in fine-tuning."""
        super().on_attach()
        self._forget_task()

    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Remember w0."""
        super().begin_task(task_index, task, generator)
        self._forget_task()
        if self.needs_start:
            self.start = self._weights()
        if self.config.averaging in _ENSEMBLES or self.config.average_towards == "last":
            self.average = self._weights()

    @property
    def needs_start(self) -> bool:
        """Whether w0 has to be kept while a task is learned."""
        toward = self.config.average_towards == "task_start"
        averaging = self.config.averaging
        uses = averaging == "ensemble_wise" or (averaging in ("wise_ft", "moving") and toward)
        return uses or self.config.weight_consolidation > 0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Step 1: the value."""
        return self.with_consolidation(super().loss(batch))

    def with_consolidation(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Step 1: add the value, without a graph."""
        if self.config.weight_consolidation > 0:
            distance = squared_distance(self.trainable(), self.start)
            terms["loss"] = terms["loss"] + self.config.weight_consolidation * distance
            terms["consolidation"] = distance
        return terms

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Step 1: the gradient."""
        super().after_backward(step)
        if self.config.weight_consolidation > 0:
            for name, w in self.trainable().items():
                assert w.grad is not None
                w.grad.add_(w - self.start[name], alpha=2 * self.config.weight_consolidation)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Step 2."""
        super().after_step(step)
        rule = self.config.averaging
        if rule in ("none", "wise_ft") or step % self.config.average_every:
            return
        self.averaged += 1
        towards = self._towards()
        for name, w in self.trainable().items():
            if rule == "moving":
                before = w.detach().clone()
                w.copy_(interpolate(w, towards[name], self._alpha))
                if self.config.average_towards == "last":
                    self.average[name] = before
                continue
            mean = extend_mean(self.average[name], w, self.averaged)
            if rule == "ensemble_wise":
                mean = interpolate(mean, self.start[name], self._alpha)
            self.average[name] = mean

    @torch.no_grad()
    def end_task(self, task_index: int, task: Task) -> None:
        """Step 3."""
        super().end_task(task_index, task)
        towards = self._towards()
        for name, w in self.trainable().items():
            if self.config.averaging in _ENSEMBLES:
                w.copy_(self.average[name])
            elif self.config.averaging == "wise_ft":
                w.copy_(interpolate(w, towards[name], self._alpha))
        self._forget_task()
        self.forget_class_features()

    @property
    def _alpha(self) -> float:
        alpha = self.config.average_alpha
        return OFFICIAL_ALPHA[self.config.averaging] if alpha is None else alpha

    def _towards(self) -> dict[str, Tensor]:
        choices = {"task_start": self.start, "zero_shot": self._before, "last": self.average}
        return choices[self.config.average_towards]

    def _weights(self) -> dict[str, Tensor]:
        return {name: w.detach().clone() for name, w in self.trainable().items()}

    def _forget_task(self) -> None:
        self.start, self.average, self.averaged = {}, {}, 0

    def state_dict(self) -> dict[str, Tensor]:
        """The weights; inside a task also w0, m and k."""
        state = super().state_dict()
        state |= {f"start.{name}": value for name, value in self.start.items()}
        state |= {f"average.{name}": value for name, value in self.average.items()}
        return state | ({"averaged": torch.tensor(self.averaged)} if self.averaged else {})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state)
        self._forget_task()
        for part, target in (("start.", self.start), ("average.", self.average)):
            for name, w in self.trainable().items():
                if part + name in state:
                    target[name] = state[part + name].to(w.device).clone()
        self.averaged = int(state.get("averaged", torch.tensor(0)))
