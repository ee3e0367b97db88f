"""RAIL: regression on frozen features, which speaks only where zero-shot answers with a learned class.

Paper: Xu, Chen, Nie, Wang, Zhuang and Okumura, "Advancing Cross-domain Discriminability in Continual
Learning of Vision-Language Models", NeurIPS 2024. Nothing is trained by gradient.

1. Encode training images with the frozen CLIP: unit features x, test transform.
2. Once per run, draw a projection P; lift features: relu(P x) (primal only).
3. After each task, solve one ridge regression over the images of all tasks so far (regression.py).
   Its weights do not depend on the order of tasks, and no image is kept (primal; the dual form keeps
   every training feature).
4. Classify: p = softmax(scale x . text) over the classes asked about. If the largest p belongs to a
   learned class, scores are (1 - fusion) p + fusion a, with the regression's outputs a, 0 for classes
   that were not learned; else p.

So an image that zero-shot gives to a class of an unlearned task is never touched. If the task is
given ("task"), its own classes are learned or are not, and step 4 decides by that alone.

Corrected: one Cholesky solve per task in place of a recursion over batches; test transform in place of
one random crop per training image. Details: docs/fidelity_rail.md.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.base import Method
from vlcl_toolkit.methods.caches import FeatureCache
from vlcl_toolkit.methods.rail.config import RailConfig
from vlcl_toolkit.methods.rail.regression import Dual, Primal, random_projection
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.streams.base import ImageData, Task, TaskStream

NOT_LEARNED = -1


@register
class Rail(Method):
    """Regression-based analytic incremental learning.

    Attributes:
        learned: name of each learned task -> its first column; `sizes`: its number of classes.
        regression: None before the first task.
    """

    name = "rail"
    relative_cost = 0.0
    task_found_by = "the class that zero-shot answers with"
    Config = RailConfig
    config: RailConfig

    def __init__(self, clip: Clip, config: RailConfig):
        super().__init__(clip, config)
        self.eval_batch_size = config.eval_batch_size

    def on_attach(self) -> None:
        """The towers stay as they are."""
        self.frozen = FeatureCache.of_backbone(self.clip, batch_size=self.eval_batch_size)
        self.regression: Primal | Dual | None = None
        self.learned: dict[str, int] = {}
        self.sizes: list[int] = []

    def enter_stream(self, stream: TaskStream) -> None:
        """Note the tasks.

        Raises:
            UserError: too many images for the dual form, or a stream that merges class names.
        """
        self.stream = stream
        if stream.merge_shared_names:
            raise UserError(
                "rail has a column for each class of each task; use a stream that does not merge shared names"
            )
        images = sum(len(task.train) for task in stream)
        if self.config.form == "dual" and images > self.config.max_images:
            gib = 16 * images**2 / 2**30
            raise UserError(
                f"the dual form keeps a kernel over all {images:,} training images, {gib:,.0f} GiB; "
                "use form='primal', fewer images (few_shot), or raise max_images"
            )

    def begin_task(self, task_index: int, task: Task, generator: torch.Generator) -> None:
        """Step 2, before the first task."""
        if self.regression is None:
            self.regression = self._new_regression(generator)

    def _new_regression(self, generator: torch.Generator) -> Primal | Dual:
        config, dim = self.config, self.clip.embed_dim
        if config.form == "dual":
            return Dual(config.gamma, config.dual_ridge)
        projection = random_projection(config.width, dim, generator).to(self.clip.device)
        return self._primal(projection if config.lift else None)

    def _primal(self, projection: Tensor | None) -> Primal:
        config, dim = self.config, self.clip.embed_dim
        ridge = config.ridge
        if config.relative_ridge is not None:
            norm = 1.0 if projection is None else len(projection) / (6 * dim)
            ridge = config.relative_ridge * norm
        return Primal(projection, dim, ridge, self.clip.device)

    @torch.no_grad()
    def end_task(self, task_index: int, task: Task) -> None:
        """Steps 1 and 3."""
        assert self.regression is not None
        if not len(task.train):
            raise UserError(f"task {task.name!r} has no training image; give some, or leave it out")
        features = self.frozen.features(task.train, again=False).float()
        self.learned[task.name] = self.regression.classes
        self.sizes.append(len(task.class_names))
        self.regression.add(features, task.train.labels, len(task.class_names))

    # Classifying: step 4.

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "b 3 h w"], task: Task) -> Float[Tensor, "b classes"]:
        """Scores, not logits: probabilities, or their mean with the regression's outputs."""
        return self.scores(self.clip.encode_image(images.to(self.clip.device)), task)

    @torch.no_grad()
    def classify(self, data: ImageData, task: Task) -> Int64[Tensor, " n"]:
        """As `predict`, on features that are computed once per process."""
        return self.frozen.predicted_labels(data, lambda part: self.scores(part, task))

    def scores(self, features: Float[Tensor, "b dim"], task: Task) -> Float[Tensor, "b classes"]:
        """Step 4 of unit-norm features of the frozen CLIP."""
        zero_shot = self.zero_shot_probabilities(features, task)
        columns = self.columns(task).to(zero_shot.device)
        known = columns != NOT_LEARNED
        if not known.any():
            return zero_shot
        assert self.regression is not None
        outputs = torch.zeros_like(zero_shot)
        outputs[:, known] = self.regression.predict(features.float())[:, columns[known]]
        fused = (1 - self.config.fusion) * zero_shot + self.config.fusion * outputs
        return torch.where(known[zero_shot.argmax(dim=1)][:, None], fused, zero_shot)

    def zero_shot_probabilities(
        self, features: Float[Tensor, "b dim"], task: Task
    ) -> Float[Tensor, "b classes"]:
        """p, over the classes of `task`."""
        features, texts = features.float(), self.class_features(task).float()
        scale = self.config.zero_shot_scale
        if scale is None:
            return self.clip.logits(features, texts).softmax(dim=1)
        return (scale * (features @ texts.T)).softmax(dim=1)

    def columns(self, task: Task) -> Int64[Tensor, " classes"]:
        """Column of each class of `task` in the regression, -1 where it was not learned."""
        columns = []
        for part in task.parts or (task,):
            first, count = self.learned.get(part.name), len(part.class_names)
            unknown = torch.full((count,), NOT_LEARNED)
            columns.append(unknown if first is None else first + torch.arange(count))
        return torch.cat(columns)

    # Saving.

    def state_dict(self) -> dict[str, Tensor]:
        """What the regression sums over, and the number of classes of each task."""
        if self.regression is None or not self.sizes:
            return {}
        return self.regression.state_dict() | {"sizes": torch.tensor(self.sizes)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`, in the stream that it was learned in."""
        self.on_attach()
        if not state:
            return
        self.sizes = state["sizes"].tolist()
        starts = [sum(self.sizes[:k]) for k in range(len(self.sizes))]
        self.learned = dict(zip(self.stream.names, starts, strict=False))
        device = self.clip.device
        state = {name: value.to(device) for name, value in state.items()}
        if self.config.form == "dual":
            dual = Dual(self.config.gamma, self.config.dual_ridge)
            dual.load_state_dict(state, self.sizes)
            self.regression = dual
            return
        self.regression = self._primal(state.get("projection"))
        self.regression.load_state_dict(state)
