"""DPW: DIKI's branch with weights that may be small, and prompts that strangers do not trigger.

Paper: "Dynamic Prefix Weighting", CVPR 2026 (arXiv 2604.18075). What it leaves open follows the authors' repository
(`YonseiML/dpw`). Only what differs from DIKI (../diki/diki.py) is here.

1. The extra branch stands in all blocks of both towers. A token scores each prompt by a trained
   affine map; sigmoids of the scores, divided by their sum only where it exceeds 1, weigh the prompts;
   what was divided away weighs a low-rank adapter (prefixes.py).
2. At the start of a task its frozen features say how many heads the prompts have (heads.py), and V, G
   and the adapter start from singular vectors of CLIP's weights (pool.py): an untrained task is not
   the frozen CLIP.
3. Cross-entropy with the task's prompts at w = 1, plain SGD, cosine rate, best epoch: as DIKI, with
   dropout in the adapter.
4. After training, mean and variance of the class token's scores over the task's training images.
5. At test time the Gaussians give task and weight w as in DIKI. Where w is low, weak prompts are set
   to 0 (the cut-off).
6. Among the classes of several tasks, each learned task's classes are seen with that task's prompts
   at its own weight w_t, and their logits are multiplied by w_t.

Deviations: each image decides alone, as in our DIKI (`decision="batch"`: as the repository). The
statistics of step 4 are taken once, after the best epoch, without dropout; the repository keeps running
sums of training steps and validation images. The last incomplete batch is used. D comes from CLIP's
weights as in the paper (`adapter_down="random"`: what the repository does). Classes of tasks not yet
learned (label space "all", which the paper does not have) get the prompts and weight of the image's own
task. All else in docs/fidelity_dpw.md.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlcl_toolkit.methods.batch import Batch
from vlcl_toolkit.methods.diki.diki import Diki
from vlcl_toolkit.methods.diki.introspection import PromptIntrospection
from vlcl_toolkit.methods.diki.prompts import PromptPool
from vlcl_toolkit.methods.diki.towers import class_prompts
from vlcl_toolkit.methods.dpw.config import DpwConfig
from vlcl_toolkit.methods.dpw.heads import difficulty, head_count, light_head_count
from vlcl_toolkit.methods.dpw.pool import PrefixPool
from vlcl_toolkit.methods.dpw.prefixes import (
    add_weighted_branch,
    weighted_prompt_attention,
)
from vlcl_toolkit.methods.inference import run_batches
from vlcl_toolkit.methods.registry import register
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.base import Task


@register
class Dpw(Diki):
    """Conditionally weighted prompts per task, chosen and calibrated by task Gaussians."""

    name = "dpw"
    Config = DpwConfig
    config: DpwConfig
    pool: PrefixPool
    attend = staticmethod(add_weighted_branch)

    def make_pool(self) -> PromptPool:
        """Step 1."""
        self.learned: list[int] = []  # a fingerprint of the class names of each task
        return PrefixPool(self.clip, self.config, self.attend)

    def start_prompts(
        self, task: Task, frozen: Float[Tensor, "n dim"], generator: torch.Generator
    ) -> None:
        """Step 2."""
        self.pool.grow_heads(generator, *self.head_counts(task, frozen))
        self.learned.append(class_fingerprint(task))

    @torch.no_grad()
    def head_counts(self, task: Task, frozen: Float[Tensor, "n dim"]) -> tuple[int, int]:
        """Prompt heads of a task in the image and the text tower."""
        config, model = self.config, self.clip.model
        if config.heads != "auto":
            return config.heads, config.heads
        towers = (
            (model.visual.transformer.resblocks[0].attn, config.length_vision),
            (model.transformer.resblocks[0].attn, config.length_text),
        )
        if config.variant == "light":
            image, text = (light_head_count(at.num_heads, at.embed_dim, n) for at, n in towers)
            return image, text
        texts = self.clip.encode_text(self.towers.tokens(task, "first"))
        factor = difficulty(frozen, task.train.labels.to(frozen.device), texts)
        image, text = (head_count(at.num_heads, factor, at.embed_dim, n) for at, n in towers)
        return image, text

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Step 3."""
        self.pool.training = True
        try:
            return super().loss(batch)
        finally:
            self.pool.training = False

    def end_task(self, task_index: int, task: Task) -> None:
        """Steps 3 and 4."""
        super().end_task(task_index, task)
        self.measure_scores(task_index, task)

    @torch.no_grad()
    def measure_scores(self, task_index: int, task: Task) -> None:
        """Step 4."""
        found: dict[str, list[Tensor]] = {}
        listener = self.pool.listener

        def listen(name: str, *arguments: Any) -> None:
            attention, _, query, prompts = arguments[:4]
            found.setdefault(name, []).append(prompts.scores(attention, query)[:, 0].double())

        self.pool.listener = listen
        try:
            with self.pool.use(task_index):
                size = self.eval_batch_size
                for _ in run_batches(self.clip.encode_image, self.clip, task.train, size):
                    pass
        finally:
            self.pool.listener = listener
        for name, parts in found.items():
            scores = torch.cat(parts)
            statistics = torch.stack((scores.mean(dim=0), scores.var(dim=0, unbiased=False)))
            self.pool.score_statistics[task_index][name] = statistics.float()

    def text_logits(
        self,
        features: Float[Tensor, "b dim"],
        task: Task,
        task_id: int,
        text_weight: Float[Tensor, " b"],
        frozen: Float[Tensor, "b dim"],
    ) -> Float[Tensor, "b classes"]:
        """Steps 5 and 6."""
        if not task.parts or self.config.decision != "sample":
            return super().text_logits(features, task, task_id, text_weight, frozen)
        weights = self.task_weights(self.gaussians.log_probs(frozen))
        of_parts = []
        for part in task.parts:
            mark = class_fingerprint(part)
            own = self.learned.index(mark) if mark in self.learned else task_id
            weight = weights[:, own]
            text = self.towers.text_features(part, own, weight)
            cosine = torch.einsum("bd,bcd->bc", features, text)
            of_parts.append(self.clip.logit_scale * cosine * weight[:, None])
        return torch.cat(of_parts, dim=1)

    def prediction_key(self, task: Task) -> list[str]:
        """In a union every learned task has a say, so its predictions end with the next task."""
        learned = [f"{len(self.learned)} learned"] if task.parts else []
        return class_prompts(task, self.towers.templates) + learned

    def text_is_plain(self, task_id: int) -> bool:
        """Prompts change the text tower from their start."""
        return not self.pool.text_places

    def introspection(self) -> PromptIntrospection:
        """Routes are the prompts of tasks."""
        return PromptIntrospection(self, weighted_prompt_attention)

    def state_dict(self) -> dict[str, Tensor]:
        """As DIKI's, and which classes belong to which task."""
        return super().state_dict() | {"classes.learned": torch.tensor(self.learned)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state.

        Raises:
            UserError: it comes from another backbone or from other settings.
        """
        super().load_state_dict(state)
        self.learned = state["classes.learned"].tolist() if "classes.learned" in state else []


def class_fingerprint(task: Task) -> int:
    """What a learned task is known by among the parts of a union: its class names."""
    return derive_seed("classes", *task.class_names)
