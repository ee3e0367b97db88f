"""DIKI: prompts in a residual branch of attention, and a calibrated guess of an image's task.

Paper: Tang et al., "Mind the Interference: Retaining Pre-trained Knowledge in Parameter Efficient
Continual Learning of Vision-Language Models", ECCV 2024. What the paper leaves open follows the
official repository (`lloongx/DIKI`).

1. The frozen CLIP gets prompts in the first `depth` blocks of both towers, a key and a value per
   prompt position, task and block (prompts.py). Attention gains a branch with a softmax of its own,

       attention(x) = softmax(q k^T / sqrt(d) + mask) v + w softmax(q K^T / sqrt(d)) V,

   which leaves CLIP's own attention as it is. V starts at 0: an untrained task changes nothing.
2. Before a task is trained: a Gaussian over the frozen features of its training images
   (gaussians.py).
3. Cross-entropy over the task's classes, with the task's prompts at w = 1. Plain SGD, cosine rate,
   no augmentation. Only this task's prompts exist for the optimiser.
4. After each epoch: accuracy on the validation set, with the true task and w = 1. The first best
   epoch is kept.
5. At test time the Gaussians decide which task's prompts an image gets and how strongly: the largest
   log density s gives w = sigmoid(s / 512 - 1), so that unfamiliar images see an almost plain CLIP.

Deviations: each image decides alone (`decision="sample"`); the repository lets a test batch vote
(`decision="batch"`, 256 images). Prompts grow task by task in float32, one parameter per task. Too
few images for a Gaussian are an error (`allow_singular=True` goes on as the repository does); see
`shrinkage`. Ties of a vote go to the lowest task. All else in docs/fidelity_diki.md.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.base import Method
from vlcl_toolkit.methods.batch import LABELLED, Batch, BatchRequest
from vlcl_toolkit.methods.caches import FeatureCache, LogDensityCache, PredictionCache
from vlcl_toolkit.methods.diki.best_epoch import BestEpoch
from vlcl_toolkit.methods.diki.config import PromptConfig
from vlcl_toolkit.methods.diki.gaussians import Decision, TaskGaussians, decide, prompt_weight
from vlcl_toolkit.methods.diki.introspection import (
    PromptIntrospection,
    residual_prompt_attention,
)
from vlcl_toolkit.methods.diki.prompts import Attend, PromptPool, add_residual_branch
from vlcl_toolkit.methods.diki.towers import PromptedTowers, class_prompts
from vlcl_toolkit.methods.inference import percent_correct, predicted_labels, run_batch
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.methods.schedules import cosine_to_floor
from vlcl_toolkit.streams.base import ImageData, Task, TaskStream, batches


@register
class Diki(Method):
    """Residual prompts per task, chosen and calibrated by task Gaussians."""

    name = "diki"
    task_found_by = "Gaussians over frozen image features"
    trains_all = True
    Config = PromptConfig
    config: PromptConfig
    attend: Attend = staticmethod(add_residual_branch)

    def __init__(self, clip: Clip, config: PromptConfig):
        super().__init__(clip, config)
        self.decision, self.eval_batch_size = config.decision, config.eval_batch_size
        self.pool = self.make_pool()
        self.gaussians = TaskGaussians(config.shrinkage, allow_singular=config.allow_singular)
        self.best = BestEpoch()
        self._forget_caches()

    def make_pool(self) -> PromptPool:
        """Step 1: the places of the prompts."""
        return PromptPool(
            self.clip.model,
            self.attend,
            depth_vision=self.config.depth_vision,
            depth_text=self.config.depth_text,
            length_vision=self.config.length_vision,
            length_text=self.config.length_text,
        )

    def _forget_caches(self) -> None:
        self.predictions = PredictionCache()
        self.log_densities = LogDensityCache(self._features_of, self.gaussians.log_probs)
        self.towers = PromptedTowers(self.clip, self.pool, self.config.templates)

    def on_attach(self) -> None:
        """Step 1: lead attention through the prompts."""
        self.pool.attach()

    def on_detach(self) -> None:
        """Give attention back to CLIP."""
        self.pool.detach()
        self._forget_caches()

    def enter_stream(self, stream: TaskStream) -> None:
        """Check that every task can be calibrated.

        Raises:
            UserError: a task without validation images.
        """
        super().enter_stream(stream)
        missing = [task.name for task in stream if not len(task.validation)]
        if self.config.calibration == "quantile" and missing:
            raise UserError(
                "calibration='quantile' needs validation images of every task; "
                f"found none of {', '.join(missing)}; choose calibration='official' or give some"
            )

    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Steps 1 and 2: new prompts and the Gaussian of the task."""
        if task_index != len(self.pool):
            raise UserError(
                f"tasks are learned in order; {len(self.pool)} learned so far, found task index "
                f"{task_index}; learn task {len(self.pool)} next"
            )
        frozen = self._features_of(task.train, again=False)
        self.gaussians.add(frozen, task.name)
        if self.config.calibration == "quantile":
            unseen = self._features_of(task.validation)
            self.gaussians.calibrate(unseen, self.config.calibration_quantile)
        self.start_prompts(task, frozen, generator)
        self.best.start()

    def start_prompts(
        self, task: Task, frozen: Float[Tensor, "n dim"], generator: torch.Generator
    ) -> None:
        """Step 1: prompts of a new task; `frozen` are its training images' frozen features."""
        self.pool.grow(generator)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The prompts of the task being learned."""
        return dict(self.pool.tasks[self.task_index])

    def steps(self, task: Task) -> int:
        """Step 3: whole epochs."""
        return self.config.epochs * self._steps_per_epoch(task)

    def _steps_per_epoch(self, task: Task) -> int:
        return -(-len(task.train) // self.config.batch_size)

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Step 3: no momentum, no weight decay."""
        return torch.optim.SGD(parameters, lr=0.0)

    def learning_rate(self, step: int, task: Task) -> float:
        """Step 3."""
        peak = self.config.learning_rate
        return cosine_to_floor(step, self.steps(task), peak, floor=peak / 1000)

    def batch_requests(self, task: Task, step: int, seed: int) -> dict[str, BatchRequest]:
        """Shuffled epochs, transformed as at test time."""
        indices = batches(len(task.train), self.config.batch_size, step, seed)
        return {LABELLED: BatchRequest(task.train, indices, self.clip.eval_transform)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Step 3."""
        logits = self.logits(batch.images, self.task, self.task_index)
        return {"loss": F.cross_entropy(logits, batch.labels)}

    def after_step(self, step: int) -> None:
        """Step 4, at the end of an epoch."""
        self.predictions.forget(self.task_index)
        epoch, rest = divmod(step + 1, self._steps_per_epoch(self.task))
        if rest == 0 and self.config.select_epoch and len(self.task.validation):
            self.best.offer(epoch - 1, self._validate(), self.trainable())

    @torch.no_grad()
    def _validate(self) -> float:
        text = self.towers.text_features(self.task, self.task_index)[0]  # serves all batches

        def predict(images: Tensor) -> Tensor:
            return self.clip.logits(self.towers.image_features(images, self.task_index), text)

        data = self.task.validation
        found = predicted_labels(predict, self.clip, data, 2 * self.config.batch_size)
        return percent_correct(found, data.labels)

    def end_task(self, task_index: int, task: Task) -> None:
        """Step 4: back to the best epoch."""
        self.best.restore(self.trainable())
        self.predictions.forget(task_index)

    def logits(
        self, images: Float[Tensor, "part 3 h w"], task: Task, task_id: int
    ) -> Float[Tensor, "b classes"]:
        """With the prompts of a given task at full strength, first template (step 3).

        Raises:
            UserError: no such task was learned.
        """
        text = self.towers.text_features(task, task_id, templates="first")[0]
        return self.clip.logits(self.towers.image_features(images, task_id), text)

    def decide(self, log_probs: Float64[Tensor, "b tasks"]) -> Decision:
        """Step 5: tasks and weights of a batch.

        Raises:
            UserError: no task was learned.
        """
        self.pool.check_task(0)
        return decide(log_probs, self.task_weights(log_probs), self.config.decision)

    def task_weights(self, log_probs: Float64[Tensor, "n tasks"]) -> Float[Tensor, "n tasks"]:
        """The weight of an image under every learned task, in (0, 1); all 1 without calibration."""
        if not self.config.calibrate:
            return torch.ones_like(log_probs, dtype=torch.float32)
        if self.config.calibration == "official":
            return prompt_weight(log_probs, self.divisor, self.divisor)
        threshold, spread = torch.stack(self.gaussians.calibrations, dim=1)
        return prompt_weight(log_probs, threshold, spread)

    @property
    def divisor(self) -> float:
        """Divides log densities in a weight."""
        return float(self.config.calibration_divisor or self.clip.embed_dim)

    def prediction_key(self, task: Task) -> list[str]:
        """What predictions hang on besides the prompts of tasks: the texts."""
        return class_prompts(task, self.towers.templates)

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "b 3 h w"], task: Task) -> Float[Tensor, "b classes"]:
        """Step 5.

        Raises:
            UserError: no task was learned.
        """
        images = images.to(self.clip.device)
        frozen = self.clip.encode_image(images)
        decision = self.decide(self.gaussians.log_probs(frozen))
        return self.decided_logits(images, task, decision, frozen)

    def decided_logits(
        self,
        images: Float[Tensor, "b 3 h w"],
        task: Task,
        decision: Decision,
        frozen: Float[Tensor, "b dim"],
    ) -> Float[Tensor, "b classes"]:
        """Step 5 after the decision; `frozen` are the images' features of the frozen CLIP."""
        logits = frozen.new_empty(len(images), len(task.class_names))
        for task_id in decision.task.unique().tolist():
            rows = (decision.task == task_id).nonzero()[:, 0]
            features = frozen[rows]
            if self.config.depth_vision:
                weights = decision.image_weight[rows]
                features = self.towers.image_features(images[rows], task_id, weights)
            text_weight = decision.text_weight[rows]
            logits[rows] = self.text_logits(features, task, task_id, text_weight, frozen[rows])
        return logits

    def text_logits(
        self,
        features: Float[Tensor, "b dim"],
        task: Task,
        task_id: int,
        text_weight: Float[Tensor, " b"],
        frozen: Float[Tensor, "b dim"],
    ) -> Float[Tensor, "b classes"]:
        """Step 5 for images that get the prompts of `task_id`, whose features these are."""
        weights, texts = text_weight.unique(return_inverse=True)
        if self.text_is_plain(task_id):  # the same texts at any weight
            weights, texts = weights[:1], torch.zeros_like(texts)
        text = self.towers.text_features(task, task_id, weights)
        if len(weights) == 1:
            return self.clip.logits(features, text[0])
        cosine = torch.einsum("bd,bcd->bc", features, text[texts])
        return self.clip.logit_scale * cosine

    def text_is_plain(self, task_id: int) -> bool:
        """Whether the prompts of a task leave the text tower as it is, whatever their weight."""
        prompts = self.pool.tasks[task_id]
        return not any(prompts[name][1].any() for name in self.pool.text_places)

    @torch.no_grad()
    def classify(self, data: ImageData, task: Task) -> Int64[Tensor, " n"]:
        """Step 5 for a whole set, computed only where it may have changed (caches.py)."""
        self.pool.check_task(0)
        log_probs = self.log_densities.of(data)

        def compute(rows: Tensor) -> tuple[Tensor, Tensor]:
            frozen = self.log_densities.features(data)[rows]
            decision = self.decide(log_probs[rows])

            def logits(images: Tensor) -> Tensor:
                return self.decided_logits(images, task, decision, frozen)

            return run_batch(logits, self.clip, data, rows).argmax(dim=1), decision.task

        return self.predictions.predict(
            data,
            task,
            self.prediction_key(task),
            log_probs.max(dim=1).values,
            compute,
            batch_size=self.eval_batch_size,
            batch_decision=self.decision != "sample",
        )

    @torch.no_grad()
    def _features_of(self, data: ImageData, *, again: bool = True) -> Float[Tensor, "n dim"]:
        if not len(data):
            return torch.empty(0, self.clip.embed_dim, device=self.clip.device)
        cache = FeatureCache.of_backbone(self.clip, batch_size=self.eval_batch_size)
        return cache.features(data, again=again)

    def introspection(self) -> PromptIntrospection:
        """Routes are the prompts of tasks."""
        return PromptIntrospection(self, residual_prompt_attention)

    def state_dict(self) -> dict[str, Tensor]:
        """Prompts and Gaussians of all tasks, the best epoch so far, predictions that still hold."""
        parts = {
            "prompts": self.pool.state_dict(),
            "gaussians": self.gaussians.state_dict(),
            "best": self.best.state_dict(),
            "predictions": self.predictions.state_dict(),
        }
        return {f"{part}.{key}": v for part, state in parts.items() for key, v in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state.

        Raises:
            UserError: it comes from another backbone or from other settings.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            part, key = name.split(".", 1)
            parts.setdefault(part, {})[key] = value
        self._forget_caches()
        self.pool.load_state_dict(parts.get("prompts", {}))
        device = self.clip.device
        self.gaussians.load_state_dict(parts.get("gaussians", {}), self.clip.embed_dim, device)
        if len(self.gaussians) != len(self.pool):
            raise UserError(
                f"found prompts of {len(self.pool)} tasks and Gaussians of {len(self.gaussians)}; "
                "they must be as many; load a whole state"
            )
        quantile = self.config.calibration == "quantile"
        if len(self.gaussians.calibrations) != quantile * len(self.pool):
            raise UserError(
                f"calibration={self.config.calibration!r} does not fit these weights, which have "
                f"{len(self.gaussians.calibrations)} calibrated tasks of {len(self.pool)}; "
                "choose the calibration that they were trained with"
            )
        self.best.load_state_dict(parts.get("best", {}))
        self.predictions.load_state_dict(parts.get("predictions", {}))
